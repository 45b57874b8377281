"""What metrics cost over the forward passes that they need, here and in quantus and grad-cam on the same work.

Each package is measured in a process and an environment of its own (`metrics_worker.py`), on the same weights, images
and maps. In every process the metric and the bare forward passes take turns, so that a slow minute of the machine
meets both; what is compared is their ratio.

    python benchmarks/metrics_speed.py             # 64 images at 224; writes results/metrics_speed.csv
    python benchmarks/metrics_speed.py --quick     # a smoke run without peers; writes out/metrics-speed-quick.csv only
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import timm
import torch
from environments import HERE, EnvironmentMissingError, commit, machine, peer_environment
from metrics_worker import FORWARDS
from report import Row, append_rows
from torch.nn.functional import interpolate

FIELDS = [
    *("date", "commit", "machine", "gpu", "device", "threads", "dtype"),
    *("python", "torch", "timm", "captum_vit", "quantus", "grad-cam"),
    *("work", "model", "batch", "image_size", "subject"),
    *("median_s", "iqr_s", "calls", "forward_s", "ratio_to_forward", "forwards_needed", "forwards_run", "note"),
]
PEERS = {"quantus": "quantus==0.6.0", "grad-cam": "grad-cam==1.5.7"}
WORK = {
    "captum_vit": ["perturbation", "insertion", "deletion", "road"],
    "quantus": ["deletion", "road"],
    "grad-cam": ["road"],
}
GOAL = 1.15
"""Of this package's time over that of the bare forward passes; ROAD, which solves a linear system, has none."""


def write_workload(path: Path, name: str, batch: int, size: int) -> None:
    """An untrained model, images, maps as upsampled noise, and targets: the same for every subject."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    grid = size // 16
    workload = {
        "model": name,
        "weights": model.state_dict(),
        "images": torch.randn(batch, 3, size, size),
        "maps": interpolate(torch.rand(batch, 1, grid, grid), size=(size, size), mode="bilinear")[:, 0],
        "targets": torch.randint(model.num_classes, (batch,)),
    }
    torch.save(workload, path)


def find_pythons(subjects: Sequence[str]) -> dict[str, Path | EnvironmentMissingError]:
    """The Python of each subject, or why there is none."""
    pythons: dict[str, Path | EnvironmentMissingError] = {"captum_vit": Path(sys.executable)}
    for peer in set(subjects) & set(PEERS):
        try:
            pythons[peer] = peer_environment(peer, PEERS[peer])
        except EnvironmentMissingError as error:
            pythons[peer] = error
    return pythons


def measure(python: Path, subject: str, work: str, workload: Path, options: argparse.Namespace) -> Row:
    """The row of one process; a peer that fails gets a note, this package must not fail.

    Raises:
        subprocess.CalledProcessError: this package failed.
    """
    command = [
        *(str(python), str(HERE / "metrics_worker.py"), subject, work, str(workload)),
        *("--device", options.device, "--threads", str(options.threads), "--rounds", str(options.rounds)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        if subject == "captum_vit":
            done.check_returncode()
        return {"note": f"failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}"}
    answer: dict[str, Any] = json.loads(done.stdout)
    times, forward = answer.pop("metric"), answer.pop("forward")
    low, _, high = quantiles(times, n=4) if len(times) > 1 else times * 3
    return answer | {
        "median_s": median(times),
        "iqr_s": high - low,
        "calls": len(times),
        "forward_s": median(forward),
        "ratio_to_forward": median(ours / bare for ours, bare in zip(times, forward, strict=True)),
        "forwards_needed": FORWARDS[work],
    }


def table(rows: Sequence[Row]) -> str:
    """One line per row, as a Markdown table."""
    lines = [
        ["work", "subject", "median s", "× bare forward passes", "passes per image (needed)", "at most"],
        ["---"] * 6,
    ]
    for row in rows:
        goal = f"{GOAL}" if row["subject"] == "captum_vit" and row["work"] != "road" else ""
        if "note" in row:
            numbers = ["", row["note"], ""]
        else:
            passes = f"{row['forwards_run']:.0f} ({row['forwards_needed']})"
            numbers = [f"{row['median_s']:.2f}", f"{row['ratio_to_forward']:.2f}", passes]
        lines.append([row["work"], row["subject"], *numbers, goal])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    """Measures, appends to the csv file and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="this package only, two images, one round")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="of timm; the smaller, the harder the goal")
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--work", nargs="+", choices=list(FORWARDS), default=list(FORWARDS))
    parser.add_argument("--subjects", nargs="+", choices=list(WORK), default=list(WORK))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here")
    if options.quick:
        options.rounds, options.batch, options.subjects = 1, 2, ["captum_vit"]
    size = 224
    run = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "device": options.device,
        "threads": options.threads,
        "dtype": "float32",
        "model": options.model,
        "batch": options.batch,
        "image_size": size,
    }
    pythons = find_pythons(options.subjects)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        workload = Path(folder) / "workload.pt"
        write_workload(workload, options.model, options.batch, size)
        for work in options.work:
            for subject in (each for each in options.subjects if work in WORK[each]):
                print(f"{work}, {subject} ...", flush=True)
                python = pythons[subject]
                found = (
                    {"note": f"not measured: {python}"}
                    if isinstance(python, EnvironmentMissingError)
                    else measure(python, subject, work, workload, options)
                )
                rows.append(run | {"work": work, "subject": subject} | found)
    results = (
        HERE.parent / "out" / "metrics-speed-quick.csv" if options.quick else HERE / "results" / "metrics_speed.csv"
    )
    append_rows(results, rows, FIELDS)
    print("", table(rows), sep="\n")


if __name__ == "__main__":
    main()
