"""The rules of each method, by the names of PyTorch's functions, and by the function itself of others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from captum_vit.adapters.registers import moved_activations
from captum_vit.attr.rules.functions import (
    Rule,
    clipped,
    detached_deviation,
    detached_divisor,
    detached_norm,
    detached_rms,
    gated,
    multi_head,
    plain,
    pruned,
    pruned_attention,
    shared_attention,
    shared_product,
)

__all__ = ["ATTN_LRP", "LIBRA"]

_LINEAR = """
    add add_ iadd radd sub sub_ isub rsub subtract neg negative sum mean
    linear conv1d conv2d conv3d batch_norm avg_pool2d adaptive_avg_pool2d interpolate upsample dropout dropout_
    feature_dropout
"""
"""Linear in what carries a gradient (a bias, as any constant that is added, keeps its share)."""

_VIEWS = """
    get reshape reshape_as view view_as flatten ravel unflatten permute transpose t swapaxes swapdims
    movedim moveaxis expand expand_as broadcast_to repeat repeat_interleave tile unsqueeze squeeze unbind chunk split
    tensor_split narrow select getitem setitem index_select gather take_along_dim masked_fill masked_fill_ where
    cat concat concatenate stack hstack vstack flip roll rot90 pad unfold fold pixel_shuffle pixel_unshuffle
    clone contiguous copy_ to type type_as float double half bfloat16 cpu cuda alias requires_grad_
"""
"""Views, copies and selections."""

_WINNERS = "relu relu_ leaky_relu leaky_relu_ prelu rrelu max_pool2d amax amin maximum minimum max min"
"""Piecewise linear through zero: input times gradient is the output."""

_PRODUCTS = "mul mul_ imul rmul multiply matmul rmatmul mm bmm einsum"
_QUOTIENTS = "div div_ truediv itruediv true_divide divide"
_STATISTICS = "norm linalg_norm linalg_vector_norm var std"
_GATES = "sigmoid hardsigmoid"

_SHARED: dict[Any, Rule] = {
    **dict.fromkeys((_LINEAR + _VIEWS + _WINNERS).split(), plain),
    **dict.fromkeys(_PRODUCTS.split(), shared_product),
    **dict.fromkeys(_QUOTIENTS.split(), detached_divisor),
    **dict.fromkeys((_STATISTICS + " " + _GATES).split(), pruned),
    "gelu": gated(0.5),
    "silu": gated(0.5),
    "hardswish": gated(0.5),
    "mish": gated(0.6),
    "relu6": gated(0.0),
    "hardtanh": clipped,
    "elu": gated(1.0),
    "celu": gated(1.0),
    "selu": gated(1.0507009873554805),
    "softsign": gated(1.0),
    "tanh": gated(1.0),
    "layer_norm": detached_deviation,
    "rms_norm": detached_rms,
    "normalize": detached_norm,
    moved_activations: plain,
}

LIBRA: Mapping[Any, Rule] = MappingProxyType(
    {
        **_SHARED,
        "softmax": pruned,
        "scaled_dot_product_attention": pruned_attention,
        "multi_head_attention_forward": multi_head(pruned_attention),
    }
)
"""LibraGrad (arXiv:2411.16760), and the CP-LRP variant of `AttnLRP`: attention, gates and deviations are constants."""

ATTN_LRP: Mapping[Any, Rule] = MappingProxyType(
    {
        **_SHARED,
        "softmax": plain,
        "scaled_dot_product_attention": shared_attention,
        "multi_head_attention_forward": multi_head(shared_attention),
    }
)
"""AttnLRP (arXiv:2402.05602, section 3): as `LIBRA`, but relevance passes the softmax and is shared by its factors."""
