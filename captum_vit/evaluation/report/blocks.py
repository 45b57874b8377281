"""How the explanation is spread over the model's blocks, from what ``captum-vit evaluate --layers`` wrote."""

from __future__ import annotations

import csv
from html import escape
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from captum_vit.evaluation.report.charts import Line, chart
from captum_vit.evaluation.report.tables import table
from captum_vit.evaluation.stored import NoResultsError

__all__ = ["fingerprint"]

_HEATS = 10
"""Steps of the colours of a cell."""


class _Row(NamedTuple):
    """A row of ``layers.csv``."""

    block: int
    value: float
    low: float
    high: float
    maps: int


def fingerprint(folder: Path) -> str:
    """The curve over blocks and the table of classes of ``layers.csv``; nothing where there is none.

    Raises:
        NoResultsError: a file of that name with something else in it.
    """
    path = folder / "layers.csv"
    if not path.exists():
        return ""
    try:
        classes = _read(path)
    except (KeyError, TypeError, ValueError) as error:
        raise NoResultsError(f"{path} does not hold what captum-vit evaluate --layers writes: {error!r}.") from error
    name, rows = next(iter(classes.items()))  # those of all maps come first
    _, values, low, high, _ = zip(*rows, strict=True)
    blocks = [each.block for each in rows]
    drawn = chart(
        {name: Line(blocks, values, low, high)},
        title="LeGrad's map on the object, with 95 % intervals",
        x="block",
        y="min-max over the blocks",
    )
    cells = [
        [escape(each), *(_heat(row.value) for row in mine), f"<td>{mine[0].maps}</td>"]
        for each, mine in classes.items()
    ]
    head = ["class", *(f"block {block}" for block in blocks), "maps"]
    return f'<div class="charts">{drawn}</div>{table("Relevance on the object by class and block", head, cells)}'


def _read(path: Path) -> dict[str, list[_Row]]:
    """Rows by class."""
    classes: dict[str, list[_Row]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for each in csv.DictReader(file):
            value, low, high = (float(each[name] or "nan") for name in ("value", "low", "high"))
            row = _Row(int(each["block"]), value, low, high, int(each["maps"]))
            classes.setdefault(each["class"], []).append(row)
    if not classes:
        raise ValueError("no rows")
    return classes


def _heat(value: float) -> str:
    if not isfinite(value):
        return "<td>–</td>"
    return f'<td class="heat h{min(_HEATS, max(0, round(_HEATS * value)))}">{value:.2f}</td>'
