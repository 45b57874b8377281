"""What the methods that run many changed copies of an image share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_vit.adapters import attention

__all__ = ["perturbed_scores"]


def perturbed_scores(targets: Tensor, copies: int, per_batch: int, run: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The targets' scores of several changed copies of each image, at least in float32.

    Args:
        targets: output indices (B, T).
        copies: how many copies of each image there are, M.
        per_batch: how many copies, of all images together, run at a time.
        run: from indices of images (R,) and of copies (R,) to outputs, (R, K).

    Returns:
        (B, T, M).
    """
    image = torch.arange(len(targets), device=targets.device).repeat_interleave(copies)
    copy = torch.arange(copies, device=targets.device).repeat(len(targets))
    parts = [
        attention.relevance_dtype(run(*each)).gather(1, targets[each[0]])
        for each in zip(image.split(per_batch), copy.split(per_batch), strict=True)
    ]
    scores: Tensor = torch.cat(parts).unflatten(0, (len(targets), copies)).transpose(1, 2)
    return scores
