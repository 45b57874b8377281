"""What the Grad-CAM family shares: tokens of one or all blocks with their gradients, and what becomes of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters.tokens import TokenPlace, trace_tokens
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import token_gradients
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_block, checked_choice, checked_switch

__all__ = ["Block", "TokenCAM"]

Block = int | Literal["all"]


class TokenCAM(ViTAttribution):
    """A class activation map from the tokens of a block in the place of a convolution's feature map.

    Args:
        model: see `ViTAttribution`.
        block: index of the block, negative from the last, or "all" for the mean of the maps of all blocks.
        tokens: "norm" for the output of the block's first norm, "block" for the block's own output.
        relu: whether negative relevance of a block's map is dropped.

    Raises:
        TypeError: an option of another type.
        ValueError: no such block, or another place.
    """

    class_specific = True
    signed = True
    passes = "1 forward + 1 backward"
    memory = "the graph from its block on"
    needs = (Need.FIRST_NORM,)

    def __init__(self, model: nn.Module, *, block: Block = -1, tokens: TokenPlace = "norm", relu: bool = False) -> None:
        super().__init__(model)
        self.blocks = _checked_blocks(block, len(self.forward_func.blocks))
        self.tokens: TokenPlace = checked_choice("tokens", tokens, get_args(TokenPlace))
        self.relu = checked_switch("relu", relu)
        self.signed = not relu

    @property
    def block(self) -> Block:
        """The block that is explained, from 0, or "all"."""
        return "all" if len(self.blocks) == len(self.forward_func.blocks) > 1 else self.blocks[0]

    @abstractmethod
    def _block_map(self, tokens: Tensor, gradient: Tensor) -> Tensor:
        """Relevance (B, N) from the tokens of one block and the gradient at them, each (B, N, D)."""

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        logits, records = trace_tokens(self.forward_func, images, self.blocks, place=self.tokens)
        relevance = []
        for gradients in token_gradients(logits, targets, records):
            maps = [
                self._block_map(record.tokens, gradient) for record, gradient in zip(records, gradients, strict=True)
            ]
            relevance.append(torch.stack(maps).mean(0))
        return torch.stack(relevance, 1)  # (B, T, N)

    def _why_blank(self) -> str:
        why = (
            "no gradient of the target that counts for the method reaches the patch tokens. With class-token pooling "
            "the last block's own output gets none: take an earlier block or tokens='norm'. An output that no token "
            "changes does that too"
        )
        return f"{why}. Or no patch has positive relevance: relu=False keeps negative relevance" if self.relu else why


def _checked_blocks(block: Block, depth: int) -> list[int]:
    """The indices from 0 that ``block`` stands for."""
    if isinstance(block, str) and block == "all":
        return list(range(depth))
    return [checked_block("block", block, depth, also=" or 'all'")]
