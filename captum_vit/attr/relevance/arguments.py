"""What calls are given and return: tensors inside of containers, and their dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_vit.adapters.parameters import parameters_as_constants
from captum_vit.attr.relevance.call import carries

__all__ = ["Casts", "cast", "flat", "tensors_in"]


def flat(value: Any) -> Iterator[Any]:
    """What is in lists, tuples and dictionaries, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from flat(each)
    else:
        yield value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of `flat`."""
    return (each for each in flat(value) if isinstance(each, Tensor))


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Constants in the dtype in which relevance is computed; also inside lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and not carries(value) else value
    if isinstance(value, dict):
        return {key: cast(each, dtype) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(cast(each, dtype) for each in value)
    return value


class Casts(TorchFunctionMode):
    """Within a ``with`` block, every call takes its constants in one dtype.

    Args:
        dtype: the dtype.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = parameters_as_constants(func, args, kwargs or {})
        return func(*cast(args, self._dtype), **cast(kwargs, self._dtype))
