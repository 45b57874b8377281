"""Average drop and increase: the prediction on an image that shows only what the map marks."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.maps import Normalisation, check_maps, normalised
from captum_vit.metrics.functional.probe import Probe, Score

__all__ = ["Confidence", "average_drop", "average_increase", "masked_confidence"]


class Confidence(NamedTuple):
    """The target's probability on an image as it is, and on what its map leaves of it; NaN where the map ranks nothing.

    Attributes:
        whole: (B,) Y.
        masked: (B,) O.
    """

    whole: Tensor
    masked: Tensor


def masked_confidence(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    normalise: Normalisation = "min_max",
    fill: Fill = 0.0,
    batch_size: int = 64,
) -> Confidence:
    """Probabilities of the targets before and after each image is multiplied by its map: what the drops are made of.

    The masked image is fill + N(A) · (image − fill): with a fill of 0 the plain product, which for normalised images
    fades to the mean colour.

    Args:
        score: images → probabilities (B, K).
        images: (B, C, H, W).
        maps: (B, H, W).
        targets: (B,).
        normalise: how each map A becomes the mask N(A); with "none" it must be one, in [0, 1].
        fill: what the image fades to where the mask is 0.
        batch_size: images that the model sees at once.

    Raises:
        ValueError: masks or outputs outside [0, 1], or what `Probe` refuses.

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.1, 0.1], [0.2, 0.4]]]]), torch.tensor([0])
        >>> masked_confidence(brightness, image, torch.tensor([[[2.0, 3.0], [4.0, 6.0]]]), target)
        Confidence(whole=tensor([0.8000]), masked=tensor([0.5250]))
    """
    masks = normalised(check_maps(maps), normalise)
    outside = masks[(masks < 0) | (masks > 1)]
    if len(outside):
        raise ValueError(
            f"maps must be in [0, 1] to be masks, got {float(outside[0]):.6g}. Normalise them: normalise='min_max'."
        )
    probe = Probe(score, images, masks, targets, measure="probability", batch_size=batch_size)
    background = filled(images, fill)
    change = Change(images, background + masks[:, None].to(images.dtype) * (images - background))
    none_and_all = torch.tensor([[0, 0], [0, probe.patches]])
    return Confidence(*probe.trace(change, probe.ranks()[:, None], none_and_all)[:, 0].unbind(1))


def average_drop(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    kind: Literal["relative", "absolute"] = "relative",
    normalise: Normalisation = "min_max",
    fill: Fill = 0.0,
    batch_size: int = 64,
) -> Tensor:
    """How much of its probability a target loses when the image is multiplied by the map: lower is better.

    100 · max(0, Y − O) / Y in percent, with Y and O from `masked_confidence`; or, as pytorch-grad-cam has it,
    max(0, Y − O). A map that leaves the whole image as it is loses nothing: read it beside another metric.

    Args:
        score: images → probabilities (B, K).
        images: (B, C, H, W).
        maps: (B, H, W).
        targets: (B,).
        kind: "relative" to Y in percent, or "absolute".
        normalise: how each map becomes the mask.
        fill: what the image fades to where the mask is 0.
        batch_size: images that the model sees at once.

    Returns:
        (B,) in [0, 100], or in [0, 1] where it is absolute; NaN for a map that is constant or holds NaN, and for a
        relative drop from a probability of 0.

    Raises:
        ValueError: an unknown kind, masks or outputs outside [0, 1], or what `Probe` refuses.

    Source: arXiv 1710.11063, section 4.1.

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.1, 0.1], [0.2, 0.4]]]]), torch.tensor([0])
        >>> average_drop(brightness, image, torch.tensor([[[2.0, 3.0], [4.0, 6.0]]]), target)
        tensor([34.3750])
    """
    if kind not in ("relative", "absolute"):
        raise ValueError(f"kind must be 'relative' or 'absolute', got {kind!r}.")
    whole, masked = masked_confidence(
        score, images, maps, targets, normalise=normalise, fill=fill, batch_size=batch_size
    )
    drop = (whole - masked).clamp(min=0)
    return drop if kind == "absolute" else 100 * drop / whole  # 0/0 is NaN


def average_increase(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    normalise: Normalisation = "min_max",
    fill: Fill = 0.0,
    batch_size: int = 64,
) -> Tensor:
    """Whether a target gains probability when the image is multiplied by the map, in percent: higher is better.

    100 where O > Y, strictly, and 0 elsewhere, with Y and O from `masked_confidence`. Arguments and errors are those of
    `average_drop`.

    Returns:
        (B,) 0 or 100; NaN for a map that is constant or holds NaN.

    Source: arXiv 1710.11063, section 4.1.

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[-0.2, 0.1], [0.2, 0.4]]]]), torch.tensor([0])
        >>> average_increase(brightness, image, torch.tensor([[[2.0, 6.0], [6.0, 6.0]]]), target)
        tensor([100.])
    """
    whole, masked = masked_confidence(
        score, images, maps, targets, normalise=normalise, fill=fill, batch_size=batch_size
    )
    return (100 * (masked > whole).to(whole)).masked_fill(whole.isnan(), torch.nan)
