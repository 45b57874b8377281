"""Methods × a model × a dataset × metrics, in as many processes as ``torchrun`` starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from captum_vit.adapters import PromptClassifier
from captum_vit.data import DamagedSampleError, Sample
from captum_vit.evaluation.explainers import Explainer, UnsupportedMethodError, explainer_of, tried
from captum_vit.evaluation.kept import KeepingBatcher, kept_records
from captum_vit.evaluation.measures import Measure, measure_of
from captum_vit.evaluation.memory import batch_under, peak_memory
from captum_vit.evaluation.reading import Reading, Units, checked_length
from captum_vit.evaluation.result import Result
from captum_vit.evaluation.specs import parse_spec
from captum_vit.evaluation.store import Store
from captum_vit.evaluation.subject import Subject
from captum_vit.evaluation.targets import TargetChoice, Targets
from captum_vit.evaluation.units import Batcher, asked_of, scored

__all__ = ["Precision", "evaluate"]

_BATCH, _MOST = 8, 64
"""Maps at a time, without and with a limit of the memory."""

Precision = Literal["float32", "bfloat16", "float16"]

_PACKAGES = ("captum-vit", "captum", "torch", "torchvision", "timm", "transformers", "open_clip_torch", "torchmetrics")


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
    rank, processes = _joined()
    autocast = _autocast(subject, precision)
    with autocast():
        explainers, unsupported = _explainers(methods, subject, seed)
        config: dict[str, Any] = {
            "model": subject.name,
            "weights": _fingerprint(subject),
            "dataset": type(dataset).__name__,
            "samples": length,
            "methods": [*explainers, *unsupported],
            "metrics": list(measures),
            "target": target,
            "geometry": str(subject.geometry),
            "precision": precision,
            "seed": seed,
            "versions": {each: version(each) for each in _PACKAGES},
            **(description or {}),
        }
        if memory_limit is not None:
            batcher.batch_size = _fitting(explainers, subject, memory_limit, batch_size)
        for each in explainers.values():
            each.memory = _memory(each, subject, batcher.batch_size)
    with _temporary(folder) as path:
        store = Store(path)
        about = {"device": str(subject.device), "processes": processes, "commit": _commit(), "unit": batch_size}
        about |= {
            "unsupported": unsupported,
            "classes": list(getattr(dataset, "classes", ())),
            "outputs": _names(subject),
        }
        units = Units(length, store.configure(config, about)["unit"])
        done = set(store.units())
        kept = set(store.units("maps")) if keep_maps else done
        _wait()  # all have seen the same units before anyone writes one
        left = [unit for unit in range(len(units)) if unit not in done & kept]
        reading = Reading(dataset, units, left[rank::processes])
        with _bar(units, left, progress and rank == 0) as bar:
            for unit, samples, skipped in DataLoader(reading, batch_size=None, num_workers=workers):
                with autocast():
                    asked = asked_of(samples, subject, targets)
                    records = scored(asked, explainers, {} if unit in done else measures, batcher)
                if isinstance(batcher, KeepingBatcher):
                    store.append(rank, unit, kept_records(asked, batcher.taken(), subject), "maps")
                if unit not in done:
                    store.append(rank, unit, [*records, *skipped])
                bar.update(min(processes * units.size, length - bar.n))
        _wait()
        result = Result(store.records(), {name: each.empty for name, each in measures.items()}, unsupported)
        _wait()  # nobody takes a temporary folder away before all have read
    return result


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
    if dist.is_initialized():
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


def _bar(units: Units, left: Sequence[int], shown: bool) -> Any:
    done = units.length - units.samples(left)
    return tqdm(total=units.length, initial=done, unit="sample", disable=not shown, file=sys.stderr)


def _autocast(subject: Subject, precision: Precision) -> Any:
    if precision == "float32":
        return nullcontext
    if precision not in ("bfloat16", "float16"):
        raise ValueError(f"precision must be 'float32', 'bfloat16' or 'float16', got {precision!r}.")
    return lambda: torch.autocast(subject.device.type, getattr(torch, precision))


def _fingerprint(subject: Subject) -> str:
    """A number that changes with the weights."""
    weights = [each.detach().double() for each in subject.model.state_dict().values() if each.is_floating_point()]
    return f"{sum(float(each.abs().sum()) for each in weights):.10e}"


def _joined() -> tuple[int, int]:
    """Rank and number of the processes that ``torchrun`` started."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _temporary(folder: str | Path | None) -> AbstractContextManager[Path]:
    if folder is not None:
        return nullcontext(Path(folder))
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError("folder must be given where several processes share the work, got None.")
    return _TemporaryPath()


class _TemporaryPath(AbstractContextManager[Path]):
    def __enter__(self) -> Path:
        self._folder = TemporaryDirectory()
        return Path(self._folder.name)

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


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
