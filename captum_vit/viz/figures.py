"""Many maps in one figure."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_vit.viz.outlines import outline
from captum_vit.viz.overlays import SIGNED_COLOURS, UNSIGNED_COLOURS, Array, overlay

__all__ = ["figure"]

_GAP, _LINE = 0.08, 0.18
"""Inches: space between pictures, height of a line of text."""
_NAME, _LETTER = 10.0, 0.072
"""Size of a column's name, in points, and inches of a letter of it."""


def figure(
    image: Array,
    maps: Mapping[str, Array],
    *,
    rows: Sequence[str],
    masks: NDArray[np.bool_] | None = None,
    signed: Collection[str] = (),
    title: str | None = None,
    notice: str | None = None,
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
    height, width = (cell * side / max(size) for side in size)
    labels = [_wrapped(row, round(height * 12)) for row in rows]
    left = _LINE * (1 + max(label.count("\n") + 1 for label in labels))
    across, down = width + _GAP, height + _GAP
    total_width = left + across * (len(maps) + 1)
    heading = _wrapped("\n".join(text for text in (notice, title) if text is not None), round(total_width * 10))
    bottom, top = 3 * _LINE, _LINE * (2.5 + len(heading.splitlines()))
    total_height = bottom + down * len(rows) + top
    made = Figure(figsize=(total_width, total_height), dpi=110)
    FigureCanvasAgg(made)

    def place(x: float, y: float, width: float, height: float) -> Axes:
        """Axes at a place given in inches from the lower left corner."""
        box = (x / total_width, y / total_height, width / total_width, height / total_height)
        return made.add_axes(box, label=f"{x},{y}")

    for column, name in enumerate(("image", *maps)):
        x = left + across * column
        middle, above = (x + width / 2) / total_width, 1 - (top - 0.5 * _LINE) / total_height
        size_of_name = _NAME * min(1, across / (_LETTER * max(len(name), 1)))
        made.text(middle, above, name, fontsize=size_of_name, ha="center", parse_math=False)
        if column:
            _bar(made, place(x + 0.1 * width, 0.6 * bottom, 0.8 * width, 0.07), signed=name in signed)
        for row, label in enumerate(labels):
            axes = place(x, bottom + down * (len(rows) - 1 - row), width, height)
            _picture(axes, overlay(images[row], maps[name][row], signed=name in signed) if column else images[row])
            if masks is not None:
                outline(axes, masks[row])
            if not column:
                axes.set_ylabel(label, fontsize=9, parse_math=False)
    highest = 1 - 0.5 * _LINE / total_height
    weight = "bold" if notice else "normal"
    made.text(0.5, highest, heading, fontsize=10, ha="center", va="top", fontweight=weight, parse_math=False)
    return made


def _wrapped(text: str, width: int) -> str:
    """Each line of a text broken at ``width`` characters."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def _picture(axes: Axes, image: Array) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _bar(made: Figure, axes: Axes, *, signed: bool) -> None:
    """The colours of one column, and what their ends mean."""
    limits = (-1, 1) if signed else (0, 1)
    colours = SIGNED_COLOURS if signed else UNSIGNED_COLOURS
    bar = made.colorbar(ScalarMappable(Normalize(*limits), colours), cax=axes, orientation="horizontal")
    bar.set_ticks(list(limits), labels=["against", "for"] if signed else ["lowest", "highest"])
    axes.tick_params(labelsize=8, length=0)
    low, high = axes.get_xticklabels()
    low.set_horizontalalignment("left")  # inside the bar's width, so that neighbours don't meet
    high.set_horizontalalignment("right")
    for spine in axes.spines.values():
        spine.set_visible(False)
