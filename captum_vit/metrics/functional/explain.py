"""Maps on demand: for metrics that change the image, the target or the model, and look at what that does to a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import check_integer, check_maps

__all__ = ["Explain", "check_images", "check_patch", "explained"]

Explain: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) and targets (B,) → maps (B, h, w), on any grid: an attribution method as metrics see it.

Of a Captum method it is ``lambda images, targets: method.attribute(images, target=targets).sum(1)``.
"""


def check_images(images: Tensor, targets: Tensor, batch_size: int) -> None:
    """Refuses images and targets that do not fit each other.

    Raises:
        TypeError: images or targets that are no tensors, targets that are not integers, a batch_size that is none.
        ValueError: no image, or what does not fit, with its value.
    """
    for name, given, shape in (("images", images, "(B, C, H, W)"), ("targets", targets, "(B,)")):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor {shape}, got {type(given).__name__}.")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}.")
    if 0 in images.shape:
        raise ValueError(f"images must hold at least one image (B, C, H, W) with pixels, got {tuple(images.shape)}.")
    if targets.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"targets must be integers, one per image, got {targets.dtype}.")
    if targets.shape != (len(images),):
        raise ValueError(f"targets must have shape ({len(images)},), one per image, got {tuple(targets.shape)}.")
    check_integer("batch_size", batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")


def check_patch(patch: tuple[int, int], images: Tensor) -> None:
    """Refuses a patch (h, w) that does not divide the images.

    Raises:
        TypeError: no pair of integers.
        ValueError: a side that does not divide the image's.
    """
    if not isinstance(patch, Sequence) or len(patch) != 2 or not all(isinstance(side, Integral) for side in patch):
        raise TypeError(f"patch must be two integers (h, w), got {patch!r}.")
    height, width = images.shape[2:]
    if min(patch) < 1 or height % patch[0] or width % patch[1]:
        raise ValueError(f"patch must divide the image's {height}×{width} pixels, got {patch[0]}×{patch[1]}.")


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
