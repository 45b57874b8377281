"""Suppression of background by a prompt that names nothing (LeGrad, appendix B.5)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from captum_vit.adapters.prompts import PromptClassifier
from captum_vit.attr.base import ViTAttribution

__all__ = ["BackgroundSuppression", "suppress_background"]


def suppress_background(relevance: Tensor, empty: Tensor, threshold: float = 0.8) -> Tensor:
    """Sets relevance to zero wherever the map of an empty prompt, scaled to [0, 1], exceeds a threshold.

    Args:
        relevance: maps of the prompts, (B, T, n) over n patches.
        empty: map of the empty prompt, (B, n).
        threshold: in [0, 1].

    Returns:
        (B, T, n).

    Example:
        >>> suppress_background(torch.tensor([[[5.0, 6.0, 7.0]]]), torch.tensor([[0.0, 9.0, 10.0]]))
        tensor([[[5., 0., 0.]]])

    References:
        arXiv:2404.03214, eq. 13.
    """
    low, high = empty.amin(-1, keepdim=True), empty.amax(-1, keepdim=True)
    spread = (high - low).where(high > low, 1.0)  # a constant map marks nothing as background
    return relevance * ((empty - low) / spread <= threshold)[:, None]


class BackgroundSuppression(ViTAttribution):
    """A wrapper around any method: patches that light up for an empty prompt are set to zero.

    The empty prompt is explained in the same pass as the target. Around a class-agnostic method both maps are the same,
    so the wrapper removes that map's own peaks.

    Args:
        method: a method on a `PromptClassifier`.
        prompt: the empty prompt, encoded as it stands. The authors' code has "a photo of a", their paper "a photo of".
        embedding: its ready-made embedding (E,), for a classifier without a tokenizer.
        threshold: in [0, 1].

    Raises:
        TypeError: the method does not explain prompts.
        ValueError: a threshold outside its range.
    """

    class_specific = True
    passes = "those of the method, with one more target"
    reference = "arXiv:2404.03214, eq. 13"

    def __init__(
        self,
        method: ViTAttribution,
        *,
        prompt: str = "a photo of a",
        embedding: Tensor | None = None,
        threshold: float = 0.8,
    ) -> None:
        if not isinstance(method.forward_func, PromptClassifier):
            raise TypeError(
                f"method must explain a PromptClassifier, got {method.get_name()} on {method.forward_func.family}."
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}.")
        super().__init__(method.forward_func)
        self.method = method
        self.threshold = threshold
        self.embedding = method.forward_func.encode([prompt])[0] if embedding is None else embedding

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        classifier = self.method.forward_func
        assert isinstance(classifier, PromptClassifier)
        joint = copy.copy(self.method)
        joint.forward_func = classifier.with_extra(self.embedding)
        empty = torch.full_like(targets[:, :1], classifier.num_outputs)
        relevance = joint._relevance(images, torch.cat([targets, empty], 1))  # (B, T + 1, N)
        gh, gw = classifier.grid(*images.shape[-2:])
        patches = relevance[..., -gh * gw :]
        return suppress_background(patches[:, :-1] if patches.shape[1] > 1 else patches, patches[:, -1], self.threshold)
