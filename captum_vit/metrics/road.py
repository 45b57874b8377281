"""ROAD over a stream of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from captum_vit.metrics.base import Fixed
from captum_vit.metrics.functional.probe import Measure, Score
from captum_vit.metrics.functional.road import NINE_TENTHS, road, road_combined
from captum_vit.metrics.model_metric import CurveMetric, ModelMetric

__all__ = ["RoadCombined", "RoadLeRF", "RoadMoRF"]


class _Road(CurveMetric):
    """ROAD in one order.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.road`, as for the arguments below.
        fractions: shares of the pixels that are removed.
        noise: standard deviation of what is added to imputed pixels.
        seed: of the random numbers.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    range = (0.0, 1.0)
    _order: ClassVar[Literal["morf", "lerf"]]

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "probability",
        fractions: Sequence[float] = NINE_TENTHS,
        noise: float = 0.01,
        seed: int = 0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(
                road,
                score,
                order=self._order,
                measure=measure,
                fractions=fractions,
                noise=noise,
                seed=seed,
                patch=patch,
                batch_size=batch_size,
            ),
            points=len(fractions),
            **kwargs,
        )


class RoadMoRF(_Road):
    """Mean score while the most relevant pixels are imputed from their surroundings.

    The range is that of probabilities and accuracy. Arguments are those of `functional.road`.
    """

    higher_is_better = False
    _order = "morf"


class RoadLeRF(_Road):
    """Mean score while the least relevant pixels are imputed from their surroundings.

    The range is that of probabilities and accuracy. Arguments are those of `functional.road`.
    """

    higher_is_better = True
    _order = "lerf"


class RoadCombined(ModelMetric):
    """Half the difference of ROAD in its two orders.

    The range is that of probabilities and accuracy.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.road_combined`, as for the arguments below.
        fractions: shares of the pixels that are removed.
        noise: standard deviation of what is added to imputed pixels.
        seed: of the random numbers.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (-0.5, 0.5)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "probability",
        fractions: Sequence[float] = NINE_TENTHS,
        noise: float = 0.01,
        seed: int = 0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(
                road_combined,
                score,
                measure=measure,
                fractions=fractions,
                noise=noise,
                seed=seed,
                patch=patch,
                batch_size=batch_size,
            ),
            **kwargs,
        )
