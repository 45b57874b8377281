"""How concentrated maps are, over a stream of images."""

from __future__ import annotations

from math import inf
from typing import Any

from torch import Tensor

from captum_vit.metrics.base import ImageMean
from captum_vit.metrics.functional.complexity import effective_complexity, entropy, sparseness

__all__ = ["EffectiveComplexity", "Entropy", "Sparseness"]


class Sparseness(ImageMean):
    """Gini index of a map's magnitudes.

    Example:
        >>> import torch
        >>> metric = Sparseness()
        >>> metric.update(torch.tensor([[[0.0, 1.0], [4.0, 8.0]], [[2.0, 2.0], [2.0, 2.0]]]))
        >>> metric.compute().item(), metric.excluded.item()
        (0.5192307829856873, 1)
    """

    higher_is_better = True
    range = (0.0, 1.0)
    needs: tuple[str, ...] = ()

    def rows(self, maps: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W)."""
        return sparseness(maps)


class Entropy(ImageMean):
    """Entropy of a map's magnitudes as shares of their sum, in nats.

    Args:
        relative: divided by the entropy of equal magnitudes: then the range is [0, 1].
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, inf)
    needs: tuple[str, ...] = ()

    def __init__(self, *, relative: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.relative = relative

    def rows(self, maps: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W)."""
        return entropy(maps, relative=self.relative)


class EffectiveComplexity(ImageMean):
    """Number of pixels whose magnitude is more than a threshold.

    Args:
        threshold: pixels strictly above it count.
        normalise: each map is first divided by its largest magnitude.
        relative: divided by the number of pixels: then the range is [0, 1].
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, inf)
    needs: tuple[str, ...] = ()

    def __init__(
        self, *, threshold: float = 1e-5, normalise: bool = True, relative: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.normalise = normalise
        self.relative = relative

    def rows(self, maps: Tensor) -> Tensor:
        """(B,) values of maps (B, H, W)."""
        return effective_complexity(maps, threshold=self.threshold, normalise=self.normalise, relative=self.relative)
