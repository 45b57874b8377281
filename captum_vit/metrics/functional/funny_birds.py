"""The Co-12 scores of FunnyBirds: maps against what happens when parts of an object are taken away."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from captum_vit.metrics.functional.maps import check_maps, check_masks
from captum_vit.metrics.functional.similarity import spearman

__all__ = [
    "THRESHOLDS",
    "Completeness",
    "background_independence",
    "completeness",
    "contrastivity",
    "correctness",
    "csdc",
    "deletion_check",
    "distractibility",
    "important_parts",
    "part_importances",
    "preservation_check",
    "single_deletion",
    "target_sensitivity",
    "targets_differ",
]

THRESHOLDS: tuple[float, ...] = tuple(torch.linspace(0.01, 0.5, 80, dtype=torch.float64).tolist())
"""Shares of a map's sum above which a part counts as important; which one is used follows from the scores."""


class Completeness(NamedTuple):
    """The completeness of an explanation, at the threshold where it is best.

    Attributes:
        score: Com, the mean of the three checks' mean and of D.
        step: which threshold that is.
        csdc: at that threshold, as what follows.
        preservation: PC.
        deletion: DC.
        distractibility: D.
    """

    score: Tensor
    step: int
    csdc: Tensor
    preservation: Tensor
    deletion: Tensor
    distractibility: Tensor


def part_importances(maps: Tensor, part_masks: Tensor, dilation: int = 5) -> Tensor:
    """The sum of a map over each part and its surroundings, with its sign.

    Args:
        maps: (B, H, W).
        part_masks: (B, P, H, W), or (B, P, K, H, W) for parts of K pieces, such as a left and a right eye: each is
            dilated on its own, so that what is near to both counts twice, as in the published protocol.
        dilation: side of the square by which masks grow, odd; 1 for none.

    Returns:
        (B, P).

    Raises:
        TypeError: maps that are not of real numbers, masks that are not of integers.
        ValueError: a shape or a value that does not fit.

    Example:
        >>> maps, masks = torch.ones(1, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.long)
        >>> masks[0, 0, 0, 0] = masks[0, 1, 1, 1] = 1
        >>> part_importances(maps, masks, dilation=3)
        tensor([[4., 9.]])
    """
    maps = check_maps(maps)
    if dilation < 1 or dilation % 2 == 0:
        raise ValueError(f"dilation must be odd and at least 1, got {dilation}.")
    if part_masks.ndim == 4:
        part_masks = part_masks[:, :, None]
    if part_masks.ndim != 5 or (part_masks.shape[0], *part_masks.shape[3:]) != maps.shape:
        expected = f"({len(maps)}, P, {maps.shape[1]}, {maps.shape[2]}), with or without pieces after P"
        raise ValueError(f"part_masks must have shape {expected}, got {tuple(part_masks.shape)}.")
    grown = _dilated(check_masks(part_masks.flatten(0, 2)) == 1, dilation).view(part_masks.shape)
    pixels = grown.sum(2).flatten(2).to(maps)  # (B, P, HW): in how many of the part's pieces
    return (pixels @ maps.flatten(1)[..., None])[..., 0]


def important_parts(importances: Tensor, totals: Tensor, thresholds: tuple[float, ...] = THRESHOLDS) -> Tensor:
    """Which parts hold more than a share of a map's sum.

    Where the sum is negative the comparison turns round: a part without any relevance then counts as important.

    Args:
        importances: (B, P) of `part_importances`.
        totals: (B,) the sums of the maps.
        thresholds: shares.

    Returns:
        (B, T, P), boolean.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> important_parts(torch.tensor([[0.1, 0.6, 0.0]]), torch.tensor([1.0]), (0.05, 0.5))
        tensor([[[ True,  True, False],
                 [False,  True, False]]])
        >>> important_parts(torch.tensor([[-0.9, 0.0]]), torch.tensor([-1.0]), (0.5,))
        tensor([[[False,  True]]])
    """
    if importances.ndim != 2 or totals.shape != importances.shape[:1]:
        raise ValueError(
            "importances must have shape (B, P) and totals (B,), "
            f"got {tuple(importances.shape)} and {tuple(totals.shape)}."
        )
    cuts = totals.double()[:, None] * torch.tensor(thresholds, dtype=torch.float64, device=totals.device)
    return importances.double()[:, None] > cuts[..., None]


def csdc(important: Tensor, sufficient: Tensor) -> Tensor:
    """How much of the best-covered set of parts that gives the class away is important: max over S of |S ∩ P| / |S|.

    Args:
        important: (B, T, P) of `important_parts`, for the image's own class.
        sufficient: (B, M, P) boolean: the minimal sufficient sets; rows without any part are padding.

    Returns:
        (B, T); NaN without a set.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> csdc(torch.tensor([[[True, False, False]]]), torch.tensor([[[True, True, False], [False, True, True]]]))
        tensor([[0.5000]])
    """
    if important.ndim != 3 or sufficient.ndim != 3 or important.shape[::2] != sufficient.shape[::2]:
        raise ValueError(
            "important must have shape (B, T, P) and sufficient (B, M, P), "
            f"got {tuple(important.shape)} and {tuple(sufficient.shape)}."
        )
    covered = important.float() @ sufficient.float().mT  # (B, T, M)
    shares = covered / sufficient.sum(2)[:, None]
    best = F.pad(shares.nan_to_num(-1), (1, 0), value=-1).amax(2)
    return best.masked_fill(best < 0, torch.nan)


def preservation_check(outputs: Tensor, outputs_kept: Tensor) -> Tensor:
    """Whether the prediction stays when only what is important is left.

    Args:
        outputs: (B, K) of the whole images.
        outputs_kept: (B, T, K) of the images with the important parts of their predicted class alone.

    Returns:
        (B, T): 1 or 0.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> preservation_check(torch.tensor([[0.0, 1.0]]), torch.tensor([[[0.0, 3.0], [2.0, 0.0]]]))
        tensor([[1., 0.]])
    """
    if outputs.ndim != 2 or outputs_kept.ndim != 3 or outputs.shape != outputs_kept.shape[::2]:
        raise ValueError(
            "outputs must have shape (B, K) and those of changed images (B, T, K), "
            f"got {tuple(outputs.shape)} and {tuple(outputs_kept.shape)}."
        )
    return (outputs_kept.argmax(2) == outputs.argmax(1)[:, None]).float()


def deletion_check(outputs: Tensor, outputs_removed: Tensor) -> Tensor:
    """Whether the prediction changes when what is important is removed.

    Args:
        outputs: (B, K) of the whole images.
        outputs_removed: (B, T, K) of the images without the important parts of their predicted class.

    Returns:
        (B, T): 1 or 0.

    Raises:
        ValueError: shapes that do not fit.
    """
    return 1 - preservation_check(outputs, outputs_removed)


def distractibility(scores: Tensor, scores_without: Tensor, important: Tensor, *, tolerance: float = 0.05) -> Tensor:
    """The share of what doesn't matter to the model that is not important either: 1 − |E ∩ I| / |I|.

    A part or background object is irrelevant, one of I, if its removal changes the logit of the image's class by less
    than a share of the logit's magnitude, or raises it.

    Args:
        scores: (B,) the logit of the image's own class.
        scores_without: (B, P) the same logit without each part and each background object.
        important: (B, T, P) of `important_parts`, over parts and background objects.
        tolerance: the share.

    Returns:
        (B, T); NaN where everything matters.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> important = torch.tensor([[[True, True, False]]])
        >>> distractibility(torch.tensor([10.0]), torch.tensor([[2.0, 9.9, 11.0]]), important)
        tensor([[0.5000]])
    """
    drops, least = _drops(scores, scores_without, tolerance)
    if important.ndim != 3 or important.shape[::2] != drops.shape:
        raise ValueError(
            f"important must have shape ({len(drops)}, T, {drops.shape[1]}), one per score, "
            f"got {tuple(important.shape)}."
        )
    irrelevant = ((drops.abs() < least) | (drops < 0))[:, None]
    return 1 - (important & irrelevant).sum(2) / irrelevant.sum(2)  # 0/0 is NaN


def single_deletion(scores: Tensor, scores_without: Tensor, importances: Tensor) -> Tensor:
    """Whether the parts that are said to matter more cost more: ρ/2 + 1/2 of Spearman's rank correlation.

    Args:
        scores: (B,) the logit of the image's own class.
        scores_without: (B, P) the same logit without each part.
        importances: (B, P) of `part_importances` for that class.

    Returns:
        (B,) in [0, 1]; NaN where all parts are said to matter alike, or do.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> scores_without = 5 - torch.tensor([[3.0, 1.0, 2.0, 0.0, 5.0]])
        >>> single_deletion(torch.tensor([5.0]), scores_without, torch.tensor([[0.3, 0.1, 0.5, 0.0, 0.9]]))
        tensor([0.9500])
    """
    drops, _ = _drops(scores, scores_without, tolerance=0)
    return spearman(drops[:, None], importances[:, None]).to(importances.dtype) / 2 + 0.5


def targets_differ(outputs_without_first: Tensor, outputs_without_second: Tensor) -> Tensor:
    """Whether each of two classes suffers more from the loss of the parts that it shares with the image's class.

    Args:
        outputs_without_first: (B, 2) logits of both classes without the parts that the first one shares.
        outputs_without_second: (B, 2) logits of both classes without the parts that the second one shares.

    Returns:
        (B,) boolean; where it is False, target sensitivity asks for something that the model doesn't do.
    """
    lower = outputs_without_first < outputs_without_second
    higher = outputs_without_first > outputs_without_second
    return lower[:, 0] & higher[:, 1]


def target_sensitivity(
    importances_first: Tensor, importances_second: Tensor, shared_first: Tensor, shared_second: Tensor
) -> Tensor:
    """Whether the maps of two other classes stress the parts that each shares with the image's class.

    Args:
        importances_first: (B, P) for the first class.
        importances_second: (B, P) for the second class.
        shared_first: (B, P) boolean: the parts that the first class shares.
        shared_second: (B, P) boolean: the parts that the second class shares.

    Returns:
        (B, 2), 1 or 0: the first class's parts have more relevance in its map than in the other, and the second's.
        Equal ones score 0, so that a map which is the same for every class scores 0 throughout.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> first, second = torch.tensor([[True, False]]), torch.tensor([[False, True]])
        >>> target_sensitivity(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]]), first, second)
        tensor([[1., 0.]])
    """
    shapes = [tuple(each.shape) for each in (importances_first, importances_second, shared_first, shared_second)]
    if importances_first.ndim != 2 or len(set(shapes)) > 1:
        raise ValueError(f"importances and shared parts must have one shape (B, P), got {shapes}.")
    more = (importances_first - importances_second).double()
    return torch.stack([(more * shared_first).sum(1) > 0, (more * shared_second).sum(1) < 0], dim=1).float()


def background_independence(scores: Tensor, scores_without: Tensor, *, tolerance: float = 0.05) -> Tensor:
    """The share of background objects that may go without much loss, over all images: a property of the model.

    Args:
        scores: (N,) the logit of the image's own class, for each object of each image.
        scores_without: (N,) the same logit without the object.
        tolerance: an object matters if its removal costs at least this share of the logit's magnitude.

    Returns:
        A number in [0, 1]; NaN without objects.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> background_independence(torch.tensor([10.0, 10.0, -10.0]), torch.tensor([9.8, 9.0, -9.0]))
        tensor(0.6667, dtype=torch.float64)
    """
    drops, least = _drops(scores, scores_without[:, None], tolerance)
    return 1 - ((drops >= least) & (drops > 0)).double().mean()


def completeness(checks: Tensor, preservation: Tensor, deletion: Tensor, distraction: Tensor) -> Completeness:
    """Com = ((CSDC + PC + DC)/3 + D)/2, at the threshold where it is highest; of equal ones the first.

    The threshold is chosen on the images that are measured, as in the published protocol.

    Args:
        checks: (T,) mean CSDC per threshold.
        preservation: (T,) mean PC.
        deletion: (T,) mean DC.
        distraction: (T,) mean D.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> one = completeness(*(torch.tensor([value]) for value in (0.7353, 0.602, 0.532, 0.54372)))
        >>> one.score, one.step
        (tensor(0.5834), 0)
    """
    parts = (checks, preservation, deletion, distraction)
    if checks.ndim != 1 or any(each.shape != checks.shape for each in parts):
        raise ValueError(f"all scores must have one shape (T,), got {[tuple(each.shape) for each in parts]}.")
    scores = ((checks + preservation + deletion) / 3 + distraction) / 2
    step = int((scores == scores.max()).int().argmax())
    return Completeness(scores[step], step, *(each[step] for each in parts))


def correctness(deletions: Tensor) -> Tensor:
    """Cor: the mean of SD (B,) over the images where it is defined."""
    return deletions.nanmean()


def contrastivity(sensitivities: Tensor) -> Tensor:
    """Con: the mean of TS (B, 2) over the images where it is defined."""
    return sensitivities.nanmean()


def _dilated(masks: Tensor, side: int) -> Tensor:
    return F.max_pool2d(masks[:, None].float(), side, stride=1, padding=side // 2)[:, 0]


def _drops(scores: Tensor, scores_without: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """(B, P) what the score loses without each part, and (B, 1) the smallest loss that matters."""
    if scores.ndim != 1 or scores_without.ndim != 2 or len(scores) != len(scores_without):
        raise ValueError(
            "scores must have shape (B,) and those of changed images (B, P), "
            f"got {tuple(scores.shape)} and {tuple(scores_without.shape)}."
        )
    whole = scores.double()[:, None]
    return whole - scores_without.double(), tolerance * whole.abs()
