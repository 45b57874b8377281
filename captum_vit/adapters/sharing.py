"""One forward pass for all methods that explain the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from captum_vit.adapters.base import Adapter
    from captum_vit.adapters.capture import Trace

__all__ = ["SharedPasses", "current_passes", "now", "own_passes", "shared_passes"]

_current: ContextVar[SharedPasses | None] = ContextVar("captum_vit_shared_passes", default=None)


@dataclass(frozen=True, eq=False)
class _Pass:
    adapter: Adapter
    images: Tensor  # held, so that no other tensor can come to lie at its address
    version: int
    autocast: torch.dtype | None
    gradients: bool
    trace: Trace
    seconds: float

    def serves(self, adapter: Adapter, images: Tensor, gradients: bool) -> bool:
        same = adapter is self.adapter and images.data_ptr() == self.images.data_ptr()
        same = same and images.shape == self.images.shape and images.stride() == self.images.stride()
        same = same and images.dtype == self.images.dtype and images._version == self.version
        return same and _autocast(images) == self.autocast and (self.gradients or not gradients)


class SharedPasses:
    """The forward passes of one context.

    Args:
        gradients: see `shared_passes`.

    Attributes:
        saved_seconds: what the passes took that did not have to be run again, once for every time.
    """

    def __init__(self, gradients: bool) -> None:
        self.saved_seconds = 0.0
        self._gradients = gradients
        self._passes: list[_Pass] = []

    def trace(self, adapter: Adapter, images: Tensor, gradients: bool, run: Callable[[bool], Trace]) -> Trace:
        """The trace of an earlier pass, or of a new one.

        Args:
            adapter: the model.
            images: (B, C, H, W).
            gradients: whether the trace must carry a graph.
            run: runs a pass, with a graph or without.
        """
        for each in self._passes:
            if each.serves(adapter, images, gradients):
                self.saved_seconds += each.seconds
                return each.trace
        gradients = gradients or self._gradients
        began = now(images)
        trace = run(gradients)
        seconds = now(images) - began
        self._passes.append(_Pass(adapter, images, images._version, _autocast(images), gradients, trace, seconds))
        return trace


def current_passes() -> SharedPasses | None:
    """What this thread shares at the moment; None outside of `shared_passes`."""
    return _current.get()


@contextmanager
def shared_passes(*, gradients: bool = True) -> Iterator[SharedPasses]:
    """Inside, methods that look at one forward pass of a model share it where they are given the same images.

    Methods see the same pass when they are built on the same `Adapter` and get the same tensor. Weights must not change
    inside. Attention records and, with gradients, the graph are kept until the end: on images of 224 pixels and ViT-B
    about as much memory as training takes for the same batch. Methods that show each block to a function as it ends
    (LeGrad) have a pass of their own, and so has every call on images that were made in ``torch.inference_mode()``,
    because it copies them. Hooks that are added inside, and changes of the images that PyTorch does not count
    (``.data``, NumPy), come too late for a pass that is shared.

    Args:
        gradients: whether the first pass carries a graph at once, so that methods that need one can share it with those
            that need none.

    Example:
        >>> from timm import create_model
        >>> from captum_vit import GMAR, CheferCAM, adapt
        >>> model = adapt(create_model("test_vit").eval())
        >>> images = torch.randn(1, 3, 160, 160)
        >>> with shared_passes():  # one forward pass
        ...     maps = [method(model).attribute(images, target=3) for method in (GMAR, CheferCAM)]
    """
    shared = SharedPasses(gradients)
    token = _current.set(shared)
    try:
        yield shared
    finally:
        _current.reset(token)


@contextmanager
def own_passes() -> Iterator[None]:
    """Inside, nothing is shared: for passes that are not the model's plain ones, whatever is around them."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def _autocast(images: Tensor) -> torch.dtype | None:
    kind = images.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def now(images: Tensor) -> float:
    """The time in seconds, when the work on the device of the images is done."""
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter()
