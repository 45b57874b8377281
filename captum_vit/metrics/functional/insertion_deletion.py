"""Insertion and deletion: how soon the most relevant pixels make a prediction, and how soon their loss ends it."""

from __future__ import annotations

from torch import Tensor

from captum_vit.metrics.functional.curves import Curve, area, even_steps, first
from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.probe import Measure, Probe, Score

__all__ = ["deletion", "insertion"]


def deletion(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "probability",
    steps: int = 224,
    fill: Fill = 0.0,
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Curve:
    """Area under the score while pixels are replaced, the most relevant first: lower is better.

    The steps are equal. Where they do not divide the number of patches, they differ by one patch and the area knows it;
    the authors' code makes the last step shorter and counts it as a whole one. Equal relevance is ordered by position,
    first in reading order; there it is last.

    Args:
        score: images → (B, K); the paper's are softmax probabilities.
        images: (B, C, H, W).
        maps: (B, H, W); only their order counts.
        targets: (B,) the outputs to watch; the class predicted on the whole image in the paper.
        measure: what is read from the model: the target's probability, its output whatever it is ("value"), or whether
            it is the largest ("accuracy").
        steps: number of equal steps.
        fill: what replaces a pixel; 0 in normalised units in the paper.
        patch: pixels (h, w) that change together, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in the units of the measure, with its curve at ``steps + 1`` points; NaN for a map that is
        constant or holds NaN.

    Raises:
        ValueError: shapes that do not fit, steps outside [1, number of patches], or logits where probabilities are
            measured.

    Source: RISE (arXiv 1806.07421), section 4.3.

    Example:
        >>> import torch
        >>> brightness = lambda images: images.mean((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.0, 1.0], [4.0, 8.0]]]]), torch.tensor([0])
        >>> curve = deletion(brightness, image, image[:, 0], target, measure="value", steps=4)
        >>> curve.values, curve.score
        (tensor([[3.2500, 1.2500, 0.2500, 0.0000, 0.0000]]), tensor([0.7812]))
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    return _cumulative(probe, images, filled(images, fill), steps)


def insertion(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    measure: Measure = "probability",
    steps: int = 224,
    fill: Fill = "blur",
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Curve:
    """Area under the score while pixels are put back, the most relevant first: higher is better.

    Steps and order are those of `deletion`.

    Args:
        score: images → (B, K); the paper's are softmax probabilities.
        images: (B, C, H, W).
        maps: (B, H, W); only their order counts.
        targets: (B,) the outputs to watch; the class predicted on the whole image in the paper.
        measure: what is read from the model: the target's probability, its output whatever it is ("value"), or whether
            it is the largest ("accuracy").
        steps: number of equal steps.
        fill: what the image begins as; blurred in the paper.
        patch: pixels (h, w) that change together, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in the units of the measure, with its curve at ``steps + 1`` points; NaN for a map that is
        constant or holds NaN.

    Raises:
        ValueError: shapes that do not fit, steps outside [1, number of patches], or logits where probabilities are
            measured.

    Source: RISE (arXiv 1806.07421), section 4.3.

    Example:
        >>> import torch
        >>> brightness = lambda images: images.mean((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.0, 1.0], [4.0, 8.0]]]]), torch.tensor([0])
        >>> insertion(brightness, image, image[:, 0], target, measure="value", steps=4, fill=0.0).values
        tensor([[0.0000, 2.0000, 3.0000, 3.2500, 3.2500]])
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    return _cumulative(probe, filled(images, fill), images, steps)


def _cumulative(probe: Probe, start: Tensor, finish: Tensor, steps: int) -> Curve:
    counts = even_steps(probe.patches, steps)
    values = probe.trace(Change(start, finish), probe.ranks()[:, None], first(counts))[:, 0]
    return area(values, counts.double() / probe.patches)
