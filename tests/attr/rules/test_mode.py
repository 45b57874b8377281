import threading

import pytest
import torch
from torch import nn

from captum_vit import AttnLRP, CheferCAM, LibraGrad
from captum_vit.attr.rules import LIBRA, BackwardRules, gated, mode, register_rule


@pytest.fixture
def no_registered_rules(monkeypatch):
    monkeypatch.setattr(mode, "_registered", {})


def test_a_call_without_a_rule_is_named():
    x = torch.ones(2, requires_grad=True)
    with BackwardRules("LibraGrad", LIBRA):
        with pytest.raises(
            RuntimeError,
            match=r"LibraGrad has no rule for torch\.erf, which the model applies .*register_rule\(torch\.erf, rule\)",
        ):
            torch.erf(x)
        with pytest.raises(RuntimeError, match=r"LibraGrad has no rule for torch\.Tensor\.__pow__"):
            x**2
        assert torch.erf(x.detach()).shape == (2,)
        assert (x > 0).all()
        with torch.no_grad():
            torch.erf(x)


@pytest.mark.parametrize("method", [AttnLRP, lambda model: LibraGrad(CheferCAM(model))], ids=["AttnLRP", "LibraGrad"])
def test_a_model_with_such_a_call_is_refused_until_it_has_a_rule(no_registered_rules, vit, images, method):
    class Arctangent(nn.Module):
        def forward(self, x):
            return torch.arctan(x)

    activations = [block.mlp.act for block in vit.blocks]
    try:
        for block in vit.blocks:
            block.mlp.act = Arctangent().eval()
        with pytest.raises(
            RuntimeError,
            match=r"has no rule for torch\.arctan, which blocks\.0\.mlp\.act \(Arctangent\) applies to values that",
        ):
            method(vit).attribute(images, target=1)
        register_rule(torch.arctan, gated(slope=1.0))
        assert method(vit).attribute(images, target=1).isfinite().all()
    finally:
        for block, activation in zip(vit.blocks, activations, strict=True):
            block.mlp.act = activation


def test_a_registered_rule_replaces_that_of_the_set(no_registered_rules):
    register_rule(torch.relu, lambda function, x: function(x) + 0 * x, replace=True)
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    calls = []
    register_rule(torch.relu, lambda function, *args: calls.append(function) or function(*args), replace=True)
    with BackwardRules("a test", LIBRA):
        torch.relu(x)
    assert calls == [torch.relu]


def test_parameters_are_constants():
    """A LayerScale is no second factor, and nothing is kept for its gradient."""
    scale, x = nn.Parameter(torch.full((2,), 3.0)), torch.ones(2, requires_grad=True)
    with BackwardRules("a test", LIBRA):
        product = x * scale
    (gradient,) = torch.autograd.grad(product.sum(), x)
    assert gradient.tolist() == [3.0, 3.0]
    assert torch.autograd.grad((x * scale).sum(), scale)[0].tolist() == [1.0, 1.0]


def test_products_in_place():
    x = torch.ones(2, requires_grad=True)
    with BackwardRules("a test", LIBRA):
        (x * 1).mul_(torch.ones(2))
        with pytest.raises(RuntimeError, match="multiplies two values that depend on the image in place"):
            (x * 1).mul_(x)


def test_rules_inside_rules_are_refused_and_leave_the_outer_ones():
    x = torch.ones(2, requires_grad=True)
    with BackwardRules("the outer", LIBRA):
        with pytest.raises(RuntimeError, match="the rules of the inner can't apply inside those of the outer"):
            BackwardRules("the inner", LIBRA).__enter__()
        assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [1.0, 1.0]
    with BackwardRules("the next", LIBRA):
        pass
    assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [2.0, 2.0]


def test_an_error_in_the_block_ends_the_rules():
    with pytest.raises(OverflowError, match="planted"), BackwardRules("a test", LIBRA):
        raise OverflowError("planted")
    x = torch.ones(2, requires_grad=True)
    assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [2.0, 2.0]


def test_rules_are_those_of_one_thread():
    x = torch.ones(2, requires_grad=True)
    seen = []

    def other() -> None:
        seen.append(torch.autograd.grad((x * x).sum(), x)[0].tolist())
        with BackwardRules("the other thread's", LIBRA):
            seen.append(torch.autograd.grad((x * x).sum(), x)[0].tolist())

    with BackwardRules("a test", LIBRA):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [[2.0, 2.0], [1.0, 1.0]]
