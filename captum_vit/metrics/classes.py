"""The classes that maps belong to."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_classes"]


def check_classes(classes: Tensor, batch: int, num_classes: int) -> Tensor:
    """The classes (B,), if they are numbers from 0 to num_classes − 1, one per map.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or a class out of range.
    """
    if classes.is_floating_point() or classes.is_complex():
        raise TypeError(f"classes must be a tensor of integers (B,), got {classes.dtype}.")
    if classes.shape != (batch,):
        raise ValueError(f"classes must have shape ({batch},), one per map, got {tuple(classes.shape)}.")
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if len(wrong):
        raise ValueError(f"classes must be in [0, {num_classes}), got {int(wrong[0])}.")
    return classes.long()
