"""Which rule carries relevance through which function of PyTorch, and how to register one more."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit.adapters.registers import moved_activations
from captum_vit.attr.relevance.call import Call, Rule, carries, halved_product, passes, proportional, with_rule
from captum_vit.attr.relevance.propagation import add_rule, alpha_beta_rule, bounded_rule, stabilise
from captum_vit.attr.rules.registration import check_rule, check_subject, shown

__all__ = ["CONSTANT", "register_rule", "rule_of"]


def _layer(call: Call, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """A linear layer by α1β0: ``function(x, weight)`` is the call without its bias."""
    if carries(weight):
        raise call.refuse("needs constant weights, but they depend on the image")
    return with_rule(
        lambda _: call.output(), lambda relevance, x: (alpha_beta_rule(relevance, function, x, weight, call.rules),), x
    )


def _linear(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _layer(call, F.linear, x, weight)


def _convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
    options = {name: value for name, value in call.kwargs.items() if name not in ("weight", "bias")}

    def without_bias(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, *geometry, **options)

    if x is not call.images:
        return _layer(call, without_bias, x, weight)
    return with_rule(
        lambda _: call.output(), lambda relevance, x: (bounded_rule(relevance, without_bias, x, weight),), x
    )


def _matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    if carries(a) and carries(b):
        return halved_product(torch.matmul, a, b)
    if carries(a):
        return _layer(call, torch.matmul, a, b)
    return _layer(call, lambda x, weight: weight @ x, b, a)


def _add(call: Call, a: Any, b: Any) -> Tensor:
    """A number or a vector is a bias and takes no relevance; another constant (position embedding) takes its share."""
    x, other = (a, b) if carries(a) else (b, a)
    if not isinstance(other, Tensor) or (other.ndim < 2 and not carries(other)):
        return _scaled(call, x)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if shape[0] != len(call.images):
        raise call.refuse(f"needs the batch of {len(call.images)} in front, got {tuple(shape)}")
    return with_rule(
        torch.add, lambda relevance, a, b: add_rule(relevance, a, b, call.rules), a.expand(shape), b.expand(shape)
    )


def _multiply(call: Call, a: Any, b: Any) -> Tensor:
    """A constant factor passes relevance where it isn't 0; two tensors take half each."""
    if carries(a) and carries(b):
        return halved_product(torch.mul, a, b)
    x, factor = (a, b) if carries(a) else (b, a)
    return _scaled(call, x, factor)


def _divide(call: Call, x: Tensor, divisor: Any) -> Tensor:
    if carries(divisor):
        raise call.refuse("needs a constant divisor, but it depends on the image")
    return _scaled(call, x, divisor)


def _scaled(call: Call, x: Tensor, factor: Any = 1.0) -> Tensor:
    """An output with one factor for each value of ``x``: relevance passes unchanged where the factor isn't 0."""
    kept = torch.as_tensor(factor, device=x.device) != 0
    shape = torch.broadcast_shapes(x.shape, *(each.shape for each in call.args if isinstance(each, Tensor)))
    return with_rule(lambda _: call.output(), lambda relevance, _: (relevance * kept,), x.expand(shape))


def _indexed(call: Call) -> Tensor:
    """As a view, with the stabiliser of the authors' rule."""
    output: Tensor = call.output()
    return with_rule(torch.clone, lambda relevance, x: (stabilise(x, relevance),), output)


def _cast(call: Call) -> Any:
    """Casts are undone: relevance is computed in one dtype."""
    output = call.output()
    if not carries(call.args[0]) or not output.is_floating_point():
        return output
    return call.args[0].to(output.device)


def _as_gradient(call: Call) -> Any:
    """The rule of views and copies: relevance goes where the gradient goes."""
    return call.output()


def _spread(rule: Callable[..., Tensor]) -> Rule:
    """A rule that takes the call's arguments by name."""
    signature = inspect.signature(rule)

    def by_name(call: Call) -> Any:
        try:
            signature.bind(call, *call.args, **call.kwargs)
        except TypeError as error:
            raise call.refuse(f"does not cover this form of the call: {error}") from error
        return rule(call, *call.args, **call.kwargs)

    return by_name


def _functions(names: str) -> list[Callable[..., Any]]:
    """All functions of PyTorch with these names: torch.x, Tensor.x and F.x."""
    spaces = (torch, Tensor, F)
    return [getattr(space, name) for name in names.split() for space in spaces if hasattr(space, name)]


def _table(*entries: tuple[str, Rule]) -> dict[Callable[..., Any], Rule]:
    return {function: rule for names, rule in entries for function in _functions(names)}


_RULES: dict[Any, Rule] = _table(
    ("linear", _spread(_linear)),
    ("conv2d", _spread(_convolution)),
    ("matmul bmm", _spread(_matmul)),
    ("add", _spread(_add)),
    ("mul multiply", _spread(_multiply)),
    ("div true_divide divide", _spread(_divide)),
    ("gelu silu mish hardswish relu relu6 hardtanh leaky_relu prelu rrelu elu celu selu softsign", passes),
    ("sigmoid hardsigmoid tanh softmax neg", passes),
    ("layer_norm rms_norm batch_norm normalize", passes),
    ("mean sum amax", proportional),
    ("to type type_as float double half bfloat16", _cast),
    (
        "view view_as reshape reshape_as flatten unflatten squeeze unsqueeze expand expand_as contiguous clone",
        _as_gradient,
    ),
    ("transpose permute movedim swapaxes swapdims t T mT flip roll repeat tile", _as_gradient),
    ("cat concat stack split chunk tensor_split unbind", _as_gradient),
    ("__getitem__ select narrow index_select gather", _indexed),
    ("dropout dropout1d dropout2d alpha_dropout", _as_gradient),
)
_RULES[moved_activations] = proportional

CONSTANT = frozenset(_functions("zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full"))
"""Functions that read no value of the tensor that they are given."""


Subject: TypeAlias = Callable[..., Any] | type[nn.Module]


def register_rule(subjects: Subject | Iterable[Subject], rule: Rule, *, replace: bool = False) -> None:
    """Tells LRP, partial LRP and transformer attribution how relevance passes through a function or a class of modules.

    AttnLRP and LibraGrad have rules of another kind: `captum_vit.attr.rules.register_rule`.

    Args:
        subjects: a function of PyTorch as the error names it (``torch.nn.functional.tanhshrink``); a function of yours
            that asks ``torch.overrides.has_torch_function``; a class of modules, not of their subclasses, for what its
            forward computes as a whole, seen or not. Or several of them.
        rule: `passes` for activations and norms, `proportional` for sums and means, or a function from a `Call` to the
            call's output. For a class of modules the call's function is the module's own ``forward``.
        replace: whether there may be a rule already, which this one then replaces.

    Raises:
        TypeError: what PyTorch shows no call of (an ``autograd.Function``, scripted code), a module instead of its
            class, a rule of the other kind.
        ValueError: one of the subjects has a rule.

    Example:
        >>> register_rule(F.softshrink, passes)
    """
    several = isinstance(subjects, Iterable) and not callable(subjects) and not isinstance(subjects, str)
    each_one: list[Any] = [*subjects] if several else [subjects]  # type: ignore[misc]
    check_rule(rule, "rule(call)", takes=1, takes_more=False)
    for subject in each_one:
        check_subject(subject)
        if subject in _RULES and not replace:
            raise ValueError(f"{shown(subject)} has a rule already; to exchange it, say replace=True.")
    _RULES.update(dict.fromkeys(each_one, rule))


def rule_of(subject: Any) -> Rule | None:
    """The rule of a function or of a class of modules; None where there is none."""
    return _RULES.get(subject)
