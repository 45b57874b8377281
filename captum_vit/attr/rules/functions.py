"""Backward rules: each calls a function of PyTorch for its value, and gives that value another gradient.

A rule takes the function and its arguments and returns what the function returns. Relevance is input times gradient, so
"passes relevance on unchanged" reads: the gradient is multiplied by output / input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from captum_vit.adapters.attention import AttentionRecord, additive_mask
from captum_vit.adapters.multi_head import multi_head_attention

__all__ = [
    "Rule",
    "carries_gradient",
    "clipped",
    "detached_deviation",
    "detached_divisor",
    "detached_norm",
    "detached_rms",
    "gated",
    "multi_head",
    "plain",
    "pruned",
    "pruned_attention",
    "shared_attention",
    "shared_product",
]

Rule: TypeAlias = Callable[..., Any]
"""``rule(function, *args, **kwargs)``, in place of ``function(*args, **kwargs)``."""


def carries_gradient(value: Any) -> bool:
    """Whether a value, or a tensor in a list or tuple, depends on what is differentiated."""
    if isinstance(value, Tensor):
        return value.requires_grad
    return isinstance(value, (list, tuple)) and any(map(carries_gradient, value))


def plain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The gradient as it is: the rule of what is linear in what carries a gradient, and of views and selections."""
    return function(*args, **kwargs)


def pruned(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A constant: no gradient passes."""
    with torch.no_grad():
        return function(*args, **kwargs)


class _Scaled(Function):
    """A ready-made value whose gradient with respect to ``tensor``, of the same shape, is ``factor``; one if None."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: tuple[Tensor], factor: Tensor | float | None) -> Tensor:
        ctx.factor = factor
        return value[0]  # in a tuple, for PyTorch would take an input that is returned for a view

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        scaled = gradient if ctx.factor is None else gradient * ctx.factor
        return scaled.to(gradient.dtype), None, None


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """The tensor, with its gradient times ``factor``."""
    same: Tensor = _Scaled.apply(tensor, (tensor.detach(),), factor)
    return same


def valued(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the gradient of a surrogate of the same shape."""
    exchanged: Tensor = _Scaled.apply(surrogate, (value.detach(),), None)
    return exchanged


def shared_product(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A product whose factors share its relevance equally; those that carry no gradient get none.

    Raises:
        RuntimeError: factors that carry a gradient, multiplied in place.
    """
    given = (*args, *kwargs.values())
    factors = [each for arg in given for each in (arg if isinstance(arg, (list, tuple)) else [arg])]  # of einsum
    sharing = sum(map(carries_gradient, factors))
    if sharing < 2:
        return function(*args, **kwargs)
    product = function(*args, **kwargs)
    if product is factors[0]:
        raise RuntimeError(
            "the model multiplies two values that depend on the image in place, which rules can't follow."
        )
    return scaled(product, 1 / sharing)


def detached_divisor(function: Callable[..., Tensor], dividend: Any, divisor: Any, **kwargs: Any) -> Tensor:
    """A quotient with a constant divisor."""
    return function(dividend, divisor.detach() if isinstance(divisor, Tensor) else divisor, **kwargs)


def gated(slope: float) -> Rule:
    """The rule of an activation ``x · gate(x)`` with a constant gate: the gradient is output / input.

    Args:
        slope: output / input in the limit of a zero input.
    """

    def rule(function: Callable[..., Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            in_place = any(each is True for each in (*args, *kwargs.values()))
            value = function(tensor.clone() if in_place else tensor, *args, **kwargs)
            gate = (value / tensor).masked_fill_(tensor == 0, slope)
        output: Tensor = _Scaled.apply(tensor, (value,), gate)
        return output

    return rule


def clipped(
    function: Callable[..., Tensor],
    tensor: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """``F.hardtanh``, as `gated`; ``nn.ReLU6`` calls it with bounds of 0 and 6."""
    rule = gated(float(min_val < 0 < max_val))
    output: Tensor = rule(function, tensor, min_val, max_val, *args, **kwargs)
    return output


class _LayerNorm(Function):
    """Layer norm whose standard deviation is a constant of the backward pass; its mean is not."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shape: list[int], weight: Tensor | None, *rest: Any) -> Tensor:
        output, _, ctx.reciprocal = torch.native_layer_norm(tensor, shape, weight, *rest)
        ctx.weight, ctx.dims, ctx.dtype = weight, tuple(range(-len(shape), 0)), tensor.dtype
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled = gradient if ctx.weight is None else gradient * ctx.weight
        scaled = (scaled - scaled.mean(ctx.dims, keepdim=True)) * ctx.reciprocal
        return scaled.to(ctx.dtype), None, None, None, None


def detached_deviation(
    function: Callable[..., Tensor],
    input: Tensor,  # noqa: A002
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *unused: Any,
) -> Tensor:
    """``F.layer_norm`` with a constant standard deviation."""
    output: Tensor = _LayerNorm.apply(input, normalized_shape, weight, bias, eps)
    return output


def detached_rms(
    function: Callable[..., Tensor],
    input: Tensor,  # noqa: A002
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``F.rms_norm`` with a constant root mean square."""
    with torch.no_grad():
        value = function(input, normalized_shape, weight, eps)
        dims = tuple(range(-len(normalized_shape), 0))
        smallest = torch.finfo(input.dtype).eps if eps is None else eps
        factor = (input.square().mean(dims, keepdim=True) + smallest).rsqrt()
        factor = factor if weight is None else factor * weight
    output: Tensor = _Scaled.apply(input, (value,), factor)
    return output


def detached_norm(
    function: Callable[..., Tensor],
    input: Tensor,  # noqa: A002
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: None = None,
) -> Tensor:
    """``F.normalize`` with a constant norm."""
    with torch.no_grad():
        factor = input.norm(p, dim, keepdim=True).clamp_min(eps).reciprocal()
        value = function(input, p, dim, eps)
    output: Tensor = _Scaled.apply(input, (value,), factor)
    return output


def pruned_attention(
    function: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Attention with constant probabilities: the value takes all relevance, query and key none."""
    return function(query.detach(), key.detach(), value, *args, **kwargs)


def shared_attention(
    function: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Attention as two products that halve relevance, with the plain gradient of the softmax between them.

    The value gets one half; the other half goes through the softmax, and query and key share what arrives.
    """
    query_moves, key_moves = query.requires_grad, key.requires_grad
    share = 0.25 if query_moves and key_moves else 0.5
    return function(
        scaled(query, share) if query_moves else query,
        scaled(key, share) if key_moves else key,
        scaled(value, 0.5) if query_moves or key_moves else value,
        *args,
        **kwargs,
    )


def multi_head(attention: Rule) -> Rule:
    """The rule of ``F.multi_head_attention_forward`` from that of the attention inside; projections are linear."""

    def rule(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionRecord:
            output = attention(F.scaled_dot_product_attention, query, key, value, **options)
            scale = query.shape[-1] ** -0.5
            return AttentionRecord(query, key, value, output, scale, additive_mask(options.get("attn_mask"), query))

        return multi_head_attention(attend, *args, **kwargs)

    return rule
