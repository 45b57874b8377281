"""What the methods of this family share: the rule set, the dtype of relevance, and why a map vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.options import checked_choice
from captum_vit.attr.relevance.capture import RelevanceTrace, trace_relevance
from captum_vit.attr.relevance.propagation import RuleSet

__all__ = ["RelevanceAttribution"]


class RelevanceAttribution(ViTAttribution):
    """A method that propagates relevance from the target's logit through every call of the forward pass.

    Rules amplify rounding by about 10⁴, so they are computed in float64 whatever the model's dtype is.

    Args:
        model: see `ViTAttribution`.
        rules: "ours" or "original", see `RuleSet`.
        dtype: dtype of the rules; float32 where a device has no float64, or where speed counts more than digits.

    Raises:
        ValueError: an option outside its range.
    """

    class_specific = True
    has_own_rules = True
    memory = "graph and maps of all blocks, in float64"

    def __init__(self, model: nn.Module, rules: RuleSet, dtype: torch.dtype) -> None:
        super().__init__(model)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
        self.rules: RuleSet = checked_choice("rules", rules, get_args(RuleSet))
        self.dtype = dtype

    def _trace_relevance(self, images: Tensor) -> RelevanceTrace:
        if self.dtype == torch.float64 and images.device.type == "mps":
            raise ValueError(f"dtype must be torch.float32 on {images.device}, which has no float64, got {self.dtype}.")
        return trace_relevance(self.forward_func, images, self.rules, self.dtype)

    def _stacked(self, relevance: Sequence[Tensor], images: Tensor) -> Tensor:
        """One relevance per target, (B, T, ...), in the dtype of results."""
        return torch.stack(list(relevance), 1).to(torch.promote_types(images.dtype, torch.float32))

    def _why_blank(self) -> str:
        negative = "" if self.signed else "the pooled token draws no positive relevance from any patch, or "
        return (
            f"{negative}no relevance of the target that counts for the method arrives. A head whose weights are zero "
            "does that (torchvision's untrained ViT), and so does an output that no token changes"
        )
