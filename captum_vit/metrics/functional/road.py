"""ROAD: remove pixels so that the hole says nothing about its own shape, then ask the model again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from captum_vit.metrics.functional.curves import Contrast, Curve, check_fractions, first, shares_of
from captum_vit.metrics.functional.fills import Change
from captum_vit.metrics.functional.imputation import impute
from captum_vit.metrics.functional.probe import Measure, Probe, Score

__all__ = ["NINE_TENTHS", "road", "road_combined"]

NINE_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def road(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    order: Literal["morf", "lerf"] = "morf",
    measure: Measure = "probability",
    fractions: Sequence[float] = NINE_TENTHS,
    noise: float = 0.01,
    seed: int = 0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Curve:
    """Mean of the score over images in which a share of the pixels is imputed from its surroundings.

    A fraction is what is *removed*, in both orders: in the order "morf", most relevant first, lower is better, in the
    order "lerf" higher. (The authors' ``p`` is what is removed in the one order and what is kept in the other;
    pytorch-grad-cam's percentile is what is kept in the first and what is removed in the second.) Equal relevance is
    ordered by position, where the authors add a little noise to the map.

    Args:
        score: images → (B, K).
        images: (B, C, H, W).
        maps: (B, H, W); only their order counts.
        targets: (B,) the outputs to watch.
        order: "morf" or "lerf".
        measure: what is read from the model: the target's probability, its output, or whether it is the largest.
        fractions: shares of the pixels that are removed, above 0 and below 1: without any there is nothing to impute
            from.
        noise: standard deviation of what is added to imputed pixels, in units of the images; the authors' 0.01 is for
            images in [0, 1].
        seed: of the noise.
        patch: pixels (h, w) that are removed together, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in the units of the measure, with its curve; NaN for a map that is constant or holds NaN.

    Raises:
        ValueError: an unknown order, fractions that do not increase or leave (0, 1), or what `Probe` refuses.

    Source: arXiv 2202.00449.

    Example:
        >>> centre = lambda images: images[:, :, 1, 1]
        >>> image = torch.tensor([[[[0.0, 6.0, 0.0], [6.0, 99.0, 6.0], [0.0, 6.0, 12.0]]]])
        >>> removed = {"measure": "value", "fractions": (0.2,), "noise": 0}  # one pixel of nine
        >>> road(centre, image, image[:, 0], torch.tensor([0]), **removed).score
        tensor([5.])
    """
    if order not in ("morf", "lerf"):
        raise ValueError(f"order must be 'morf' or 'lerf', got {order!r}.")
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    (curve,) = _curves(probe, (order == "morf",), fractions, noise, seed)
    return curve


def road_combined(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "probability",
    fractions: Sequence[float] = NINE_TENTHS,
    noise: float = 0.01,
    seed: int = 0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Contrast:
    """Half the difference of `road` in its two orders, (LeRF − MoRF) / 2: higher is better, 0 in the mean at random.

    Arguments and errors are those of `road`.

    Returns:
        The score (B,) with both curves; NaN for a map that is constant or holds NaN.

    Source: arXiv 2202.00449; the combination is pytorch-grad-cam's.

    Example:
        >>> centre = lambda images: images[:, :, 1, 1]
        >>> image = torch.tensor([[[[0.0, 6.0, 0.0], [6.0, 99.0, 6.0], [0.0, 6.0, 12.0]]]])
        >>> removed = {"measure": "value", "fractions": (0.2,), "noise": 0}  # one pixel of nine
        >>> road_combined(centre, image, image[:, 0], torch.tensor([0]), **removed).score
        tensor([47.])
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    morf, lerf = _curves(probe, (True, False), fractions, noise, seed)
    return Contrast((lerf.score - morf.score) / 2, morf, lerf)


def _curves(
    probe: Probe, descending: Sequence[bool], fractions: Sequence[float], noise: float, seed: int
) -> list[Curve]:
    fractions = check_fractions(fractions)
    for fraction in (fractions[0], fractions[-1]):
        if not 0 < fraction < 1:
            raise ValueError(f"fractions must be in (0, 1), got {fraction}. Nothing can be imputed from nothing.")
    ranks = torch.stack([probe.ranks(descending=each) for each in descending], dim=1)
    traced = probe.trace(_Imputed(probe.images, noise, seed), ranks, first(shares_of(probe.patches, fractions)))
    shares = torch.tensor(fractions, dtype=torch.float64).to(traced)
    return [Curve(values.mean(1), values, shares) for values in traced.unbind(1)]


class _Imputed(Change):
    """Pixels that change are made of those that stay; never all do."""

    def __init__(self, images: Tensor, noise: float, seed: int) -> None:
        super().__init__(images, images)
        self._noise, self._seed = noise, seed

    def __call__(self, image: Tensor, changed: Tensor) -> Tensor:
        return impute(self.start[image], changed, noise=self._noise, seed=self._seed)
