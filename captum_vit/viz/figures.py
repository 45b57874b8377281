"""Many maps in one figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_vit.viz.grid import Column, grid
from captum_vit.viz.overlays import Array, overlay

__all__ = ["figure", "overlaid"]


def figure(
    image: Array,
    maps: Mapping[str, Array],
    *,
    rows: Sequence[str],
    masks: NDArray[np.bool_] | None = None,
    signed: Collection[str] = (),
    title: str | None = None,
    notice: str | None = None,
    opacity: float = 0.7,
    cell: float = 2.4,
) -> Figure:
    """A grid of overlays: one row per target or prompt, the image first, then one column per method.

    Every map is scaled by itself (`normalise`): colours can't be compared between pictures, as the bars below say.

    Args:
        image: what the model was shown, (H, W, 3) in [0, 1]; or one such image per row, (T, H, W, 3).
        maps: for each method, by name, the maps of all rows at the image's resolution, (T, H, W).
        rows: what each row explains, T texts.
        masks: (T, H, W) what is outlined in each row; nothing where a mask is empty.
        signed: names of the methods whose relevance can be negative; they get diverging colours.
        title: a line above the grid.
        notice: a warning above it, in bold: that weights are random, for example.
        opacity: see `overlay`.
        cell: longer side of a picture, in inches.

    Returns:
        A matplotlib figure with a canvas of its own: ``figure.savefig("maps.png")``.

    Raises:
        ValueError: no method or no row, or images, maps or masks whose number or size does not fit the rows.
    """
    if not maps or not rows:
        raise ValueError(f"maps and rows must not be empty, got {len(maps)} methods and {len(rows)} rows.")
    images = image if image.ndim == 4 else np.broadcast_to(image, (len(rows), *image.shape))
    size = images.shape[1:3]
    if len(images) != len(rows):
        raise ValueError(f"image must be one, or one for each of the {len(rows)} rows, got {len(images)}.")
    for name, each in maps.items() if masks is None else (*maps.items(), ("masks", masks)):
        if each.shape != (len(rows), *size):
            raise ValueError(f"maps of {name!r} must be (rows, H, W) = {(len(rows), *size)}, got {each.shape}.")
    columns = [overlaid(name, images, each, signed=name in signed, opacity=opacity) for name, each in maps.items()]
    return grid([Column("image", images), *columns], rows=rows, masks=masks, title=title, notice=notice, cell=cell)


def overlaid(name: str, images: Array, maps: Array, *, signed: bool, opacity: float) -> Column:
    """A column of maps (rows, H, W) over images (rows, H, W, 3), each scaled by itself."""
    pairs = zip(images, maps, strict=True)
    pictures = [overlay(image, relevance, signed=signed, opacity=opacity) for image, relevance in pairs]
    return Column(name, np.stack(pictures), ("against", "for") if signed else ("lowest", "highest"), signed=signed)
