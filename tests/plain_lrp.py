"""LRP in plain loops over numbers, for one image: no autograd, no tensors, nothing of the package.

It reads the weights of a timm `VisionTransformer` with a class token and runs forward and relevance pass by itself.
Test-time registers may stand before the class token; neurons' activations are then moved to them from the patches.
Formulas are those of arXiv:2012.09838 with the stabiliser, the halves and the first layer of the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from timm.models.vision_transformer import VisionTransformer

EPSILON = 1e-9


def over(a: float, b: float) -> float:
    return 0.0 if b == 0 else a / (b + EPSILON)


def linear_relevance(r: ndarray, x: ndarray, w: ndarray, shared: bool) -> ndarray:
    """From r (N, O) with x (N, I) and w (O, I) to (N, I)."""
    result = np.zeros_like(x)
    for n, row in enumerate(x):
        for o, weights in enumerate(w):
            positive = [v * k if v > 0 and k > 0 else 0.0 for v, k in zip(row, weights, strict=True)]
            negative = [v * k if v < 0 and k < 0 else 0.0 for v, k in zip(row, weights, strict=True)]
            zp, zn = sum(positive), sum(negative)
            for i in range(len(row)):
                if shared:
                    result[n, i] += (positive[i] + negative[i]) * over(r[n, o], zp + zn)
                else:
                    result[n, i] += positive[i] * over(r[n, o], zp) + negative[i] * over(r[n, o], zn)
    return result


def product_relevance(r: ndarray, a: ndarray, b: ndarray) -> tuple[ndarray, ndarray]:
    """Half of r (M, N) for each of a (M, K) and b (K, N)."""
    ra, rb = np.zeros_like(a), np.zeros_like(b)
    for m in range(a.shape[0]):
        for n in range(b.shape[1]):
            z = sum(a[m, k] * b[k, n] for k in range(a.shape[1]))
            for k in range(a.shape[1]):
                share = a[m, k] * b[k, n] * over(r[m, n], z) / 2
                ra[m, k] += share
                rb[k, n] += share
    return ra, rb


def sum_relevance(r: ndarray, a: ndarray, b: ndarray, normalised: bool) -> tuple[ndarray, ndarray]:
    """Relevance of a and b from r of a + b."""
    ra = np.array([x * over(s, x + y) for s, x, y in zip(r.flat, a.flat, b.flat, strict=True)]).reshape(r.shape)
    rb = np.array([y * over(s, x + y) for s, x, y in zip(r.flat, a.flat, b.flat, strict=True)]).reshape(r.shape)
    if not normalised:
        return ra, rb
    sa, sb = math.fsum(ra.flat), math.fsum(rb.flat)
    whole, both = math.fsum(r.flat), abs(sa) + abs(sb)
    return ra * over(over(abs(sa), both) * whole, sa), rb * over(over(abs(sb), both) * whole, sb)


def split_relevance(x: ndarray, *parts: ndarray) -> ndarray:
    """What the readers of x send back, stabilised by x."""
    return np.array(
        [v * sum(over(p, v) for p in each) for v, *each in zip(x.flat, *(p.flat for p in parts), strict=True)]
    )


@dataclass
class Block:
    x: ndarray
    n1: ndarray
    q: ndarray  # (h, N, d)
    k: ndarray
    v: ndarray
    a: ndarray  # (h, N, N)
    joined: ndarray
    attended: ndarray
    middle: ndarray
    n2: ndarray
    hidden: ndarray
    active: ndarray
    moved: ndarray
    out: ndarray


def norm(x: ndarray, layer) -> ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.eps) * array(layer.weight) + array(layer.bias)


def array(tensor) -> ndarray:
    return tensor.detach().numpy()


def linear(x: ndarray, layer) -> ndarray:
    return x @ array(layer.weight).T + array(layer.bias)


def source(active: ndarray, neuron: int, registers: int) -> int:
    """The patch token from which a neuron's activation is moved."""
    return max(range(registers + 1, len(active)), key=lambda token: abs(active[token, neuron]))


def moved(active: ndarray, neurons: list[int], registers: int) -> ndarray:
    result = active.copy()
    for neuron in neurons:
        result[:registers, neuron] = active[source(active, neuron, registers), neuron]
        result[registers + 1 :, neuron] = 0
    return result


def moved_relevance(r: ndarray, state: Block, neurons: list[int], registers: int) -> ndarray:
    """Each activation gets the relevance of the places where it went to."""
    result = split_relevance(state.active, r).reshape(r.shape)
    for neuron in neurons:
        token = source(state.active, neuron, registers)
        value = state.active[token, neuron]
        result[:registers, neuron] = result[registers + 1 :, neuron] = 0
        result[token, neuron] = sum(value * over(each, value) for each in r[:registers, neuron])
    return result


def forward_block(block, x: ndarray, neurons: list[int], registers: int) -> Block:
    heads = block.attn.num_heads
    n1 = norm(x, block.norm1)
    q, k, v = (
        part.reshape(len(x), heads, -1).transpose(1, 0, 2) for part in np.split(linear(n1, block.attn.qkv), 3, -1)
    )
    scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
    a = scores / scores.sum(-1, keepdims=True)
    joined = (a @ v).transpose(1, 0, 2).reshape(len(x), -1)
    attended = linear(joined, block.attn.proj)
    middle = x + attended
    n2 = norm(middle, block.norm2)
    hidden = linear(n2, block.mlp.fc1)
    active = np.vectorize(lambda u: u * (1 + math.erf(u / math.sqrt(2))) / 2)(hidden)
    sent = moved(active, neurons, registers)
    return Block(x, n1, q, k, v, a, joined, attended, middle, n2, hidden, active, sent, linear(sent, block.mlp.fc2))


def block_relevance(
    r: ndarray, s: Block, block, ours: bool, neurons: list[int], registers: int
) -> tuple[ndarray, ndarray]:
    """From the relevance of a block's output to that of its input and of its attention map."""
    skip, branch = sum_relevance(r, s.middle, s.out, ours)
    branch = linear_relevance(branch, s.moved, array(block.mlp.fc2.weight), ours)
    if neurons:
        branch = moved_relevance(branch, s, neurons, registers)
    branch = linear_relevance(branch, s.n2, array(block.mlp.fc1.weight), ours)
    r = split_relevance(s.middle, skip, branch).reshape(r.shape)
    skip, branch = sum_relevance(r, s.x, s.attended, ours)
    branch = linear_relevance(branch, s.joined, array(block.attn.proj.weight), ours)
    heads = branch.reshape(len(branch), len(s.q), -1).transpose(1, 0, 2)
    parts, maps = [[], [], []], []
    for h, each in enumerate(heads):
        ra, rv = product_relevance(each, s.a[h], s.v[h])
        rq, rk = product_relevance(ra, s.q[h], s.k[h].T)
        maps.append(ra)
        for part, value in zip(parts, (rq, rk.T, rv), strict=True):
            part.append(value)
    joined = np.concatenate([value for part in parts for value in part], -1)
    branch = linear_relevance(joined, s.n1, array(block.attn.qkv.weight), ours)
    return split_relevance(s.x, skip, branch).reshape(r.shape), np.stack(maps)


def pixel_relevance(r: ndarray, image: ndarray, w: ndarray) -> ndarray:
    """z^B of r (gh·gw, D) on image (C, H, W) with kernels w (D, C, p, p)."""
    result, size = np.zeros_like(image), w.shape[-1]
    low, high = image.min(), image.max()
    across = image.shape[2] // size
    for token, relevances in enumerate(r):
        top, left = token // across * size, token % across * size
        patch = image[:, top : top + size, left : left + size]
        for kernel, relevance in zip(w, relevances, strict=True):
            z = patch * kernel - low * np.maximum(kernel, 0) - high * np.minimum(kernel, 0)
            result[:, top : top + size, left : left + size] += z * relevance / (z.sum() + EPSILON)
    return result


def plain_lrp(
    model: VisionTransformer,
    image: ndarray,
    target: int,
    ours: bool,
    neurons: list[tuple[int, int]] | None = None,
    registers: int = 0,
) -> tuple[ndarray, list[ndarray]]:
    """Relevance of the pixels (C, H, W) and of each block's attention map (h, N, N)."""
    chosen = [[neuron for at, neuron in neurons or () if at == index] for index in range(len(model.blocks))]
    kernel = array(model.patch_embed.proj.weight)
    size = kernel.shape[-1]
    patches = [
        (image[:, top : top + size, left : left + size] * kernel).sum((1, 2, 3))
        for top in range(0, image.shape[1], size)
        for left in range(0, image.shape[2], size)
    ]
    embedded = np.concatenate([array(model.cls_token)[0], np.stack(patches) + array(model.patch_embed.proj.bias)])
    position = array(model.pos_embed)[0]
    x, states = np.concatenate([np.zeros((registers, embedded.shape[1])), embedded + position]), []
    for block, own in zip(model.blocks, chosen, strict=True):
        states.append(forward_block(block, x, own, registers))
        x = states[-1].middle + states[-1].out
    pooled = norm(x[registers:], model.norm)[:1]
    start = np.zeros((1, model.head.out_features))
    start[0, target] = 1.0
    head = linear_relevance(start, pooled, array(model.head.weight), ours)
    r = np.zeros_like(x)
    r[registers] = split_relevance(pooled, head)
    if registers:  # they are dropped by an index
        r[registers:] = split_relevance(x[registers:], r[registers:]).reshape(embedded.shape)
    maps = []
    for state, block, own in zip(reversed(states), reversed(model.blocks), reversed(chosen), strict=True):
        r, attention = block_relevance(r, state, block, ours, own, registers)
        maps.insert(0, attention)
    r, _ = sum_relevance(r[registers:], embedded, position, ours)
    return pixel_relevance(r[1:], image, kernel), maps
