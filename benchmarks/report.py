"""Benchmark rows in a csv file, and the tables of docs/benchmarks.md made from them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FIELDS = [
    *("date", "commit", "machine", "gpu", "device", "threads", "dtype"),
    *("python", "torch", "timm", "open_clip_torch", "captum_vit", "legrad_torch"),
    *("kind", "model", "batch", "prompts", "image_size", "last_blocks", "subject"),
    *("median_s", "iqr_s", "calls", "ratio_to_forward", "peak_mb", "map_difference", "note"),
]
COMMANDS = {"cpu": "make bench", "cuda": "python benchmarks/speed.py --device cuda"}
BEGIN = "<!-- {}: written by benchmarks/speed.py from here -->\n"
END = "<!-- {}: to here -->"


def append_rows(path: Path, rows: Sequence[Row], fields: Sequence[str] = FIELDS) -> None:
    """Adds rows at the end of a csv file, with a head line of the fields if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def write_page(page: Path, part: str, results: Path, section: Callable[[Sequence[Row]], str]) -> None:
    """Puts the latest run of each device between the marks of a part of a page.

    Args:
        page: a Markdown file.
        part: the name in the marks.
        results: a csv file.
        section: what is said about the rows of one run.

    Raises:
        ValueError: a page without the marks.
    """
    begin, end = BEGIN.format(part), END.format(part)
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{page.name} must hold the marks {begin.strip()!r} and {end!r}, got neither or one of them.")
    with results.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    page.write_text(before + begin + _runs(rows, section) + end + after, encoding="utf-8")


def speed_table(rows: Iterable[Row]) -> str:
    """Time and memory, one line per measured subject of each case."""
    head = ["case", "subject", "median s (IQR)", "× forward", "peak MB over the model", "map difference"]
    return markdown_table(
        head,
        [
            [
                _case(row),
                row["subject"],
                f"{number(row, 'median_s', '.3f')} ({number(row, 'iqr_s', '.3f')})" if row["median_s"] else row["note"],
                number(row, "ratio_to_forward", ".2f"),
                number(row, "peak_mb", ".0f"),
                number(row, "map_difference", ".1e"),
            ]
            for row in rows
            if not _is_agreement(row)
        ],
    )


def goal_table(rows: Sequence[Row]) -> str:
    """What LeGrad is to reach, and what it reached."""
    timed = [row for row in rows if row["median_s"]]
    peers = {_case(row): row for row in timed if row["subject"] == "legrad_torch"}
    lines = []
    for row in (each for each in timed if each["subject"] == "captum_vit"):
        case = _case(row)
        if int(row["prompts"]) == 1:
            lines.append(_goal("time, × plain forward", case, float(row["ratio_to_forward"]), 1.9))
        if case in peers:
            lines.append(
                _goal("time, × legrad_torch", case, float(row["median_s"]) / float(peers[case]["median_s"]), 1.0)
            )
            if row["peak_mb"] and peers[case]["peak_mb"]:
                share = float(row["peak_mb"]) / float(peers[case]["peak_mb"])
                lines.append(_goal("peak memory, × legrad_torch", case, share, 1 / 3))
    return markdown_table(["measured", "case", "expected at most", "got", "reached"], sorted(lines))


def agreement_table(rows: Iterable[Row]) -> str:
    """How far the authors' package is from this one, by the open_clip that it runs on."""
    return markdown_table(
        ["blocks averaged", "legrad_torch on open_clip", "largest difference of the maps, scaled to [0, 1]"],
        [
            [row["last_blocks"], row["open_clip_torch"], number(row, "map_difference", ".1e") or row["note"]]
            for row in rows
            if _is_agreement(row) and row["subject"] == "legrad_torch"
        ],
    )


def legrad_section(run: Sequence[Row]) -> str:
    """What is said about one run of LeGrad and the authors' package."""
    ours = next(row for row in run if row["subject"] == "captum_vit")
    return (
        f"OpenCLIP {ours['model']}, {ours['dtype']}. captum_vit {ours['captum_vit']} on Python {ours['python']}, "
        f"torch {ours['torch']}, timm {ours['timm']}, open_clip {ours['open_clip_torch']}.\n\n"
        f"{speed_table(run)}\n\nWhat was expected and what was reached:\n\n{goal_table(run)}\n\n"
        f"Agreement with legrad_torch {_peer_version(run)}:\n\n{agreement_table(run)}\n"
    )


def _runs(rows: Sequence[Row], section: Callable[[Sequence[Row]], str]) -> str:
    """The latest run of each device."""
    parts = []
    for device, command in COMMANDS.items():
        on_device = [row for row in rows if row["device"] == device]
        if not on_device:
            parts.append(f"### {device}\n\nNot measured. `{command}` fills this in.\n")
            continue
        run = [row for row in on_device if row["date"] == on_device[-1]["date"]]
        first = run[0]
        where = " and ".join(filter(None, [first["machine"], first["gpu"]]))
        parts.append(
            f"### {device}\n\n{where}; {first['threads']} threads; {first['date']}, commit {first['commit']}. "
            f"{section(run)}"
        )
    return "\n".join(parts)


def _peer_version(rows: Iterable[Row]) -> str:
    return next((row["legrad_torch"] for row in rows if row["subject"] == "legrad_torch"), "")


def _is_agreement(row: Row) -> bool:
    return bool(row["kind"] == "agreement")


def _case(row: Row) -> str:
    batch, prompts = int(row["batch"]), int(row["prompts"])
    return f"{batch} image{'s' * (batch > 1)} at {row['image_size']}, {prompts} prompt{'s' * (prompts > 1)}"


def _goal(what: str, case: str, value: float, limit: float) -> list[str]:
    return [what, case, f"{limit:.2f}", f"{value:.2f}", "yes" if value <= limit else "no"]


def number(row: Row, name: str, form: str) -> str:
    """A value of a row, formatted; an empty text where it has none."""
    return format(float(row[name]), form) if row[name] not in ("", None) else ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in [head, ["---"] * len(head), *rows])
