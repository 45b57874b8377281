"""Maps on demand: for metrics that change the image, the target or the model, and look at what that does to a map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import check_maps

__all__ = ["Explain", "check_images", "explained"]

Explain: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) and targets (B,) → maps (B, h, w), on any grid: an attribution method as metrics see it.

Of a Captum method it is ``lambda images, targets: method.attribute(images, target=targets).sum(1)``.
"""


def check_images(images: Tensor, targets: Tensor, batch_size: int) -> None:
    """Refuses images and targets that do not fit each other.

    Raises:
        TypeError: targets that are not integers.
        ValueError: what does not fit, with its value.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}.")
    if targets.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"targets must be integers, one per image, got {targets.dtype}.")
    if targets.shape != (len(images),):
        raise ValueError(f"targets must have shape ({len(images)},), one per image, got {tuple(targets.shape)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")


def explained(explain: Explain, images: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    """(B, h, w): the map of every image for its target, ``batch_size`` images at a time.

    Raises:
        TypeError: ``explain`` returns something else than a tensor of real numbers.
        ValueError: ``explain`` returns another shape than one map per image.
    """
    maps = []
    for some, their in zip(images.split(batch_size), targets.split(batch_size), strict=True):
        answer = check_maps(explain(some, their)).detach()
        if len(answer) != len(some):
            raise ValueError(f"explain must return one map per image, got {len(answer)} for {len(some)} images.")
        maps.append(answer)
    return torch.cat(maps)
