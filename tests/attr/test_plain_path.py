"""The methods that stream, on every family, against whole maps and N×N products; and in half precision."""

from __future__ import annotations

import cases
import pytest
import torch
from oracle import exact
from torch import Tensor

from captum_vit import GMAR, AttentionCAM, AttentionRollout, CheferCAM, LeGrad, adapt
from captum_vit.adapters import attention, sums, trace

STREAMING = [LeGrad, CheferCAM, GMAR, AttentionRollout, AttentionCAM]
FAMILIES = [name for name in cases.ALL_FAMILIES if name != "timm_vit_max"]  # which gives no token a share
TARGET = 1


class Whole:
    """Every attention map A of a pass and its gradient ∇A, (B, h, Q, N), whole and in float64; the pooler's last."""

    def __init__(self, case: cases.Case) -> None:
        adapter = adapt(case.model)
        traced = trace(adapter, case.images, gradients=True)
        records = [*traced.blocks, *filter(None, [traced.pooler])]
        score = traced.logits[:, TARGET].sum()
        at_outputs = torch.autograd.grad(score, [each.output for each in records])
        self.maps = []
        for record in records:
            scores = record.scale * record.query @ record.key.mT + (0.0 if record.bias is None else record.bias)
            powers = (scores - scores.amax(-1, keepdim=True)).exp()
            self.maps.append(powers / powers.sum(-1, keepdim=True))
        self.gradients = [each @ record.value.mT for each, record in zip(at_outputs, records, strict=True)]
        self.pooled = traced.pooler is not None
        self.weights = adapter.pool_weights(records[-1].shape[2]).double()

    def read(self, products: list[Tensor], pooler: Tensor | None) -> Tensor:
        """The pooled vector's row of the product of all blocks, last on the left, each (B, N, N)."""
        tokens = products[0].shape[-1]
        row = self.weights.expand(len(products[0]), 1, -1)
        if pooler is not None:
            row = torch.cat([row.new_zeros(len(row), 1, tokens - pooler.shape[-1]), row @ pooler], -1)
        whole = torch.eye(tokens, dtype=torch.float64)
        for product in products:
            whole = product @ whole
        return (row @ whole)[:, 0]

    def split(self, maps: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """Those of the blocks, and the pooler's."""
        return (maps[:-1], maps[-1]) if self.pooled else (maps, None)


def normalised(product: Tensor) -> Tensor:
    return product / product.sum(-1, keepdim=True)


def rollout(whole: Whole) -> Tensor:
    blocks, pooler = whole.split([each.mean(1) for each in whole.maps])
    identity = torch.eye(blocks[0].shape[-1], dtype=torch.float64)
    pooler = None if pooler is None else normalised(pooler)
    return whole.read([normalised((each + identity) / 2) for each in blocks], pooler)


def chefer(whole: Whole) -> Tensor:
    weighted = [(a * g).clamp(min=0).mean(1) for a, g in zip(whole.maps, whole.gradients, strict=True)]
    blocks, pooler = whole.split(weighted)
    identity = torch.eye(blocks[0].shape[-1], dtype=torch.float64)
    return whole.read([identity + each for each in blocks], pooler)


def gmar(whole: Whole) -> Tensor:
    norms = [each.abs().sum((2, 3)) for each in whole.gradients]
    shares = [each / each.sum(1, keepdim=True) for each in norms]
    fused = [torch.einsum("bh,bhqn->bqn", *pair) for pair in zip(shares, whole.maps, strict=True)]
    blocks, pooler = whole.split(fused)
    identity = torch.eye(blocks[0].shape[-1], dtype=torch.float64)
    relevance = identity.expand(len(blocks[0]), -1, -1)
    for each in blocks:
        relevance = relevance @ each + identity
    return whole.read([relevance], pooler)


def attention_cam(whole: Whole) -> Tensor:
    weights = whole.gradients[-1].mean((2, 3))
    rows = torch.einsum("q,bhqn->bhn", whole.weights, whole.maps[-1])
    return torch.einsum("bh,bhn->bn", weights, rows)


PLAIN = {AttentionRollout: rollout, CheferCAM: chefer, GMAR: gmar, AttentionCAM: attention_cam}
"""LeGrad's plain path is held by ``test_legrad_tail.py``."""


@pytest.mark.parametrize("name", FAMILIES)
def test_streamed_maps_are_those_of_whole_products(name):
    case = cases.case(name)
    whole = Whole(case)
    gh, gw = case.grid
    for method, plain in PLAIN.items():
        expected = plain(whole)[:, -gh * gw :].view(-1, 1, gh, gw)
        scale = expected.abs().max()
        actual = method(case.model).attribute(case.images, target=TARGET, resolution="patch")
        exact(actual / scale, expected / scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_they_do_not_depend_on_the_size_of_pieces(monkeypatch, name):
    case = cases.case(name)
    for method in STREAMING:
        expected = method(case.model).attribute_targets(case.images, [TARGET, 0])
        scale = expected.abs().max()
        for size in (1, 3000):
            with monkeypatch.context() as patched:
                patched.setattr(attention, "CHUNK_BYTES", size)
                patched.setattr(sums, "CACHED_PIECE_BYTES", size)
                exact(method(case.model).attribute_targets(case.images, [TARGET, 0]) / scale, expected / scale)
