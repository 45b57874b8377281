"""Functions that PyTorch shows to no function mode are refused by name, or follow the rule of their module."""

import copy
import threading

import cases
import pytest
import torch
from captum.attr import InputXGradient
from hidden_calls import (
    HIDDEN,
    Applied,
    Before,
    Beside,
    Hidden,
    HiddenGELU,
    HiddenInPlace,
    HiddenLayer,
    HiddenWriter,
    InPlaceGELU,
    Named,
    PlainGELU,
    unwatched,
)
from oracle import exact
from torch import Tensor, nn

from captum_vit import (
    LRP,
    AttnLRP,
    CheferCAM,
    LeGrad,
    LibraGrad,
    PartialLRP,
    TransformerAttribution,
    adapt,
    libragrad,
)
from captum_vit.attr import relevance
from captum_vit.attr.relevance import rules as relevance_rules
from captum_vit.attr.rules import LIBRA, BackwardRules, gated, mode, plain, register_rule
from captum_vit.attr.rules.sight import Sight

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")  # it says that it is old

METHODS = {
    "attnlrp": AttnLRP,
    "cp-lrp with gamma": lambda model: AttnLRP(model, variant="cp-lrp", gamma=0.1),
    "libragrad(chefer-cam)": lambda model: LibraGrad(CheferCAM(model)),
    "libragrad(legrad)": lambda model: LibraGrad(LeGrad(model)),
    "lrp": LRP,
    "partial-lrp": PartialLRP,
    "transformer-attribution": TransformerAttribution,
}


@pytest.fixture(autouse=True)
def own_rules(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(mode, "_registered", {})
    monkeypatch.setattr(relevance_rules, "_RULES", dict(relevance_rules._RULES))


def with_activation(model: nn.Module, activation: nn.Module, block: int = 1) -> nn.Module:
    """A copy with another activation in one block."""
    changed = copy.deepcopy(model)
    changed.blocks[block].mlp.act = activation.eval()
    return changed.to(next(model.parameters()).dtype)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", HIDDEN)
def test_what_is_not_seen_is_refused_with_its_name_and_module(vit, images, name, kind):
    build, described = HIDDEN[kind]
    model = with_activation(vit, build())
    where = r"blocks\.1\.mlp\.act \((Applied|GELU)\)"
    with pytest.raises(RuntimeError, match=rf"{described}.*, which {where} applies to values that depend on the image"):
        METHODS[name](model).attribute(images, target=1)
    METHODS[name](vit).attribute(images, target=1)  # nothing is left of the error


@pytest.mark.parametrize("method", [AttnLRP, LRP])
def test_the_message_says_what_to_do(vit, images, method):
    path = {AttnLRP: r"captum_vit\.attr\.rules", LRP: r"captum_vit\.attr\.relevance"}[method]
    with pytest.raises(RuntimeError, match=rf"Give the module a rule: {path}\.register_rule\(HiddenGELU, rule\); see "):
        method(with_activation(vit, HiddenGELU())).attribute(images, target=1)
    with pytest.raises(RuntimeError, match="Put the eager module in its place that it was made from"):
        method(with_activation(vit, HIDDEN["scripted module"][0]())).attribute(images, target=1)


class Between(nn.Module):
    """A linear layer with a function behind it that is not seen."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return unwatched(self.inner(x))


@pytest.mark.parametrize("method", [AttnLRP, LRP], ids=["AttnLRP", "LRP"])
@pytest.mark.parametrize("family", cases.ALL_FAMILIES)
def test_in_every_family(family, method):
    case = cases.case(family)
    model = copy.deepcopy(case.model)
    adapter = adapt(model)
    linear = adapter.mlp_output(1)
    name = next(name for name, module in adapter.model.named_modules() if module is linear)
    parent, _, child = name.rpartition(".")
    setattr(adapter.model.get_submodule(parent), child, Between(linear).eval())
    with pytest.raises(RuntimeError, match=r"its gradient: GeluBackward0\), which (\S+) \(Between\) applies") as caught:
        method(model).attribute(case.images[:1], target=1)
    assert f"which {name} (Between) applies" in str(caught.value)


def test_outside_of_a_small_module_the_one_that_calls_it_is_named(vit, images):
    model = copy.deepcopy(vit)
    block = model.blocks[1]
    forward = type(block).forward
    block.forward = lambda x, **options: unwatched(forward(block, x, **options))
    for method in (AttnLRP, LRP):
        with pytest.raises(RuntimeError, match=r"which blocks\.1 \(Block\) applies to values"):
            method(model).attribute(images, target=1)
    for inner in (nn.Identity(), nn.GELU()):
        model = with_activation(vit, Before(inner))
        for method in (AttnLRP, LRP):
            with pytest.raises(RuntimeError, match=r"which blocks\.1\.mlp\.act \(Before\) applies to values"):
                method(model).attribute(images, target=1)


def test_behind_the_last_call_that_is_seen(vit, images):
    """The head's output, as the model returns it; and outside of any module."""
    model = copy.deepcopy(vit)
    model.head = nn.Sequential(model.head, Applied(Hidden.apply)).eval()
    for method in METHODS.values():
        with pytest.raises(RuntimeError, match=r"which head\.1 \(Applied\) applies"):
            method(model).attribute(images, target=1)
    adapter = adapt(vit)
    product = InputXGradient(lambda batch: unwatched(adapter(batch)))
    with libragrad(product), pytest.raises(RuntimeError, match=r"GeluBackward0.*, which the model applies"):
        product.attribute(images.clone().requires_grad_(), target=1)


@pytest.mark.parametrize(
    ("method", "register"),
    [
        (AttnLRP, lambda kind: register_rule(kind, gated(slope=0.7))),
        (lambda model: AttnLRP(model, gamma=0.2), lambda kind: register_rule(kind, gated(slope=0.7))),
        (lambda model: LibraGrad(LeGrad(model)), lambda kind: register_rule(kind, gated(slope=0.7))),
        (LRP, lambda kind: relevance.register_rule(kind, relevance.passes)),
        (TransformerAttribution, lambda kind: relevance.register_rule([kind], relevance.passes)),
    ],
    ids=["AttnLRP", "gamma", "LibraGrad", "LRP", "TransformerAttribution"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_with_a_rule_of_its_module_the_map_is_that_of_the_function_in_plain_sight(vit, images, method, register, dtype):
    model = copy.deepcopy(vit).to(dtype)
    expected = method(with_activation(model, PlainGELU(1.4))).attribute(images.to(dtype), target=1)
    hidden = with_activation(model, HiddenGELU(1.4))
    register(HiddenGELU)
    for _ in range(2):
        actual = method(hidden).attribute(images.to(dtype), target=1)
        tolerance = 1e-10 if dtype == torch.float64 else 2e-4
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    assert not hidden.blocks[1].mlp.act._forward_hooks


def test_a_value_that_such_a_module_reads_beside_others_is_stabilised(vit, images):
    relevance.register_rule(HiddenGELU, relevance.passes)
    maps = [LRP(with_activation(vit, Beside(act))) for act in (HiddenGELU(), PlainGELU())]
    hidden, seen = (each.attribute(images, target=1) for each in maps)
    exact(hidden / seen.abs().max(), seen / seen.abs().max())


def test_the_parameters_of_such_a_module_are_cast_in_the_backward_pass_too(vit, images):
    relevance.register_rule(HiddenLayer, relevance.proportional)
    single = with_activation(copy.deepcopy(vit).float(), HiddenLayer(96))
    expected = LRP(copy.deepcopy(single).double()).attribute(images.float().double(), target=1)
    actual = LRP(single).attribute(images.float(), target=1).double()
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["attnlrp", "lrp", "libragrad(chefer-cam)"])
def test_unnoticed_it_would_make_another_map(monkeypatch, vit, images, name):
    """What the refusal is for."""
    expected = METHODS[name](with_activation(vit, Applied(nn.functional.gelu))).attribute(images, target=1)
    monkeypatch.setattr(Sight, "check", lambda *_: None)
    silent = METHODS[name](with_activation(vit, Applied(unwatched))).attribute(images, target=1)
    assert (silent - expected).abs().max() > 0.01 * expected.abs().max()


def test_a_rule_of_a_module_that_is_called_by_name(vit, images):
    register_rule(HiddenGELU, gated(slope=0.5))
    expected = AttnLRP(with_activation(vit, PlainGELU())).attribute(images, target=1)
    exact(AttnLRP(with_activation(vit, Named(HiddenGELU()))).attribute(images, target=1), expected)
    relevance.register_rule(HiddenGELU, relevance.passes)
    expected = LRP(with_activation(vit, PlainGELU())).attribute(images, target=1)
    exact(
        LRP(with_activation(vit, Named(HiddenGELU()))).attribute(images, target=1) / expected.abs().max(),
        expected / expected.abs().max(),
    )


def test_a_module_that_writes_over_its_input_can_not_have_a_rule(vit, images):
    register_rule(InPlaceGELU, gated(slope=0.5))
    relevance.register_rule(InPlaceGELU, relevance.passes)
    writers = [InPlaceGELU(), InPlaceGELU(HiddenWriter), Named(InPlaceGELU(HiddenInPlace))]
    for writer in writers:
        for method in (AttnLRP, LRP):
            with pytest.raises(RuntimeError, match=r"mlp\.act\S* \(InPlaceGELU\) changes its input in place"):
                method(with_activation(vit, writer)).attribute(images, target=1)


def test_an_error_inside_a_module_with_a_rule_leaves_nothing_behind(vit, images):
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise OverflowError("planted")

    register_rule(Fails, plain)
    model = with_activation(vit, Fails())
    x = torch.ones(2, requires_grad=True)
    with BackwardRules("a test", LIBRA):
        with pytest.raises(OverflowError, match="planted"):
            model(images.clone().requires_grad_())
        with pytest.raises(RuntimeError, match=r"a test has no rule for torch\.erf"):
            torch.erf(x)
        assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [1.0, 1.0]
    assert not model.blocks[1].mlp.act._forward_hooks


def visible(x: Tensor) -> Tensor:
    """A function of somebody else that asks to be seen."""
    if torch.overrides.has_torch_function((x,)):
        return torch.overrides.handle_torch_function(visible, (x,), x)
    return Hidden.apply(x)


def test_a_function_that_asks_to_be_seen_can_have_a_rule(vit, images):
    model, seen = with_activation(vit, Applied(visible)), with_activation(vit, Applied(nn.functional.gelu))
    for method in (AttnLRP, LRP):
        with pytest.raises(RuntimeError, match=r"for \S*test_sight\.visible, which blocks\.1\.mlp\.act \(Applied\)"):
            method(model).attribute(images, target=1)
    register_rule(visible, gated(slope=0.5))
    relevance.register_rule(visible, relevance.passes)
    for method in (AttnLRP, LRP):
        expected = method(seen).attribute(images, target=1)
        exact(method(model).attribute(images, target=1) / expected.abs().max(), expected / expected.abs().max())


def gelu(x: Tensor) -> Tensor:
    """Not PyTorch's."""
    if torch.overrides.has_torch_function((x,)):
        return torch.overrides.handle_torch_function(gelu, (x,), x)
    return Hidden.apply(x)


def test_somebody_elses_function_of_the_same_name_has_no_rule():
    with BackwardRules("a test", LIBRA), pytest.raises(RuntimeError, match=r"no rule for \S*test_sight\.gelu"):
        gelu(torch.ones(2, requires_grad=True))


def test_what_changes_no_gradient_is_not_refused():
    """Module hooks, and views whose base was changed in place behind them."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    seen = []
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append(module))
    with BackwardRules("a test", LIBRA):
        y = layer(x) + 0
        first, turned = y[0], y.T
        y.add_(1)
        y[1].add_(0)
        y[:, 0] = x.sum(1)
        y[0].mul_(1)
        total = (first * 2).sum() + turned.reshape(-1).sum()
    (gradient,) = torch.autograd.grad(total, x)
    weight = layer.weight.detach()
    exact(gradient, torch.stack([3 * (weight[1] + 1), weight[1] + 1]))
    assert len(seen) == 1


def test_a_parameter_s_own_function_is_seen_or_refused():
    """Of parameters, functions that are seen are constants."""
    weight, x = nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)
    with BackwardRules("a test", LIBRA):
        assert torch.autograd.grad((x * weight.exp()).sum(), x)[0].tolist() == pytest.approx([2.71828] * 2)
        with pytest.raises(
            RuntimeError, match=r"Hidden, which .* applies to parameters, .*model\.requires_grad_\(False\)"
        ):
            x * Hidden.apply(weight)


def test_hooks_are_those_of_one_thread_and_one_block(vit, images):
    model = with_activation(vit, Applied(unwatched))
    plain_logits = model(images).detach()
    seen: list[Tensor] = []

    def other() -> None:
        leaf = images.clone().requires_grad_()
        seen.append(model(leaf).detach())

    with BackwardRules("a test", LIBRA):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match=r"which blocks\.1\.mlp\.act \(Applied\) applies"):
            model(images.clone().requires_grad_())
        exact(model(images).detach(), plain_logits)  # nothing to differentiate
    exact(seen[0], plain_logits)
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
