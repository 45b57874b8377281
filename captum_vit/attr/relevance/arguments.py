"""What calls are given and return: tensors inside of containers, dtypes, and the out-of-place form of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_vit.attr.relevance.call import carries
from captum_vit.attr.relevance.rules import rule_of

__all__ = ["Casts", "cast", "flat", "out_of_place", "tensors_in"]


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
        return func(*cast(args, self._dtype), **cast(kwargs or {}, self._dtype))


def out_of_place(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None:
    """A call that changes its first argument (``x.add_(1)``, ``F.relu(x, inplace=True)``), as one that doesn't.

    Returns:
        The function and its arguments; None for another call, and where that function has no rule.
    """
    name = getattr(func, "__name__", "")
    if name.endswith("_") and rule_of(func) is None:
        plain = getattr(Tensor, name[:-1], func)
        return None if rule_of(plain) is None else (plain, args, kwargs)
    code = getattr(func, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    if "inplace" not in names or rule_of(func) is None:
        return None
    place = names.index("inplace")
    if kwargs.get("inplace"):
        return func, args, {**kwargs, "inplace": False}
    if len(args) > place and args[place]:
        return func, (*args[:place], False, *args[place + 1 :]), kwargs
    return None
