"""The whole protocol of FunnyBirds, on any images whose parts can be taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from captum_vit.metrics.functional import funny_birds as co12
from captum_vit.metrics.functional.explain import Explain, explained
from captum_vit.metrics.functional.part_classes import TargetPair, minimal_sufficient_sets, target_pair
from captum_vit.metrics.functional.probe import Score
from captum_vit.metrics.part_probe import PartInterventions, PartProbe

__all__ = ["PartInterventions", "PartMeasure", "PartReport", "PartRow", "PartScores"]


@dataclass(frozen=True, eq=False)
class PartReport:
    """The scores of one model and one method.

    Attributes:
        accuracy: top-1, of the model.
        background_independence: BI, of the model.
        completeness: Com, with CSDC, PC, DC and D at the best threshold.
        threshold: that threshold, t*.
        correctness: Cor, which is SD.
        contrastivity: Con, which is TS.
        curves: (T,) "csdc", "preservation", "deletion" and "distractibility" for every threshold.
        images: number of images.
        left_out: number of images that a score does without. An image with an "undefined" map, of NaN or infinity,
            counts for accuracy and BI only. Of the others CSDC leaves out the "misclassified", D those where there is
            "no irrelevant" part, SD those with "no order" of the parts, and TS those with "no pair" of classes or
            with "targets alike", where the model doesn't tell the pair's parts apart.
        inverted: number of images with a map whose sum is negative, which turns the test of importance round.
    """

    accuracy: float
    background_independence: float
    completeness: co12.Completeness
    threshold: float
    correctness: float
    contrastivity: float
    curves: Mapping[str, Tensor]
    images: int
    left_out: Mapping[str, int]
    inverted: int


class PartRow(NamedTuple):
    """The scores of one image's maps; NaN where the image doesn't count."""

    csdc: Tensor  # (T,)
    preservation: Tensor  # (T,)
    deletion: Tensor  # (T,)
    distractibility: Tensor  # (T,)
    single_deletion: Tensor  # ()
    target_sensitivity: Tensor  # (2,)


class PartMeasure(NamedTuple):
    """What one image adds to a report.

    Attributes:
        hit: whether the model names its class.
        losses: (N, 2) the logit of the class with and without each object of the background.
        undefined: whether one of its maps holds NaN or infinity.
        inverted: whether one has a negative sum.
        paired: whether two classes share different parts with its own.
        scores: of its maps.
    """

    hit: bool
    losses: Tensor
    undefined: bool
    inverted: bool
    paired: bool
    scores: PartRow


class PartScores:
    """CSDC, PC, DC, D, SD, TS and BI, and what they add up to.

    Args:
        score: images (B, C, H, W) → logits (B, K), one per class of the dataset.
        explain: images and targets → maps (B, h, w), of any grid, over the whole image.
        transform: an image → (C, H, W), what ``score`` and ``explain`` take; it must not crop. None for values in
            [0, 1].
        thresholds: shares of a map's sum above which a part is important.
        dilation: side of the square by which masks grow.
        tolerance: share of a logit below which its loss doesn't matter.
        upsample: how maps come to the masks' size; "nearest" as in the published protocol.
        batch_size: most images that ``score`` and ``explain`` get at once.

    Raises:
        ValueError: an argument out of its range.

    Source: FunnyBirds (arXiv 2308.06248). Where no two classes share different parts with the image's own, the
    published code scores TS on the last pair that it tried; here the image is left out.
    """

    def __init__(
        self,
        score: Score,
        explain: Explain,
        *,
        transform: Callable[[Image.Image], Tensor] | None = None,
        thresholds: Sequence[float] = co12.THRESHOLDS,
        dilation: int = 5,
        tolerance: float = 0.05,
        upsample: Literal["nearest", "bilinear"] = "nearest",
        batch_size: int = 32,
    ) -> None:
        if len(thresholds) == 0:
            raise ValueError(f"thresholds must hold at least one share, got {thresholds}.")
        if upsample not in ("nearest", "bilinear"):
            raise ValueError(f"upsample must be 'nearest' or 'bilinear', got {upsample!r}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self._score, self._explain, self._transform = score, explain, transform or _in_unit_range
        self._thresholds, self._dilation, self._tolerance = tuple(thresholds), dilation, tolerance
        self._upsample, self._batch_size = upsample, batch_size

    def __call__(self, dataset: PartInterventions, indices: Iterable[int] | None = None) -> PartReport:
        """The scores over all images, or over those that are named.

        Raises:
            ValueError: no images; what `part_probe.PartProbe` and `functional.part_importances` refuse.
        """
        chosen = list(range(len(dataset)) if indices is None else indices)
        if not chosen:
            raise ValueError(f"indices must name at least one image, got {chosen}.")
        return self.report([self.measure(self.probe(dataset, index)) for index in chosen])

    def probe(self, dataset: PartInterventions, index: int) -> PartProbe:
        """One image with its changes, for `measure`; several methods of one model may share it.

        Raises:
            ValueError: what `part_probe.PartProbe` refuses.
        """
        return PartProbe(dataset, index, self._score, self._transform, self._batch_size)

    def measure(self, probe: PartProbe) -> PartMeasure:
        """What one image adds.

        Raises:
            ValueError: what `part_probe.PartProbe` and `functional.part_importances` refuse.
        """
        objects = probe(probe.background)[:, probe.label]
        losses = torch.stack([probe.outputs[:, probe.label].expand_as(objects), objects], dim=1)
        pair = target_pair(probe.class_parts, probe.label)
        asked = pair is not None and self._tells_apart(probe, pair)
        targets = [probe.label, probe.predicted, *(pair[:2] if pair is not None and asked else ())]
        maps = self._maps(probe, targets)
        undefined = not maps.isfinite().all()
        return PartMeasure(
            hit=probe.predicted == probe.label,
            losses=losses,
            undefined=undefined,
            inverted=not undefined and bool((maps[:2].sum((1, 2)) < 0).any()),
            paired=pair is not None,
            scores=self._unscored() if undefined else self._scores(probe, maps, pair),
        )

    def report(self, measured: Sequence[PartMeasure]) -> PartReport:
        """What several images add up to.

        Raises:
            ValueError: no image.
        """
        if not measured:
            raise ValueError("measured must hold at least one image, got none.")
        table = PartRow(*(torch.stack(each).double() for each in zip(*(one.scores for one in measured), strict=True)))
        curves = {name: getattr(table, name).nanmean(0) for name in PartRow._fields[:4]}
        best = co12.completeness(*curves.values())
        defined = ~torch.tensor([each.undefined for each in measured])
        paired = torch.tensor([each.paired for each in measured])
        hits = torch.tensor([each.hit for each in measured])
        return PartReport(
            accuracy=float(hits.double().mean()),
            background_independence=float(
                co12.background_independence(
                    *torch.cat([each.losses for each in measured]).unbind(1), tolerance=self._tolerance
                )
            ),
            completeness=best,
            threshold=self._thresholds[best.step],
            correctness=float(co12.correctness(table.single_deletion)),
            contrastivity=float(co12.contrastivity(table.target_sensitivity)),
            curves=curves,
            images=len(measured),
            left_out={
                "undefined": int((~defined).sum()),
                "misclassified": int((~hits & defined).sum()),
                "no irrelevant": int((table.distractibility[:, 0].isnan() & defined).sum()),
                "no order": int((table.single_deletion.isnan() & defined).sum()),
                "no pair": int((~paired & defined).sum()),
                "targets alike": int((table.target_sensitivity[:, 0].isnan() & paired & defined).sum()),
            },
            inverted=sum(each.inverted for each in measured),
        )

    def _tells_apart(self, probe: PartProbe, pair: TargetPair) -> bool:
        outputs = probe([probe.whole - pair.shared_first, probe.whole - pair.shared_second])
        both = outputs[:, [pair.first, pair.second]]
        return bool(co12.targets_differ(both[:1], both[1:]))

    def _maps(self, probe: PartProbe, targets: Sequence[int]) -> Tensor:
        """(N, H, W) of the masks' size, one per target."""
        wanted = torch.tensor(targets, device=probe.pixels.device)
        images = probe.pixels.repeat(len(targets), 1, 1, 1)
        maps = explained(self._explain, images, wanted, self._batch_size).cpu()
        return F.interpolate(maps[:, None], probe.masks.shape[-2:], mode=self._upsample)[:, 0]

    def _scores(self, probe: PartProbe, maps: Tensor, pair: TargetPair | None) -> PartRow:
        """From the maps of the class, of the prediction and, if they are asked for, of the two of the pair."""
        count, own = len(probe.parts), probe.outputs[:, probe.label]
        importances = co12.part_importances(maps, probe.masks.expand(len(maps), *probe.masks.shape), self._dilation)
        important = co12.important_parts(importances[:2], maps[:2].sum((1, 2)), self._thresholds)
        without = probe([*(probe.whole - {part} for part in probe.parts), *probe.background])[None, :, probe.label]
        kept = [frozenset(compress(probe.parts, each)) for each in important[1, :, :count].tolist()]
        scores = self._unscored()._replace(
            preservation=co12.preservation_check(probe.outputs, probe(kept)[None])[0],
            deletion=co12.deletion_check(probe.outputs, probe([probe.whole - each for each in kept])[None])[0],
            distractibility=co12.distractibility(own, without, important[:1], tolerance=self._tolerance)[0],
            single_deletion=co12.single_deletion(own, without[:, :count], importances[:1, :count])[0],
        )
        if probe.predicted == probe.label:
            sufficient = _marked(minimal_sufficient_sets(probe.class_parts, probe.label), probe.parts)
            scores = scores._replace(csdc=co12.csdc(important[:1, :, :count], sufficient[None])[0])
        if pair is not None and len(maps) > 2:
            first, second = importances[2:, :count].split(1)
            shared = _marked([pair.shared_first, pair.shared_second], probe.parts).split(1)
            scores = scores._replace(target_sensitivity=co12.target_sensitivity(first, second, *shared)[0])
        return scores

    def _unscored(self) -> PartRow:
        curve, one, two = (torch.full(shape, torch.nan) for shape in ((len(self._thresholds),), (), (2,)))
        return PartRow(curve, curve, curve, curve, one, two)


def _marked(sets: Sequence[frozenset[str]], parts: Sequence[str]) -> Tensor:
    """(N, P) boolean: which parts are in each set."""
    return torch.tensor([[part in each for part in parts] for each in sets], dtype=torch.bool).view(-1, len(parts))


def _in_unit_range(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
