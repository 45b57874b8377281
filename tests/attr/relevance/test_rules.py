"""Which calls have rules, what a rule does to relevance, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from oracle import exact
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import LRP, PartialLRP
from captum_vit.attr.relevance import Call, passes, proportional, register_rule, rules
from captum_vit.attr.relevance.propagation import (
    add_rule,
    alpha_beta_rule,
    bounded_rule,
    proportional_rule,
    safe_divide,
)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_safe_divide_has_one_sign():
    denominators = torch.tensor([2.0, -2.0, 0.0, -1e-9, 1e-12], dtype=torch.float64)
    expected = torch.tensor([1 / (2 + 1e-9), 1 / (-2 + 1e-9), 0.0, 1e9, 1 / 1.001e-9], dtype=torch.float64)
    torch.testing.assert_close(safe_divide(torch.ones(5, dtype=torch.float64), denominators), expected)


def test_alpha_beta_by_hand():
    """x = (1, −2), w = (3, −1): Z⁺ = 3, Z⁻ = 2, of which "ours" gives 3/5 and 2/5, "original" the whole to each."""
    x, w = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    relevance = torch.ones(1, 1, dtype=torch.float64)
    for rule_set, expected in (("ours", [[0.6, 0.4]]), ("original", [[1.0, 1.0]])):
        actual = alpha_beta_rule(relevance, F.linear, x, w, rule_set)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_products_of_unequal_signs_carry_nothing():
    x, w = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[-3.0, 1.0]], dtype=torch.float64)
    exact(alpha_beta_rule(torch.ones(1, 1, dtype=torch.float64), F.linear, x, w, "ours"), torch.zeros_like(x))


def test_sums_by_hand():
    """a = (3, 1), b = (1, −3): parts (¾, −½) and (¼, 1½), sums ¼ and 1¾; "ours" gives ⅛ and ⅞ of the whole 2."""
    a, b = torch.tensor([[3.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    relevance = torch.ones(1, 2, dtype=torch.float64)
    first, second = add_rule(relevance, a, b, "original")
    torch.testing.assert_close(first, torch.tensor([[0.75, -0.5]], dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(second, torch.tensor([[0.25, 1.5]], dtype=torch.float64), rtol=0, atol=1e-8)
    first, second = add_rule(relevance, a, b, "ours")
    torch.testing.assert_close(first, torch.tensor([[0.75, -0.5]], dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(second.sum(), torch.tensor(1.75, dtype=torch.float64), rtol=0, atol=1e-7)


def test_sums_of_opposite_signs_are_what_ours_repairs():
    """Parts 3 and −2 of a whole of 1 become 3/5 and 2/5."""
    a, b = torch.tensor([[3.0]], dtype=torch.float64), torch.tensor([[-2.0]], dtype=torch.float64)
    first, second = add_rule(torch.ones(1, 1, dtype=torch.float64), a, b, "ours")
    torch.testing.assert_close(torch.cat([first, second]).squeeze(), torch.tensor([0.6, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("rule_set", ["ours", "original"])
def test_sums_are_per_image(rule_set):
    a, b, relevance = numbers(3, 4, 5), numbers(3, 4, 5, seed=1), numbers(3, 4, 5, seed=2)
    for part, alone in zip(
        add_rule(relevance, a, b, rule_set), add_rule(relevance[1:2], a[1:2], b[1:2], rule_set), strict=True
    ):
        exact(part[1:2], alone)


def test_what_conserves():
    x, w = numbers(2, 6), numbers(4, 6, seed=1)
    relevance = numbers(2, 4, seed=2)
    whole = relevance.sum()
    shares = proportional_rule(relevance, lambda a, b: a @ b.T, x, w, share=0.5)
    for conserved in (
        alpha_beta_rule(relevance, F.linear, x, w, "ours").sum(),
        shares[0].sum() + shares[1].sum(),
        sum(part.sum() for part in add_rule(relevance, x[:, :4], x[:, 2:], "ours")),
    ):
        torch.testing.assert_close(conserved, whole, rtol=0, atol=1e-6)  # up to the stabiliser
    images, kernels = numbers(2, 3, 4, 4), numbers(5, 3, 2, 2, seed=1)
    above = numbers(2, 5, 2, 2, seed=2)
    pixels = bounded_rule(above, lambda x, w: F.conv2d(x, w, stride=2), images, kernels)
    torch.testing.assert_close(pixels.sum((1, 2, 3)), above.sum((1, 2, 3)), rtol=0, atol=1e-6)


IMAGES = numbers(2, 3, 16, 16)


def handed_on(function, *args) -> Tensor:
    """What the first argument of a call gets of a relevance of 1 in every value of the output."""
    x = args[0].clone().requires_grad_()
    output = rules.rule_of(function)(Call(function, (x, *args[1:]), {}, "ours", IMAGES))
    (relevance,) = torch.autograd.grad(output, x, torch.ones_like(output))
    return relevance


def test_constants_in_a_call():
    """Factors and vectors leave relevance as it is, except where a factor of 0 takes the value away."""
    x = numbers(2, 3)
    factor = torch.tensor([5.0, 0.0, -2.0], dtype=torch.float64)
    for function in (torch.mul, Tensor.mul):
        exact(handed_on(function, x, factor), torch.tensor([[1.0, 0.0, 1.0]] * 2, dtype=torch.float64))
    exact(handed_on(torch.div, x, 4.0), torch.ones_like(x))
    exact(handed_on(torch.add, x, factor), torch.ones_like(x))
    exact(handed_on(torch.add, x, 3.0), torch.ones_like(x))
    taken = handed_on(torch.add, x, numbers(2, 3, seed=1))
    assert (taken - 1).abs().min() > 1e-3


def test_a_number_for_several_values_takes_the_relevance_of_all():
    exact(handed_on(torch.mul, numbers(2, 1), torch.ones(2, 3)), torch.full((2, 1), 3.0, dtype=torch.float64))


ACTIVATIONS = (
    "gelu silu mish hardswish relu relu6 hardtanh leaky_relu rrelu elu celu selu softsign sigmoid hardsigmoid tanh"
)


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activations_pass_relevance_on(name):
    x = numbers(2, 3)
    exact(handed_on(getattr(F, name), x), torch.ones_like(x))


def small(**changes: nn.Module) -> VisionTransformer:
    """A classifier with some modules of its first block's MLP replaced."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=3)
    for name, module in changes.items():
        setattr(model.blocks[0].mlp, name, module)
    return model.eval().double()


class Apply(nn.Module):
    """A module that calls one function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


REFUSED = {
    "log1p": (lambda x: torch.log1p(x.abs()), r"Tensor\.abs"),
    "detach": (lambda x: x.detach(), r"Tensor\.detach"),
    "data": (lambda x: x.data, r"data\.__get__"),
    "item": (lambda x: x * x.sum().item(), r"Tensor\.item"),
    "subtraction": (lambda x: x - x.mean(-1, keepdim=True), r"Tensor\.sub"),
    "in place": (lambda x: x.clone().clamp_(min=0), r"Tensor\.clamp_"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_without_a_rule_is_refused_with_its_name_and_module(name):
    function, called = REFUSED[name]
    message = (
        rf"no relevance rule is known for .*{called}.*, which blocks\.0\.mlp\.act \(Apply\) applies .*register_rule"
    )
    with pytest.raises(RuntimeError, match=message):
        LRP(small(act=Apply(function))).attribute(IMAGES, target=0)


FORMS = {
    "divisor": (lambda x: x / x.sigmoid(), "div needs a constant divisor, but it depends on the image"),
    "weights": (lambda x: F.linear(x, x[0] @ x[0].T @ x[0]), "linear needs constant weights"),
    "alpha": (lambda x: torch.add(x, x, alpha=2), "add does not cover this form of the call.*'alpha'"),
    "batch": (lambda x: (x[0] + x[1]).expand_as(x), r"add needs the batch of 2 in front, got \(5, 48\)"),
    "second argument": (lambda x: F.layer_norm(x, (48,), x[0, 0]), "layer_norm passes relevance to its first argument"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_a_rule_does_not_cover_is_refused(name):
    function, message = FORMS[name]
    with pytest.raises(RuntimeError, match=f"the relevance rule of {message}"):
        LRP(small(act=Apply(function))).attribute(IMAGES, target=0)


@pytest.fixture
def own_rules(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))


def test_a_registered_rule_is_used(own_rules):
    model = small(act=Apply(F.tanhshrink))
    with pytest.raises(RuntimeError, match=r"no relevance rule is known for torch\.nn\.functional\.tanhshrink"):
        LRP(model).attribute(IMAGES, target=0)
    register_rule([F.tanhshrink], passes)
    by_passing = LRP(model).attribute(IMAGES, target=0)
    as_gradient = lambda call: call.output(call.args[0] * 1.0)  # noqa: E731
    register_rule(F.tanhshrink, as_gradient, replace=True)
    assert not torch.equal(LRP(model).attribute(IMAGES, target=0), by_passing)


def test_a_registered_rule_must_keep_the_shape_that_it_promises(own_rules):
    register_rule(torch.logsumexp, passes)
    model = small(act=Apply(lambda x: torch.logsumexp(x, -1, keepdim=True).expand_as(x)))
    with pytest.raises(RuntimeError, match=r"logsumexp needs an output of the shape \(2, 5, 48\) .*, got \(2, 5, 1\)"):
        LRP(model).attribute(IMAGES, target=0)


SAME = {
    "flagged in place": (lambda x: F.relu(x.clone(), inplace=True), F.relu),
    "flagged by position": (lambda x: F.elu(x.clone(), 0.5, True), lambda x: F.elu(x, 0.5)),
    "flagged, unreturned": (lambda x: changed(x.clone()), F.silu),
    "in place": (lambda x: x.clone().mul_(2), lambda x: x * 2),
    "in place, unreturned": (lambda x: added(x.clone()), lambda x: x + torch.arange(48.0).expand(2, 5, 48)),
    "cast": (lambda x: x.float().to(torch.bfloat16) * 2, lambda x: x * 2),
    "sum and mean": (
        lambda x: x.sum(-1, keepdim=True) / 48 * x.sigmoid(),
        lambda x: x.mean(-1, keepdim=True) * x.sigmoid(),
    ),
}


def changed(x: Tensor) -> Tensor:
    F.silu(x, inplace=True)
    return x


def added(x: Tensor) -> Tensor:
    x.add_(torch.arange(48.0).expand(2, 5, 48))
    return x


@pytest.mark.parametrize("name", SAME)
def test_two_ways_to_write_one_thing_give_one_map(name):
    one, other = SAME[name]
    maps = [LRP(small(act=Apply(each))).attribute(IMAGES, target=0) for each in (one, other)]
    scale = maps[0].abs().max()
    torch.testing.assert_close(maps[0] / scale, maps[1] / scale, rtol=0, atol=1e-6)  # stabilised at other places


def test_a_call_is_what_a_rule_sees(own_rules):
    seen: list[Call] = []

    def keep(call: Call) -> Tensor:
        seen.append(call)
        return proportional(call)

    register_rule(torch.cumsum, keep)
    LRP(small(act=Apply(lambda x: torch.cumsum(x, -1))), rules="ours").attribute(IMAGES, target=0)
    (call,) = seen
    assert (call.function, call.args[1], call.kwargs, call.rules) == (torch.cumsum, -1, {}, "ours")
    exact(call.images.detach(), IMAGES)
    exact(call.output(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("method", [LRP, PartialLRP])
def test_gradients_turned_off_inside_a_block_are_noticed(method):
    model = small(act=Apply(torch.no_grad()(F.gelu)))
    with pytest.raises(
        RuntimeError, match=r"turns gradients off inside its forward .*, in blocks\.0\.mlp\.act \(Apply\)"
    ):
        method(model).attribute(IMAGES, target=0)
