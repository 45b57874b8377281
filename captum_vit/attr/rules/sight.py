"""What rules can't see: functions that PyTorch shows to no function mode, found by what they leave in the graph.

A function mode sees the functions of PyTorch that Python calls. It does not see an ``autograd.Function`` that is
applied, nor what scripted and C++ code calls. Every call that had a rule marks the graph's nodes of its
outputs; a node without a mark on the way of the gradient was made by a call that had none.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from captum_vit.adapters.running import Running, running_module

__all__ = ["ModuleRule", "Sight", "moving"]

ModuleRule: TypeAlias = Callable[..., Any]
"""From a module and what it was called with, ``rule(module, *args, **kwargs)``, to its output."""

_MARK = "captum_vit: by a rule"

_PASSING = """
    BackwardHookFunctionBackward AsStridedBackward0 ViewBackward0 UnsafeViewBackward0 ReshapeAliasBackward0
    SelectBackward0 SliceBackward0 TransposeBackward0 TBackward0 PermuteBackward0 ExpandBackward0 UnsqueezeBackward0
    SqueezeBackward0 SqueezeBackward1 SqueezeBackward2 AliasBackward0
"""
"""Nodes that pass gradients on as they are: of module hooks, and of views whose base was changed in place."""
_HARMLESS = frozenset(_PASSING.split())


def moving(*values: Any) -> list[Tensor]:
    """The tensors among values, also inside lists, tuples and dictionaries, that depend on what is differentiated."""
    found: list[Tensor] = []
    _gather(values, found)
    return found


def _gather(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                found.append(value)
        elif isinstance(value, (list, tuple)):
            _gather(value, found)
        elif isinstance(value, dict):
            _gather(value.values(), found)


class Sight:
    """Refuses what had no rule, in one thread, and applies the rules of whole modules.

    Args:
        lack: the beginning of a message: "AttnLRP has no rule".
        register: the function that registers a rule, with its module, for messages.
        page: the page of the documentation that tells how.
        rule_of: the rule of a class of modules, or None.

    Attributes:
        inside: the module whose own rule stands for all that it calls, or None.
    """

    def __init__(
        self, lack: str, register: str, page: str, rule_of: Callable[[type[nn.Module]], ModuleRule | None]
    ) -> None:
        self.inside: nn.Module | None = None
        self._lack, self._register, self._page, self._rule_of = lack, register, page, rule_of
        self._inputs: list[tuple[Tensor, int]] = []
        self._handles: dict[nn.Module, RemovableHandle] = {}

    def missing(self, name: str) -> RuntimeError:
        """The error of a function that was called and has no rule."""
        return RuntimeError(
            f"{self._lack} for {name}, which {running_module()} applies to values that depend on the image. Give it "
            f"one: {self._register}({name}, rule); see {self._page}."
        )

    def hidden(self, what: str, where: Running, *, of_parameters: bool = False) -> RuntimeError:
        """The error of a function whose call was not seen."""
        if of_parameters:
            remedy = "Take the gradients from the parameters: model.requires_grad_(False)"
        elif where.is_scripted:
            remedy = "Put the eager module in its place that it was made from"
        else:
            remedy = f"Give the module a rule: {self._register}({where.kind}, rule)"
        values = "parameters" if of_parameters else "values that depend on the image"
        return RuntimeError(
            f"{self._lack} for {what}, which {where} applies to {values}, and PyTorch shows no call of it. {remedy}; "
            f"see {self._page}."
        )

    def check(self, tensors: Iterable[Tensor], where: Callable[[], Running] = running_module) -> None:
        """Refuses values that were made by a function whose call was not seen.

        Args:
            tensors: values that require gradients.
            where: tells the module that called it.

        Raises:
            RuntimeError: such a function, with its name and the module.
        """
        for tensor in tensors:
            node = _unmarked(tensor.grad_fn)
            if node is not None:
                raise self.hidden(_described(node), where(), of_parameters=_is_of_parameters(node))

    def mark(self, result: Any, first: Any = None) -> None:
        """Marks what a call with a rule has made.

        Args:
            result: what it returned.
            first: its first argument, which it has changed in place if it returns that or nothing.
        """
        for tensor in moving(result):
            _mark(tensor)
        if isinstance(first, Tensor) and (result is first or result is None):
            _mark(first)
            if first._base is not None:
                _mark(first._base)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Within the block, what enters and leaves the modules that this thread runs is checked."""
        thread = threading.get_ident()

        def sees() -> bool:
            return threading.get_ident() == thread and self.inside is None and torch.is_grad_enabled()

        def enters(module: nn.Module, args: Any) -> None:
            if sees():
                with torch._C.DisableTorchFunction():  # attributes of tensors go through function modes, too
                    self._enters(module, args)

        def leaves(module: nn.Module, args: Any, output: Any) -> None:
            if sees():
                with torch._C.DisableTorchFunction():
                    self.check(moving(output))

        common = [register_module_forward_pre_hook(enters), register_module_forward_hook(leaves)]
        try:
            yield
        finally:
            self.inside = None
            for handle in [*common, *self._handles.values()]:
                handle.remove()
            self._handles.clear()

    def _enters(self, module: nn.Module, args: Any) -> None:
        tensors = moving(args)
        self.check(tensors, lambda: running_module(besides=module))
        if tensors and isinstance(module, torch.jit.ScriptModule):
            raise self.hidden("scripted code", running_module())
        rule = self._rule_of(type(module))
        if rule is None:
            return
        self.inside = module
        self._inputs = [(each, each._version) for each in tensors]
        if module not in self._handles:
            hook = partial(self._leaves, threading.get_ident(), rule)
            self._handles[module] = module.register_forward_hook(hook, with_kwargs=True, always_call=True)

    def _leaves(
        self, thread: int, rule: ModuleRule, module: nn.Module, args: Any, kwargs: Any, output: Any = None
    ) -> Any:
        """Exchanges the output of a module with a rule of its own, except where an error is on its way (None)."""
        if threading.get_ident() != thread or self.inside is not module:
            return None
        try:
            given = moving(args, kwargs)
            if output is None or not given:
                return None
            if any(each._version != version for each, version in self._inputs) or any(map(_is_unmarked, given)):
                raise RuntimeError(f"{running_module()} changes its input in place, which its rule can't follow.")
            bound = inspect.signature(module.forward).bind(*args, **kwargs)  # by position, as rules want them
            ruled = rule(module, *bound.args, **bound.kwargs)
            self.mark(ruled)
            return ruled
        finally:
            self.inside, self._inputs = None, []


def _mark(tensor: Tensor) -> None:
    if tensor.grad_fn is not None:
        _metadata(tensor.grad_fn)[_MARK] = True


def _metadata(node: Node) -> dict[Any, Any]:
    entries: dict[Any, Any] = node.metadata  # type: ignore[assignment]
    return entries


def _is_unmarked(tensor: Tensor) -> bool:
    return _unmarked(tensor.grad_fn) is not None


def _unmarked(node: Node | None) -> Node | None:
    """The first node without a mark on the way back, past those that change no gradient; None where all have one."""
    ahead = [node]
    while ahead:
        each = ahead.pop()
        if each is None or _MARK in _metadata(each) or each.name().endswith("AccumulateGrad"):
            continue
        if each.name() not in _HARMLESS:
            return each
        ahead += [following for following, _ in each.next_functions]
    return None


def _is_of_parameters(node: Node) -> bool:
    """Whether a node leads back to parameters and to nothing else."""
    ahead: list[Node] = [node]
    seen: set[Node] = set()
    while ahead:
        each = ahead.pop()
        if each in seen:
            continue
        seen.add(each)
        ahead += [following for following, _ in each.next_functions if following is not None]
    leaves = [each.variable for each in seen if hasattr(each, "variable")]
    return bool(leaves) and all(isinstance(leaf, nn.Parameter) for leaf in leaves)


def _described(node: Node) -> str:
    function = getattr(type(node), "_forward_cls", None)
    if function is not None:
        return f"the autograd.Function {function.__module__}.{function.__qualname__}"
    return f"scripted or C++ code (its gradient: {node.name()})"
