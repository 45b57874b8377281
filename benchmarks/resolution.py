"""What methods that read attention of all blocks cost, against plain references, and their memory at high resolution.

Each subject is measured in a process of its own (`resolution_worker.py`), on the same weights and image; the processes
of a case take turns, as in `speed.py`, which runs this as its part "resolution". Of the sizes in ``--pixels`` only the
memory of one call is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from goals import Goal, goal_table, share, value
from methods_speed import MODEL, write_workload
from report import Row, markdown_table, number
from resolution_worker import METHODS, PLAIN
from subjects import Subject, Worker

from captum_vit import METHODS as ALL

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
            rows.append(row | {"model": model, "peak_mb": worker.ask("peak")["mb"]})
            if not timed:
                worker.stop()
        if not timed:
            return rows
        for turn in range(options.rounds):
            for index in range(len(names))[:: -1 if turn % 2 else 1]:
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


def _over_plain(name: str, size: int, field: str) -> Callable[[Sequence[Row]], float | None]:
    """From the rows of a run to a method's number over that of its plain reference."""
    return lambda rows: share(
        value(rows, field, subject=name, image_size=size), value(rows, field, subject=PLAIN + name, image_size=size)
    )


GOALS = [
    Goal("CheferCAM, 1 image at 224: time, × plain", 1 / 2, _over_plain("chefer-cam", 224, "median_s")),
    Goal("CheferCAM, 1 image at 448: time, × plain", 1 / 3, _over_plain("chefer-cam", 448, "median_s")),
    *(
        Goal(f"CheferCAM, 1 image at {size}: memory, × plain", 1 / 4, _over_plain("chefer-cam", size, "peak_mb"))
        for size in SIZES
    ),
    Goal(
        "AttentionRollout, 1 image at 224: time, × forward pass",
        1.15,
        lambda rows: value(rows, "ratio_to_forward", subject="attention-rollout", image_size=224),
    ),
    Goal("AttentionRollout, 1 image at 448: time, × plain", 1 / 1.5, _over_plain("attention-rollout", 448, "median_s")),
    *(
        Goal(
            f"{ALL[name].name}, 1 image at 1024: memory over the model, MB",
            LIMIT_MB,
            lambda rows, name=name: value(rows, "peak_mb", subject=name, image_size=1024),
        )
        for name in METHODS
    ),
]


def timed_table(rows: Sequence[Row]) -> str:
    """Time, work and memory, one line per subject and size."""
    head = ["image", "subject", "median s", "least s", "× forward", "10⁹ operations", "peak MB", "map difference"]
    forms = {"median_s": ".3f", "least_s": ".3f", "ratio_to_forward": ".2f", "gflop": ".0f", "peak_mb": ".0f"}
    forms["map_difference"] = ".1e"
    lines = [[row["image_size"], row["subject"], *(number(row, *each) for each in forms.items())] for row in rows]
    return markdown_table(head, lines)


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
        f"{first['timm']}.\n\n{timed_table(timed)}\n\n"
        f"What was asked for and what was reached:\n\n{goal_table(GOALS, run)}\n"
    )
    if large:
        text += f"\nPeak memory in MB over the loaded model:\n\n{memory_table(large)}\n"
    return text
