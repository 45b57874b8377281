"""The scores of FunnyBirds as a run of a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import pil_to_tensor

from captum_vit.adapters import Adapter
from captum_vit.attr import BlankMapError
from captum_vit.data import DamagedSampleError
from captum_vit.evaluation.bootstrap import drawn_counts, interval
from captum_vit.evaluation.explainers import explainer_of
from captum_vit.evaluation.protocols.task import Cell, Outcome, Task
from captum_vit.evaluation.reading import checked_length
from captum_vit.evaluation.store import Record
from captum_vit.evaluation.subject import Subject, subject_of
from captum_vit.evaluation.work import configuration, work_in
from captum_vit.metrics import PartReport, PartScores
from captum_vit.metrics.functional import funny_birds as co12
from captum_vit.metrics.part_protocol import PartMeasure, PartRow

__all__ = ["parts"]

_BATCH = 32
"""Images that the model sees at once."""


def parts(task: Task) -> Outcome:
    """Completeness, correctness and contrastivity of every method.

    Images come to the model's size by nearest neighbour and maps back to theirs likewise, as in the published code. An
    image is done, and lost if the run is killed, for all methods together: they share the images without parts.
    """
    subject = subject_of(task.loaded, device=task.device)
    specs, notes = task.explainable(subject)
    if not specs:
        return Outcome({}, notes)
    length, precision = checked_length(task.dataset, task.limit), task.settings.get("precision", "float32")
    batch_size, seed = task.settings.get("batch_size") or _BATCH, task.settings.get("seed", 0)
    scores = {spec: _scores(subject, spec, batch_size, seed) for spec in specs.values()}
    decided = {"methods": list(scores), "precision": precision, "seed": seed, **task.description}
    config, shown = configuration(subject, task.dataset, length, **decided), task.settings.get("progress", True)
    with work_in(task.folder, config, length=length, size=1, device=subject.device) as work, work.bar(shown) as is_done:
        for index in work.mine:
            with subject.autocast(precision):
                work.append(index, _records(task.dataset, index, scores))
            is_done()
        records = work.records()
    cells: dict[tuple[str, str], Cell] = {}
    for method, spec in specs.items():
        measured = [_measure(each) for each in records if each.get("method") == spec]
        if not measured:
            continue
        report = scores[spec].report(measured)
        found, drawn = _numbers(report), _drawn(measured, task.resamples)
        for column in task.run.columns:
            numbers = found[column.score], *interval(drawn[column.score])
            cells[method, column.name] = Cell(*(column.scale * each for each in numbers))
        left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items() if count) or "none"
        notes.append(f"{method}: images left out: {left_out}")
    skipped = [each["sample"] for each in records if "skipped" in each]
    notes += [f"{task.run.name}: {len(skipped)} samples can't be read: {', '.join(skipped)}"] if skipped else []
    return Outcome(cells, notes)


def _scores(subject: Subject, spec: str, batch_size: int, seed: int) -> PartScores:
    explainer = explainer_of(spec, subject, seed=seed)
    mean, std = (torch.tensor(each)[:, None, None] for each in (subject.mean, subject.std))

    def transform(image: Image.Image) -> Tensor:
        pixels: Tensor = pil_to_tensor(image)[None].float() / 255
        resized = interpolate(pixels, subject.geometry.size, mode="nearest")[0]
        return ((resized - mean) / std).to(subject.device)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        return torch.cat([explained(*each) for each in zip(images.split(1), targets.split(1), strict=True)])

    def explained(image: Tensor, target: Tensor) -> Tensor:
        """(1, gh, gw); NaN where the map is blank, so that the image is left out and counted."""
        try:
            return explainer.on_grid(image, target).float()
        except BlankMapError:
            assert isinstance(subject.model, Adapter)
            grid = subject.model.grid(*subject.geometry.size)
            return torch.full((1, *grid), nan, device=image.device)

    return PartScores(subject.model, explain, transform=transform, batch_size=batch_size)


def _records(dataset: Any, index: int, scores: Mapping[str, PartScores]) -> list[Record]:
    """What one image adds to the report of each method, or why it can't be read."""
    try:
        probe = next(iter(scores.values())).probe(dataset, index)
        measured = {spec: each.measure(probe) for spec, each in scores.items()}
    except DamagedSampleError as error:
        return [{"sample": error.id, "skipped": error.reason}]
    return [{"sample": str(index), "method": spec, **_record(each)} for spec, each in measured.items()]


def _record(measure: PartMeasure) -> Record:
    scores = {name: values.tolist() for name, values in measure.scores._asdict().items()}
    return {**measure._asdict(), "losses": measure.losses.tolist(), "scores": scores}


def _measure(record: Record) -> PartMeasure:
    """What `_record` was given."""
    scores = PartRow(**{name: _tensor(values) for name, values in record["scores"].items()})
    flags = {name: record[name] for name in ("hit", "undefined", "inverted", "paired")}
    return PartMeasure(losses=_tensor(record["losses"]).view(-1, 2), scores=scores, **flags)


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64)).float()  # None is NaN


def _numbers(report: PartReport) -> dict[str, float]:
    best = report.completeness
    return {
        "CSDC": float(best.csdc),
        "PC": float(best.preservation),
        "DC": float(best.deletion),
        "D": float(best.distractibility),
        "SD": report.correctness,
        "TS": report.contrastivity,
    }


def _drawn(measured: Sequence[PartMeasure], resamples: int) -> dict[str, NDArray[np.float64]]:
    """The scores of as many bootstrap samples of the images; the threshold is chosen on each of them anew."""
    weights = drawn_counts(len(measured), resamples if len(measured) > 1 else 0, seed=0)
    rows = PartRow(*(torch.stack(each).double() for each in zip(*(one.scores for one in measured), strict=True)))
    curves = [_means(each, weights) for each in rows[:4]]  # (R, T) each
    best = [co12.completeness(*each) for each in zip(*curves, strict=True)]
    found = {
        name: np.array([float(each[place]) for each in best])
        for place, name in enumerate(("CSDC", "PC", "DC", "D"), start=2)
    }
    return found | {
        "SD": _means(rows.single_deletion[:, None], weights)[:, 0].numpy(),
        "TS": _means(rows.target_sensitivity.mean(1, keepdim=True), weights)[:, 0].numpy(),
    }


def _means(values: Tensor, weights: Tensor) -> Tensor:
    """(R, K) means over the rows (N, K) that count, as often as each of the weights (R, N) says."""
    return weights @ values.nan_to_num() / (weights @ values.isfinite().to(weights))
