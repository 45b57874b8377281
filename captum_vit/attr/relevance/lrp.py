"""Full LRP: relevance propagated from the target's logit to the pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_vit.attr.relevance.base import RelevanceAttribution
from captum_vit.attr.relevance.propagation import RuleSet

__all__ = ["LRP"]


class LRP(RelevanceAttribution):
    """Layer-wise relevance propagation through every layer of a vision transformer, to the pixels.

    Relevance starts at 1 at the target's logit. ``resolution="input"`` gives what arrives at each value of each
    channel, so that the sum over channels is the pixel map; ``resolution="patch"`` gives the sum over each patch's
    pixels and channels, which neither loses nor invents relevance.

    Args:
        model: see `ViTAttribution`.
        rules: see `RelevanceAttribution`; the paper's baseline "LRP" is "original".
        dtype: see `RelevanceAttribution`.

    Raises:
        ValueError: an option outside its range.
    """

    name = "LRP"
    signed = True
    pixel_level = True
    passes = "1 forward + 1 backward, with relevance rules: 2.5 times the products, in float64"
    reference = "arXiv:2012.09838, sections 3.1, 3.2 and 4"

    def __init__(self, model: nn.Module, *, rules: RuleSet = "original", dtype: torch.dtype = torch.float64) -> None:
        super().__init__(model, rules, dtype)

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        traced = self._trace_relevance(images)
        return self._stacked([pixels for (pixels,) in traced.relevance(targets, [traced.images])], images)
