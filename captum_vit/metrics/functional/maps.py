"""What every metric does with maps and masks before it measures: check, and normalise where it is told to."""

from __future__ import annotations

from numbers import Integral
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

__all__ = [
    "IGNORE",
    "Normalisation",
    "check_integer",
    "check_maps",
    "check_masks",
    "check_normalise",
    "check_pair",
    "is_undefined",
    "is_unscorable",
    "min_max",
    "normalised",
]

IGNORE = -1
"""Value of void pixels in a mask."""

Normalisation: TypeAlias = Literal["min_max", "clip_min_max", "none"]
"""To [0, 1] by a map's own smallest and largest value, the same after negative values became 0, or not at all."""


def check_integer(name: str, value: int) -> None:
    """Refuses what is no integer with a TypeError that says the argument's name."""
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")


def check_maps(maps: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
    """The maps as floating-point numbers (B, H, W).

    Args:
        maps: (B, H, W).
        size: the shape that they must have, when something else is compared with them.

    Raises:
        TypeError: not a tensor of real numbers.
        ValueError: another shape.
    """
    if not isinstance(maps, Tensor) or maps.is_complex():
        raise TypeError(f"maps must be a tensor of real numbers (B, H, W), got {type(maps).__name__}.")
    if maps.ndim == 3 and 0 in maps.shape:
        raise ValueError(f"maps must hold at least one map (B, H, W) with pixels, got {tuple(maps.shape)}.")
    if maps.ndim != 3:
        raise ValueError(
            f"maps must have shape (B, H, W), got {tuple(maps.shape)}. Sum an attribution over its channels first: "
            "attribution.sum(1)."
        )
    if size is not None and tuple(maps.shape) != size:
        raise ValueError(f"maps must have the shape of what they are compared with, {size}, got {tuple(maps.shape)}.")
    return maps if maps.dtype == torch.float64 else maps.float()


def check_masks(masks: Tensor) -> Tensor:
    """The masks as integers (B, H, W): 1 for the object, 0 for the background, -1 (`IGNORE`) for void pixels.

    Args:
        masks: (B, H, W), boolean or of integers.

    Raises:
        TypeError: not a tensor of booleans or integers.
        ValueError: another shape or another value.
    """
    if not isinstance(masks, Tensor) or masks.is_floating_point() or masks.is_complex():
        kind = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"masks must be a tensor of booleans or integers (B, H, W), got {kind}.")
    if masks.ndim != 3:
        raise ValueError(f"masks must have shape (B, H, W), got {tuple(masks.shape)}.")
    masks = masks.long()
    wrong = masks[(masks < IGNORE) | (masks > 1)]
    if len(wrong):
        raise ValueError(f"masks must hold 0 (background), 1 (object) and {IGNORE} (void), got {int(wrong[0])}.")
    return masks


def check_pair(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks that were checked, `check_maps` and `check_masks`, and have one shape."""
    masks = check_masks(masks)
    return check_maps(maps, tuple(masks.shape)), masks


def check_normalise(normalise: Normalisation) -> None:
    """Refuses the name of an unknown scale with a ValueError."""
    if normalise not in get_args(Normalisation):
        raise ValueError(f"normalise must be one of {', '.join(get_args(Normalisation))}, got {normalise!r}.")


def is_undefined(maps: Tensor) -> Tensor:
    """(B,) boolean: which maps rank nothing, because they hold NaN or infinity or one value throughout."""
    flat = maps.flatten(1)
    return ~flat.isfinite().all(1) | (flat.amin(1) == flat.amax(1))


def is_unscorable(maps: Tensor, masks: Tensor) -> Tensor:
    """(B,) boolean: where there is nothing to measure: the map is undefined or the mask has no object."""
    return is_undefined(maps) | ~(masks == 1).flatten(1).any(1)


def min_max(maps: Tensor) -> Tensor:
    """Each map of (B, H, W) on a scale of 0 to 1; NaN where `is_undefined`.

    Example:
        >>> min_max(torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]))
        tensor([[[0.0000, 0.1250],
                 [0.5000, 1.0000]]])
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).masked_fill(is_undefined(maps)[:, None, None], torch.nan)


def normalised(maps: Tensor, normalise: Normalisation) -> Tensor:
    """Each map of (B, H, W) on the scale that is asked for; NaN throughout where nothing is ranked on it.

    Raises:
        ValueError: an unknown scale.

    Example:
        >>> normalised(torch.tensor([[[-4.0, 1.0], [2.0, 4.0]]]), "clip_min_max")
        tensor([[[0.0000, 0.2500],
                 [0.5000, 1.0000]]])
    """
    check_normalise(normalise)
    if normalise == "none":
        return maps.masked_fill(is_undefined(maps)[:, None, None], torch.nan)
    return min_max(maps.clamp(min=0) if normalise == "clip_min_max" else maps)
