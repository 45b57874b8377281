"""Speed in parts: LeGrad and every method beside other packages, high resolution beside plain references, and a GPU.

Each subject of a case of LeGrad is measured in a process of its own (`speed_worker.py`), on the same weights, images
and prompt embeddings. The processes of a case take turns, so that a slow minute of the machine meets all of them. For
the methods see `methods_speed.py`, for the others `resolution.py` and `gpu_speed.py`.

    python benchmarks/speed.py             # three quarters of an hour on two cores; writes results and the docs page
    python benchmarks/speed.py methods     # one part
    python benchmarks/speed.py --quick     # a smoke run; writes out/*-quick.csv only
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import open_clip
import torch
import torch.nn.functional as F
from environments import HERE, commit, machine
from goals import Goal, overview
from gpu_speed import FIELDS as GPU_FIELDS
from gpu_speed import GOALS as GPU_GOALS
from gpu_speed import gpu_section, measure_gpu
from legrad_tables import FIELDS, legrad_section
from legrad_tables import GOALS as LEGRAD_GOALS
from methods_speed import FIELDS as METHODS_FIELDS
from methods_speed import measure_methods, methods_section
from report import COMMANDS, Row, append_rows, latest_runs, sections, write_page
from resolution import FIELDS as RESOLUTION_FIELDS
from resolution import GOALS as RESOLUTION_GOALS
from resolution import measure_resolution, resolution_section
from subjects import Subject, Worker, WorkerFailedError, find_subjects

MODEL, DEPTH = "ViT-B-16", 12
PAGE = HERE.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Case:
    """A batch of images of one size, and the number of prompts that are explained for each."""

    batch: int
    prompts: int
    image_size: int
    last_blocks: int = DEPTH
    kind: str = "speed"


CASES = [Case(1, 1, 224), Case(1, 16, 224), Case(1, 1, 448), Case(8, 1, 224)]
AGREEMENT = [Case(1, 1, 224, last_blocks=blocks, kind="agreement") for blocks in (DEPTH, 2)]
"""Maps only. The authors' package averages the last two blocks by default."""


def write_weights(folder: Path) -> Path:
    """An untrained model's weights, the same for every subject."""
    torch.manual_seed(0)
    path = folder / "weights.pt"
    torch.save(open_clip.create_model(MODEL, pretrained=None).state_dict(), path)
    return path


def write_workload(case: Case, weights: Path) -> Path:
    """The file that `speed_worker.Measured` reads."""
    generator = torch.Generator().manual_seed(1)
    size, width = case.image_size, open_clip.get_model_config(MODEL)["embed_dim"]
    workload = {
        "model": MODEL,
        "weights": str(weights),
        "images": torch.randn(case.batch, 3, size, size, generator=generator),
        "embeddings": F.normalize(torch.randn(case.prompts, width, generator=generator), dim=-1),
        "last_blocks": case.last_blocks,
    }
    path = weights.with_name("workload.pt")
    torch.save(workload, path)
    return path


@dataclass
class Entry:
    """A row that is being filled, and the process that it is about; ``rounds`` holds the seconds of every call."""

    row: Row
    worker: Worker
    rounds: list[list[float]] = field(default_factory=list)

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """A peer that fails gets a note in its row; the plain forward pass and this package must not fail."""
        try:
            yield
        except WorkerFailedError as error:
            if self.row["subject"] != "legrad_torch":
                raise
            self.row["note"] = str(error)


def measure(case: Case, subjects: Sequence[Subject], weights: Path, options: argparse.Namespace) -> list[Row]:
    """One row per subject.

    Raises:
        WorkerFailedError: the plain forward pass or this package failed.
    """
    workload = write_workload(case, weights)
    rows: list[Row] = []
    entries: list[Entry] = []
    with ExitStack() as running:
        for subject in subjects:
            rows.append(dict.fromkeys(FIELDS, "") | asdict(case) | {"subject": subject.name, "note": subject.note})
            if subject.python is None:
                continue
            entry = Entry(rows[-1], Worker(subject, workload, options))
            running.callback(entry.worker.stop)
            entries.append(entry)
            with entry.noting_failure():
                entry.row |= entry.worker.ask("describe")
                if case.kind == "speed":
                    entry.row["peak_mb"] = entry.worker.ask("peak")["mb"]
        compare_maps(entries, weights.parent)
        for number in range(options.rounds if case.kind == "speed" else 0):
            for entry in entries[:: -1 if number % 2 else 1]:
                if not entry.row["note"]:
                    with entry.noting_failure():
                        entry.rounds.append(entry.worker.ask("time", seconds=options.seconds)["seconds"])
    for entry in entries:
        if entry.rounds and not entry.row["note"]:
            entry.row |= time_statistics(entry.rounds, entries[0].rounds)
    return rows


def compare_maps(entries: Sequence[Entry], folder: Path) -> None:
    """Notes the largest difference of each peer's maps, scaled to [0, 1], from this package's."""
    ours = None
    for entry in entries:
        if entry.row["subject"] == "forward" or entry.row["batch"] > 1 or entry.row["note"]:
            continue
        path = folder / "maps.pt"
        with entry.noting_failure():
            entry.worker.ask("maps", path=str(path))
            maps = torch.load(path)
            if entry.row["subject"] == "captum_vit":
                ours = maps
            else:
                entry.row["map_difference"] = float((maps - ours).abs().max())


def time_statistics(rounds: Sequence[Sequence[float]], forward: Sequence[Sequence[float]]) -> Row:
    """Median and interquartile range of all calls; the ratio to the forward pass is a median over rounds."""
    calls = [seconds for each in rounds for seconds in each]
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, middle, high = torch.tensor(calls, dtype=torch.float64).quantile(quartiles).tolist()
    ratios = [median(ours) / median(plain) for ours, plain in zip(rounds, forward, strict=True)]
    return {"median_s": middle, "iqr_s": high - low, "calls": len(calls), "ratio_to_forward": median(ratios)}


def measure_legrad(options: argparse.Namespace) -> list[Row]:
    """Rows of all cases."""
    subjects = find_subjects(options.peer_python)
    for note in {each.note for each in subjects.values() if each.note}:
        print(f"legrad_torch {note}", file=sys.stderr)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(Path(folder))
        for case in CASES[:1] if options.quick else CASES:
            print(f"{case} ...", flush=True)
            peers = ["peer"] if case.batch == 1 else []  # it explains one image at a time
            rows += measure(case, [subjects[name] for name in ("forward", "ours", *peers)], weights, options)
        for case in AGREEMENT:
            print(f"{case} ...", flush=True)
            rows += measure(case, [subjects[name] for name in ("ours", "peer", "bare peer")], weights, options)
    return [row | {"model": MODEL} for row in rows]


@dataclass(frozen=True)
class Part:
    """One of the things that are measured: how, into which file and fields, and what the docs page says of a run.

    ``commands`` measure it, by device; ``goals`` are what it is held to.
    """

    measure: Callable[[argparse.Namespace], list[Row]]
    results: str
    fields: Sequence[str]
    section: Callable[[Sequence[Row]], str]
    goals: Sequence[Goal] = ()
    commands: dict[str, str] = field(default_factory=lambda: COMMANDS)
    dtype: str = "float32"

    @property
    def file(self) -> Path:
        """Its rows."""
        return HERE / "results" / f"{self.results}.csv"


PARTS = {
    "legrad": Part(measure_legrad, "speed", FIELDS, legrad_section, LEGRAD_GOALS),
    "methods": Part(measure_methods, "methods_speed", METHODS_FIELDS, methods_section),
    "resolution": Part(measure_resolution, "resolution", RESOLUTION_FIELDS, resolution_section, RESOLUTION_GOALS),
    "gpu": Part(
        *(measure_gpu, "gpu_speed", GPU_FIELDS, gpu_section, GPU_GOALS),
        commands={"cuda": "python benchmarks/speed.py gpu --device cuda"},
        dtype="bfloat16",
    ),
}


def write_pages(page: Path = PAGE) -> None:
    """Puts the latest run of every part into the docs page, and what they reached."""
    runs = {name: latest_runs(part.file) for name, part in PARTS.items()}
    for name, part in PARTS.items():
        write_page(page, name, sections(runs[name], part.section, part.commands))
    parts = ((part.goals, runs[name], part.commands) for name, part in PARTS.items())
    write_page(page, "goals", overview(parts) + "\n")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def main() -> None:
    """Measures, appends to the csv files, prints the tables and rewrites the docs page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{' or '.join(PARTS)}; all by default")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the docs page from the results")
    parser.add_argument("--quick", action="store_true", help="few cases and subjects, one call each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where models run; cpu by default")
    parser.add_argument("--threads", type=_at_least_one, default=2, help="of each process on the CPU; 2 by default")
    parser.add_argument("--rounds", type=_at_least_one, default=5, help="turns of each subject; 5 by default")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long a turn repeats a call, at least once")
    sides = 'sides of images of which "resolution" measures the memory only; 1024 by default, none with --quick'
    parser.add_argument("--pixels", type=_at_least_one, nargs="*", default=[1024], help=sides)
    parser.add_argument("--peer-python", type=Path, help="a Python that has legrad_torch 1.1 and open_clip 2.23")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"argument part: must be {' or '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if options.tables:
        write_pages()
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here")
    if options.quick:
        options.rounds, options.seconds = 1, 0.0
    run = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "device": options.device,
        "threads": options.threads,
    }
    for name in options.parts or PARTS:
        part = PARTS[name]
        if options.device not in part.commands and not options.quick:
            print(f"{name} is not measured here: {part.commands['cuda']}", flush=True)
            continue
        rows = [row | run | {"dtype": part.dtype} for row in part.measure(options)]
        quick = HERE.parent / "out" / f"{part.results}-quick.csv"
        append_rows(quick if options.quick else part.file, rows, part.fields)
        print("", part.section(rows), sep="\n")
        if not options.quick:
            write_pages()


if __name__ == "__main__":
    main()
