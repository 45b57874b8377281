"""Where a map is cut into foreground and background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["BestOf", "Threshold", "otsu_threshold", "threshold_values"]


@dataclass(frozen=True)
class BestOf:
    """The best of several thresholds, evenly spaced from 0 to 1: an oracle, since the masks choose.

    It is the rule behind the "mIoU" of the ADE20K sound and speech benchmarks (DenseAV, arXiv 2406.05629), and no
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


def threshold_values(maps: Tensor, threshold: Threshold) -> Tensor:
    """The candidates (B, T) for each map's threshold; T is 1 but for `BestOf`.

    A pixel is foreground when it lies strictly above. Void pixels count in the mean and for Otsu, as in Chefer's
    protocol: a threshold knows nothing of the mask.

    Args:
        maps: (B, H, W), normalised before.
        threshold: what it is made by.

    Raises:
        TypeError: neither a number nor one of the rules.
        ValueError: a number that is not finite, or a rule of another name.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.125], [0.5, 1.0]]])
        >>> threshold_values(maps, "mean"), threshold_values(maps, "otsu"), threshold_values(maps, 0.25)
        (tensor([[0.4062]]), tensor([[0.1250]]), tensor([[0.2500]]))
    """
    if isinstance(threshold, BestOf):
        return torch.linspace(0, 1, threshold.count, dtype=maps.dtype, device=maps.device).expand(len(maps), -1)
    if threshold == "mean":
        # in float64, so that the rounding does not depend on the batch
        return maps.double().mean((1, 2))[:, None].to(maps.dtype)
    if threshold == "otsu":
        return otsu_threshold(maps)[:, None]
    if isinstance(threshold, str) or not -torch.inf < threshold < torch.inf:
        raise ValueError(f"threshold must be a finite number, 'mean', 'otsu' or BestOf(n), got {threshold!r}.")
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
