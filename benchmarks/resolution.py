"""What methods that read attention of all blocks cost, against plain references, and their memory at high resolution.

Each subject is measured in a process of its own (`resolution_worker.py`), on the same weights and image; the processes
of a case take turns, as in `speed.py`, which runs this as its part "resolution". Of the sizes in ``--pixels`` only the
memory of one call is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from methods_speed import MODEL, write_workload
from report import Row, markdown_table, number
from resolution_worker import METHODS, PLAIN
from subjects import Subject, Worker

FIELDS = [
    *("date", "commit", "machine", "gpu", "device", "threads", "dtype"),
    *("python", "torch", "timm", "captum_vit"),
    *("model", "image_size", "tokens", "subject"),
    *("median_s", "least_s", "calls", "ratio_to_forward", "gflop", "peak_mb", "map_difference"),
]
SIZES = [224, 448]
TIMED = ["forward", PLAIN + "chefer-cam", "chefer-cam", PLAIN + "attention-rollout", "attention-rollout"]
LIMIT_MB = 2000
"""Most memory over the loaded model that a method may take for 1024×1024 pixels."""


def measure(
    names: Sequence[str], size: int, options: argparse.Namespace, *, timed: bool, model: str = MODEL, **shape: int
) -> list[Row]:
    """A row for each subject, the first of which is the plain forward pass.

    Args:
        names: subjects of `resolution_worker`.
        size: pixels of a side.
        options: ``rounds``, ``seconds``, and those of `Worker`.
        timed: whether time is measured, and maps are compared with their plain references.
        model: a model of timm.
        **shape: its options.
    """
    rows: list[Row] = []
    rounds: list[list[list[float]]] = [[] for _ in names]
    with ExitStack() as running, tempfile.TemporaryDirectory() as folder:
        workload = Path(folder) / "workload.pt"
        write_workload(workload, 1, model, img_size=size, **shape)
        workers: list[Worker] = []
        for name in names:
            print(f"{name} at {size} ...", flush=True)
            worker = Worker(Subject(name, Path(sys.executable)), workload, options, "resolution_worker.py")
            running.callback(worker.stop)
            workers.append(worker)
            row = dict.fromkeys(FIELDS, "") | worker.ask("describe") | {"subject": name, "image_size": size}
            rows.append(row | {"model": model, "tokens": (size // 16) ** 2 + 1, "peak_mb": worker.ask("peak")["mb"]})
            if not timed:
                worker.stop()
        if not timed:
            return rows
        for number_of_turn in range(options.rounds):
            for index in range(len(names))[:: -1 if number_of_turn % 2 else 1]:
                rounds[index].append(workers[index].ask("time", seconds=options.seconds)["seconds"])
        for row, worker in zip(rows, workers, strict=True):
            row |= worker.ask("multiplications")
        add_differences(rows, workers, Path(folder))
    for row, turns in zip(rows, rounds, strict=True):
        row |= time_statistics(turns, rounds[0])
    return rows


def add_differences(rows: Sequence[Row], workers: Sequence[Worker], folder: Path) -> None:
    """Notes how far each method's map, scaled to [0, 1], is from that of its plain reference."""
    maps = {}
    for row, worker in zip(rows, workers, strict=True):
        if row["subject"] != "forward":
            worker.ask("maps", path=str(folder / "maps.pt"))
            maps[row["subject"]] = torch.load(folder / "maps.pt")
    for row in rows:
        if PLAIN + row["subject"] in maps:
            row["map_difference"] = float((maps[row["subject"]] - maps[PLAIN + row["subject"]]).abs().max())


def time_statistics(turns: Sequence[Sequence[float]], forward: Sequence[Sequence[float]]) -> Row:
    """Median and least of all calls; the ratio to the forward pass is a median over turns."""
    calls = [seconds for each in turns for seconds in each]
    ratios = [median(ours) / median(plain) for ours, plain in zip(turns, forward, strict=True)]
    return {"median_s": median(calls), "least_s": min(calls), "calls": len(calls), "ratio_to_forward": median(ratios)}


def measure_resolution(options: argparse.Namespace) -> list[Row]:
    """Rows of all sizes."""
    rows: list[Row] = []
    for size in SIZES[:1] if options.quick else SIZES:
        rows += measure(TIMED, size, options, timed=True)
    for size in [] if options.quick else options.pixels:
        rows += measure(["forward", *METHODS], size, options, timed=False)
    return rows


def timed_table(rows: Sequence[Row]) -> str:
    """Time, work and memory, one line per subject and size."""
    head = ["image", "subject", "median s", "least s", "× forward", "10⁹ operations", "peak MB", "map difference"]
    forms = {"median_s": ".3f", "least_s": ".3f", "ratio_to_forward": ".2f", "gflop": ".0f", "peak_mb": ".0f"}
    forms["map_difference"] = ".1e"
    lines = [[row["image_size"], row["subject"], *(number(row, *each) for each in forms.items())] for row in rows]
    return markdown_table(head, lines)


def goals(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """What is asked for, the most that was asked for, and what was measured."""
    found = {(int(row["image_size"]), row["subject"]): row for row in rows}

    def share(size: int, name: str, field: str) -> float:
        return float(found[size, name][field]) / float(found[size, PLAIN + name][field])

    asked: list[tuple[str, float, float]] = []
    for size, time in ((224, 1 / 2), (448, 1 / 3)):
        if (size, "chefer-cam") in found:
            asked.append((f"CheferCAM at {size}, time, × plain", time, share(size, "chefer-cam", "median_s")))
            if found[size, "chefer-cam"]["peak_mb"]:
                asked.append((f"CheferCAM at {size}, memory, × plain", 1 / 4, share(size, "chefer-cam", "peak_mb")))
    if (224, "attention-rollout") in found:
        row = found[224, "attention-rollout"]
        asked.append(("AttentionRollout at 224, time, × forward", 1.15, float(row["ratio_to_forward"])))
    if (448, "attention-rollout") in found:
        name = "AttentionRollout at 448, time, × plain"
        asked.append((name, 1 / 1.5, share(448, "attention-rollout", "median_s")))
    return asked


def goal_table(rows: Sequence[Row]) -> str:
    """What was asked for, and what was reached."""
    lines = [[what, f"{most:.2f}", f"{got:.2f}", "yes" if got <= most else "no"] for what, most, got in goals(rows)]
    return markdown_table(["measured", "at most", "got", "reached"], lines)


def memory_table(rows: Sequence[Row]) -> str:
    """Peak memory, one line per subject and a column per size."""
    sizes = sorted({int(row["image_size"]) for row in rows})
    found = {(row["subject"], int(row["image_size"])): row for row in rows}
    tokens = {size: found["forward", size]["tokens"] for size in sizes}
    head = ["subject", *(f"{size}×{size}, {tokens[size]} tokens" for size in sizes)]
    names = list(dict.fromkeys(row["subject"] for row in rows))
    return markdown_table(
        head, [[name, *(number(found[name, size], "peak_mb", ".0f") for size in sizes)] for name in names]
    )


def resolution_section(run: Sequence[Row]) -> str:
    """What is said about one run."""
    timed, large = ([row for row in run if bool(row["median_s"]) == wanted] for wanted in (True, False))
    first = run[0]
    text = (
        f"timm {first['model']}, one image, {first['dtype']}. Python {first['python']}, torch {first['torch']}, timm "
        f"{first['timm']}.\n\n{timed_table(timed)}\n\nWhat was asked for and what was reached:\n\n{goal_table(timed)}\n"
    )
    if large:
        text += (
            f"\nPeak memory in MB over the loaded model; {LIMIT_MB} were asked for at 1024:\n\n{memory_table(large)}\n"
        )
    return text
