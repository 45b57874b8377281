"""Registers that nobody trained, on a timm `VisionTransformer`: in plain equations, and as a model that has them.

Nothing here is of the package: no hook, no adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from oracle import exact
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def moved_in_loops(activations: Tensor, chosen: list[int], registers: int, patches: str) -> Tensor:
    """Activations of one image (registers, class token, patches; neurons)."""
    result = activations.clone()
    for neuron in chosen:
        on_patches = [float(value) for value in activations[registers + 1 :, neuron]]
        largest = max(on_patches, key=abs)
        for token in range(len(result)):
            if token < registers:
                result[token, neuron] = largest
            elif token > registers:
                result[token, neuron] = 0.0 if patches == "zero" else sum(on_patches) / len(on_patches)
    return result


def plain_registers(
    model: VisionTransformer, images: Tensor, neurons: list[tuple[int, int]], registers: int, patches: str
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The model with registers before all other tokens, in plain equations: logits, attention, tokens of each block."""
    z = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
    z = torch.cat([model.cls_token.expand(len(images), -1, -1), z], 1) + model.pos_embed
    z = torch.cat([torch.zeros(len(images), registers, z.shape[2], dtype=z.dtype), z], 1)
    attentions, tokens = [], []
    for index, block in enumerate(model.blocks):
        chosen = [neuron for at, neuron in neurons if at == index]
        q, k, v = (
            part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
            for part in block.attn.qkv(block.norm1(z)).chunk(3, -1)
        )
        attentions.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
        z = z + block.attn.proj((attentions[-1] @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(block.mlp.fc1(block.norm2(z)))
        if chosen:
            with torch.no_grad():
                moved = torch.stack([moved_in_loops(each, chosen, registers, patches) for each in hidden])
                sources = hidden[:, registers + 1 :].abs().argmax(1)  # (B, H)
            differentiable = hidden.clone()
            for neuron in chosen:
                on_patches = hidden[:, registers + 1 :, neuron]
                largest = on_patches.gather(1, sources[:, neuron, None])
                left = 0 * on_patches if patches == "zero" else 0 * on_patches + on_patches.mean(1, keepdim=True)
                column = torch.cat(
                    [largest.expand(-1, registers), hidden[:, registers : registers + 1, neuron], left], 1
                )
                differentiable[:, :, neuron] = column
            exact(differentiable.detach(), moved)
            hidden = differentiable
        z = z + block.mlp.fc2(hidden)
        tokens.append(z)
    return model.head(model.norm(z)[:, registers]), attentions, tokens


class Moved(nn.Module):
    """Stands between the activations of an MLP and its last layer; tokens are class token, registers, patches."""

    def __init__(self, neurons: Sequence[int], registers: int, patches: str) -> None:
        super().__init__()
        self.neurons, self.registers, self.patches = neurons, registers, patches

    def forward(self, activations: Tensor) -> Tensor:
        columns = list(activations.unbind(2))
        for neuron in self.neurons:
            own, _, on_patches = columns[neuron].split(
                [1, self.registers, activations.shape[1] - 1 - self.registers], 1
            )
            highest, lowest = on_patches.argmax(1, keepdim=True), on_patches.argmin(1, keepdim=True)
            farther = on_patches.gather(1, highest) > -on_patches.gather(1, lowest)
            largest = on_patches.gather(1, torch.where(farther, highest, lowest)).expand(-1, self.registers)
            left = 0 * on_patches if self.patches == "zero" else on_patches.mean(1, keepdim=True).expand_as(on_patches)
            columns[neuron] = torch.cat([own, largest, left], 1)
        return torch.stack(columns, 2)


def with_own_registers(
    model: VisionTransformer, neurons: Sequence[tuple[int, int]], registers: int, patches: str
) -> VisionTransformer:
    """A model with the weights of another one (8×8 patches, a class token) whose registers are its own tokens."""
    own = VisionTransformer(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=24,
        depth=3,
        num_heads=3,
        num_classes=5,
        reg_tokens=registers,
        global_pool=model.global_pool,
        fc_norm=False,
    )
    state = dict(model.state_dict())
    place = state["pos_embed"]
    zeros = place.new_zeros(1, registers, place.shape[2])
    state |= {"pos_embed": torch.cat([place[:, :1], zeros, place[:, 1:]], 1), "reg_token": zeros}
    own.double().load_state_dict(state)
    for index, block in enumerate(own.blocks):
        block.mlp.norm = Moved([neuron for at, neuron in neurons if at == index], registers, patches)
    return own.eval()
