"""Where a map is cut into foreground and background."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import Normalisation, check_normalise

__all__ = ["BestOf", "Threshold", "check_cut", "check_threshold", "otsu_threshold", "scale_of", "threshold_values"]


@dataclass(frozen=True)
class BestOf:
    """The best of several thresholds, evenly spaced from a map's smallest value to its largest.

    It is an oracle, since the masks choose. Of normalised maps the thresholds go from 0 to 1.

    This is the rule behind the "mIoU" of the ADE20K sound and speech benchmarks (DenseAV, arXiv 2406.05629), and no
    score to compare with one at a fixed threshold.

    Args:
        count: number of thresholds, the two ends included; at least 2.

    Raises:
        ValueError: fewer than 2.
    """

    count: int = 20

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"count must be at least 2 thresholds, got {self.count}.")


Threshold: TypeAlias = float | Literal["mean", "otsu"] | BestOf
"""A number on the maps' scale, each map's own mean, Otsu's threshold of each map, or the best of several."""


def check_cut(cut: float | str, scale: str | None, rules: str = "") -> None:
    """Refuses a number to cut maps at that is none, or that lies outside their scale.

    Args:
        cut: the threshold.
        scale: the setting that brings the maps to [0, 1], to be named; None where none does.
        rules: what may stand for a number, to be named.

    Raises:
        TypeError: no number.
        ValueError: the name of a rule that is none, a number that is not finite, or one outside the scale.
    """
    if isinstance(cut, str) or (isinstance(cut, Real) and not isfinite(cut)):
        raise ValueError(f"threshold must be a finite number{rules}, got {cut!r}.")
    if not isinstance(cut, Real):
        raise TypeError(f"threshold must be a finite number{rules}, got {type(cut).__name__}.")
    if scale is not None and not 0 <= cut <= 1:
        raise ValueError(f"threshold must be in [0, 1] with {scale}, got {cut}.")


def check_threshold(threshold: Threshold, normalise: Normalisation) -> None:
    """Refuses a threshold that no map on the scale of ``normalise`` can have.

    Raises:
        TypeError: neither a number nor one of the rules.
        ValueError: a number that is not finite or outside the scale, a rule of another name, or an unknown scale.
    """
    check_normalise(normalise)
    if not (isinstance(threshold, BestOf) or threshold in ("mean", "otsu")):
        check_cut(threshold, scale_of(normalise), ", 'mean', 'otsu' or BestOf(n)")


def scale_of(normalise: Normalisation) -> str | None:
    """What `check_cut` calls the scale; None where maps stay as they are."""
    return None if normalise == "none" else f"normalise={normalise!r}"


def threshold_values(maps: Tensor, threshold: Threshold) -> Tensor:
    """The candidates (B, T) for each map's threshold; T is 1 but for `BestOf`.

    A pixel is foreground when it lies strictly above. Void pixels count in the mean and for Otsu, as in Chefer's
    protocol: a threshold knows nothing of the mask.

    Args:
        maps: (B, H, W), normalised before.
        threshold: what it is made by, checked.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.125], [0.5, 1.0]]])
        >>> threshold_values(maps, "mean"), threshold_values(maps, "otsu"), threshold_values(maps, 0.25)
        (tensor([[0.4062]]), tensor([[0.1250]]), tensor([[0.2500]]))
    """
    if isinstance(threshold, BestOf):
        low, high = maps.amin((1, 2))[:, None], maps.amax((1, 2))[:, None]
        shares = torch.linspace(0, 1, threshold.count, dtype=maps.dtype, device=maps.device)
        return torch.where(shares == 1, high, low + shares * (high - low))
    if threshold == "mean":
        # in float64, so that the rounding does not depend on the batch
        return maps.double().mean((1, 2))[:, None].to(maps.dtype)
    if threshold == "otsu":
        return otsu_threshold(maps)[:, None]
    return maps.new_full((len(maps), 1), threshold)


def otsu_threshold(maps: Tensor) -> Tensor:
    """The cut of each map between two groups of pixels whose means lie farthest apart, for their sizes.

    It maximises n₀ n₁ (μ₁ − μ₀)² with n the sizes and μ the means of the two groups. Every value of the map is a
    candidate; there is no histogram, so the cut moves along when the map is scaled.

    Args:
        maps: (B, H, W).

    Returns:
        (B,) the largest value of the lower group: foreground lies strictly above.

    Source: Otsu 1979 (IEEE Transactions on Systems, Man, and Cybernetics 9), equation 14.

    Example:
        >>> otsu_threshold(torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]))
        tensor([1.])
    """
    values = maps.flatten(1).sort(dim=1).values
    sums = values.double().cumsum(1)
    lower = torch.arange(1, values.shape[1], device=maps.device)  # n₀ of every cut
    upper = values.shape[1] - lower
    apart = (sums[:, -1:] - sums[:, :-1]) / upper - sums[:, :-1] / lower
    # between equal values lies no cut, and none is found there: towards one end of them the groups lie farther apart
    between = lower * upper * apart.square()
    return values.gather(1, between.argmax(1, keepdim=True))[:, 0]
