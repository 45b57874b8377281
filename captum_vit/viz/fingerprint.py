"""How models' explanations are spread over their blocks: a curve for each model, a heat map for its classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_vit.viz.grid import Canvas
from captum_vit.viz.overlays import UNSIGNED_COLOURS, Array

__all__ = ["LINE_COLOURS", "fingerprint"]

LINE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""Of Okabe and Ito, told apart without red-green vision; yellow is left out, which does not show on white."""

_MARKERS, _STYLES = "os^Dv", ("-", "--", ":")
_CURVES, _CLASS, _HEAT = 3.2, 0.17, 1.1
"""Inches: height of the curves, of one class, and of what a heat map needs beside its classes."""

_WIDTH, _BLOCK, _LETTER, _BAR = 7.0, 0.13, 0.07, 0.9
"""Inches: smallest width of the figure; width of a block, of a letter, and of the bar with the colours."""


def fingerprint(
    curves: Mapping[str, Array],
    *,
    classes: Mapping[str, Mapping[str, Array]] | None = None,
    title: str | None = None,
) -> Figure:
    """Relevance on the object by block: one curve per model, and per model a heat map, classes × blocks.

    Models are told apart by colour, marker and, where there are more than seven, line style. In a heat map a dot marks
    the highest block of each class; a class without a number is grey.

    Args:
        curves: for each model, by name, values in [0, 1] of its blocks, (L,); or value, low and high, (3, L), which
            draws a band. There is no band where low or high is NaN.
        classes: for each model, by name, the values of every class, (L,), or (3, L) of which the first row is shown.
        title: a line above.

    Returns:
        A matplotlib figure with a canvas of its own: ``figure.savefig("layers.png")``.

    Raises:
        ValueError: no model, or values of another shape, out of range, or NaN in a curve.

    Source: arXiv:2404.03214, figures 6 and 9 to 18.
    """
    if not curves:
        raise ValueError("curves must hold at least one model, got none.")
    checked = {name: _checked(values, name) for name, values in curves.items()}
    tables = {name: _table(rows, name) for name, rows in (classes or {}).items()}
    names = {name: list(rows) for name, rows in (classes or {}).items()}
    heat = _HEAT + _CLASS * max(map(len, tables.values())) if tables else 0.0
    made = Canvas(max(_WIDTH, _width(tables, names)), _CURVES + heat, constrained=True)
    if title is not None:
        made.suptitle(title, fontsize=11, parse_math=False)
    grid = made.add_gridspec(2, 1, height_ratios=[_CURVES, heat]) if tables else made.add_gridspec(1, 1)
    _draw_curves(made.add_subfigure(grid[0]).add_subplot(), checked)
    if tables:
        below = made.add_subfigure(grid[1])
        axes = [below.add_subplot(1, len(tables), number) for number in range(1, len(tables) + 1)]
        for each, (name, table) in zip(axes, tables.items(), strict=True):
            _draw_classes(each, name, table, names[name])
        bar = below.colorbar(ScalarMappable(Normalize(0, 1), UNSIGNED_COLOURS), ax=axes, aspect=40)
        bar.set_label("as above", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return made


def _checked(values: Array, name: str) -> Array:
    """Value, low and high, (3, L)."""
    values = np.asarray(values)
    if (values.shape != values.shape[-1:] and values.shape[:-1] != (3,)) or not values.size:
        raise ValueError(f"values of {name!r} must be (L,) or (3, L), got shape {values.shape}.")
    rows = values if values.ndim == 2 else np.stack([values, *np.full((2, len(values)), np.nan)])
    wrong = rows[(rows < 0) | (rows > 1)]
    if wrong.size:
        raise ValueError(f"values of {name!r} must be in [0, 1], got {wrong[0]:g}.")
    return rows


def _table(rows: Mapping[str, Array], name: str) -> Array:
    """The values of all classes, (classes, L)."""
    if not rows:
        raise ValueError(f"classes of {name!r} must hold at least one, got none.")
    values = [_checked(each, f"{name}, {label}")[0] for label, each in rows.items()]
    lengths = sorted({len(each) for each in values})
    if len(lengths) > 1:
        raise ValueError(f"classes of {name!r} must have one number of blocks, got {lengths}.")
    return np.stack(values)


def _width(tables: Mapping[str, Array], names: Mapping[str, list[str]]) -> float:
    """Inches that the heat maps need side by side."""
    labels = max((len(label) for each in names.values() for label in each), default=0)
    blocks = max((table.shape[1] for table in tables.values()), default=0)
    return _BAR + len(tables) * (_LETTER * labels + _BLOCK * max(blocks, 10))


def _draw_curves(axes: Axes, curves: Mapping[str, Array]) -> None:
    for number, (name, (values, low, high)) in enumerate(curves.items()):
        if not np.isfinite(values).all():
            raise ValueError(f"values of {name!r} must be finite, got {int((~np.isfinite(values)).sum())} NaN.")
        blocks, colour = np.arange(len(values)), LINE_COLOURS[number % len(LINE_COLOURS)]
        style = _STYLES[number // len(LINE_COLOURS) % len(_STYLES)]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(blocks, values, color=colour, marker=marker, linestyle=style, markersize=4, label=name)
        axes.fill_between(blocks, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_ylim(-0.03, 1.03)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("relevance on the object,\nmin-max over blocks", fontsize=9)
    _label_blocks(axes)
    for text in axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1)).get_texts():
        text.set_parse_math(False)


def _draw_classes(axes: Axes, name: str, table: Array, labels: list[str]) -> None:
    axes.set_facecolor("0.8")
    axes.imshow(table, cmap=UNSIGNED_COLOURS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    known = np.isfinite(table).all(1).nonzero()[0]
    axes.plot(table[known].argmax(1), known, ".", color="black", markeredgecolor="white", markersize=6)
    axes.set_yticks(range(len(labels)), labels, fontsize=7, parse_math=False)
    axes.set_title(name, fontsize=9, parse_math=False)
    _label_blocks(axes)


def _label_blocks(axes: Axes) -> None:
    axes.set_xlabel("block", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="x", labelsize=8)
