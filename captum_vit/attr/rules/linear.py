"""The rules of linear layers and convolutions: epsilon and gamma, and which layers they are for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_vit.adapters.base import Adapter
from captum_vit.attr.rules.functions import Rule, plain, valued

__all__ = ["LinearRules", "gamma_rule"]


def gamma_rule(gamma: float, epsilon: float = 0.0) -> Rule:
    """The generalised gamma rule of a linear layer or convolution with a sum z_j = Σ_i x_i w_ij + b_j.

    Contributions c_ij = x_i w_ij of the sign of z_j, and the bias if it has that sign, count 1 + γ times:
    ``R_i = Σ_j (c_ij + γ c_ij [c_ij z_j > 0]) / (z_j + γ Σ_i c_ij [c_ij z_j > 0] + γ b_j [b_j z_j > 0]) R_j``, where ε
    with the sign of z_j is added to the denominator. γ = 0 is the epsilon rule, and ε = 0 then the plain gradient.

    With p_j = Σ_i |x_i| |w_ij| both sums are ½ (z_j − b_j ± p_j), so that one more product, of absolute values, is all
    that the rule needs forwards, and one more backwards.

    Args:
        gamma: γ, at least 0.
        epsilon: ε, at least 0.

    References:
        arXiv:2402.05602, which takes it from zennit's ``Gamma``, whose default stabiliser is ε = 1e-6.
    """

    def rule(
        function: Callable[..., Tensor],
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        total = function(input, weight, bias, *args, **kwargs)
        magnitude = function(input.abs(), weight.abs(), None, *args, **kwargs) if gamma else None
        with torch.no_grad():
            denominator = total + epsilon * total.sign()
            if magnitude is not None:
                shift = total.new_zeros(()) if bias is None else bias.reshape(-1, *[1] * (weight.ndim - 2))
                positive = ((total + magnitude - shift) / 2).clamp_(min=0) + shift.clamp(min=0)
                denominator += gamma * torch.where(total > 0, positive, (total - positive).clamp_(max=0))
            share = total / denominator.masked_fill_(total == 0, 1.0)
        surrogate = (1 + gamma / 2) * share * total
        if magnitude is not None:
            surrogate = surrogate + (gamma / 2 * share * total.detach().sign()) * magnitude
        return valued(total, surrogate)

    return rule


class LinearRules:
    """The rules of linear layers by where they stand: patch embedding, projections of an attention, all others.

    The projections of an attention are the linear calls between the begin of a block and its attention, and the first
    one after it; likewise after the last block where the model has an attention pooler. They keep the plain gradient,
    as in the authors' package.

    Args:
        gamma: γ of the others.
        patch_gamma: γ of what comes before the first block: the patch embedding, a convolution or a linear layer.
        epsilon: ε of both.
    """

    def __init__(self, *, gamma: float, patch_gamma: float, epsilon: float) -> None:
        self._embedding = gamma_rule(patch_gamma, epsilon) if patch_gamma or epsilon else plain
        self._others = gamma_rule(gamma, epsilon) if gamma or epsilon else plain
        self._before_blocks = True
        self._projections_follow = False  # up to the next attention
        self._projection_follows = False  # its output projection

    def rules(self, rules: Mapping[Any, Rule]) -> dict[Any, Rule]:
        """A set of rules with those of its linear layers and of its attention replaced by these."""
        attention = rules["scaled_dot_product_attention"]
        layers = dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), self._linear)
        return {**rules, **layers, "scaled_dot_product_attention": partial(self._attention, attention)}

    @contextmanager
    def watch(self, adapter: Adapter) -> Iterator[None]:
        """Follows one forward pass of this thread from block to block."""
        thread = threading.get_ident()

        def begins(*_: Any) -> None:
            if threading.get_ident() == thread:
                self._before_blocks, self._projections_follow = False, True

        def ends(*_: Any) -> None:
            if threading.get_ident() == thread:
                self._projections_follow = adapter.pooling == "attention" or adapter.has_unread_pooler

        handles = [block.register_forward_pre_hook(begins) for block in adapter.blocks]
        handles.append(adapter.blocks[-1].register_forward_hook(ends))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _attention(self, rule: Rule, *args: Any, **kwargs: Any) -> Any:
        self._projections_follow, self._projection_follows = False, True
        return rule(*args, **kwargs)

    def _linear(self, *args: Any, **kwargs: Any) -> Any:
        if self._before_blocks:
            return self._embedding(*args, **kwargs)
        if self._projections_follow or self._projection_follows:
            self._projection_follows = False
            return plain(*args, **kwargs)
        return self._others(*args, **kwargs)
