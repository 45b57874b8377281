"""LibraGrad: balanced gradients for any method that takes gradients (Mehri et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from captum.attr import (
    LRP,
    Attribution,
    Deconvolution,
    DeepLift,
    GradientAttribution,
    GuidedBackprop,
    GuidedGradCam,
    NoiseTunnel,
)
from torch import Tensor

from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.rules import LIBRA, BackwardRules
from captum_vit.attr.wrapper import MethodWrapper

__all__ = ["LibraGrad", "libragrad"]

_WITH_OWN_RULES = (LRP, DeepLift, GuidedBackprop, Deconvolution, GuidedGradCam)
"""Captum's methods that change gradients themselves."""


@contextmanager
def libragrad(method: Attribution) -> Iterator[None]:
    """Within the block, gradients that this thread takes are LibraGrad's; other threads see nothing.

    Balanced are all passes that the thread makes in the block, whoever makes them: keep it around the method's calls.
    `LibraGrad` is the same for one method, wherever it is called.

    Args:
        method: the method to call in the block: of this package, or of Captum on an adapter.

    Raises:
        TypeError: no attribution method.
        ValueError: a method that takes no gradient, or has backward rules of its own.
        RuntimeError: rules apply already; in the block also a method with rules of its own, and what `BackwardRules`
            refuses.

    References:
        arXiv:2411.16760.
    """
    _check(method)
    with BackwardRules("LibraGrad", LIBRA):
        yield


def _check(method: Attribution) -> None:
    while isinstance(method, (MethodWrapper, NoiseTunnel)) and not isinstance(method, LibraGrad):
        method = method.method if isinstance(method, MethodWrapper) else method.attribution_method
    if not isinstance(method, Attribution):
        raise TypeError(f"method must be an attribution method, got {type(method).__name__}.")
    ours = isinstance(method, ViTAttribution)
    if method.has_own_rules if ours else isinstance(method, _WITH_OWN_RULES):
        raise ValueError(f"method must have no backward rules of its own, got {method.get_name()}.")
    if not ("backward" in method.passes if ours else isinstance(method, GradientAttribution)):
        raise ValueError(f"method must take gradients for LibraGrad to change it, got {method.get_name()}.")


class LibraGrad(MethodWrapper):
    """A wrapper around any method that takes gradients: backward paths are pruned and scaled until they balance.

    In the backward pass attention probabilities, the gates of activations and the deviations of norms are constants,
    and factors of a product that both depend on the image get half the gradient each. Then input times gradient, summed
    over inputs and biases, is the output (FullGrad-completeness), which the plain gradient of a transformer misses.

    What a method differentiates stays what it was: LeGrad, CheferCAM, GMAR and AttentionCAM still take the gradient
    with respect to each attention map. What changes is how it gets there: through values, MLPs and norms of the later
    blocks, not through their attention maps.

    Args:
        method: a method of this package that takes gradients.

    Raises:
        TypeError: no method of this package.
        ValueError: a method that takes no gradient, or has backward rules of its own.

    Example:
        >>> import torch
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from captum_vit import CheferCAM
        >>> model = VisionTransformer(img_size=32, patch_size=16, embed_dim=12, depth=2, num_heads=2).eval()
        >>> LibraGrad(CheferCAM(model)).attribute(torch.rand(1, 3, 32, 32), target=281).shape
        torch.Size([1, 3, 32, 32])
    """

    name = "LibraGrad"
    has_own_rules = True
    passes = "those of the method"
    reference = "arXiv:2411.16760"

    def __init__(self, method: ViTAttribution) -> None:
        super().__init__(method)
        _check(method)
        self.pixel_level = method.pixel_level

    def _maps(
        self,
        images: Tensor,
        resolve: Callable[[], Tensor],
        internal_batch_size: int | None,
        relevance_of: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        folded: bool = True,
    ) -> Tensor:
        """The method's own maps, with balanced gradients."""
        with libragrad(self.method):
            return self._inside()._maps(images, resolve, internal_batch_size, relevance_of, folded=folded)

    def _passed_on(self, name: str) -> Callable[..., Any]:
        call = super()._passed_on(name)

        @wraps(call)
        def balanced(*args: Any, **kwargs: Any) -> Any:
            with libragrad(self.method):
                return call(*args, **kwargs)

        return balanced

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        with libragrad(self.method):
            return super()._relevance(images, targets)
