"""Results read from a folder, without the model and the data that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captum_vit.data import Geometry
from captum_vit.evaluation.measures import measure_of
from captum_vit.evaluation.reading import Units
from captum_vit.evaluation.result import Result
from captum_vit.evaluation.store import DamagedResultsError, Record, Store
from captum_vit.evaluation.subject import Subject

__all__ = ["NoResultsError", "Stored", "stored"]


class NoResultsError(ValueError):
    """A folder that holds no results of an evaluation; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What ``evaluate(..., folder=...)`` left in a folder.

    Attributes:
        folder: where it lies.
        config: what is evaluated.
        about: device, commit and the like, of the first run.
        result: the scores of the samples that are done.
        done: number of these samples, those that were skipped included.
        maps: what is kept to be looked at, see `kept_records`; empty where nothing is.
    """

    folder: Path
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    result: Result
    done: int
    maps: Sequence[Record]

    @property
    def samples(self) -> int:
        """How many samples were asked for."""
        return int(self.config["samples"])


def stored(folder: str | Path) -> Stored:
    """Reads a folder that `evaluate` wrote; a run that has not ended is read as far as it came.

    Raises:
        NoResultsError: no such folder, one of something else, or one without a map.
    """
    folder = Path(folder)
    _check(folder)
    store = Store(folder)
    try:
        found = _read(store)
    except DamagedResultsError as error:
        raise NoResultsError(f"{folder} can't be read as results of captum-vit evaluate: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoResultsError(
            f"{folder} can't be read as results of captum-vit evaluate: {type(error).__name__}: {error}."
        ) from error
    if not found.result.records:
        raise NoResultsError(
            f"{folder} holds no result yet: no unit of {found.about['unit']} samples is finished. "
            "The command that began it goes on where it stopped."
        )
    if not any("method" in each for each in found.result.records):
        raise NoResultsError(f"{folder} holds no map: all {found.done} samples were skipped. {_reasons(found.result)}")
    return found


def _reasons(result: Result) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(result.skipped.items())[:3])


def _read(store: Store) -> Stored:
    config, about = store.config, store.about
    units = Units(int(config["samples"]), int(about["unit"]))
    finished = store.units()
    stand_in = _StandIn.subject()
    classes = len(about.get("classes", ()))
    metrics = {name: measure_of(name, stand_in, classes=classes).empty for name in config["metrics"]}
    result = Result(store.records(), metrics, about.get("unsupported", {}))
    return Stored(store.folder, config, about, result, units.samples(sorted(finished)), store.records("maps"))


def _check(folder: Path) -> None:
    """Says what is missing in a folder that no evaluation wrote."""
    if not folder.exists():
        raise NoResultsError(f"{folder} does not exist.")
    if not folder.is_dir():
        raise NoResultsError(f"{folder} must be a folder that captum-vit evaluate wrote, got a file.")
    if (folder / "config.json").exists():
        return
    inside = sorted(each.parent.name for each in folder.glob("*/config.json"))
    if inside:
        raise NoResultsError(f"{folder} holds {len(inside)} evaluations in folders of their own: {', '.join(inside)}.")
    found = "is empty" if not any(folder.iterdir()) else "holds no config.json"
    raise NoResultsError(f"{folder} {found}: captum-vit evaluate -o has not written there.")


class _StandIn(Subject):
    """In the place of the model, where metrics add up what they found and measure nothing."""

    @classmethod
    def subject(cls) -> Subject:
        """One that no image is ever shown."""
        model = nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))})
        return cls("none", model, Geometry((1, 1)), (0.0,), (1.0,), "softmax", torch.device("cpu"))

    @property
    def patch(self) -> tuple[int, int]:
        return 1, 1

    @property
    def outputs(self) -> int:
        return 1
