"""The maps of every block: the method's own where it has such, else where the block's attention goes."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.adapters import Adapter
from captum_vit.adapters.capture import trace
from captum_vit.attr import LeGrad, ViTAttribution, raw_attention
from captum_vit.attr.token_cam import TokenCAM

__all__ = ["maps_by_block"]


def maps_by_block(method: ViTAttribution, pixels: Tensor, targets: list[int]) -> tuple[str, Tensor]:
    """One map for each target and block.

    LeGrad's map is the mean of its blocks', and those of the Grad-CAM family can be taken at any block. Of any other
    method the blocks' attention is shown, which no target changes.

    Args:
        method: as it explains the image.
        pixels: (1, C, H, W).
        targets: T output indices.

    Returns:
        What the maps are, and they: (T, L, gh, gw), raw.

    Raises:
        BlankMapError: a block's map that would be zero everywhere, or not finite.
    """
    adapter = method.forward_func
    if isinstance(method, LeGrad):
        return "LeGrad's map of each block; their mean is its map.", torch.stack(
            [method.attribute_blocks(pixels, target)[0, :, 0].cpu() for target in targets]
        )
    if isinstance(method, TokenCAM):
        each_block = [type(method)(adapter, block=block) for block in range(len(adapter.blocks))]
        maps = [at_block.attribute_targets(pixels, targets)[0, :, 0].cpu() for at_block in each_block]
        return f"{method.get_name()} at each block.", torch.stack(maps, 1)
    attention = _attention(adapter, pixels).cpu()
    return (
        f"{method.get_name()} has no map of a single block: this is where the attention of each goes, as the mean over "
        "its heads. It does not depend on what is asked.",
        attention.expand(len(targets), -1, -1, -1),
    )


def _attention(adapter: Adapter, pixels: Tensor) -> Tensor:
    """The attention that the pooled tokens pay the patches, block by block, (L, gh, gw).

    Before an attention pooler, whose queries are no tokens of the blocks, every token counts alike.
    """
    rows = []
    with torch.no_grad():
        for record in trace(adapter, pixels).blocks:
            tokens = record.shape[2]
            alike = torch.full((tokens,), 1 / tokens)
            start = alike if adapter.pooling == "attention" else adapter.pool_weights(tokens)
            rows.append(raw_attention(record.attention, start=start)[0, adapter.num_prefix_tokens :])
    maps: Tensor = torch.stack(rows).unflatten(-1, adapter.grid(pixels.shape[-2], pixels.shape[-1]))
    return maps
