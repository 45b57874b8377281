"""How many pixels a thresholded map gets right and wrong."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import IGNORE

__all__ = ["Confusion", "confusion"]


class Confusion(NamedTuple):
    """Numbers of pixels, of one shape throughout, and the ratios made of them; a ratio of nothing to nothing is NaN.

    Attributes:
        true_positives: object, and above the threshold.
        false_positives: background, and above the threshold.
        false_negatives: object, and not above the threshold.
        true_negatives: background, and not above the threshold.
    """

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    true_negatives: Tensor

    @property
    def pixel_accuracy(self) -> Tensor:
        """Share of pixels that are right."""
        wrong = self.false_positives + self.false_negatives
        right = self.true_positives + self.true_negatives
        return right.double() / (right + wrong)

    @property
    def iou_foreground(self) -> Tensor:
        """TP / (TP + FP + FN), the Jaccard index."""
        wrong = self.false_positives + self.false_negatives
        return self.true_positives.double() / (self.true_positives + wrong)

    @property
    def iou_background(self) -> Tensor:
        """TN / (TN + FP + FN)."""
        wrong = self.false_positives + self.false_negatives
        return self.true_negatives.double() / (self.true_negatives + wrong)

    @property
    def f1(self) -> Tensor:
        """2 TP / (2 TP + FP + FN), the Dice coefficient."""
        wrong = self.false_positives + self.false_negatives
        return 2 * self.true_positives.double() / (2 * self.true_positives + wrong)

    def best(self) -> Confusion:
        """The counts at the threshold, along the last axis, with the highest foreground IoU; the first of equals."""
        place = self.iou_foreground.nan_to_num(0).argmax(-1, keepdim=True)
        return Confusion(*(counts.gather(-1, place)[..., 0] for counts in self))


def confusion(maps: Tensor, masks: Tensor, thresholds: Tensor) -> Confusion:
    """The counts (B, T) of each map at its T thresholds.

    A map of NaN has no pixel above any threshold.

    Args:
        maps: (B, H, W).
        masks: (B, H, W), checked; void pixels are not counted.
        thresholds: (B, T); a pixel strictly above is foreground.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 0.125], [0.5, 1.0]]]), torch.tensor([[[0, 0], [1, 1]]])
        >>> counts = confusion(maps, masks, torch.tensor([[0.25, 0.5]]))
        >>> counts.true_positives, counts.iou_foreground
        (tensor([[2, 1]]), tensor([[1.0000, 0.5000]], dtype=torch.float64))
    """
    inside, outside = (masks == 1).flatten(1), (masks == 0).flatten(1)
    flat = maps.masked_fill(masks == IGNORE, -torch.inf).flatten(1)
    above = [flat > threshold[:, None] for threshold in thresholds.unbind(1)]
    true_positives = torch.stack([(each & inside).sum(1) for each in above], dim=1)
    positives = torch.stack([each.sum(1) for each in above], dim=1)
    return Confusion(
        true_positives,
        positives - true_positives,
        inside.sum(1, keepdim=True) - true_positives,
        outside.sum(1, keepdim=True) - positives + true_positives,
    )
