"""How a model's explanation is spread over its blocks: LeGrad's gradient distribution, a "fingerprint" of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.attr import LeGrad, upsample
from captum_vit.data import Sample
from captum_vit.evaluation.distribution import ALL, BlockScale, LayerDistribution, check_scale, listed
from captum_vit.evaluation.explainers import Explainer
from captum_vit.evaluation.measures import MissingAnnotationError
from captum_vit.evaluation.reading import checked_length
from captum_vit.evaluation.specs import Spec
from captum_vit.evaluation.store import Record
from captum_vit.evaluation.subject import Precision, Subject
from captum_vit.evaluation.targets import TargetChoice, Targets
from captum_vit.evaluation.units import Asked, Batcher, asked_of
from captum_vit.evaluation.work import configuration, work_in
from captum_vit.metrics.functional import block_relevance

__all__ = ["layer_distribution", "write_layers"]

_BLANK, _EMPTY = "blank", "empty mask"


def layer_distribution(
    subject: Subject,
    dataset: Dataset[Sample],
    *,
    folder: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    normalise: BlockScale = "image",
    target: TargetChoice = "label",
    workers: int = 0,
    precision: Precision = "float32",
    description: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> LayerDistribution:
    """The mean of each block's LeGrad map on the object, for every region of a dataset that has a mask.

    A run that was stopped goes on in the same folder, which must be its own. Under ``torchrun`` every process takes its
    share, and all return the same.

    Maps are upsampled to the model's input size, as everywhere in evaluation, and the mask is taken pixel by pixel.
    They stay raw: the paper refers to equation 9, whose min-max of every map would take away how much a block
    contributes, which is what it then speaks of.

    Args:
        subject: the model, see `subject_of`.
        dataset: with a length; see `captum_vit.data`.
        folder: where the blocks of every map are kept as the run goes; without it nothing is kept.
        limit: the first so many samples only.
        batch_size: maps that are made at once; halved when they don't fit into the memory of the GPU. As many samples
            are done, and lost if the run is killed, together.
        normalise: see `LayerDistribution`. The paper does not say whether it averages before or after. Its reason for
            the min-max, the size of the mask, differs from map to map, hence the default.
        target: "label" explains the class or prompt of each region, and the predicted class where it has none;
            "predicted" explains the predicted class always.
        workers: processes that read samples ahead.
        precision: of the model's passes (autocast).
        description: what else decides the numbers, such as the dataset's folder; must not change in a folder.
        progress: whether a bar is shown on stderr.

    Raises:
        TypeError: a model that LeGrad does not know.
        ValueError: an option out of its range, a model with one block, a label that the model has no output for, no map
            that counts, a folder with the results of another configuration.
        MissingAnnotationError: a region without a mask.
        OSError: results that can't be written.

    Source: arXiv:2404.03214, section 4.7 (figure 6) and annex D (figures 9 to 18).
    """
    length, batcher = checked_length(dataset, limit), Batcher(batch_size)
    targets = Targets(subject, dataset, target)
    check_scale(normalise)
    method = LeGrad(subject.model)
    if len(method.blocks) < 2:
        raise ValueError(f"model must have at least two blocks to be compared, got {len(method.blocks)}.")
    decided = {"evaluation": "layers", "target": target, "precision": precision, **(description or {})}
    config = configuration(subject, dataset, length, **decided)
    with (
        work_in(folder, config, length=length, size=batch_size, device=subject.device) as work,
        work.bar(progress) as unit_is_done,
    ):
        for unit, samples, damaged in work.reading(dataset, workers):
            with subject.autocast(precision):
                found = _found(asked_of(samples, subject, targets), method, batcher)
            work.append(unit, [*found, *damaged])
            unit_is_done()
        records = work.records()
    result = _distribution(records, subject.name, len(method.blocks), getattr(dataset, "classes", ()), normalise)
    if not result.maps[ALL]:
        why = next((f" {each['why']}" for each in records if "why" in each), "")
        raise ValueError(f"dataset must have a map that counts, got none: {listed(result.left_out)}.{why}")
    return result


def _found(regions: Sequence[Asked], method: LeGrad, batcher: Batcher) -> list[Record]:
    """One record per region: its map's blocks on the object, or what is missing."""
    explainer = Explainer(Spec("legrad"), lambda images, targets: method.attribute_blocks(images, targets)[:, :, 0])
    masked = [each for each in regions if _mask(each).eq(1).any()]
    records = [_named(each) | {"missing": _EMPTY} for each in regions if each not in masked]
    for made in batcher.maps({"legrad": explainer}, masked):
        if isinstance(made.map, str):
            records.append(_named(made.asked) | {"missing": _BLANK, "why": made.map})
        else:
            blocks = _on_object(made.map, _mask(made.asked), method)
            records.append(_named(made.asked) | {"blocks": blocks.tolist()})
    return records


def _named(asked: Asked) -> Record:
    return {"sample": asked.sample, "region": asked.number, "label": asked.region.label}


def _distribution(
    records: Sequence[Record], model: str, depth: int, classes: Sequence[str], normalise: BlockScale
) -> LayerDistribution:
    whole = [each for each in records if "blocks" in each]
    reasons = [each["missing"] for each in records if "missing" in each]
    return LayerDistribution(
        model=model,
        relevance=torch.tensor([each["blocks"] for each in whole], dtype=torch.float64).view(-1, depth),
        samples=[each["sample"] for each in whole],
        labels=[each["label"] for each in whole],
        classes=classes,
        normalise=normalise,
        missing={reason: reasons.count(reason) for reason in (_BLANK, _EMPTY)},
        skipped={each["sample"]: each["skipped"] for each in records if "skipped" in each},
    )


def write_layers(folder: str | Path, distribution: LayerDistribution) -> None:
    """Writes ``layers.csv`` (the table), ``layers.md`` and ``layers.png`` (the curve, and the heat map of the classes).

    Args:
        folder: made where it does not exist.
        distribution: from `layer_distribution`.

    Raises:
        OSError: files that can't be written.
    """
    from captum_vit.viz import fingerprint

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    distribution.table().to_csv(folder / "layers.csv", index=False)
    (folder / "layers.md").write_text(f"{distribution.markdown()}\n", encoding="utf-8")
    curves = distribution.curves()
    made = fingerprint({distribution.model: curves.pop(ALL)}, classes={distribution.model: curves} if curves else {})
    made.savefig(folder / "layers.png")


def _mask(asked: Asked) -> Tensor:
    if asked.region.mask is None:
        raise MissingAnnotationError("layers can't be measured: they need masks, which the dataset does not have.")
    return asked.region.mask


def _on_object(maps: Tensor, mask: Tensor, method: LeGrad) -> Tensor:
    """The mean of each block's map (L, gh, gw) inside a mask (H, W), (L,), float64, on the CPU."""
    height, width = mask.shape
    full = upsample(maps[:, None], (height, width), method.forward_func.covered(height, width))
    return block_relevance(full[None, :, 0], mask[None].to(maps.device))[0].cpu().double()
