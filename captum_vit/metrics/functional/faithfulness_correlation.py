"""Faithfulness correlation: is what random patches are said to be worth what their loss costs?"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.metrics.functional.curves import Agreement
from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.probe import Measure, Probe, Score

__all__ = ["faithfulness_correlation"]


def faithfulness_correlation(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    patch: tuple[int, int],
    subset: int,
    runs: int = 100,
    measure: Measure = "value",
    fill: Fill = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Agreement:
    """Pearson's correlation of a random subset's relevance with what the score loses without it: higher is better.

    Over ``runs`` subsets of patches, drawn from the seed and the same for every image, so that a split into batches
    changes nothing. The paper, and Quantus, draw pixels; on a transformer whose map has one value per patch that mixes
    patches and says little, so patches are drawn here.

    Args:
        score: images → (B, K).
        images: (B, C, H, W).
        maps: (B, H, W); relevance counts by its size, not only by its order.
        targets: (B,) the outputs to watch.
        patch: pixels (h, w) that are removed together.
        subset: how many patches a run removes.
        runs: how many subsets; each costs a forward pass.
        measure: what is read from the model: the target's output, its probability, or whether it is the largest.
        fill: what replaces a pixel.
        seed: of the subsets.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in [-1, 1], with each subset's relevance and cost; NaN for a map that is constant or holds NaN,
        and where no subset costs more than another.

    Raises:
        ValueError: a subset that is no proper part of the image, fewer than two runs, or what `Probe` refuses.

    Source: arXiv 2005.00631, definition 3.

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.0, 1.0], [4.0, 8.0]]]]), torch.tensor([0])
        >>> result = faithfulness_correlation(brightness, image, -image[:, 0], target, patch=(1, 1), subset=1, runs=9)
        >>> result.score.round(decimals=4)
        tensor([-1.])
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    if not 1 <= subset < probe.patches:
        raise ValueError(f"subset must be in [1, {probe.patches}), part of the patches, got {subset}.")
    if runs < 2:
        raise ValueError(f"runs must be at least 2, got {runs}.")
    drawn = torch.rand(runs, probe.patches, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    drawn = drawn.to(images.device)
    ranks = drawn.expand(len(images), -1, -1).unflatten(2, probe.relevance.shape[1:])
    none_and_subset = torch.tensor([[0, 0], [0, subset]])
    values = probe.trace(Change(images, filled(images, fill)), ranks, none_and_subset)  # (B, R, 2)
    drops = values[..., 0] - values[..., 1]
    relevance = probe.relevance.flatten(1) * (patch[0] * patch[1])
    worth = torch.cat([relevance @ (some < subset).to(relevance).T for some in drawn.split(batch_size)], dim=1)
    return Agreement(_correlation(worth, drops), worth, drops)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    one, other = first.double(), second.double()  # squares of tiny drops would vanish in float32
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    spread = ((one**2).sum(1) * (other**2).sum(1)).sqrt()
    return ((one * other).sum(1) / spread).to(second.dtype)  # 0/0 is NaN
