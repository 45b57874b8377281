"""Positive and negative perturbation: what a model still gets right while pixels are taken away by rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from captum_vit.metrics.functional.curves import Curve, check_fractions, first, shares_of
from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.probe import Measure, Probe, Score

__all__ = ["TENTHS", "Perturbation", "Summary", "negative_perturbation", "perturbation", "positive_perturbation"]

TENTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Summary: TypeAlias = Literal["chefer", "normalised", "mean"]
"""Percent: the area over [0, 0.9], at most 90; the same divided by its width, at most 100; or the mean value over the
fractions above 0."""


class Perturbation(NamedTuple):
    """Two curves over the same fractions, each with its score.

    Attributes:
        positive: the most relevant pixels are removed first: lower is better.
        negative: the least relevant pixels are removed first: higher is better.
    """

    positive: Curve
    negative: Curve


def positive_perturbation(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "accuracy",
    fractions: Sequence[float] = TENTHS,
    summary: Summary = "chefer",
    fill: Fill = 0.0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Curve:
    """Area under the accuracy while the most relevant pixels are removed: lower is better.

    Arguments, result, errors and source are those of `perturbation`.

    Example:
        >>> sides = lambda images: images.sum(2).flatten(1)  # two outputs: what the left and the right column hold
        >>> image, target = torch.tensor([[[[5.0, 3.0], [1.0, 0.5]]]]), torch.tensor([0])
        >>> curve = positive_perturbation(sides, image, image[:, 0], target, fractions=(0, 0.25, 0.5, 0.75))
        >>> curve.values, curve.score
        (tensor([[1., 0., 1., 0.]]), tensor([37.5000]))
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    (curve,) = _curves(probe, (True,), fractions, summary, fill)
    return curve


def negative_perturbation(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "accuracy",
    fractions: Sequence[float] = TENTHS,
    summary: Summary = "chefer",
    fill: Fill = 0.0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Curve:
    """Area under the accuracy while the least relevant pixels are removed: higher is better.

    Arguments, result, errors and source are those of `perturbation`.

    Example:
        >>> sides = lambda images: images.sum(2).flatten(1)  # two outputs: what the left and the right column hold
        >>> image, target = torch.tensor([[[[3.0, 2.0], [1.0, 0.5]]]]), torch.tensor([0])
        >>> negative_perturbation(sides, image, 3 - image[:, 0], target, fractions=(0, 0.25, 0.5, 0.75)).values
        tensor([[1., 0., 1., 0.]])
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    (curve,) = _curves(probe, (False,), fractions, summary, fill)
    return curve


def perturbation(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "accuracy",
    fractions: Sequence[float] = TENTHS,
    summary: Summary = "chefer",
    fill: Fill = 0.0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Perturbation:
    """Both perturbation areas, for the price of nine and nine changed images and one whole image each.

    Of n pixels ⌊n·fraction⌋ are replaced, always in the original image. Equal relevance is ordered by position. The
    protocol's "predicted" and "target" rows differ in the class that the *maps* were made for; accuracy is measured
    against the label in both. With fractions from 0 to 0.9 an accuracy of 1 throughout gives 90: the authors do not
    divide by 0.9, unless ``summary`` says so.

    Args:
        score: images → (B, K).
        images: (B, C, H, W).
        maps: (B, H, W); only their order counts.
        targets: (B,) the labels, or whatever outputs ``measure`` is to watch.
        measure: "accuracy" is 1 where the target is the largest output, "probability" the target's probability, "value"
            the target's output whatever it is.
        fractions: shares of the pixels that are removed.
        summary: how the curve becomes one number, in percent.
        fill: what replaces a pixel. The protocol's black is 0 for images in [0, 1] whose ``score`` normalises them, and
            ``(0 - mean) / std`` for images that were normalised before.
        patch: pixels (h, w) that are removed together, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        Scores (B,) with their curves; NaN for a map that is constant or holds NaN, about which the model is not asked.

    Raises:
        ValueError: fractions that do not increase or leave [0, 1], probabilities outside [0, 1], an unknown name, or
            shapes that do not fit.

    Source: arXiv 2012.09838, section 4; the area as the authors state it in their repository's issue 31.

    Example:
        >>> sides = lambda images: images.sum(2).flatten(1)  # two outputs: what the left and the right column hold
        >>> image, target = torch.tensor([[[[5.0, 3.0], [1.0, 0.5]]]]), torch.tensor([0])
        >>> both = perturbation(sides, image, image[:, 0], target, fractions=(0, 0.25, 0.5, 0.75), summary="mean")
        >>> both.positive.score, both.negative.score
        (tensor([33.3333]), tensor([100.]))
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    return Perturbation(*_curves(probe, (True, False), fractions, summary, fill))


def _curves(
    probe: Probe, descending: Sequence[bool], fractions: Sequence[float], summary: Summary, fill: Fill
) -> list[Curve]:
    if summary not in get_args(Summary):
        raise ValueError(f"summary must be one of {', '.join(get_args(Summary))}, got {summary!r}.")
    fractions = check_fractions(fractions)
    if len(fractions) < 2:
        raise ValueError(f"fractions must be at least two, so that there is an area, got {fractions}.")
    ranks = torch.stack([probe.ranks(descending=each) for each in descending], dim=1)
    windows = first(shares_of(probe.patches, fractions))
    traced = probe.trace(Change(probe.images, filled(probe.images, fill)), ranks, windows)
    shares = torch.tensor(fractions, dtype=torch.float64).to(traced)
    return [Curve(100 * _summed(values, shares, summary), values, shares) for values in traced.unbind(1)]


def _summed(values: Tensor, fractions: Tensor, summary: Summary) -> Tensor:
    if summary == "mean":
        return values[:, fractions > 0].mean(1)
    area = torch.trapezoid(values, fractions)
    return area / (fractions[-1] - fractions[0]) if summary == "normalised" else area
