"""Suppression of background by a prompt that names nothing (LeGrad, appendix B.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_vit.adapters.prompts import PromptClassifier
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.needs import Need
from captum_vit.attr.options import OptionTypeError, checked_number
from captum_vit.attr.wrapper import MethodWrapper

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


class BackgroundSuppression(MethodWrapper):
    """A wrapper around any method: patches that light up for an empty prompt are set to zero.

    The empty prompt is explained in the same forward pass as the target. Around a class-agnostic method both maps are
    the same, so the wrapper removes that map's own peaks. Of a method that explains pixels the map of patches is
    suppressed.

    Args:
        method: a method on a `PromptClassifier`, whose prompts may be changed later.
        prompt: the empty prompt, encoded here as it stands, without the classifier's template. The authors' code has
            "a photo of a", their paper "a photo of".
        embedding: its ready-made embedding (E,), for a classifier without a tokenizer.
        threshold: in [0, 1]; at 1 nothing is suppressed.

    Raises:
        TypeError: no method of this package, one that does not explain prompts, a classifier without a tokenizer and
            no ``embedding``, or an option of another type.
        ValueError: a threshold outside its range, an embedding of the wrong shape, not finite or zero.

    Example:
        >>> import open_clip
        >>> from captum_vit import LeGrad
        >>> _ = torch.manual_seed(0)
        >>> vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2}
        >>> clip = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg={"width": 32, "heads": 2, "layers": 1})
        >>> model = PromptClassifier(clip.eval(), open_clip.get_tokenizer("ViT-B-32"), ["a cat", "a dog"])
        >>> method = BackgroundSuppression(LeGrad(model))
        >>> method.attribute(torch.rand(1, 3, 32, 32), target="a cat").shape
        torch.Size([1, 3, 32, 32])
    """

    name = "Background Suppression"
    passes = "those of the method, with one more target"
    needs = (Need.PROMPTS,)
    reference = "arXiv:2404.03214, eq. 13"

    def __init__(
        self,
        method: ViTAttribution,
        *,
        prompt: str = "a photo of a",
        embedding: Tensor | None = None,
        threshold: float = 0.8,
    ) -> None:
        super().__init__(method)
        classifier = self.forward_func.own
        if not isinstance(classifier, PromptClassifier):
            raise TypeError(
                f"method must explain a PromptClassifier, got {method.get_name()} on {method.forward_func.family}."
            )
        self.threshold = checked_number("threshold", threshold, 0, 1)
        if not isinstance(prompt, str):
            raise OptionTypeError(f"prompt must be a text, got {prompt!r}.")
        if embedding is not None and not isinstance(embedding, Tensor):
            raise OptionTypeError(f"embedding must be a tensor (E,), got {embedding!r}.")
        self.embedding = classifier.encode([prompt])[0] if embedding is None else embedding
        self.prompt = prompt if embedding is None else None
        classifier.with_extra(self.embedding)  # refuses a wrong embedding now

    def _options(self) -> dict[str, Any]:
        unused = "prompt" if self.prompt is None else "embedding"
        return {name: value for name, value in super()._options().items() if name != unused}

    def _maps(
        self,
        images: Tensor,
        resolve: Callable[[], Tensor],
        internal_batch_size: int | None,
        relevance_of: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        folded: bool = True,
    ) -> Tensor:
        """The method's own maps (B, T, 1, gh, gw), suppressed by the map of one target more."""
        view = self.forward_func
        classifier = view.own
        assert isinstance(classifier, PromptClassifier)
        method = self._inside()
        method.forward_func = view.view_of(classifier.with_extra(self.embedding))

        def with_empty() -> Tensor:
            targets = resolve()  # (B, T)
            return torch.cat([targets, torch.full_like(targets[:, :1], classifier.num_outputs)], 1)

        maps = method._maps(images, with_empty, internal_batch_size, relevance_of).flatten(2)  # (B, T + 1, gh·gw)
        suppressed = suppress_background(maps[:, :-1], maps[:, -1], self.threshold)
        result: Tensor = suppressed.unflatten(-1, (1, *classifier.grid(images.shape[-2], images.shape[-1])))
        self._refuse_blank(result)
        return result

    def _passed_on(self, name: str) -> Callable[..., Any]:
        raise self._refused(
            name, "it compares maps of whole targets with that of the empty prompt, and that call gives none"
        )

    def _why_blank(self) -> str:
        return (
            f"every patch with relevance in the map of {self.method.get_name()} is above {self.threshold} in the map "
            "of the empty prompt. Raise threshold, or give another empty prompt"
        )
