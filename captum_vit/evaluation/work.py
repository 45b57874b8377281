"""The units of an evaluation: shared by the processes that ``torchrun`` starts, kept in a folder as they are done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from captum_vit.data import Sample
from captum_vit.evaluation.reading import Reading, Units
from captum_vit.evaluation.store import Kind, Record, Store
from captum_vit.evaluation.subject import Subject

__all__ = ["Work", "configuration", "joined", "work_in"]

_PACKAGES = ("captum-vit", "captum", "torch", "torchvision", "timm", "transformers", "open_clip_torch", "torchmetrics")


@dataclass(frozen=True, eq=False)
class Work:
    """What this process does of an evaluation.

    Attributes:
        store: where records are kept.
        units: the division of the dataset.
        done: the units that are whole already, by kind of record.
        rank: of this process.
        processes: that share the work.
    """

    store: Store
    units: Units
    done: Mapping[Kind, frozenset[int]]
    rank: int
    processes: int

    @cached_property
    def left(self) -> list[int]:
        """The units that lack records of some kind, those of the other processes included."""
        whole = frozenset.intersection(*self.done.values())
        return [unit for unit in range(len(self.units)) if unit not in whole]

    @property
    def mine(self) -> list[int]:
        """The units that are left for this process."""
        return self.left[self.rank :: self.processes]

    def reading(self, dataset: Dataset[Sample], workers: int) -> DataLoader[tuple[int, list[Sample], list[Record]]]:
        """This process's units of a dataset, see `Reading`."""
        return DataLoader(Reading(dataset, self.units, self.mine), batch_size=None, num_workers=workers)

    @contextmanager
    def bar(self, shown: bool) -> Iterator[Callable[[], None]]:
        """Shows a bar on stderr, in the first process only; gives what has to be called after every unit."""
        length, shown = self.units.length, shown and self.rank == 0
        done = length - self.units.samples(self.left)
        with tqdm(total=length, initial=done, unit="sample", disable=not shown, file=sys.stderr) as bar:
            yield lambda: bar.update(min(self.processes * self.units.size, length - bar.n))

    def append(self, unit: int, records: Sequence[Record], kind: Kind = "results") -> None:
        """Keeps the records of one unit; see `Store.append`."""
        self.store.append(self.rank, unit, records, kind)

    def records(self) -> list[Record]:
        """The results of all processes in the order of the dataset, once all have ended."""
        _wait()
        return self.store.records()


@contextmanager
def work_in(
    folder: str | Path | None,
    config: Mapping[str, Any],
    *,
    length: int,
    size: int,
    device: Any,
    about: Mapping[str, Any] | None = None,
    kinds: Sequence[Kind] = ("results",),
) -> Iterator[Work]:
    """The work that is left in a folder, for this process.

    Args:
        folder: made where it does not exist; without it nothing is kept.
        config: decides the numbers; must not change in a folder.
        length: number of samples.
        size: samples of a unit, in a folder that holds none yet.
        device: where the model is.
        about: what else is written down of a first run.
        kinds: records that every unit is to have.

    Raises:
        ChangedConfigurationError: the folder holds results of something else.
        DamagedResultsError: the folder holds what no evaluation wrote.
        ValueError: no folder where several processes share the work.
        OSError: a folder that can't be made.
    """
    rank, processes = joined()
    with _place(folder, processes) as path:
        store = Store(path)
        first = {"device": str(device), "processes": processes, "commit": _commit(), "unit": size, **(about or {})}
        units = Units(length, store.configure(config, first)["unit"])
        done = {kind: frozenset(store.units(kind)) for kind in kinds}
        _wait()  # all have seen the same units before anyone writes one
        yield Work(store, units, done, rank, processes)
        _wait()  # nobody takes a temporary folder away before all have read


def configuration(subject: Subject, dataset: object, length: int, /, **more: Any) -> dict[str, Any]:
    """What decides the numbers of an evaluation.

    Args:
        subject: the model.
        dataset: what it is evaluated on.
        length: number of samples.
        more: of this evaluation alone; in the place of what it is called like.
    """
    return {
        "model": subject.name,
        "weights": _fingerprint(subject),
        "dataset": type(dataset).__name__,
        "samples": length,
        "geometry": str(subject.geometry),
        "versions": {each: version(each) for each in _PACKAGES},
        **more,
    }


def joined() -> tuple[int, int]:
    """Rank and number of the processes that ``torchrun`` started, which wait for each other from now on."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def _place(folder: str | Path | None, processes: int) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder)
        return
    if processes > 1:
        raise ValueError("folder must be given where several processes share the work, got None.")
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


def _fingerprint(subject: Subject) -> str:
    """A number that changes with the weights."""
    weights = [each.detach().double() for each in subject.model.state_dict().values() if each.is_floating_point()]
    return f"{sum(float(each.abs().sum()) for each in weights):.10e}"


def _commit() -> str | None:
    """The commit of the working directory, where it is one of git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
