"""Every method on the shipped models, measured against the masks of the scenes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from captum_vit.adapters import Adapter, PromptClassifier, adapt
from captum_vit.attr import METHODS, upsample
from captum_vit.data import CLASSES, Scenes, with_article
from captum_vit.metrics.functional import (
    Curve,
    deletion,
    energy_inside,
    foreground_iou,
    insertion,
    pointing_game,
    probabilities,
)
from captum_vit.zoo import LoadedModel, load_model

__all__ = [
    "COLUMNS",
    "CURVE_OBJECTS",
    "Cases",
    "Column",
    "Row",
    "averaged",
    "cases_of",
    "explained",
    "load_models",
    "measured",
]

MODELS = ("scenes:vit", "scenes:clip", "scenes:siglip")
RANDOM = "random map"
TEMPLATE = "a photo of {}."
CURVE_OBJECTS = 6
"""Insertion and deletion, which change many images for every map, are measured on the first so many objects."""

_ONE_PASS = re.compile(r"1 forward( \+ 1 backward(, block by block| through the last block)?)?")

_BATCH = 8
_STEPS = 8


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: its heading.
        higher_is_better: None where neither is.
        digits: after the point.
        meaning: one sentence.
        repeatable: whether a second run gives the same values.
    """

    title: str
    higher_is_better: bool
    digits: int
    meaning: str
    repeatable: bool = True


COLUMNS = {
    "pointing": Column(
        "pointing game", True, 2, "How often the highest point lies on the object or within half a patch of it."
    ),
    "iou": Column(
        "foreground IoU", True, 2, "Overlap of the object with the map above half its range, over their union."
    ),
    "energy": Column(
        "energy inside", True, 2, "Share of the map's positive mass that lies on the object; 0 where none is positive."
    ),
    "insertion": Column(
        "insertion", True, 3, "Mean probability while patches are put into a blurred image, most relevant first."
    ),
    "deletion": Column(
        "deletion", False, 3, "Mean probability while patches are replaced by grey, most relevant first."
    ),
    "milliseconds": Column("ms per map", False, 1, "Median time of one map, in batches of eight.", repeatable=False),
}
"""The measures by their name in the csv."""


@dataclass(frozen=True, eq=False)
class Cases:
    """Objects to be found, on one model.

    Attributes:
        loaded: the model.
        classifier: it, with 64 outputs in the order of `CLASSES`.
        images: (M, 3, H, W) preprocessed, one per object: a scene with two objects comes twice.
        targets: (M,) the object's class.
        masks: (M, H, W) boolean.
    """

    loaded: LoadedModel
    classifier: Adapter
    images: Tensor
    targets: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Row:
    """A method on a model, for so many objects; ``values`` by the names of `COLUMNS`."""

    model: str
    method: str
    objects: int
    values: dict[str, float]


def load_models() -> Iterator[tuple[LoadedModel, Adapter]]:
    """The shipped models as classifiers of 64 classes; the text models compare with "a photo of a red circle."."""
    for name in MODELS:
        loaded = load_model(name)
        if loaded.load_tokenizer is None:
            yield loaded, adapt(loaded.model)
            continue
        names = [with_article(each) for each in CLASSES]
        yield loaded, PromptClassifier(loaded.model, loaded.load_tokenizer(), names, template=TEMPLATE)


def cases_of(loaded: LoadedModel, classifier: Adapter, scenes: Scenes) -> Cases:
    """All objects of some scenes."""
    images, targets, masks = [], [], []
    for number in range(len(scenes)):
        scene = scenes[number]
        for each in scene.objects:
            images.append(loaded.preprocess(scene.picture))
            targets.append(each.label)
            masks.append(each.mask)
    return Cases(loaded, classifier, torch.stack(images), torch.tensor(targets), torch.stack(masks))


def explained(cases: Cases, method: str) -> Tensor:
    """Maps (M, H, W) of a method, at the resolution of the images."""
    attribution: Tensor = METHODS[method](cases.classifier).attribute(cases.images, target=cases.targets)
    return attribution.sum(1)


def shared_methods(*classifiers: Adapter, any_cost: bool = False) -> list[str]:
    """The names of the methods that explain each of some models.

    Args:
        classifiers: the models.
        any_cost: whether methods that need more than one forward pass and one backward pass take part.
    """
    return [
        name
        for name, method in METHODS.items()
        if (any_cost or _ONE_PASS.fullmatch(method.passes))
        and not any(method.why_unsupported(each) for each in classifiers)
    ]


def measured(
    cases: Cases, *, seed: int, done: Callable[[], object], methods: Sequence[str] | None = None
) -> Iterator[Row]:
    """One row per method, and one for random maps.

    Args:
        cases: what is explained.
        seed: of the random maps.
        done: called after every row.
        methods: names of methods; all that explain the model by default.
    """
    for method in shared_methods(cases.classifier) if methods is None else methods:
        explainer = METHODS[method](cases.classifier)
        batches = list(zip(cases.images.split(_BATCH), cases.targets.split(_BATCH), strict=True))
        explainer.attribute(batches[0][0], target=batches[0][1])  # the first call also imports and caches
        maps, times = [], []
        for images, targets in batches:
            start = time.perf_counter()
            maps.append(explainer.attribute(images, target=targets).sum(1))
            times.append((time.perf_counter() - start) / len(images))
        values = _scores(cases, torch.cat(maps)) | {"milliseconds": 1000 * median(times)}
        yield Row(cases.loaded.name, explainer.get_name(), len(cases.targets), values)
        done()
    grid = cases.classifier.grid(*cases.loaded.image_size)
    noise = torch.rand(len(cases.images), 1, *grid, generator=torch.Generator().manual_seed(seed))
    yield Row(
        cases.loaded.name, RANDOM, len(cases.targets), _scores(cases, upsample(noise, cases.loaded.image_size)[:, 0])
    )
    done()


def averaged(rows: Sequence[Row]) -> list[Row]:
    """The mean over the models, per method in the order of the rows; a method that explains not all of them says so."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    models = len({row.model for row in rows})
    return [
        Row(
            "mean",
            method if len(group) == models else f"{method} ({len(group)} of {models} models)",
            group[0].objects,
            {name: fmean(each.values[name] for each in group) for name in group[0].values},
        )
        for method, group in by_method.items()
    ]


def _scores(cases: Cases, maps: Tensor) -> dict[str, float]:
    height, width = cases.loaded.image_size
    rows, columns = cases.classifier.grid(height, width)
    patch = (height // rows, width // columns)
    score = probabilities(cases.classifier, cases.loaded.activation)

    def curve(measure: Callable[..., Curve]) -> Tensor:
        few = slice(CURVE_OBJECTS)
        return measure(score, cases.images[few], maps[few], cases.targets[few], steps=_STEPS, patch=patch).score

    values = {
        "pointing": pointing_game(maps, cases.masks, tolerance=patch[0] / 2),
        "iou": foreground_iou(maps, cases.masks, threshold=0.5),
        "energy": energy_inside(maps, cases.masks).nan_to_num(0),  # NaN: a signed map has nothing positive
        "insertion": curve(insertion),
        "deletion": curve(deletion),
    }
    return {name: float(each.mean()) for name, each in values.items()}
