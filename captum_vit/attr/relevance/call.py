"""One call of a model, and the building blocks of its rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from captum_vit.attr.relevance.propagation import RuleSet, proportional_rule

__all__ = ["Call", "Propagate", "Rule", "carries", "halved_product", "passes", "proportional", "unchanged", "with_rule"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call that a model makes with tensors that carry relevance.

    Attributes:
        function: the function of PyTorch.
        args: its positional arguments; floating-point tensors have the dtype in which relevance is computed.
        kwargs: its keyword arguments.
        rules: the rule set in use.
        images: the images (B, C, H, W) that the model was given.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rules: RuleSet
    images: Tensor

    def output(self, *operands: Any) -> Any:
        """What the function returns, with its first positional arguments replaced by ``operands``."""
        return self.function(*operands, *self.args[len(operands) :], **self.kwargs)

    def refuse(self, reason: str) -> RuntimeError:
        """The error of a rule that does not cover this form of the call."""
        name = getattr(self.function, "__name__", repr(self.function))
        return RuntimeError(f"the relevance rule of {name} {reason}.")


Rule: TypeAlias = Callable[[Call], Any]
"""From a call to its output, whose backward carries relevance instead of gradients."""


Propagate: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""From the relevance of an output and the operands to the relevance of each operand."""


def carries(value: Any) -> bool:
    """Whether a value is a tensor that relevance can reach."""
    return isinstance(value, Tensor) and value.requires_grad


class _Relevance(torch.autograd.Function):
    """A call whose backward hands relevance to its operands, as ``rule(relevance, *operands)`` says."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], rule: Propagate, *operands: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*operands)
        return function(*operands)

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> Any:
        return (None, None, *ctx.rule(relevance[0], *ctx.saved_tensors))


def with_rule(function: Callable[..., Tensor], rule: Propagate, *operands: Tensor) -> Tensor:
    """``function(*operands)``, whose backward turns its relevance into that of the operands.

    Args:
        function: what is computed, without a graph.
        rule: from the relevance of the output and the operands to one relevance per operand, of its shape.
        *operands: tensors, at least one of which carries relevance.
    """
    output: Tensor = _Relevance.apply(function, rule, *operands)
    return output


def unchanged(relevance: Tensor, *_: Tensor) -> tuple[Tensor]:
    """The operand takes the whole relevance."""
    return (relevance,)


def passes(call: Call) -> Tensor:
    """The rule of activations, softmax and norms: the first argument takes the relevance of the output unchanged.

    Raises:
        RuntimeError: the output has another shape than the first argument, or another argument carries relevance.
    """
    x, *others = call.args or (None,)
    if not carries(x) or any(map(carries, [*others, *call.kwargs.values()])):
        raise call.refuse("passes relevance to its first argument and to no other")
    output = with_rule(call.output, unchanged, x)
    if output.shape != x.shape:
        raise call.refuse(f"needs an output of the shape {tuple(x.shape)} of its input, got {tuple(output.shape)}")
    return output


def proportional(call: Call) -> Tensor:
    """The rule of sums, means and maxima: the first argument gets relevance as it contributed to the output."""
    return with_rule(call.output, lambda relevance, x: proportional_rule(relevance, call.output, x), call.args[0])


def halved_product(function: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A product of two tensors, each of which gets half of the relevance."""
    return with_rule(function, lambda relevance, *pair: proportional_rule(relevance, function, *pair, share=0.5), a, b)
