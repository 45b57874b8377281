"""Faithfulness over a stream of images: does the model lose or keep what the map says it should?"""

from __future__ import annotations

from typing import Any, Literal

from captum_vit.metrics.base import Fixed
from captum_vit.metrics.functional.average_drop import average_drop, average_increase
from captum_vit.metrics.functional.faithfulness_correlation import faithfulness_correlation
from captum_vit.metrics.functional.fills import Fill
from captum_vit.metrics.functional.insertion_deletion import deletion, insertion
from captum_vit.metrics.functional.maps import Normalisation
from captum_vit.metrics.functional.morf import abpc, aopc
from captum_vit.metrics.functional.probe import Measure, Score
from captum_vit.metrics.functional.saco import saco
from captum_vit.metrics.model_metric import CurveMetric, ModelMetric

__all__ = [
    "ABPC",
    "AOPC",
    "AverageDrop",
    "AverageIncrease",
    "Deletion",
    "FaithfulnessCorrelation",
    "Insertion",
    "SaCo",
]


class Insertion(CurveMetric):
    """Area under the score while pixels are put back, the most relevant first.

    The range is that of probabilities.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.insertion`, as for the arguments below.
        steps: number of equal steps.
        fill: what the image begins as.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (0.0, 1.0)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "probability",
        steps: int = 224,
        fill: Fill = "blur",
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(insertion, score, measure=measure, steps=steps, fill=fill, patch=patch, batch_size=batch_size),
            points=steps + 1,
            **kwargs,
        )


class Deletion(CurveMetric):
    """Area under the score while pixels are replaced, the most relevant first.

    The range is that of probabilities.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.deletion`, as for the arguments below.
        steps: number of equal steps.
        fill: what replaces a pixel.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, 1.0)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "probability",
        steps: int = 224,
        fill: Fill = 0.0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(deletion, score, measure=measure, steps=steps, fill=fill, patch=patch, batch_size=batch_size),
            points=steps + 1,
            **kwargs,
        )


class AverageDrop(ModelMetric):
    """How much of its probability a target loses when the image is multiplied by the map.

    Args:
        score: images → (B, K).
        kind: "relative" in percent or "absolute"; see `functional.average_drop`, as for the arguments below.
        normalise: how each map becomes the mask.
        fill: what the image fades to where the mask is 0.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, 100.0)

    def __init__(
        self,
        score: Score,
        *,
        kind: Literal["relative", "absolute"] = "relative",
        normalise: Normalisation = "min_max",
        fill: Fill = 0.0,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(average_drop, score, kind=kind, normalise=normalise, fill=fill, batch_size=batch_size),
            **kwargs,
        )


class AverageIncrease(ModelMetric):
    """Share of the images whose target gains probability when they are multiplied by the map, in percent.

    Args:
        score: images → (B, K).
        normalise: how each map becomes the mask; see `functional.average_increase`, as for the arguments below.
        fill: what the image fades to where the mask is 0.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (0.0, 100.0)

    def __init__(
        self,
        score: Score,
        *,
        normalise: Normalisation = "min_max",
        fill: Fill = 0.0,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(average_increase, score, normalise=normalise, fill=fill, batch_size=batch_size),
            **kwargs,
        )


class AOPC(CurveMetric):
    """Mean fall of the score while the most relevant pixels are replaced first.

    The range is that of probabilities.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.aopc`, as for the arguments below.
        steps: number of equal steps.
        fill: what replaces a pixel.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (-1.0, 1.0)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "probability",
        steps: int = 100,
        fill: Fill = 0.0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(
                aopc, score, order="morf", measure=measure, steps=steps, fill=fill, patch=patch, batch_size=batch_size
            ),
            points=steps + 1,
            **kwargs,
        )


class ABPC(ModelMetric):
    """Area between the curves of least and most relevant first.

    The range is that of probabilities.

    Args:
        score: images → (B, K).
        measure: what is read from the model; see `functional.abpc`, as for the arguments below.
        steps: number of equal steps.
        fill: what replaces a pixel.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (-1.0, 1.0)

    def __init__(
        self,
        score: Score,
        *,
        measure: Measure = "probability",
        steps: int = 100,
        fill: Fill = 0.0,
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(abpc, score, measure=measure, steps=steps, fill=fill, patch=patch, batch_size=batch_size),
            **kwargs,
        )


class SaCo(ModelMetric):
    """Whether groups of pixels with more relevance cost the prediction more.

    Args:
        score: images → (B, K).
        groups: how many; see `functional.saco`, as for the arguments below.
        measure: what is read from the model.
        fill: what replaces a pixel.
        patch: pixels (h, w) that change together.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (-1.0, 1.0)

    def __init__(
        self,
        score: Score,
        *,
        groups: int = 10,
        measure: Measure = "probability",
        fill: Fill = "mean",
        patch: tuple[int, int] = (1, 1),
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(saco, score, groups=groups, measure=measure, fill=fill, patch=patch, batch_size=batch_size),
            **kwargs,
        )


class FaithfulnessCorrelation(ModelMetric):
    """Correlation of what random patches are said to be worth with what their loss costs.

    Args:
        score: images → (B, K).
        patch: pixels (h, w) that are removed together; see `functional.faithfulness_correlation`, as for what follows.
        subset: how many patches a run removes.
        runs: how many subsets.
        measure: what is read from the model.
        fill: what replaces a pixel.
        seed: of the random numbers.
        batch_size: images that the model sees at once.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True
    range = (-1.0, 1.0)

    def __init__(
        self,
        score: Score,
        *,
        patch: tuple[int, int],
        subset: int,
        runs: int = 100,
        measure: Measure = "value",
        fill: Fill = 0.0,
        seed: int = 0,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Fixed(
                faithfulness_correlation,
                score,
                patch=patch,
                subset=subset,
                runs=runs,
                measure=measure,
                fill=fill,
                seed=seed,
                batch_size=batch_size,
            ),
            **kwargs,
        )
