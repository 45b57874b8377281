"""Backward rules for everything that one thread computes in a block of code; no module and no function is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from captum_vit.adapters.parameters import is_attribute_access, parameters_as_constants
from captum_vit.adapters.sharing import own_passes
from captum_vit.attr.rules.functions import Rule, carries_gradient

__all__ = ["BackwardRules", "register_rule", "rules_apply"]

_registered: dict[str, Rule] = {}
_active: ContextVar[str | None] = ContextVar("rules that apply in this thread", default=None)


def register_rule(function: Callable[..., Any], rule: Rule) -> None:
    """Gives a function of PyTorch a rule, in every set of rules and before the one that the set may have.

    Args:
        function: as PyTorch names it in the error message, for example ``torch.erf``. The rule holds for all forms of
            that name (``torch.pow``, ``Tensor.pow``, ``**``).
        rule: ``rule(function, *args, **kwargs)`` returns the same value as ``function(*args, **kwargs)``, with the
            gradient of your choice. `captum_vit.attr.rules` has rules to take: `plain` for what is linear, `pruned` for
            a constant, ``gated(slope)`` for an activation ``x · gate(x)`` with a constant gate.

    Example:
        >>> from captum_vit.attr.rules import gated, register_rule
        >>> register_rule(torch.nn.functional.softsign, gated(slope=1.0))
    """
    _registered[_name(function)] = rule


def _name(function: Callable[..., Any]) -> str:
    """The name under which a function has its rule: that of ``torch.pow``, ``Tensor.pow`` and ``Tensor.__pow__``."""
    return getattr(function, "__name__", "").removeprefix("__").removesuffix("__")


def rules_apply() -> bool:
    """Whether this thread is inside of `BackwardRules`."""
    return _active.get() is not None


class BackwardRules(TorchFunctionMode):
    """Within a ``with`` block, what this thread computes from tensors that require gradients follows these rules.

    Values stay what they are; gradients, taken in the block or after it, are those of the rules. Parameters are
    constants. Other threads see nothing.

    Args:
        name: of the rules, for messages.
        rules: the rule of each function, by the function's name.

    Raises:
        RuntimeError: other rules apply already; a function without a rule is called on a value that depends on what is
            differentiated.
    """

    def __init__(self, name: str, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self.name = name
        self.rules = {**rules, **_registered}
        self._around = ExitStack()

    def __enter__(self) -> BackwardRules:
        if _active.get() is not None:
            raise RuntimeError(f"the rules of {self.name} can't apply inside those of {_active.get()}.")
        self._around.callback(_active.reset, _active.set(self.name))
        self._around.enter_context(own_passes())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._around.close()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_attribute_access(func):
            return func(*args, **kwargs)
        args, kwargs = parameters_as_constants(func, args, kwargs)
        if not torch.is_grad_enabled() or not (carries_gradient(args) or carries_gradient([*kwargs.values()])):
            return func(*args, **kwargs)
        rule = self.rules.get(_name(func))
        if rule is not None:
            return rule(func, *args, **kwargs)
        result = func(*args, **kwargs)
        if carries_gradient(result):
            name = resolve_name(func) or getattr(func, "__name__", str(func))
            raise RuntimeError(
                f"{self.name} has no rule for {name}, which the model applies to values that depend on the image. Give "
                f"it one: captum_vit.attr.rules.register_rule({name}, rule)."
            )
        return result
