"""Every method and random maps on the three shipped models, with confidence intervals.

Localisation of the methods that need few passes is measured on more scenes than the rest, whose maps take up to
seconds. Insertion and deletion, which ask the model about 18 images for every map, are measured on the first of these
scenes. All numbers but the times follow from the seed. docs/methods-on-scenes.md shows them.

    python benchmarks/scenes_table.py             # writes results/scenes_table.csv; half an hour on one core
    python benchmarks/scenes_table.py --quick     # a smoke run on two scenes; writes out/scenes-table-quick.csv only
"""

from __future__ import annotations

import argparse
import csv
import platform
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch
from environments import HERE, commit, machine

from captum_vit import METHODS
from captum_vit.cli.demonstration.scores import MODELS, TEMPLATE
from captum_vit.data import CLASSES, Scenes, SceneSamples, with_article
from captum_vit.evaluation import Subject, evaluate, subject_of
from captum_vit.evaluation.explainers import RANDOM
from captum_vit.zoo import load_model

Row = dict[str, Any]

FIELDS = [
    *("date", "commit", "machine", "threads", "python", "torch", "timm", "open_clip_torch", "captum_vit"),
    *("model", "method", "metric", "value", "low", "high", "scenes", "objects", "without", "seconds_per_map"),
]
LOCALISATION = ["pointing-game(tolerance=4)", "segmentation(preset='legrad')", "energy-inside"]
CURVES = ["insertion(steps=8, patch='grid')", "deletion(steps=8, patch='grid')"]
SHOWN = {
    "pointing-game(tolerance=4)": "pointing game",
    "segmentation(preset='legrad') iou_foreground": "foreground IoU",
    "energy-inside": "energy inside",
    **dict(zip(CURVES, ("insertion", "deletion"), strict=True)),
}
"""What is kept of the table of an evaluation, and under which name."""

WRAPPED = [f"libragrad(method={name!r})" for name in ("legrad", "chefer-cam", "hires-cam")]
SLOW = ["transformer-attribution", "lrp", "transition-attention-maps", "vit-cx", "recipro-cam", "bi-attn"]
"""Methods whose map of a scene takes about half a second on one core."""
SLOWEST = ["attention-flow", "caap"]
"""Methods whose map takes seconds."""
SEED, BATCH = 17, 2
SCENES, FEW, FEWEST = 32, 12, 6


def scenes_table(scenes: int, few: int, fewest: int) -> Iterator[list[Row]]:
    """The rows of each model.

    Args:
        scenes: on which the localisation of all but slow methods is measured.
        few: of the same scenes, for the curves of these and for slow methods.
        fewest: of the same scenes, for the slowest.
    """
    fast = [*(name for name in METHODS if name not in (*SLOW, *SLOWEST)), *WRAPPED, RANDOM]
    for name in MODELS:
        subject = subject_of(load_model(name), prompts=tuple(map(with_article, CLASSES)), template=TEMPLATE)
        rows = [
            *measured(subject, fast, LOCALISATION, scenes),
            *measured(subject, fast, CURVES, few),
            *measured(subject, SLOW, [*LOCALISATION, *CURVES], few),
            *measured(subject, SLOWEST, [*LOCALISATION, *CURVES], fewest),
        ]
        order = [*METHODS, *WRAPPED, RANDOM]
        yield sorted(rows, key=lambda row: order.index(row["method"]))


def measured(subject: Subject, methods: Sequence[str], metrics: Sequence[str], scenes: int) -> Iterator[Row]:
    """One row per method and metric."""
    samples = SceneSamples(Scenes(scenes, seed=SEED))
    result = evaluate(subject, samples, methods=methods, metrics=metrics, batch_size=BATCH, seed=SEED)
    for method, reason in result.unsupported.items():
        print(f"{subject.name}: no {method}: {reason}")
    milliseconds = result.costs().set_index("method")["milliseconds"]
    for row in result.table().to_dict("records"):
        if row["metric"] in SHOWN:
            yield {
                "model": subject.name,
                "method": row["method"],
                "metric": SHOWN[row["metric"]],
                **{name: f"{row[name]:.4f}" for name in ("value", "low", "high")},
                "scenes": scenes,
                "objects": row["maps"],
                "without": row["excluded"] + row["blank"],
                "seconds_per_map": f"{milliseconds[row['method']] / 1000:.2g}",
            }


def main() -> None:
    """Measures, and writes the csv file after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two scenes")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about: Row = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "threads": options.threads,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "timm", "open_clip_torch", "captum_vit")},
    }
    name = "out/scenes-table-quick.csv" if options.quick else "benchmarks/results/scenes_table.csv"
    path = HERE.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = (2, 2, 2) if options.quick else (SCENES, FEW, FEWEST)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for rows in scenes_table(*sizes):
            writer.writerows(about | row for row in rows)
            file.flush()


if __name__ == "__main__":
    main()
