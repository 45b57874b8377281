"""Captum's own metrics over a stream of images."""

from __future__ import annotations

from math import inf
from typing import Any

from torch import Tensor

from captum_vit.metrics.base import Fixed, ImageMean
from captum_vit.metrics.functional.captum import infidelity, sensitivity_max
from captum_vit.metrics.functional.explain import Explain
from captum_vit.metrics.functional.fills import Fill
from captum_vit.metrics.functional.probe import Score
from captum_vit.metrics.model_metric import ModelMetric

__all__ = ["Infidelity", "SensitivityMax"]


class Infidelity(ModelMetric):
    """How badly a map predicts what the output loses when some patches are replaced.

    Args:
        score: images → (B, K).
        patch: pixels (h, w) that are replaced together; see `functional.infidelity`, as for the arguments below.
        share: how many of the patches a sample replaces.
        fill: what replaces them.
        samples: random sets of patches.
        multiply_by_inputs: whether maps are in units of the output.
        normalise: the map is first given the scale that fits best.
        seed: of the sets of patches.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, inf)

    def __init__(
        self,
        score: Score,
        *,
        patch: tuple[int, int],
        share: float = 0.1,
        fill: Fill = 0.0,
        samples: int = 64,
        multiply_by_inputs: bool = False,
        normalise: bool = True,
        seed: int = 0,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(
                infidelity,
                score,
                patch=patch,
                share=share,
                fill=fill,
                samples=samples,
                multiply_by_inputs=multiply_by_inputs,
                normalise=normalise,
                seed=seed,
                batch_size=batch_size,
            ),
            **kwargs,
        )


class SensitivityMax(ImageMean):
    """The largest relative change of a map under noise too faint to matter.

    Args:
        explain: images and targets → maps; see `functional.sensitivity_max`, as for the arguments below.
        radius: of the noise, in units of the model's input.
        patch: pixels (h, w) that share their noise.
        samples: draws of noise.
        seed: of the noise.
        batch_size: images that are explained at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, inf)
    needs = ("method",)

    def __init__(
        self,
        explain: Explain,
        *,
        radius: float = 0.02,
        patch: tuple[int, int] = (1, 1),
        samples: int = 10,
        seed: int = 0,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        self._values = Fixed(
            sensitivity_max, explain, radius=radius, patch=patch, samples=samples, seed=seed, batch_size=batch_size
        )

    def rows(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B,) values of images (B, C, H, W) and targets (B,)."""
        values: Tensor = self._values(images, targets)
        return values
