"""What maps cost in bfloat16 on a GPU: many images at once, and the memory of a tower of 1.8 billion parameters.

This is the part "gpu" of `speed.py`. Each method is measured with the kernels of Triton and without, in turns with its
yardstick. On a CPU it runs with ``--quick`` only, on tiny models, to show that it does:

    python benchmarks/speed.py gpu --device cuda
    python benchmarks/speed.py gpu --quick
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from goals import Goal, goal_table, value
from gpu_worker import CLASSIFIER, TOWER
from methods_worker import FORWARD_BACKWARD
from report import Row, markdown_table, number
from subjects import Subject, Worker

from captum_vit import METHODS as ALL

FIELDS = [
    *("date", "commit", "machine", "gpu", "device", "threads", "dtype"),
    *("python", "torch", "timm", "open_clip_torch", "captum_vit", "triton"),
    *("model", "parameters", "weights_mb", "batch", "image_size", "subject", "kernels"),
    *("median_s", "calls", "images_per_s", "ratio_to_first", "peak_mb"),
]
PAPER = 96
"""Images a second of LeGrad's authors, arXiv:2404.03214."""


@dataclass(frozen=True)
class Case:
    """A model, a batch, and the calls that are measured, of which the first is the yardstick of the others."""

    model: str
    kind: str
    shape: dict[str, Any]
    batch: int
    calls: Sequence[str]

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return int(self.shape["image_size" if self.kind == TOWER else "img_size"])


LEGRAD = ["forward", "legrad"]
METHODS = [FORWARD_BACKWARD, "chefer-cam", "gmar", "attention-cam"]
BASE = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "head_width": 64}
BIG = {"image_size": 224, "patch_size": 14, "width": 1664, "layers": 48, "head_width": 104, "mlp_ratio": 4.9231}
CASES = [
    Case("ViT-B/16", TOWER, BASE, 256, LEGRAD),
    Case("ViT-B/16", CLASSIFIER, {"img_size": 224, "patch_size": 16}, 64, METHODS),
    Case("ViT-bigG/14", TOWER, BIG, 1, LEGRAD),
]
TINY = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
TINY_CLASSIFIER = {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}
QUICK = [Case("tiny", TOWER, TINY, 2, LEGRAD), Case("tiny", CLASSIFIER, TINY_CLASSIFIER, 2, METHODS)]

_LEGRAD = {"model": "ViT-B/16", "batch": 256, "subject": "legrad", "kernels": "yes"}
_METHODS = {"model": "ViT-B/16", "batch": 64, "kernels": "yes"}
GOALS = [
    Goal(
        f"LeGrad, bfloat16, batch of 256 (the paper's: {PAPER}): images a second",
        4000,
        lambda rows: value(rows, "images_per_s", **_LEGRAD),
        at_least=True,
        device="cuda",
    ),
    Goal(
        "LeGrad, bfloat16, batch of 256: time, × forward pass",
        1.7,
        lambda rows: value(rows, "ratio_to_first", **_LEGRAD),
        device="cuda",
    ),
    *(
        Goal(
            f"{ALL[name].name}, bfloat16, batch of 64: time, × forward and backward pass",
            1.3,
            lambda rows, name=name: value(rows, "ratio_to_first", **_METHODS, subject=name),
            device="cuda",
        )
        for name in METHODS[1:]
    ),
    Goal(
        "LeGrad, ViT-bigG/14 (1.8·10⁹ parameters): memory over the weights, MB",
        2000,
        lambda rows: value(rows, "peak_mb", model="ViT-bigG/14", subject="legrad", kernels="yes"),
        device="cuda",
    ),
]


def measure(case: Case, options: argparse.Namespace) -> list[Row]:
    """A row for each call, those of this package with kernels and without."""
    subjects = [(case.calls[0], False), *((name, triton) for name in case.calls[1:] for triton in (True, False))]
    shape = {"vision" if case.kind == TOWER else "classifier": case.shape}
    with tempfile.TemporaryDirectory() as folder:
        workload = Path(folder) / "workload.pt"
        torch.save(shape | {"batch": case.batch, "dtype": torch.bfloat16}, workload)
        worker = Worker(Subject(case.kind, Path(sys.executable)), workload, options, "gpu_worker.py")
        try:
            about = worker.ask("describe") | {"model": case.model, "batch": case.batch, "image_size": case.image_size}
            peaks = [worker.ask("memory", call=name, triton=triton)["mb"] for name, triton in subjects]
            turns = [
                [
                    worker.ask("cost", call=name, triton=triton, seconds=options.seconds)["seconds"]
                    for name, triton in subjects
                ]
                for _ in range(options.rounds)
            ]
        finally:
            worker.stop()
    rows = []
    for index, (name, triton) in enumerate(subjects):
        calls = [seconds for turn in turns for seconds in turn[index]]
        rows.append(
            dict.fromkeys(FIELDS, "")
            | about
            | {"subject": name, "kernels": "yes" if triton else "no", "peak_mb": peaks[index], "calls": len(calls)}
            | {"median_s": median(calls), "images_per_s": case.batch / median(calls)}
            | {"ratio_to_first": median(median(turn[index]) / median(turn[0]) for turn in turns)}
        )
    return rows


def measure_gpu(options: argparse.Namespace) -> list[Row]:
    """Rows of all cases."""
    rows: list[Row] = []
    for case in QUICK if options.quick else CASES:
        print(f"{case.model}, {case.kind}, batch of {case.batch} ...", flush=True)
        rows += measure(case, options)
    return rows


def gpu_table(rows: Sequence[Row]) -> str:
    """Time and memory, one line per call."""
    head = ["model", "images", "subject", "kernels", "median s", "images a second", "× first", "peak MB over the model"]
    forms = {"median_s": ".4f", "images_per_s": ".0f", "ratio_to_first": ".2f", "peak_mb": ".0f"}
    lines = [
        [row["model"], row["batch"], row["subject"], row["kernels"], *(number(row, *each) for each in forms.items())]
        for row in rows
    ]
    return markdown_table(head, lines)


def gpu_section(run: Sequence[Row]) -> str:
    """What is said about one run."""
    first = run[0]
    return (
        f"{first['dtype']}. Python {first['python']}, torch {first['torch']}, Triton {first['triton']}, open_clip "
        f"{first['open_clip_torch']}, timm {first['timm']}.\n\n{gpu_table(run)}\n\n"
        f"What was asked for and what was reached:\n\n{goal_table(GOALS, run)}\n"
    )
