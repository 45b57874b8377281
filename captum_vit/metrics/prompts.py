"""Whether maps listen to their prompt, over a stream of images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_vit.metrics.base import ImageMean
from captum_vit.metrics.functional.prompts import (
    Scale,
    check_painted,
    check_scale,
    prompt_pair_localisation,
    wrong_prompt_area,
    wrong_prompt_energy,
)

__all__ = ["PromptPairLocalisation", "WrongPromptArea", "WrongPromptEnergy"]


class WrongPromptEnergy(ImageMean):
    """An absent prompt's share of the relevance that two prompts put on an object.

    Args:
        scale: "shared" or "own", see `functional.wrong_prompt_energy`.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, 1.0)
    needs = ("masks", "maps of a second prompt")

    def __init__(self, *, scale: Scale = "shared", **kwargs: Any) -> None:
        check_scale(scale)
        super().__init__(**kwargs)
        self.scale = scale

    def rows(self, present: Tensor, absent: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps of the prompt that names the object, of an absent one, and the object, each (B, H, W)."""
        return wrong_prompt_energy(present, absent, masks, scale=self.scale)


class WrongPromptArea(ImageMean):
    """Share of an object's pixels that the map of an absent prompt paints.

    Args:
        threshold: pixels strictly above it are painted.
        scale: "shared", "own" or "none", see `functional.wrong_prompt_area`.
        kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = False
    range = (0.0, 1.0)
    needs = ("masks", "maps of a second prompt")

    def __init__(self, *, threshold: float = 0.5, scale: Scale = "shared", **kwargs: Any) -> None:
        check_painted(threshold, scale)
        super().__init__(**kwargs)
        self.threshold = threshold
        self.scale = scale

    def rows(self, present: Tensor, absent: Tensor, masks: Tensor) -> Tensor:
        """(B,) values of maps of the prompt that names the object, of an absent one, and the object, each (B, H, W)."""
        return wrong_prompt_area(present, absent, masks, threshold=self.threshold, scale=self.scale)


class PromptPairLocalisation(ImageMean):
    """How well the maps of two prompts tell their two objects apart; 0.5 for maps that are the same."""

    higher_is_better = True
    range = (0.0, 1.0)
    needs = ("masks", "maps of a second prompt")

    def rows(self, first: Tensor, second: Tensor, first_masks: Tensor, second_masks: Tensor) -> Tensor:
        """(B,) values of the maps of both prompts and the objects of both, each (B, H, W)."""
        return prompt_pair_localisation(first, second, first_masks, second_masks)
