"""One unit of work: a few samples, every method, every metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from captum_vit.adapters import shared_passes
from captum_vit.adapters.sharing import now
from captum_vit.attr import BlankMapError
from captum_vit.data import Region, Sample
from captum_vit.evaluation.explainers import Explainer
from captum_vit.evaluation.measures import Case, Measure
from captum_vit.evaluation.store import Record
from captum_vit.evaluation.subject import Subject
from captum_vit.evaluation.targets import Targets

__all__ = ["Asked", "Batcher", "Made", "asked_of", "scored"]

_PIXELS = 2**22
"""Of the maps of one image that are scored together: their ranks take 8 bytes for each."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One region of one sample, ready for the model.

    Attributes:
        sample: its id.
        number: of the region in the sample.
        region: in the model's geometry.
        image: (C, H, W).
        target: output of the model.
        others: regions of the same sample with their targets.
        outputs: number of the model's outputs.
        right: gives the output that is the region's own class, see `Targets.right`.
        predicted: whether the predicted class is asked for because the region has none of its own.
    """

    sample: str
    number: int
    region: Region
    image: Tensor
    target: int
    others: list[tuple[Region, int]]
    outputs: int
    right: Callable[[], int | None]
    predicted: bool = False


def asked_of(samples: Sequence[Sample], subject: Subject, targets: Targets) -> list[Asked]:
    """All regions of some samples; a forward pass finds the predicted classes where they are asked for."""
    if not samples:
        return []
    placed = [subject.geometry(each) for each in samples]
    images = torch.stack([subject.pixels(each) for each in placed]).to(subject.device)
    known = [[targets.known(region) for region in each.regions] for each in placed]
    predicted = [0] * len(placed)
    if any(target is None for each in known for target in each):
        with torch.inference_mode():
            predicted = subject.model(images).argmax(1).tolist()
    asked = []
    for sample, image, wanted, best in zip(placed, images, known, predicted, strict=True):
        filled = [best if target is None else target for target in wanted]
        pairs = list(zip(sample.regions, filled, strict=True))
        for number, (region, target) in enumerate(pairs):
            others = pairs[number + 1 :] + pairs[:number]
            right = partial(targets.right, region)
            fallback = targets.choice == "label" and wanted[number] is None
            asked.append(Asked(sample.id, number, region, image, target, others, subject.outputs, right, fallback))
    return asked


class Made(NamedTuple):
    """What became of one region that one method was asked about.

    Attributes:
        asked: the region.
        method: its name in the results.
        map: as the explainer gives it, (H, W) of a method; or why there is none.
        seconds: that it took, its share of a forward pass that several methods used included.
    """

    asked: Asked
    method: str
    map: Tensor | str
    seconds: float


class Batcher:
    """Maps in batches that fit into memory: one that does not is halved, and the smaller size is kept.

    Args:
        batch_size: maps at a time, to begin with.

    Attributes:
        batch_size: maps at a time, now.
    """

    def __init__(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.batch_size = batch_size

    def maps(self, explainers: Mapping[str, Explainer], asked: Sequence[Asked]) -> Iterator[Made]:
        """The maps of every region by every method, which share forward passes where they can.

        Raises:
            torch.OutOfMemoryError: not even one map fits.
        """
        first = 0
        while first < len(asked):
            batch = asked[first : first + self.batch_size]
            try:
                made = _together(explainers, batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.batch_size = len(batch) // 2
                torch.cuda.empty_cache()
                continue
            yield from made
            first += len(batch)


def _together(explainers: Mapping[str, Explainer], batch: Sequence[Asked]) -> list[Made]:
    images = torch.stack([each.image for each in batch])
    targets = torch.tensor([each.target for each in batch], device=images.device)
    made = []
    with shared_passes(gradients=any(each.gradients for each in explainers.values())) as passes:
        for name, explainer in explainers.items():
            step = 1 if explainer.alone else len(batch)
            for first in range(0, len(batch), step):
                some = slice(first, first + step)
                began, saved = now(images), passes.saved_seconds
                maps = _explained(explainer, batch[some], images[some], targets[some])
                seconds = (now(images) - began + passes.saved_seconds - saved) / len(maps)
                made += [Made(each, name, found, seconds) for each, found in zip(batch[some], maps, strict=True)]
    return made


def _explained(explainer: Explainer, batch: Sequence[Asked], images: Tensor, targets: Tensor) -> Sequence[Tensor | str]:
    """Maps, or why there is none; one by one where one of them is blank."""
    try:
        return list(explainer(images, targets, key=crc32(f"{batch[0].sample}/{batch[0].number}".encode())))
    except BlankMapError as error:
        if len(batch) == 1:
            return [str(error)]
    alone = [slice(k, k + 1) for k in range(len(batch))]
    return [found for k in alone for found in _explained(explainer, batch[k], images[k], targets[k])]


def scored(
    asked: Sequence[Asked],
    explainers: Mapping[str, Explainer],
    measures: Mapping[str, Measure],
    batcher: Batcher,
) -> list[Record]:
    """One record per region and method, in that order."""
    made: dict[int, dict[str, Made]] = {number: {} for number in range(len(asked))}
    for each in batcher.maps(explainers, asked):
        made[asked.index(each.asked)][each.method] = each
    ordered = [[of_region[name] for name in explainers] for of_region in made.values()]
    return [record for some in _together_scored(ordered) for record in _records(some, explainers, measures)]


def _together_scored(regions: Sequence[Sequence[Made]]) -> list[list[Made]]:
    """The maps of the regions of one image together, as far as memory allows."""
    together: list[list[Made]] = []
    for of_region in regions:
        image = of_region[0].asked.image
        fit = bool(together) and (len(together[-1]) + len(of_region)) * image[0].numel() <= _PIXELS
        if fit and together[-1][0].asked.image is image:
            together[-1].extend(of_region)
        else:
            together.append([*of_region])
    return together


def _records(
    made: Sequence[Made], explainers: Mapping[str, Explainer], measures: Mapping[str, Measure]
) -> list[Record]:
    """Of maps of one image, region by region."""
    records = [_record(each, explainers[each.method]) for each in made]
    scores = [record["scores"] for record in records if "scores" in record]
    cases = [_case(each.asked, each.map, explainers[each.method]) for each in made if isinstance(each.map, Tensor)]
    for name, measure in measures.items() if cases else ():
        for of_map, state in zip(scores, measure.states(cases), strict=True):
            if state is not None:
                of_map[name] = state
    return records


def _record(made: Made, explainer: Explainer) -> Record:
    each = made.asked
    record: Record = {"sample": each.sample, "region": each.number, "label": each.region.label}
    record |= {"target": each.target, "method": made.method, "seconds": made.seconds, "bytes": explainer.memory}
    record |= {"predicted": True} if each.predicted else {}
    if isinstance(made.map, str):
        return record | {"blank": made.map}
    return record | {"scores": {}}


def _case(each: Asked, values: Tensor, explainer: Explainer) -> Case:
    target = torch.tensor([each.target], device=values.device)
    return Case(each.image[None], values[None], target, each.region, each.others, explainer, each.outputs, each.right)
