"""Methods × a model × a dataset × metrics, in as many processes as ``torchrun`` starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from captum_vit.adapters import PromptClassifier
from captum_vit.data import DamagedSampleError, Sample
from captum_vit.evaluation.explainers import Explainer, UnsupportedMethodError, explainer_of, tried
from captum_vit.evaluation.kept import KeepingBatcher, kept_records
from captum_vit.evaluation.measures import Measure, measure_of
from captum_vit.evaluation.memory import batch_under, peak_memory
from captum_vit.evaluation.reading import checked_length
from captum_vit.evaluation.result import Result
from captum_vit.evaluation.specs import parse_spec
from captum_vit.evaluation.store import Kind
from captum_vit.evaluation.subject import Precision, Subject
from captum_vit.evaluation.targets import TargetChoice, Targets
from captum_vit.evaluation.units import Batcher, asked_of, scored
from captum_vit.evaluation.work import configuration, joined, work_in

__all__ = ["evaluate"]

_BATCH, _MOST = 8, 64
"""Maps at a time, without and with a limit of the memory."""


def evaluate(
    subject: Subject,
    dataset: Dataset[Sample],
    *,
    methods: Sequence[str],
    metrics: Sequence[str],
    folder: str | Path | None = None,
    target: TargetChoice = "label",
    limit: int | None = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    workers: int = 0,
    precision: Precision = "float32",
    seed: int = 0,
    keep_maps: bool = False,
    description: dict[str, Any] | None = None,
    progress: bool = True,
) -> Result:
    """Explains every region of a dataset by every method and scores every map by every metric.

    A run that was stopped goes on in the same folder. Under ``torchrun`` every process takes its share, and all return
    the same result.

    Args:
        subject: the model, see `subject_of`.
        dataset: with a length; see `captum_vit.data`.
        methods: names with options, see `explainer_of`. One that can't explain the model is left out, with its reason.
        metrics: names with options, see `measure_of`.
        folder: where results are kept as the run goes; without it nothing is kept.
        target: "label" explains the class or prompt of each region, and the predicted class where it has none;
            "predicted" explains the predicted class always.
        limit: the first so many samples only.
        batch_size: maps that are made at once, 8 by default; halved when they don't fit into the memory of the GPU. As
            many samples are done, and lost if the run is killed, together.
        memory_limit: bytes that making maps may take over the loaded model; the batch size, at most ``batch_size`` or
            64, is found by trying the methods. Metrics have a ``batch_size`` of their own.
        workers: processes that read samples ahead.
        precision: of the model's forward and backward passes (autocast).
        seed: of methods that draw random numbers.
        keep_maps: whether small images, masks and maps are kept in the folder too, for the report's gallery. In a
            folder whose scores are there already, they are made without measuring anything again.
        description: what else decides the numbers, such as the dataset's folder and split; kept with the results, and
            must not change in a folder.
        progress: whether a bar is shown on stderr.

    Returns:
        The results; see `Result`.

    Raises:
        ValueError: an unknown name, an option that does not exist, no method that can explain the model, a class of the
            dataset that the model does not have, a metric that needs what the dataset does not know, a folder with the
            results of another configuration, maps to be kept without a folder, a limit that one map exceeds.
        OSError: results that can't be written.
    """
    length = checked_length(dataset, limit)
    if keep_maps and folder is None:
        raise ValueError("folder must be given to keep maps there, got None.")
    if batch_size is None:
        batch_size = _BATCH if memory_limit is None else _MOST
    batcher = KeepingBatcher(batch_size) if keep_maps else Batcher(batch_size)
    targets = Targets(subject, dataset, target)
    measures = _measures(metrics, subject, dataset)
    if length:
        _check_annotations(measures, dataset, targets)
    with subject.autocast(precision):
        explainers, unsupported = _explainers(methods, subject, seed)
        if memory_limit is not None:
            batcher.batch_size = _fitting(explainers, subject, memory_limit, batch_size)
        for each in explainers.values():
            each.memory = _memory(each, subject, batcher.batch_size)
    decided: dict[str, Any] = {"methods": [*explainers, *unsupported], "metrics": list(measures), "target": target}
    decided |= {"precision": precision, "seed": seed, **(description or {})}
    config = configuration(subject, dataset, length, **decided)
    about = {"unsupported": unsupported, "classes": list(getattr(dataset, "classes", ())), "outputs": _names(subject)}
    kinds: tuple[Kind, ...] = ("results", "maps") if keep_maps else ("results",)
    options: dict[str, Any] = {"size": batch_size, "device": subject.device, "about": about, "kinds": kinds}
    with work_in(folder, config, length=length, **options) as work, work.bar(progress) as unit_is_done:
        for unit, samples, skipped in work.reading(dataset, workers):
            measured = unit in work.done["results"]
            with subject.autocast(precision):
                asked = asked_of(samples, subject, targets)
                records = scored(asked, explainers, {} if measured else measures, batcher)
            if isinstance(batcher, KeepingBatcher):
                work.append(unit, kept_records(asked, batcher.taken(), subject), "maps")
            if not measured:
                work.append(unit, [*records, *skipped])
            unit_is_done()
        return Result(work.records(), {name: each.empty for name, each in measures.items()}, unsupported)


def _names(subject: Subject) -> list[str] | None:
    """What the model's outputs are called, where that is known."""
    named = subject.model.prompts if isinstance(subject.model, PromptClassifier) else subject.class_names
    return None if named is None else list(named)


def _measures(metrics: Sequence[str], subject: Subject, dataset: Dataset[Sample]) -> dict[str, Measure]:
    """The metrics by name."""
    if not metrics:
        raise ValueError("metrics must name at least one, got none.")
    classes = len(getattr(dataset, "classes", ()))
    return {str(parse_spec(each)): measure_of(each, subject, classes=classes) for each in metrics}


def _check_annotations(measures: Mapping[str, Measure], dataset: Dataset[Sample], targets: Targets) -> None:
    """Refuses a metric that needs more than the first sample knows."""
    try:
        regions = dataset[0].regions
    except DamagedSampleError:
        return  # the run will skip it, and say so
    for region in regions[:1]:
        for measure in measures.values():
            measure.check(region, partial(targets.right, region))


def _explainers(methods: Sequence[str], subject: Subject, seed: int) -> tuple[dict[str, Explainer], dict[str, str]]:
    """The methods by name, and the reasons why others can't explain the model."""
    explainers: dict[str, Explainer] = {}
    unsupported: dict[str, str] = {}
    for each in methods:
        spec = parse_spec(each)
        try:
            explainer = explainer_of(spec, subject, seed=seed)
            tried(explainer, subject)
        except UnsupportedMethodError as error:
            unsupported[str(spec)] = str(error)
        else:
            explainers[str(spec)] = explainer
    if not explainers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unsupported.items()) or "none was named"
        raise ValueError(f"methods must hold one that can explain {subject.name}. {reasons}.")
    return explainers, unsupported


def _fitting(explainers: Mapping[str, Explainer], subject: Subject, limit: int, most: int) -> int:
    """The largest batch with which every method stays under the limit, the same in all processes."""
    sizes = [batch_under(limit, most, partial(_peak, each, subject)) for each in explainers.values()]
    found = torch.tensor(min(sizes))
    if joined()[1] > 1:
        dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def _peak(explainer: Explainer, subject: Subject, maps: int) -> int | None:
    return peak_memory(lambda: tried(explainer, subject, maps=maps), subject.device)


def _memory(explainer: Explainer, subject: Subject, batch_size: int) -> int | None:
    """What a batch of maps takes; None where it does not fit, or where the system does not tell."""
    try:
        return _peak(explainer, subject, 1 if explainer.alone else batch_size)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
