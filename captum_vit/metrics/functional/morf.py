"""Most and least relevant first: the curves behind AOPC and ABPC."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from captum_vit.metrics.functional.curves import Contrast, Curve, area, even_steps, first
from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.probe import Measure, Probe, Score

__all__ = ["abpc", "aopc"]


def aopc(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    order: Literal["morf", "lerf"] = "morf",
    measure: Measure = "probability",
    steps: int = 100,
    fill: Fill = 0.0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Curve:
    """Mean fall of the score over a perturbation curve: mean over k = 0 … S of f(x₀) − f(xₖ).

    In the order "morf" (most relevant first) a larger fall is better, in the order "lerf" (least relevant first) a
    smaller one. The mean includes k = 0, whose fall is none.

    Args:
        score: images → (B, K).
        images: (B, C, H, W).
        maps: (B, H, W); only their order counts.
        targets: (B,) the outputs to watch.
        order: "morf" or "lerf".
        measure: what is read from the model: the target's output, its probability, or whether it is the largest.
        steps: number of equal steps, from the whole image to none of it; as in `deletion`.
        fill: what replaces a pixel.
        patch: pixels (h, w) that change together, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in the units of the measure, with its curve at ``steps + 1`` points; NaN for a map that is
        constant or holds NaN.

    Raises:
        ValueError: an unknown order, steps outside [1, number of patches], or what `Probe` refuses.

    Source: arXiv 1509.06321, equation 12.

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.1, 0.1], [0.2, 0.6]]]]), torch.tensor([0])
        >>> curve = aopc(brightness, image, image[:, 0], target, steps=4)
        >>> curve.values, curve.score
        (tensor([[1.0000, 0.4000, 0.2000, 0.1000, 0.0000]]), tensor([0.6600]))
    """
    if order not in ("morf", "lerf"):
        raise ValueError(f"order must be 'morf' or 'lerf', got {order!r}.")
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    values, fractions = _traced(probe, probe.ranks(descending=order == "morf")[:, None], steps, fill)
    return Curve((values[:, 0, :1] - values[:, 0]).mean(1), values[:, 0], fractions)


def abpc(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "probability",
    steps: int = 100,
    fill: Fill = 0.0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Contrast:
    """Area between the curves of least and most relevant first: higher is better, 0 in the mean for random maps.

    ∫ LeRF − MoRF over the share of the image that is replaced, by the trapezoidal rule. The two ends of the curves are
    the same images and run once. What the fill does to the model by itself meets both curves, and cancels in part.
    Known also as symmetric relevance gain.

    Args:
        score: images → (B, K).
        images: (B, C, H, W).
        maps: (B, H, W); only their order counts.
        targets: (B,) the outputs to watch.
        measure: what is read from the model: the target's output, its probability, or whether it is the largest.
        steps: number of equal steps, from the whole image to none of it; as in `deletion`.
        fill: what replaces a pixel.
        patch: pixels (h, w) that change together, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in the units of the measure, with both curves at ``steps + 1`` points, each scored by its area;
        NaN for a map that is constant or holds NaN.

    Raises:
        ValueError: steps outside [1, number of patches], or what `Probe` refuses.

    Source: arXiv 2401.06654 (symmetric relevance gain).

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.1, 0.1], [0.2, 0.6]]]]), torch.tensor([0])
        >>> between = abpc(brightness, image, image[:, 0], target, steps=4)
        >>> between.lerf.values, between.score
        (tensor([[1.0000, 0.9000, 0.8000, 0.6000, 0.0000]]), tensor([0.4000]))
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    ranks = torch.stack([probe.ranks(), probe.ranks(descending=False)], dim=1)
    values, fractions = _traced(probe, ranks, steps, fill)
    morf, lerf = (area(each, fractions) for each in values.unbind(1))
    return Contrast(lerf.score - morf.score, morf, lerf)


def _traced(probe: Probe, ranks: Tensor, steps: int, fill: Fill) -> tuple[Tensor, Tensor]:
    """Values (B, R, S + 1) and fractions (S + 1,)."""
    counts = even_steps(probe.patches, steps)
    values = probe.trace(Change(probe.images, filled(probe.images, fill)), ranks, first(counts))
    return values, (counts.double() / probe.patches).to(values)
