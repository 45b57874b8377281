"""Relevance as colour, and colour over an image."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

__all__ = ["SIGNED_COLOURS", "UNSIGNED_COLOURS", "Array", "colour", "is_constant", "normalise", "overlay"]

Array: TypeAlias = NDArray[np.floating]

UNSIGNED_COLOURS = "inferno"
"""Perceptually uniform, and readable without red-green vision."""

SIGNED_COLOURS = "PuOr_r"
"""Diverging about zero: orange for, purple against; readable without red-green vision."""


def normalise(relevance: Array, *, signed: bool = False, limit: float | None = None) -> Array:
    """Scales one map for display: its smallest value becomes 0 and its largest 1.

    Maps scaled this way can be compared by where they are high, never by how high. A constant map becomes zeros: no
    place stands out in it.

    Args:
        relevance: one map, (H, W).
        signed: divide by the largest magnitude instead, so that zero stays zero and the values lie in [-1, 1].
        limit: the magnitude that a signed map is divided by, so that maps with one limit can be compared.

    Raises:
        ValueError: not two-dimensional, or NaN or infinity; a limit of a map that is not signed, or that the map
            exceeds.

    Example:
        >>> normalise(np.array([[1.0, 2.0, 5.0]]))
        array([[0.  , 0.25, 1.  ]])
        >>> normalise(np.array([[1.0, 2.0, -4.0]]), signed=True)
        array([[ 0.25,  0.5 , -1.  ]])
    """
    if relevance.ndim != 2:
        raise ValueError(f"relevance must be one map (H, W), got shape {relevance.shape}.")
    if not np.isfinite(relevance).all():
        raise ValueError(
            f"relevance must be finite, got {int((~np.isfinite(relevance)).sum())} NaN or infinite values."
        )
    values = np.asarray(relevance, dtype=np.promote_types(relevance.dtype, np.float32))
    largest = np.abs(values).max()
    if limit is not None and not (signed and largest <= limit):
        what = f"at least the map's largest magnitude {largest:g}" if signed else "None for a map that is not signed"
        raise ValueError(f"limit must be {what}, got {limit:g}.")
    if signed:
        divisor = largest if limit is None else values.dtype.type(limit)
        return values / divisor if divisor > 0 else np.zeros_like(values)
    low = values.min()
    return np.zeros_like(values) if is_constant(values) else (values - low) / (values.max() - low)


def is_constant(relevance: Array) -> bool:
    """Whether all values of a map are equal, up to the rounding of an interpolation."""
    rounding = 8 * np.finfo(relevance.dtype).eps * np.abs(relevance).max()
    return bool(relevance.max() - relevance.min() <= rounding)


def colour(relevance: Array, *, signed: bool = False, limit: float | None = None) -> Array:
    """Scales one map (H, W) with `normalise` and colours it; returns (H, W, 3) in [0, 1]."""
    scaled = normalise(relevance, signed=signed, limit=limit)
    coloured = colormaps[SIGNED_COLOURS](scaled / 2 + 0.5) if signed else colormaps[UNSIGNED_COLOURS](scaled)
    return np.asarray(coloured)[..., :3]


def overlay(
    image: Array, relevance: Array, *, signed: bool = False, opacity: float = 0.7, limit: float | None = None
) -> Array:
    """Lays a coloured map over an image that is first turned grey, so that every colour means relevance.

    Args:
        image: (H, W, 3) in [0, 1].
        relevance: one map (H, W), at the image's resolution.
        signed: whether the map has two directions; see `colour`.
        opacity: share of the map in the result, in [0, 1].
        limit: see `normalise`.

    Returns:
        (H, W, 3) in [0, 1].

    Raises:
        ValueError: sizes that differ, an image out of range, an opacity out of range.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != relevance.shape:
        raise ValueError(f"image must be (H, W, 3) and the map (H, W), got {image.shape} and {relevance.shape}.")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image must be in [0, 1], got values from {image.min():g} to {image.max():g}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity}.")
    grey = image @ np.array([0.299, 0.587, 0.114])  # (H, W), the luma of ITU-R BT.601
    blended: Array = opacity * colour(relevance, signed=signed, limit=limit) + (1 - opacity) * grey[..., None]
    return blended
