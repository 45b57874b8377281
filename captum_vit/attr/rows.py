"""What the rollout-type methods share: where the row starts and how it enters the blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["checked_start_block", "pad_prefix"]


def pad_prefix(row: Tensor, num_tokens: int) -> Tensor:
    """A pooler's row over patch tokens only, (B, gh·gw), as a row over all N tokens, (B, N)."""
    return F.pad(row, (num_tokens - row.shape[1], 0))


def checked_start_block(start_block: int, num_blocks: int) -> int:
    """The index from 0 of the first block that takes part.

    Raises:
        ValueError: no such block.
    """
    if not -num_blocks <= start_block < num_blocks:
        raise ValueError(f"start_block must be in [{-num_blocks}, {num_blocks - 1}], got {start_block}.")
    return start_block % num_blocks
