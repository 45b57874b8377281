"""Pictures in rows and columns, with headings, labels and a bar of colours below each column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_vit.viz.outlines import outline
from captum_vit.viz.overlays import SIGNED_COLOURS, UNSIGNED_COLOURS, Array

__all__ = ["Canvas", "Column", "grid"]

_GAP, _LINE = 0.08, 0.18
"""Inches: space between pictures, height of a line of text."""


class Canvas(Figure):
    """A figure with a canvas of its own, which notebooks show without pyplot."""

    def __init__(self, width: float, height: float, *, constrained: bool = False) -> None:
        super().__init__(figsize=(width, height), dpi=110, layout="constrained" if constrained else None)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """The picture, as notebooks show it."""
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Column:
    """A column of pictures.

    Attributes:
        name: its heading.
        pictures: one per row, (rows, H, W, 3) in [0, 1].
        ends: what the two ends of its colours mean; None for photographs, which have no bar.
        signed: whether those colours diverge about zero.
    """

    name: str
    pictures: Array
    ends: tuple[str, str] | None = None
    signed: bool = False


def grid(
    columns: Sequence[Column],
    *,
    rows: Sequence[str],
    masks: NDArray[np.bool_] | None,
    title: str | None,
    notice: str | None,
    cell: float,
) -> Figure:
    """Lays columns side by side; the arguments are those of `captum_vit.viz.figure`."""
    size = columns[0].pictures.shape[1:3]
    height, width = (cell * side / max(size) for side in size)
    labels = [_wrapped(row, round(height * 12)) for row in rows]
    left = _LINE * (1 + max(label.count("\n") + 1 for label in labels))
    across, down = width + _GAP, height + _GAP
    headings = [_wrapped(column.name, max(8, round(width * 14))) for column in columns]
    total_width = left + across * len(columns)
    heading = _wrapped("\n".join(text for text in (notice, title) if text is not None), round(total_width * 10))
    named = max(each.count("\n") + 1 for each in headings)
    bottom, top = 3 * _LINE, _LINE * (1.5 + named + len(heading.splitlines()))
    total_height = bottom + down * len(rows) + top
    made = Canvas(total_width, total_height)

    def place(x: float, y: float, width: float, height: float) -> Axes:
        """Axes at a place given in inches from the lower left corner."""
        box = (x / total_width, y / total_height, width / total_width, height / total_height)
        return made.add_axes(box, label=f"{x},{y}")

    for number, column in enumerate(columns):
        x = left + across * number
        middle, above = (x + width / 2) / total_width, (bottom + down * len(rows) + 0.5 * _LINE) / total_height
        made.text(middle, above, headings[number], fontsize=10, ha="center", parse_math=False)
        if column.ends:
            _bar(made, place(x + 0.1 * width, 0.6 * bottom, 0.8 * width, 0.07), column.ends, signed=column.signed)
        for row, label in enumerate(labels):
            axes = place(x, bottom + down * (len(rows) - 1 - row), width, height)
            _picture(axes, column.pictures[row])
            if masks is not None:
                outline(axes, masks[row])
            if not number:
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


def _bar(made: Figure, axes: Axes, ends: tuple[str, str], *, signed: bool) -> None:
    """The colours of one column, and what their ends mean."""
    limits = (-1, 1) if signed else (0, 1)
    colours = SIGNED_COLOURS if signed else UNSIGNED_COLOURS
    bar = made.colorbar(ScalarMappable(Normalize(*limits), colours), cax=axes, orientation="horizontal")
    bar.set_ticks(list(limits), labels=list(ends))
    axes.tick_params(labelsize=8, length=0)
    low, high = axes.get_xticklabels()
    low.set_horizontalalignment("left")  # inside the bar's width, so that neighbours don't meet
    high.set_horizontalalignment("right")
    for text in (low, high):
        text.set_parse_math(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
