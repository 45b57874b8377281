"""What a map costs, by the method, over the passes that it needs; beside it the packages grad-cam and lxt.

Methods that need one pass stand against one forward and one backward pass, perturbation methods against the bare
forward passes that they need. A call of the method and one of its yardstick take turns, so that a slow minute of the
machine meets both; what is compared is the ratio within a turn. Each package has a process of its own
(`methods_worker.py`), all with the same weights and images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import timm
import torch
from environments import EnvironmentMissingError, bare_packages, peer_environment
from methods_worker import FORWARD_BACKWARD, PASSES_OF
from report import Row, markdown_table, number
from subjects import Subject, Worker, WorkerFailedError

FIELDS = [
    *("date", "commit", "machine", "gpu", "device", "threads", "dtype"),
    *("python", "torch", "timm", "torchvision", "captum_vit", "grad-cam", "lxt"),
    *("model", "batch", "image_size", "method", "package", "yardstick"),
    *("median_s", "iqr_s", "calls", "yardstick_s", "ratio", "at_most", "note"),
]
MODEL = "vit_base_patch16_224"
BATCHES = [1, 8]
OURS = "captum_vit"
LXT = ("lxt==2.1", "zennit==0.5.1", "transformers==4.57.6", "tokenizers==0.22.1", "huggingface_hub==0.36.0")
LXT_NEEDS = ("requests", "urllib3", "charset-normalizer", "idna", "certifi")
"""lxt 2.1 does not import with transformers 5, so it gets an older one; torch is this environment's."""


@dataclass(frozen=True)
class Timed:
    """A method of a package (`methods_worker.PEERS`), what it is measured against, and the ratio that is asked for."""

    method: str
    package: str = OURS
    at_most: float | None = None
    yardstick: str = FORWARD_BACKWARD


CAMS = ["grad-cam", "grad-cam-plus-plus", "hires-cam", "layer-cam"]
ONE_PASS = [*CAMS, "attention-cam", "attention-guided-cam", "gmar", "gradient-rollout", "chefer-cam", "legrad"]
ONE_PASS += ["libragrad(legrad)", "libragrad(input x gradient)"]
RELEVANCE = ["partial-lrp", "lrp", "transformer-attribution"]
ONE_PASS += [*RELEVANCE, *(f"{name}, float32" for name in RELEVANCE)]
ATTN_LRP = ["attnlrp", "attnlrp, cp-lrp"]
WITH_GAMMA = "attnlrp, cp-lrp, gamma"
PERTURBATION = ["recipro-cam", "vit-cx", "caap"]
TABLE = [
    *(Timed(name, at_most=1.6) for name in ONE_PASS),
    *(Timed(name, at_most=1.3) for name in ATTN_LRP),
    Timed(WITH_GAMMA),
    *(Timed(name, at_most=1.15, yardstick=PASSES_OF + name) for name in PERTURBATION),
    *(Timed(name, "grad-cam") for name in CAMS),
    *(Timed(name, "lxt") for name in (ATTN_LRP[1], WITH_GAMMA)),
]


def timed_with(batch: int) -> list[Timed]:
    """What is measured: perturbation methods with one image only, for they fill batches themselves."""
    return [each for each in TABLE if batch == 1 or each.yardstick == FORWARD_BACKWARD]


def some_of(timed: Sequence[Timed]) -> list[Timed]:
    """The first of each package and each limit."""
    return list({(each.package, each.at_most): each for each in reversed(timed)}.values())[::-1]


def find_packages() -> dict[str, Subject]:
    """Each package with the Python and the modules that run it."""
    ours = Path(sys.executable)
    found = {OURS: Subject(OURS, ours)}
    try:
        found["grad-cam"] = Subject("grad-cam", peer_environment("grad-cam", "grad-cam==1.5.7"))
    except EnvironmentMissingError as error:
        found["grad-cam"] = Subject("grad-cam", None, note=f"not measured: {error}")
    try:
        found["lxt"] = Subject("lxt", ours, path=bare_packages("lxt", *LXT, *LXT_NEEDS))
    except EnvironmentMissingError as error:
        found["lxt"] = Subject("lxt", None, note=f"not measured: {error}")
    return found


def write_workload(path: Path, batch: int, name: str = MODEL, **options: int) -> None:
    """The file that `methods_worker.Measured` reads: an untrained model of timm, random images and targets."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    workload = {
        "model": name,
        "options": options,
        "weights": model.state_dict(),
        "images": torch.randn(batch, 3, *model.patch_embed.img_size),
        "targets": torch.randint(model.num_classes, (batch,)),
    }
    torch.save(workload, path)


@dataclass
class Entry:
    """A row that is being filled; in each turn the seconds of the method's calls, and of its yardstick's."""

    timed: Timed
    row: Row
    worker: Worker
    ours: Worker
    turns: list[tuple[list[float], list[float]]] = field(default_factory=list)

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """A peer that fails gets a note in its row; this package must not fail."""
        try:
            yield
        except WorkerFailedError as error:
            if self.timed.package == OURS:
                raise
            self.row["note"] = str(error)

    def take_turn(self, seconds: float) -> None:
        """A call or more of the yardstick, then of the method."""
        with self.noting_failure():
            yardstick = self.ours.ask("time", name=self.timed.yardstick, seconds=seconds)["seconds"]
            self.turns.append((self.worker.ask("time", name=self.timed.method, seconds=seconds)["seconds"], yardstick))

    def finish(self) -> None:
        """Medians over all calls; the ratio is a median over turns."""
        calls, bare = ([seconds for turn in self.turns for seconds in turn[which]] for which in (0, 1))
        low, _, high = quantiles(calls, n=4) if len(calls) > 1 else calls * 3
        self.row |= {
            "median_s": median(calls),
            "iqr_s": high - low,
            "calls": len(calls),
            "yardstick_s": median(bare),
            "ratio": median(median(own) / median(yardstick) for own, yardstick in self.turns),
        }


def measure(
    timed: Sequence[Timed], packages: dict[str, Subject], workload: Path, options: argparse.Namespace
) -> list[Row]:
    """A row for each method of each package.

    Raises:
        WorkerFailedError: this package failed.
    """
    rows: list[Row] = []
    entries: list[Entry] = []
    with ExitStack() as running:
        workers: dict[str, Worker] = {}
        for name in dict.fromkeys([OURS, *(each.package for each in timed)]):
            if packages[name].python is not None:
                workers[name] = Worker(packages[name], workload, options, "methods_worker.py")
                running.callback(workers[name].stop)
        for each in timed:
            row = dict.fromkeys(FIELDS, "") | {"method": each.method, "package": each.package}
            row |= {"yardstick": each.yardstick, "at_most": each.at_most or "", "note": packages[each.package].note}
            rows.append(row)
            if each.package not in workers:
                continue
            entries.append(Entry(each, row, workers[each.package], workers[OURS]))
            with entries[-1].noting_failure():
                row |= workers[each.package].ask("describe")
        for turn in range(options.rounds):
            for entry in entries[:: -1 if turn % 2 else 1]:
                if not entry.row["note"]:
                    entry.take_turn(options.seconds)
    for entry in entries:
        if not entry.row["note"]:
            entry.finish()
    return rows


def measure_methods(options: argparse.Namespace) -> list[Row]:
    """Rows of all methods for one image, and of those that need one pass for eight."""
    packages = find_packages()
    for subject in packages.values():
        if subject.note:
            print(f"{subject.name} {subject.note}", file=sys.stderr)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        workload = Path(folder) / "workload.pt"
        for batch in BATCHES[:1] if options.quick else BATCHES:
            print(f"{MODEL}, batch of {batch} ...", flush=True)
            write_workload(workload, batch)
            timed = some_of(timed_with(batch)) if options.quick else timed_with(batch)
            case = {"model": MODEL, "batch": batch, "image_size": 224}
            rows += [row | case for row in measure(timed, packages, workload, options)]
    return rows


def methods_table(rows: Sequence[Row]) -> str:
    """One line per method and package, those of this package first."""
    head = ["images", "method", "package", "median s (IQR)", "yardstick s", "× yardstick", "at most", "reached"]
    lines = []
    for row in rows:
        limit = number(row, "at_most", ".2f")
        times = f"{number(row, 'median_s', '.3f')} ({number(row, 'iqr_s', '.3f')})" if row["median_s"] else row["note"]
        reached = ("yes" if float(row["ratio"]) <= float(limit) else "no") if limit and row["ratio"] else ""
        package = f"{row['package']} {row[row['package']]}".strip()
        numbers = [number(row, "yardstick_s", ".3f"), number(row, "ratio", ".2f"), limit, reached]
        lines.append([row["batch"], row["method"], package, times, *numbers])
    return markdown_table(head, lines)


def methods_section(run: Sequence[Row]) -> str:
    """What is said about one run."""
    ours = next(row for row in run if row["package"] == OURS)
    return (
        f"timm {ours['model']}, {ours['dtype']}. Python {ours['python']}, torch {ours['torch']}, timm {ours['timm']}, "
        f"torchvision {ours['torchvision']}.\n\n{methods_table(run)}\n"
    )
