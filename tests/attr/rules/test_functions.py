"""Each rule by itself, against plain equations with the constants detached by hand."""

import pytest
import torch
import torch.nn.functional as F
from oracle import exact
from torch import Tensor, nn

from captum_vit.attr.rules import ATTN_LRP, LIBRA, BackwardRules
from captum_vit.attr.rules.linear import gamma_rule


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def under(rules, function, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The value of a function and the gradients of a fixed weighted sum of it, under rules."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    with BackwardRules("a test", rules):
        value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves, normal(*value.shape, seed=9), allow_unused=True)


def by_hand(function, *inputs: Tensor) -> tuple[Tensor, ...]:
    return under({}, lambda *leaves: WITHOUT_RULES(function, leaves), *inputs)


def WITHOUT_RULES(function, leaves):  # noqa: N802
    with torch._C.DisableTorchFunction():
        return function(*leaves)


WEIGHT, BIAS = normal(6, seed=3), normal(6, seed=4)


def layer_norm(x: Tensor) -> Tensor:
    deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / deviation * WEIGHT + BIAS


def gate_of(function):
    return lambda x: x * (function(x) / x).detach()


PAIRS = {
    "layer_norm": (lambda x: F.layer_norm(x, (6,), WEIGHT, BIAS), layer_norm),
    "layer_norm without weights": (
        lambda x: F.layer_norm(x, [3, 6], eps=1e-3),
        lambda x: (
            (x - x.mean((1, 2), keepdim=True)) / (x.var((1, 2), correction=0, keepdim=True) + 1e-3).sqrt().detach()
        ),
    ),
    "rms_norm": (
        lambda x: F.rms_norm(x, (6,), WEIGHT, 1e-5),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt().detach() * WEIGHT,
    ),
    "rms_norm without weights": (
        lambda x: F.rms_norm(x, (6,)),
        lambda x: x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt().detach(),
    ),
    "normalize": (lambda x: F.normalize(x, dim=-1), lambda x: x / x.norm(dim=-1, keepdim=True).detach()),
    "norm by hand": (lambda x: x / x.norm(dim=-1, keepdim=True), lambda x: x / x.norm(dim=-1, keepdim=True).detach()),
    "gelu": (F.gelu, gate_of(F.gelu)),
    "tanh gelu": (lambda x: F.gelu(x, approximate="tanh"), gate_of(lambda x: F.gelu(x, approximate="tanh"))),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x * torch.sigmoid(1.702 * x).detach()),
    "silu in place": (lambda x: F.silu(x * 2, inplace=True), gate_of(lambda x: F.silu(x * 2))),
    "silu in place, by position": (lambda x: F.silu(x * 2, True), gate_of(lambda x: F.silu(x * 2))),
    "mish": (F.mish, gate_of(F.mish)),
    "hardswish": (F.hardswish, gate_of(F.hardswish)),
    "tanh": (torch.tanh, gate_of(torch.tanh)),
    "relu6": (lambda x: F.relu6(9 * x), gate_of(lambda x: F.relu6(9 * x))),
    "relu": (torch.relu, torch.relu),
    "leaky_relu": (F.leaky_relu, gate_of(F.leaky_relu)),
    "rrelu": (F.rrelu, gate_of(F.rrelu)),
    "elu in place": (lambda x: F.elu(x * 2, 0.5, True), gate_of(lambda x: F.elu(x * 2, 0.5))),
    "celu": (lambda x: F.celu(x, 2.0), gate_of(lambda x: F.celu(x, 2.0))),
    "selu": (F.selu, gate_of(F.selu)),
    "softsign": (F.softsign, gate_of(F.softsign)),
    "hardtanh": (lambda x: F.hardtanh(3 * x), gate_of(lambda x: F.hardtanh(3 * x))),
    "relu6, as its module calls it": (lambda x: nn.ReLU6()(9 * x), gate_of(lambda x: F.relu6(9 * x))),
    "swiglu": (
        lambda x: F.silu(x[..., :3]) * x[..., 3:],
        lambda x: (
            gate_of(F.silu)(x[..., :3]) * x[..., 3:].detach() / 2
            + gate_of(F.silu)(x[..., :3]).detach() * x[..., 3:] / 2
        ),
    ),
    "square": (lambda x: x * x, lambda x: x * x.detach()),
    "transposed product": (
        lambda x: x @ x.mT,
        lambda x: (x @ x.mT.detach() + x.detach() @ x.mT) / 2,
    ),
    "einsum": (
        lambda x: torch.einsum("bij,bkj->bik", x, x),
        lambda x: (x @ x.mT.detach() + x.detach() @ x.mT) / 2,
    ),
    "einsum of three": (
        lambda x: torch.einsum("bij,bij,bij->bij", x, x, x),
        lambda x: x * x.detach().square(),
    ),
    "linear and views": (
        lambda x: torch.cat([x[:, 0], 3 * x.mean(1)]).T.reshape(-1) - 1,
        lambda x: torch.cat([x[:, 0], 3 * x.mean(1)]).T.reshape(-1) - 1,
    ),
}


@pytest.mark.parametrize("rules", [ATTN_LRP, LIBRA], ids=["AttnLRP", "LibraGrad"])
@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient(rules, name):
    function, equation = PAIRS[name]
    for actual, expected in zip(
        under(rules, function, normal(2, 3, 6)), by_hand(equation, normal(2, 3, 6)), strict=True
    ):
        exact(actual, expected)


SLOPES = {F.gelu: 0.5, F.silu: 0.5, F.hardswish: 0.5, F.mish: 0.6, torch.tanh: 1.0, F.relu6: 0.0}
SLOPES |= {F.elu: 1.0, F.celu: 1.0, F.selu: 1.0507009873554805, F.softsign: 1.0, F.hardtanh: 1.0}


@pytest.mark.parametrize(("function", "slope"), SLOPES.items(), ids=lambda each: getattr(each, "__name__", each))
def test_the_gate_of_a_zero(function, slope):
    zero = torch.zeros(1, dtype=torch.float64)
    _, gradient = under(LIBRA, lambda x: function(x).sum()[None], zero)
    exact(gradient, slope * normal(1, seed=9))
    if function is not F.relu6:  # whose left and right limits differ
        exact(function(torch.tensor([1e-12], dtype=torch.float64)) / 1e-12, torch.tensor([slope], dtype=torch.float64))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


QKV = (normal(2, 3, 4, 5), normal(2, 3, 6, 5, seed=1), normal(2, 3, 6, 5, seed=2))


@pytest.mark.parametrize("rules", [ATTN_LRP, LIBRA], ids=["AttnLRP", "LibraGrad"])
def test_fused_attention_is_eager_attention(rules):
    fused, eager = (under(rules, function, *QKV) for function in (F.scaled_dot_product_attention, attention))
    for one, other in zip(fused, eager, strict=True):
        if one is None or other is None:
            assert one is other is None
        else:
            exact(one, other)


def test_attention_shares_relevance_by_halves():
    """One half to the value; of what passes the softmax, query and key get one half each."""
    value, *grads = under(ATTN_LRP, F.scaled_dot_product_attention, *QKV)
    _, *plain = by_hand(attention, *QKV)
    for actual, expected, share in zip(grads, plain, (0.25, 0.25, 0.5), strict=True):
        exact(actual, share * expected)
    relevance = (value * normal(*value.shape, seed=9)).sum()
    exact((grads[2] * QKV[2]).sum(), relevance / 2)


def test_what_is_constant_takes_no_share():
    """The learned query of a pooler."""
    query, key, value = QKV
    _, *grads = under(ATTN_LRP, lambda k, v: F.scaled_dot_product_attention(query, k, v), key, value)
    _, *eager = under(ATTN_LRP, lambda k, v: attention(query, k, v), key, value)
    _, *plain = by_hand(lambda k, v: attention(query, k, v), key, value)
    for actual, other, expected in zip(grads, eager, plain, strict=True):
        exact(actual, expected / 2)
        exact(other, expected / 2)


@pytest.mark.parametrize("rules", [ATTN_LRP, LIBRA], ids=["AttnLRP", "LibraGrad"])
@pytest.mark.parametrize("mask", [None, normal(4, 4, seed=5)], ids=["no mask", "mask"])
def test_multi_head_attention_is_its_parts(rules, mask):
    module = nn.MultiheadAttention(6, 2, batch_first=True, dtype=torch.float64).eval()

    def parts(x: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x, module.in_proj_weight, module.in_proj_bias).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return module.out_proj(heads.transpose(1, 2).flatten(2))

    tokens = normal(3, 4, 6)
    whole = under(rules, lambda x: module(x, x, x, attn_mask=mask, need_weights=False)[0], tokens)
    for one, other in zip(whole, under(rules, parts, tokens), strict=True):
        exact(one, other)
    exact(whole[0], module(tokens, tokens, tokens, attn_mask=mask)[0].detach())


def contributions(x: Tensor, weight: Tensor, bias: Tensor, gamma: float, epsilon: float, gradient: Tensor) -> Tensor:
    """Input times gradient of LRP-γ, contribution by contribution."""
    relevance = torch.zeros_like(x)
    for n in range(len(x)):
        for j in range(len(weight)):
            parts = [float(x[n, i] * weight[j, i]) for i in range(x.shape[1])]
            z = sum(parts) + float(bias[j])
            counted = [part * (1 + gamma * (part * z > 0)) for part in [*parts, float(bias[j])]]
            total = sum(counted) + epsilon * (1 if z > 0 else -1)
            for i in range(x.shape[1]):
                relevance[n, i] += counted[i] / total * z * gradient[n, j]
    return relevance


@pytest.mark.parametrize(("gamma", "epsilon"), [(0.0, 0.0), (0.0, 0.1), (0.5, 0.0), (100.0, 0.0), (0.25, 0.1)])
def test_gamma_of_a_linear_layer_and_of_a_convolution(gamma, epsilon):
    x, weight, bias = normal(5, 12), normal(7, 12, seed=1), normal(7, seed=2)
    expected = contributions(x, weight, bias, gamma, epsilon, normal(5, 7, seed=9))
    value, gradient = under({"linear": gamma_rule(gamma, epsilon)}, lambda t: F.linear(t, weight, bias), x)
    exact(value, F.linear(x, weight, bias))
    exact(gradient * x, expected)
    image, kernel = x.reshape(5, 3, 2, 2), weight.reshape(7, 3, 2, 2)
    leaf = image.clone().requires_grad_()
    with BackwardRules("a test", {"conv2d": gamma_rule(gamma, epsilon)}):
        output = F.conv2d(leaf, kernel, bias, stride=2)
    (gradient,) = torch.autograd.grad(output, leaf, normal(5, 7, seed=9)[..., None, None])
    exact((gradient * image).flatten(1), expected)


def test_gamma_of_a_zero_is_zero():
    weight = torch.tensor([[1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    _, gradient = under(
        {"linear": gamma_rule(0.5)}, lambda x: F.linear(x, weight), torch.ones(1, 2, dtype=torch.float64)
    )
    exact(gradient, torch.zeros(1, 2, dtype=torch.float64))
