"""Which module, and which ``autograd.Function``, this thread is running: read from its stack, for messages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch
from torch import nn
from torch.autograd.function import Function

from captum_vit.adapters.base import Adapter

__all__ = ["Running", "running_function", "running_module"]


@dataclass(frozen=True, eq=False)
class Running:
    """A module that is running.

    Attributes:
        module: the module; None outside of any.
        name: its dotted name inside the user's model; empty for the model itself and for what is none of its parts.
    """

    module: nn.Module | None
    name: str = ""

    def __str__(self) -> str:
        if self.module is None:
            return "the model"
        return f"{self.name} ({self.kind})" if self.name else self.kind

    @property
    def kind(self) -> str:
        """The name of its class; of a scripted module that of the class that it was made from."""
        return str(getattr(self.module, "original_name", type(self.module).__name__))

    @property
    def is_scripted(self) -> bool:
        """Whether its code is PyTorch's own, made by ``torch.jit``."""
        return isinstance(self.module, torch.jit.ScriptModule)


def running_module(*, besides: nn.Module | None = None) -> Running:
    """The innermost part of the user's model that this thread is running.

    Args:
        besides: a module that does not count.
    """
    modules = [each for each in _modules() if each is not besides]
    adapters = [each for each in modules if isinstance(each, Adapter)]
    if not modules:
        return Running(None)
    model: nn.Module = adapters[-1].model if adapters else modules[-1]
    names = {id(module): name for name, module in model.named_modules()}
    innermost = next((each for each in modules if id(each) in names), modules[0])
    return Running(innermost, names.get(id(innermost), ""))


def running_function() -> type[Function] | None:
    """The innermost ``autograd.Function`` whose forward this thread is running, or None."""
    forwards = {getattr(inspect.unwrap(each.forward), "__code__", None): each for each in _subclasses(Function)}
    return next((forwards[frame.f_code] for frame in _frames() if frame.f_code in forwards), None)


def _subclasses(of: type[Function]) -> Iterator[type[Function]]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def _modules() -> Iterator[nn.Module]:
    """The modules that this thread is running, innermost first."""
    for frame in _frames():
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            yield module


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
