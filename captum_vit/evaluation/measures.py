"""The metrics of `captum_vit.metrics` by name, fed with one map at a time; what they add up is kept per map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from captum_vit import metrics
from captum_vit.adapters import Adapter
from captum_vit.data import Region
from captum_vit.evaluation.explainers import Explainer
from captum_vit.evaluation.specs import Spec, parse_spec, unknown
from captum_vit.evaluation.subject import Subject
from captum_vit.metrics.base import RowMetric
from captum_vit.metrics.model_metric import ModelMetric

__all__ = ["MEASURES", "Case", "Measure", "MissingAnnotationError", "State", "measure_of"]

State: TypeAlias = dict[str, Any]
"""What a metric's sums gain from one map, in JSON's types: nested lists, or index and value of what is not 0."""

_SPARSE = 16
"""States with more numbers than this are kept as those that are not 0."""


_ON_CPU = 24
"""Images that a metric asks a model about at once on a CPU, whose caches larger batches leave; metrics have 64."""


class MissingAnnotationError(ValueError):
    """A metric needs what the dataset does not know."""


@dataclass(frozen=True, eq=False)
class Case:
    """One map of one region, everything as a batch of one.

    Attributes:
        images: (1, C, H, W).
        maps: (1, H, W).
        targets: (1,) output of the model.
        region: in the model's geometry.
        others: regions of the same sample with their targets.
        explainer: what made the map.
        outputs: number of the model's outputs.
        right: gives the output that is the region's own class, None where it has none.
    """

    images: Tensor
    maps: Tensor
    targets: Tensor
    region: Region
    others: Sequence[tuple[Region, int]]
    explainer: Explainer
    outputs: int
    right: Callable[[], int | None]

    @property
    def masks(self) -> Tensor:
        """(1, H, W).

        Raises:
            MissingAnnotationError: no mask.
        """
        if self.region.mask is None:
            raise MissingAnnotationError("it needs masks, which the dataset does not have")
        return self.region.mask[None].to(self.maps.device)

    @property
    def classes(self) -> Tensor:
        """(1,) the region's label; 0 where the dataset has no classes."""
        return torch.tensor([self.region.label or 0], device=self.maps.device)

    @property
    def labels(self) -> Tensor:
        """(1,) the output that is right, whatever the map was made for.

        Raises:
            MissingAnnotationError: no label.
        """
        right = self.right()
        if right is None:
            raise MissingAnnotationError("it needs labels, which the dataset does not have")
        return torch.tensor([right], device=self.maps.device)

    @property
    def on_grid(self) -> Tensor:
        """(1, gh, gw): the map as it is on the patch grid."""
        return self.explainer.on_grid(self.images, self.targets)

    def points(self) -> tuple[Tensor, Tensor]:
        """Positions (1, P, 2) and labels (1, P).

        Raises:
            MissingAnnotationError: no points.
        """
        points = self.region.points
        if points is None:
            raise MissingAnnotationError("it needs points, which the dataset does not have")
        return points.positions[None].to(self.maps.device), points.labels[None].to(self.maps.device)

    def absent(self) -> Tensor:
        """(1, H, W) the map of the first output after the target that no region of the sample asks for."""
        present = {int(self.targets), *(target for _, target in self.others)}
        later = ((int(self.targets) + step) % self.outputs for step in range(1, self.outputs))
        return self.explainer(self.images, torch.tensor([next(k for k in later if k not in present)]).to(self.targets))


def _masks(case: Case) -> tuple[Tensor, ...]:
    return case.maps, case.masks


def _absent(case: Case) -> tuple[Tensor, ...]:
    return case.maps, case.absent(), case.masks


def _pair(case: Case) -> tuple[Tensor, ...] | None:
    """The sample's next region, or None where it has no other."""
    if not case.others:
        return None
    region, target = case.others[0]
    targets = torch.tensor([target]).to(case.targets)
    other = replace(case, maps=case.explainer(case.images, targets), targets=targets, region=region)
    return case.maps, other.maps, case.masks, other.masks


def _model(case: Case) -> tuple[Tensor, ...]:
    return case.images, case.maps, case.targets


def _labelled(case: Case) -> tuple[Tensor, ...]:
    return case.images, case.maps, case.labels


def _focus(case: Case) -> tuple[Tensor, ...]:
    return case.maps.clamp(min=0), case.masks


def _patch_focus(case: Case) -> tuple[Tensor, ...]:
    return case.on_grid.clamp(min=0), case.masks


def _method(case: Case) -> tuple[Tensor, ...]:
    return case.images, case.targets


Feed: TypeAlias = Callable[[Case], tuple[Tensor, ...] | None]

MEASURES: Mapping[str, tuple[type[Metric], Feed]] = {
    "abpc": (metrics.ABPC, _model),
    "aopc": (metrics.AOPC, _model),
    "average-drop": (metrics.AverageDrop, _model),
    "average-increase": (metrics.AverageIncrease, _model),
    "background-attention-focus": (metrics.BackgroundAttentionFocus, _focus),
    "class-pointing-game": (metrics.ClassPointingGame, lambda case: (case.maps, case.masks, case.classes)),
    "deletion": (metrics.Deletion, _model),
    "effective-complexity": (metrics.EffectiveComplexity, lambda case: (case.maps,)),
    "energy-inside": (metrics.EnergyInside, _masks),
    "entropy": (metrics.Entropy, lambda case: (case.maps,)),
    "faithfulness-correlation": (metrics.FaithfulnessCorrelation, _model),
    "foreground-attention-focus": (metrics.ForegroundAttentionFocus, _focus),
    "infidelity": (metrics.Infidelity, _model),
    "insertion": (metrics.Insertion, _model),
    "localisation-auc": (metrics.LocalisationAUC, _masks),
    "model-randomisation": (metrics.ModelRandomisation, _method),
    "negative-perturbation": (metrics.NegativePerturbation, _model),
    "point-miou": (metrics.PointMIoU, lambda case: (case.maps, *case.points(), case.classes)),
    "pointing-game": (metrics.PointingGame, _masks),
    "pooled-segmentation": (metrics.PooledSegmentation, lambda case: (case.maps, case.masks, case.classes)),
    "positive-perturbation": (metrics.PositivePerturbation, _model),
    "prompt-pair-localisation": (metrics.PromptPairLocalisation, _pair),
    "random-target-similarity": (metrics.RandomTargetSimilarity, _method),
    "relevance-rank-accuracy": (metrics.RelevanceRankAccuracy, _masks),
    "road-combined": (metrics.RoadCombined, _model),
    "road-lerf": (metrics.RoadLeRF, _model),
    "road-morf": (metrics.RoadMoRF, _model),
    "saco": (metrics.SaCo, _model),
    "segmentation": (metrics.Segmentation, _masks),
    "sensitivity-max": (metrics.SensitivityMax, _method),
    "sparseness": (metrics.Sparseness, lambda case: (case.maps,)),
    "top-k-inside": (metrics.TopKInside, _masks),
    "wrong-prompt-area": (metrics.WrongPromptArea, _absent),
    "wrong-prompt-energy": (metrics.WrongPromptEnergy, _absent),
}
"""Metric class and what its ``update`` takes, by name."""

_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

_AGAINST = ("against", {"target": _model, "label": _labelled})
_GRID = ("grid", {"pixel": _focus, "patch": _patch_focus})
_VARIANTS: Mapping[str, tuple[str, Mapping[str, Feed]]] = {
    "background-attention-focus": _GRID,
    "foreground-attention-focus": _GRID,
    "negative-perturbation": _AGAINST,
    "positive-perturbation": _AGAINST,
}
"""Options that are about what ``update`` takes."""


class Measure:
    """A metric that scores every map by itself, so that no score depends on what else is in a batch.

    Args:
        spec: name and options, as in the results.
        build: makes the metric for a method.
        feed: what its ``update`` takes.

    Attributes:
        empty: the metric for no method, to add up what was kept.
    """

    def __init__(self, spec: Spec, build: Callable[[Explainer], Metric], feed: Feed) -> None:
        self.spec, self._build, self._feed = spec, build, feed
        self.empty = build(Explainer(Spec("none"), lambda images, targets: images.sum(1)))
        self._metrics: dict[int, Metric] = {}

    def check(self, region: Region, right: Callable[[], int | None]) -> None:
        """Refuses a region that lacks what the metric needs, before a map is made.

        Args:
            region: of any sample.
            right: gives the output that is the region's own class, None where it has none.

        Raises:
            MissingAnnotationError: the dataset does not know what the metric needs.
        """
        known: dict[str, object] = {"masks": region.mask, "points": region.points}
        needs: Any = self.empty.needs
        lacking = [name for name in needs if name in known and known[name] is None]
        if self._feed is _labelled and right() is None:
            lacking.append("labels")
        if lacking:
            raise MissingAnnotationError(
                f"{self.spec.name} can't be measured: it needs {lacking[0]}, which the dataset does not have."
            )

    def states(self, cases: Sequence[Case]) -> list[State | None]:
        """What the metric's sums gain from each map; None where it does not ask about the region at all.

        Args:
            cases: maps of one sample, those of a region after each other. The model is asked about all of them at once,
                and once about what they share.

        Raises:
            MissingAnnotationError: the dataset does not know what the metric needs.
        """
        if isinstance(self.empty, ModelMetric):
            return self._states_at_once(self.empty, self._fed(cases))
        regions = [list(some) for _, some in groupby(cases, lambda case: id(case.region))]
        return [state for some in regions for state in self._states_of_region(some)]

    def _states_of_region(self, cases: Sequence[Case]) -> list[State | None]:
        fed = self._fed(cases)
        if not fed:
            return [None] * len(cases)
        if isinstance(self.empty, RowMetric) and self._feed is not _method:
            return self._states_at_once(self.empty, fed)
        asked = [self.metric(case.explainer) for case in cases]
        return [_gained(metric, partial(metric.update, *each)) for metric, each in zip(asked, fed, strict=True)]

    def _states_at_once(self, metric: RowMetric, fed: Sequence[tuple[Tensor, ...]]) -> list[State | None]:
        rows = metric.rows(*(_together(each) for each in zip(*fed, strict=True)))
        return [_gained(metric, partial(metric.add_rows, row)) for row in rows.split(1)]

    def _fed(self, cases: Sequence[Case]) -> list[tuple[Tensor, ...]]:
        """What ``update`` takes of each map; nothing of regions that it does not ask about."""
        try:
            return [each for each in map(self._feed, cases) if each is not None]
        except MissingAnnotationError as error:
            raise MissingAnnotationError(f"{self.spec.name} can't be measured: {error}.") from error

    def metric(self, explainer: Explainer) -> Metric:
        """The metric for a method, made once."""
        if id(explainer) not in self._metrics:
            self._metrics[id(explainer)] = self._build(explainer)
        return self._metrics[id(explainer)]


def _together(tensors: tuple[Tensor, ...]) -> Tensor:
    """(B, …): many of one; without copies where all are the same, such as the image or the mask."""
    once = tensors[0]
    same = all(each.data_ptr() == once.data_ptr() and each.shape == once.shape for each in tensors)
    return once.expand(len(tensors), *once.shape[1:]) if same else torch.cat(tensors)


def _gained(metric: Metric, adding: Callable[[], None]) -> State:
    metric.reset()
    adding()
    return {name: _packed(value) for name, value in metric.metric_state.items()}


def _packed(value: Any) -> Any:
    assert isinstance(value, Tensor)
    if value.numel() <= _SPARSE:
        return value.tolist()
    indices = value.flatten().nonzero()[:, 0]
    return {"shape": list(value.shape), "at": indices.tolist(), "values": value.flatten()[indices].tolist()}


def measure_of(spec: str | Spec, subject: Subject, *, classes: int = 0) -> Measure:
    """A metric by its name.

    Args:
        spec: ``insertion(steps=28, patch='grid')``: a name of `MEASURES` with the options of its class;
            ``patch='grid'`` stands for the pixels of the model's patch, ``patch=8`` for a square, ``fill='black'`` for
            black in its units;
            ``segmentation(preset='legrad')``; ``negative-perturbation(against='label')`` asks whether the label is
            still predicted, whichever class the map was made for; ``foreground-attention-focus(grid='patch')`` takes
            the map as it is on the patch grid.
        subject: the model.
        classes: of the dataset, for metrics that average over classes.

    Raises:
        ValueError: no such metric, or options that it does not have.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if spec.name not in MEASURES:
        raise unknown("metric", spec.name, MEASURES)
    kind, feed = MEASURES[spec.name]
    options = dict(spec.options)
    if options.get("patch") == "grid":
        options["patch"] = subject.patch
    if isinstance(options.get("patch"), int):
        options["patch"] = (options["patch"],) * 2
    if options.get("fill") == "black":
        options["fill"] = subject.black
    if subject.device.type == "cpu" and "batch_size" in signature(kind).parameters:
        options.setdefault("batch_size", _ON_CPU)
    if spec.name in _VARIANTS and _VARIANTS[spec.name][0] in options:
        option, feeds = _VARIANTS[spec.name]
        choice = options.pop(option)
        if choice not in feeds:
            raise ValueError(f"{option} of {spec.name} must be one of {', '.join(feeds)}, got {choice!r}.")
        feed = feeds[choice]

    given = partial(_given, kind, feed, subject, classes)

    def build(explainer: Explainer) -> Metric:
        if kind is metrics.Segmentation and "preset" in options:
            preset = {name: value for name, value in options.items() if name != "preset"}
            return metrics.Segmentation.preset(options["preset"], **preset).to(subject.device)
        return kind(*given(explainer), **options).to(subject.device)

    try:
        return Measure(spec, build, feed)
    except (TypeError, ValueError) as error:  # torchmetrics raises the second for a name it does not know
        raise _refused(spec, kind, len(given(None)), error) from error


def _given(
    kind: type[Metric], feed: Feed, subject: Subject, classes: int, explainer: Explainer | None
) -> tuple[Any, ...]:
    """What a metric's class takes first, which is no option."""
    if feed in (_model, _labelled):
        return (subject.score,)
    if kind is metrics.ModelRandomisation:
        return _image_tower(subject), explainer
    if kind is metrics.RandomTargetSimilarity:
        return explainer, subject.outputs
    if feed is _method:
        return (explainer,)
    by_class = kind in (metrics.PointMIoU, metrics.ClassPointingGame, metrics.PooledSegmentation)
    return (max(classes, 1),) if by_class else ()


def _refused(spec: Spec, kind: type[Metric], given: int, error: Exception) -> ValueError:
    """The error for options that a metric lacks, or does not have."""
    takes = [each for each in list(signature(kind).parameters.values())[given:] if each.kind not in _REST]
    names = [*(["preset"] if kind is metrics.Segmentation else []), *(each.name for each in takes)]
    known, asked = ", ".join(names) or "none", f"options of {spec.name} must"
    lacking = [each.name for each in takes if each.default is each.empty and each.name not in spec.options]
    if lacking and "preset" not in spec.options:
        needed = "threshold or preset" if "preset" in names else " and ".join(lacking)
        return ValueError(f"{asked} hold {needed}, of {known}, got {spec}.")
    return ValueError(f"{asked} be those of {kind.__name__} ({known}), got {spec}: {error}.")


def _image_tower(subject: Subject) -> nn.Module:
    """The part of the model that sees the image: a model that also reads texts has another."""
    inner = subject.model.model if isinstance(subject.model, Adapter) else subject.model
    return next((getattr(inner, name) for name in ("visual", "vision_model") if hasattr(inner, name)), inner)
