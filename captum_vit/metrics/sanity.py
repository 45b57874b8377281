"""Sanity checks over a stream of images: do maps depend on the model's weights, and on the target?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from captum_vit.metrics.base import Fixed, ImageMean, settings
from captum_vit.metrics.functional.explain import Explain
from captum_vit.metrics.functional.parameter_groups import NamedGroups
from captum_vit.metrics.functional.random_target import random_target_similarity
from captum_vit.metrics.functional.randomisation import Order, model_randomisation, randomised_groups
from captum_vit.metrics.functional.similarity import Similarity, spearman, ssim

__all__ = ["ModelRandomisation", "RandomTargetSimilarity"]


class ModelRandomisation(Metric):
    """Similarity of maps before and after the model's weights are drawn anew, group by group.

    ``update(images, targets)`` runs `functional.model_randomisation`, which changes the model and puts it back. The
    result is the mean over all images and groups; `mean_curve` has the mean of each group. A similarity that is
    undefined is left out and counted in `excluded`.

    Args:
        model: what ``explain`` explains.
        explain: images and targets → maps.
        order: see `functional.model_randomisation`, as for the arguments below.
        groups: named parts of the model.
        similarity: of two maps.
        absolute: compare magnitudes.
        seed: of the random weights.
        std: of the random weights.
        batch_size: images that are explained at once.
        kwargs: of `torchmetrics.Metric`.

    Attributes:
        images: (groups,) number of images that count.
        excluded: (groups,) number of images whose similarity is undefined.
    """

    higher_is_better = False
    range = (-1.0, 1.0)
    needs = ("model", "method")
    full_state_update = False
    is_differentiable = False
    total: Tensor
    images: Tensor
    excluded: Tensor

    def __init__(
        self,
        model: nn.Module,
        explain: Explain,
        *,
        order: Order = "top_down",
        groups: NamedGroups | None = None,
        similarity: Similarity = spearman,
        absolute: bool = True,
        seed: int = 0,
        std: float = 0.02,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        self._values = Fixed(
            model_randomisation,
            model,
            explain,
            order=order,
            groups=groups,
            similarity=similarity,
            absolute=absolute,
            seed=seed,
            std=std,
            batch_size=batch_size,
        )
        self._names = list(randomised_groups(model, groups))
        size = len(self._names)
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: Tensor, targets: Tensor) -> None:
        """Takes images (B, C, H, W) and their fixed targets (B,)."""
        similarities = self._values(images, targets)
        values = torch.stack([similarities[name] for name in self._names])  # (groups, B)
        undefined = values.isnan()
        self.total += values.double().masked_fill(undefined, 0).sum(1)
        self.images += (~undefined).sum(1)
        self.excluded += undefined.sum(1)

    def extra_repr(self) -> str:
        return settings(self, self._values.keywords)

    def compute(self) -> Tensor:
        """The mean over images and groups; NaN when none counts."""
        return self.total.sum() / self.images.sum()

    def mean_curve(self) -> dict[str, float]:
        """The mean similarity of each group, the input's first; over this process's images, as in `CurveMetric`."""
        return dict(zip(self._names, (self.total / self.images).tolist(), strict=True))


class RandomTargetSimilarity(ImageMean):
    """Similarity of the maps of an image's target and of another, random target.

    Args:
        explain: images and targets → maps; see `functional.random_target_similarity`, as for the arguments below.
        outputs: number K of the model's outputs.
        similarity: of two maps.
        absolute: compare magnitudes.
        seed: of the choice of the other targets.
        batch_size: images that are explained at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (-1.0, 1.0)
    needs = ("method",)

    def __init__(
        self,
        explain: Explain,
        outputs: int,
        *,
        similarity: Similarity = ssim,
        absolute: bool = False,
        seed: int = 0,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        self._values = Fixed(
            random_target_similarity,
            explain,
            outputs=outputs,
            similarity=similarity,
            absolute=absolute,
            seed=seed,
            batch_size=batch_size,
        )

    def rows(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B,) values of images (B, C, H, W) and targets (B,)."""
        values: Tensor = self._values(images, targets)
        return values
