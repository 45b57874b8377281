"""What the wrappers around a method share."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from captum_vit.attr.base import ViTAttribution

__all__ = ["MethodWrapper"]


class MethodWrapper(ViTAttribution):
    """A method that calls another one and changes its map or the pass that it looks at.

    Args:
        method: a method of this package, which is never changed.

    Raises:
        TypeError: no method of this package.
    """

    def __init__(self, method: ViTAttribution) -> None:
        if not isinstance(method, ViTAttribution):
            raise TypeError(f"method must be a ViTAttribution of captum_vit, got {type(method).__name__}.")
        super().__init__(method.forward_func)
        self.method = method
        self.class_specific, self.signed = method.class_specific, method.signed

    def _explained(self) -> nn.Module | ViTAttribution:
        return self.method

    def _inside(self) -> ViTAttribution:
        """The method on this wrapper's adapter, which a wrapper around this one may have exchanged."""
        method = copy.copy(self.method)  # the user's own may run in another thread
        method.forward_func = self.forward_func
        return method

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._inside()._relevance(images, targets)
