"""What the wrappers around a method share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from captum_vit.attr.base import ViTAttribution

__all__ = ["MethodWrapper"]


class MethodWrapper(ViTAttribution):
    """A method that calls another one and changes its map or the pass that it looks at.

    What the method inside can do beyond `attribute` and `attribute_targets` (`LeGrad.attribute_blocks`) the wrapper can
    do too, where that has a meaning; else looking it up is an AttributeError with the reason.

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

    @property
    def multiplies_by_inputs(self) -> bool:
        return bool(self.method.multiplies_by_inputs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A call that the method inside adds to those of every method.

        Raises:
            AttributeError: there is none of this name, or it has no meaning around the method.
        """
        if name.startswith("_") or name == "method":  # asked for before the constructor or `copy` is done
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            found = getattr(self.method, name)
        except AttributeError as error:
            raise AttributeError(
                f"{self.name} has no {name!r}, nor does the method inside give it one: {error}"
            ) from error
        if not callable(found):
            raise AttributeError(f"{self.name} has no {name!r}; that of the method inside is .method.{name}")
        return self._passed_on(name)

    def _passed_on(self, name: str) -> Callable[..., Any]:
        """A call of the method inside, with what the wrapper changes.

        Raises:
            AttributeError: a call that the wrapper can't change.
        """
        call: Callable[..., Any] = getattr(self._inside(), name)
        return call

    def _refused(self, name: str, why: str) -> AttributeError:
        return AttributeError(
            f"{self.name} has no {name!r}: {why}. Call that of the method inside: .method.{name}(...)"
        )

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._inside()._relevance(images, targets)
