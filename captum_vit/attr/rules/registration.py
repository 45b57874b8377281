"""What can be given a rule, and what is one: shared by the two functions named ``register_rule``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.function import Function
from torch.overrides import resolve_name

__all__ = ["check_rule", "check_subject", "is_pytorchs", "shown"]


def check_subject(subject: Any) -> None:
    """Refuses what can't be given a rule.

    Args:
        subject: a function that Python calls, or a class of modules.

    Raises:
        TypeError: anything else.
    """
    owner = subject if isinstance(subject, type) else getattr(subject, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Function):
        raise TypeError(
            f"PyTorch shows no call of an autograd.Function, got {owner.__qualname__}. Give the rule to the class of "
            "the module whose forward applies it."
        )
    if isinstance(subject, torch.jit.ScriptFunction):
        raise TypeError(
            f"PyTorch shows no call of a scripted function, got {subject.name!r}. Give the rule to the class of the "
            "module whose forward calls it."
        )
    if isinstance(subject, nn.Module):
        raise TypeError(f"a rule is for a class of modules, got a module: write {type(subject).__name__}.")
    if isinstance(subject, type):
        if issubclass(subject, torch.jit.ScriptModule):
            raise TypeError(f"all scripted modules are of one class, which can't have a rule, got {subject.__name__}.")
        if not issubclass(subject, nn.Module):
            raise TypeError(f"a rule is for a function or for a class of nn.Module, got the class {subject.__name__}.")
    if not callable(subject):
        raise TypeError(f"a rule is for a function or for a class of nn.Module, got {subject!r}.")


def check_rule(rule: Any, form: str, takes: int, takes_more: bool) -> None:
    """Refuses what is no rule.

    Args:
        rule: the rule.
        form: how rules are called, for the message.
        takes: a number of positional arguments that it must take.
        takes_more: whether it may also take one more.

    Raises:
        TypeError: not callable, or called in another way.
    """
    if not callable(rule):
        raise TypeError(f"a rule must be a function {form}, got {rule!r}.")
    if not _takes(rule, takes) or (_takes(rule, takes + 1) and not takes_more):
        raise TypeError(
            f"a rule must be a function {form}, got {getattr(rule, '__qualname__', repr(rule))}, which takes other "
            "arguments. Rules of AttnLRP and LibraGrad (captum_vit.attr.rules) and those of LRP, partial LRP and "
            "transformer attribution (captum_vit.attr.relevance) can't stand for each other."
        )


def _takes(rule: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with that many positional arguments."""
    try:
        inspect.signature(rule).bind(*range(count))
    except (TypeError, ValueError):  # ValueError: a function of C++ that says nothing of its arguments
        return False
    return True


def is_pytorchs(function: Callable[..., Any]) -> bool:
    """Whether a function is one of PyTorch's own, not one that somebody has made visible or registered."""
    module = getattr(function, "__module__", None) or "torch"  # methods of tensors have none
    package, _, rest = module.partition(".")
    return package == "torch" and (not rest.startswith("ops.") or rest.startswith("ops.aten"))


def shown(subject: Callable[..., Any]) -> str:
    """A function or class as code would name it."""
    if isinstance(subject, (OpOverload, OpOverloadPacket)):
        return f"torch.ops.{subject}"
    name = None if isinstance(subject, type) else resolve_name(subject)
    if name is not None:
        return str(name)
    called = getattr(subject, "__qualname__", None) or getattr(subject, "__name__", None) or repr(subject)
    module = getattr(subject, "__module__", None)
    return f"{module}.{called}" if module else str(called)
