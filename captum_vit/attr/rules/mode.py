"""Backward rules for everything that one thread computes in a block of code; no module and no function is replaced."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from captum_vit.adapters.parameters import is_attribute_access, parameters_as_constants
from captum_vit.adapters.sharing import own_passes
from captum_vit.attr.rules.functions import Rule, carries_gradient
from captum_vit.attr.rules.registration import check_rule, check_subject, is_pytorchs, shown
from captum_vit.attr.rules.sets import ATTN_LRP, LIBRA
from captum_vit.attr.rules.sight import ModuleRule, Sight, moving

__all__ = ["BackwardRules", "only_rules", "register_rule", "rules_apply"]

_registered: dict[Any, Rule] = {}
_active: ContextVar[str | None] = ContextVar("rules that apply in this thread", default=None)


def register_rule(subject: Callable[..., Any] | type[nn.Module], rule: Rule, *, replace: bool = False) -> None:
    """Gives a function, or all modules of a class, a rule in AttnLRP and LibraGrad.

    LRP, partial LRP and transformer attribution have rules of another kind: `captum_vit.attr.relevance.register_rule`.

    Args:
        subject: a function of PyTorch as the error names it, for example ``torch.erf``: the rule holds for all forms of
            that name (``torch.pow``, ``Tensor.pow``, ``**``). A function of yours that asks
            ``torch.overrides.has_torch_function``. Or a class of modules, not of their subclasses: for what its forward
            computes as a whole, seen or not.
        rule: ``rule(function, *args, **kwargs)`` returns the same value as ``function(*args, **kwargs)``, with the
            gradient of your choice. For a class of modules ``function`` is the module's own ``forward``.
            `captum_vit.attr.rules` has rules to take: `plain` for what is linear, `pruned` for a constant,
            ``gated(slope)`` for an activation ``x · gate(x)`` with a constant gate.
        replace: whether the subject may have a rule already, which this one then replaces.

    Raises:
        TypeError: what PyTorch shows no call of (an ``autograd.Function``, scripted code), a module instead of its
            class, a rule of the other kind.
        ValueError: the subject has a rule.

    Example:
        >>> from captum_vit.attr.rules import gated, register_rule
        >>> register_rule(torch.nn.functional.tanhshrink, gated(slope=0.0))
    """
    check_subject(subject)
    check_rule(rule, "rule(function, *args, **kwargs)", takes=2, takes_more=True)
    key = _key(subject)
    if not replace and (key in _registered or key in ATTN_LRP or key in LIBRA):
        raise ValueError(f"{shown(subject)} has a rule already; to exchange it, say replace=True.")
    _registered[key] = rule


def _key(subject: Any) -> Hashable:
    """What a rule is found by.

    Of PyTorch's functions the name, which ``torch.pow``, ``Tensor.pow`` and ``Tensor.__pow__`` share.
    """
    if isinstance(subject, type) or not is_pytorchs(subject):
        found: Hashable = subject
        return found
    name: str = getattr(subject, "__name__", "")
    return name.removeprefix("__").removesuffix("__")


def rules_apply() -> bool:
    """Whether this thread is inside of `BackwardRules`."""
    return _active.get() is not None


@contextmanager
def only_rules(name: str) -> Iterator[None]:
    """Within the block, rules of this name apply in this thread and no others.

    Raises:
        RuntimeError: others apply already.
    """
    if _active.get() is not None:
        raise RuntimeError(
            f"the rules of {name} can't apply inside those of {_active.get()}: one gradient follows one set of rules. "
            "Call the method outside of that block."
        )
    token = _active.set(name)
    try:
        yield
    finally:
        _active.reset(token)


class BackwardRules(TorchFunctionMode):
    """Within a ``with`` block, what this thread computes from tensors that require gradients follows these rules.

    Values stay what they are; gradients, taken in the block or after it, are those of the rules. Parameters are
    constants. Other threads see nothing.

    Args:
        name: of the rules, for messages.
        rules: the rule of each function, by the name of one of PyTorch's, by the function itself of others.

    Raises:
        RuntimeError: other rules apply already; on a value that depends on what is differentiated, a function without a
            rule is called, or one whose call PyTorch does not show: an ``autograd.Function``, scripted code. It is
            found when its module ends or the next function is called, and the message names both.
    """

    def __init__(self, name: str, rules: Mapping[Any, Rule]) -> None:
        super().__init__()
        self.name = name
        self.rules: dict[Any, Rule] = {**rules, **_registered}
        register, page = "captum_vit.attr.rules.register_rule", "docs/methods/attnlrp.md"
        self._sight = Sight(f"{name} has no rule", register, page, self._of_modules)
        self._around = ExitStack()

    def __enter__(self) -> BackwardRules:
        self._around.enter_context(only_rules(self.name))
        self._around.enter_context(own_passes())
        self._around.enter_context(self._sight.watch())
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
        if self._sight.inside is not None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        depending = moving(args, kwargs)
        if not depending:
            return func(*args, **kwargs)
        self._sight.check(depending)
        rule = self.rules.get(_key(func))
        if rule is not None:
            result = rule(func, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
            if carries_gradient(result):
                raise self._sight.missing(shown(func))
        self._sight.mark(result, args[0] if args else None)
        return result

    def _of_modules(self, kind: type[nn.Module]) -> ModuleRule | None:
        rule = self.rules.get(kind)
        return None if rule is None else lambda module, *args, **kwargs: rule(module.forward, *args, **kwargs)
