"""The demo's numbers as text, Markdown and csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from captum_vit.cli.demonstration.scores import COLUMNS, CURVE_OBJECTS, RANDOM, Row

__all__ = ["best", "cell", "counted", "heading", "markdown_table", "read_csv", "text_table", "write_csv"]


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Writes one line per model and method; a measure that a row lacks stays empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "method", "objects", *COLUMNS])
        for row in rows:
            writer.writerow([row.model, row.method, row.objects, *(_number(row, name, 4) for name in COLUMNS)])


def read_csv(path: Path) -> list[Row]:
    """The rows that `write_csv` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                line["model"],
                line["method"],
                int(line["objects"]),
                {name: float(line[name]) for name in COLUMNS if line[name]},
            )
            for line in csv.DictReader(file)
        ]


def text_table(rows: Sequence[Row]) -> str:
    """Aligned columns for a terminal."""
    lines = [
        ["method", *map(heading, COLUMNS)],
        *([row.method, *(cell(row, name) for name in COLUMNS)] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(each.rjust(w) for each, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """A Markdown table, the best value of each column in bold."""
    lines = [["method", *map(heading, COLUMNS)], ["---", *("---:" for _ in COLUMNS)]]
    for row in rows:
        cells = [f"**{cell(row, name)}**" if best(rows, row, name) else cell(row, name) for name in COLUMNS]
        lines.append([row.method, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def counted(rows: Sequence[Row]) -> str:
    """How many objects the numbers rest on."""
    said = f"{rows[0].objects} objects on each model"
    more = rows[0].objects > CURVE_OBJECTS
    return f"{said}, for insertion and deletion the first {CURVE_OBJECTS} of them" if more else said


def heading(name: str) -> str:
    """A column's title with the direction that is better."""
    return f"{COLUMNS[name].title} {'↑' if COLUMNS[name].higher_is_better else '↓'}"


def cell(row: Row, name: str) -> str:
    """A value as it is shown."""
    return _number(row, name, COLUMNS[name].digits) or "–"


def best(rows: Sequence[Row], row: Row, name: str) -> bool:
    """Whether no method is shown a better value; random maps and what differs from run to run don't take part."""
    if row.method == RANDOM or not COLUMNS[name].repeatable:
        return False
    shown = [float(cell(each, name)) for each in rows if each.method != RANDOM]
    top = max(shown) if COLUMNS[name].higher_is_better else min(shown)
    return float(cell(row, name)) == top


def _number(row: Row, name: str, digits: int) -> str:
    return f"{row.values[name]:.{digits}f}" if name in row.values else ""
