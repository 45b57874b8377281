"""Methods that know no patches, beside those of this package."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.attr import ViTAttribution
from captum_vit.evaluation.explainers import Explainer, tried
from captum_vit.evaluation.subject import Subject

__all__ = ["on_patches"]


def on_patches(explainer: Explainer, subject: Subject) -> ViTAttribution:
    """A method of Captum, one of your own or noise, whose map of a patch is the sum over its pixels.

    Args:
        explainer: the method.
        subject: the model, a vision transformer.

    Raises:
        UnsupportedMethodError: it can't explain this model.
    """
    tried(explainer, subject)
    kind = type("ForeignMethod", (_ForeignMethod,), {"name": explainer.spec.name})
    made: ViTAttribution = kind(explainer, subject)
    return made


class _ForeignMethod(ViTAttribution):
    """Relevance of pixels by another's method."""

    name = "foreign"
    class_specific = True
    signed = True
    pixel_level = True
    passes = "its own"
    reference = "its own"

    def __init__(self, explainer: Explainer, subject: Subject) -> None:
        super().__init__(subject.model)
        self.explainer = explainer

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, T, 1, H, W)."""
        with torch.enable_grad():
            maps = [self.explainer(images, target, key=key) for key, target in enumerate(targets.T)]
        return torch.stack(maps, 1)[:, :, None]

    def _why_blank(self) -> str:
        return "nothing that the method changes in the image, or differentiates, moves the target's output"
