"""Benchmark rows in a csv file, and the tables of docs/benchmarks.md made from them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

Runs = dict[str, list[Row]]
"""The rows of the latest run of each device."""

COMMANDS = {"cpu": "make bench", "cuda": "python benchmarks/speed.py --device cuda"}
"""What measures on each device."""
BEGIN = "<!-- {}: written by benchmarks/speed.py from here -->\n"
END = "<!-- {}: to here -->"


def append_rows(path: Path, rows: Sequence[Row], fields: Sequence[str]) -> None:
    """Adds rows at the end of a csv file, with a head line of the fields if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def latest_runs(results: Path) -> Runs:
    """The rows of the latest run of each device in a csv file; none where there is no file."""
    if not results.exists():
        return {}
    with results.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    dates = {row["device"]: row["date"] for row in rows}
    return {
        device: [row for row in rows if (row["device"], row["date"]) == (device, date)]
        for device, date in dates.items()
    }


def write_page(page: Path, part: str, text: str) -> None:
    """Puts a text between the marks of a part of a page.

    Args:
        page: a Markdown file.
        part: the name in the marks.
        text: what to put there.

    Raises:
        ValueError: a page without the marks.
    """
    begin, end = BEGIN.format(part), END.format(part)
    whole = page.read_text(encoding="utf-8")
    if begin not in whole or end not in whole:
        raise ValueError(f"{page.name} must hold the marks {begin.strip()!r} and {end!r}, got neither or one of them.")
    before, rest = whole.split(begin)
    page.write_text(before + begin + text + end + rest.split(end)[1], encoding="utf-8")


def sections(runs: Runs, section: Callable[[Sequence[Row]], str], commands: dict[str, str]) -> str:
    """What is said about the latest run of each device, or the command that measures on it."""
    parts = []
    for device, command in commands.items():
        if device not in runs:
            parts.append(f"### {device}\n\nNot measured. `{command}` fills this in.\n")
            continue
        first = runs[device][0]
        where = " and ".join(filter(None, [first["machine"], first["gpu"]]))
        parts.append(
            f"### {device}\n\n{where}; {first['threads']} threads; {first['date']}, commit {first['commit']}. "
            f"{section(runs[device])}"
        )
    return "\n".join(parts)


def number(row: Row, name: str, form: str) -> str:
    """A value of a row, formatted; an empty text where it has none."""
    return format(float(row[name]), form) if row[name] not in ("", None) else ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in [head, ["---"] * len(head), *rows])
