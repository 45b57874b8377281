"""Salience-guided faithfulness: does what is called more relevant also cost more when it is taken away?"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.metrics.functional.curves import Agreement
from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.probe import Measure, Probe, Score

__all__ = ["saco", "salience_coefficient"]


def saco(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    groups: int = 10,
    measure: Measure = "probability",
    fill: Fill = "mean",
    patch: tuple[int, int] = (1, 1),
    batch_size: int = 64,
) -> Agreement:
    """Whether groups with more relevance cost the prediction more, weighed by how much more: higher is better.

    The pixels are sorted by relevance and split into groups of equal size, which differ by one patch where that is
    uneven. One group at a time is replaced, and `salience_coefficient` compares what the groups are said to be worth
    with what they cost. A group is worth the mean relevance of its pixels times n/K, the pixels of the image by the
    number of groups: its sum where all groups are of one size, and a fair number where they are not, for a sum counts
    the larger group for more. The paper's public code leaves grouping, fill and their number open.

    Args:
        score: images → (B, K).
        images: (B, C, H, W).
        maps: (B, H, W); relevance counts by its size, not only by its order.
        targets: (B,) the outputs to watch.
        groups: how many.
        measure: what is read from the model: the target's probability, its output, or whether it is the largest.
        fill: what replaces a pixel.
        patch: pixels (h, w) that stay in one group, ordered by their mean relevance.
        batch_size: images that the model sees at once.

    Returns:
        The score (B,) in [-1, 1], with the groups' relevance and cost; NaN for a map that is constant or holds NaN,
        and where all groups cost the same.

    Raises:
        ValueError: groups outside [2, number of patches], or what `Probe` refuses.

    Source: arXiv 2404.01415, algorithm 1.

    Example:
        >>> brightness = lambda images: images.sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[0.0, 0.1], [0.3, 0.6]]]]), torch.tensor([0])
        >>> result = saco(brightness, image, torch.tensor([[[1.0, 2.0], [9.0, 5.0]]]), target, groups=4, fill=0.0)
        >>> result.drops, result.score
        (tensor([[0.3000, 0.6000, 0.1000, 0.0000]]), tensor([0.7037]))
    """
    probe = Probe(score, images, maps, targets, patch=patch, measure=measure, batch_size=batch_size)
    if not 2 <= groups <= probe.patches:
        raise ValueError(f"groups must be in [2, {probe.patches}], the number of patches, got {groups}.")
    bounds = torch.arange(groups + 1) * probe.patches // groups
    none_and_each = torch.cat([torch.tensor([[0, 0]]), torch.stack([bounds[:-1], bounds[1:]], dim=1)])
    change = Change(images, filled(images, fill))
    ranks = probe.ranks()
    values = probe.trace(change, ranks[:, None], none_and_each)[:, 0]
    drops = values[:, :1] - values[:, 1:]
    group = torch.bucketize(ranks.flatten(1), bounds[1:].to(ranks.device), right=True)  # (B, gh·gw)
    relevance = probe.relevance.flatten(1)
    sums = torch.zeros_like(drops, dtype=relevance.dtype).scatter_add_(1, group, relevance)
    common = patch[0] * patch[1] * probe.patches / groups  # pixels of a group, if all were of one size
    salience = sums / bounds.diff().to(sums) * common
    salience = salience.masked_fill(probe.undefined[:, None], torch.nan)
    return Agreement(salience_coefficient(salience, drops), salience, drops)


def salience_coefficient(salience: Tensor, drops: Tensor) -> Tensor:
    """Agreement of two lists in order, weighed by how far apart the first one's members are: F = Σ w / Σ |w|.

    For every pair with s_i ≥ s_j, w = s_i − s_j where d_i ≥ d_j and −(s_i − s_j) elsewhere.

    Args:
        salience: (B, K) s, the relevance of each group, the largest first.
        drops: (B, K) d, what its loss costs.

    Returns:
        (B,) in [-1, 1]; NaN where all groups have the same relevance, and where all drops are equal: a model that does
        not react tells nothing of a map.

    Example:
        >>> salience_coefficient(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.4, 0.1, 0.2]]))
        tensor([0.6667])
    """
    first, second = torch.triu_indices(salience.shape[1], salience.shape[1], offset=1, device=salience.device)
    gap = salience[:, first] - salience[:, second]
    kept = drops[:, first] >= drops[:, second]
    score = torch.where(kept, gap, -gap).sum(1) / gap.abs().sum(1)  # 0/0 is NaN
    return score.masked_fill((drops == drops[:, :1]).all(1), torch.nan)
