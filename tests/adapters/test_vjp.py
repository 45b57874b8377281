import pytest
import torch
import torch.nn.functional as F
from oracle import exact
from torch import Tensor

from captum_vit.adapters.vjp import SavedDerivative, vector_jacobian_products


class Cube(torch.autograd.Function):
    """Its backward reads numbers, which no batch of gradients lets it do."""

    @staticmethod
    def forward(ctx, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs**3

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        assert float(gradient.abs().max()) >= 0
        return gradient * 3 * ctx.saved_tensors[0] ** 2


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("cube", [Cube.apply, lambda inputs: inputs**3], ids=["own function", "built in"])
@pytest.mark.parametrize("targets", [1, 4])
def test_products_are_those_of_the_derivative(cube, targets):
    """Of y = x³ and z = 2x: 3x² g + 2h."""
    x = draw(0, 2, 3).requires_grad_()
    g, h = draw(1, targets, 2, 3), draw(2, targets, 2, 3)
    exact(vector_jacobian_products([cube(x), 2 * x], [g, h], x), 3 * x.detach() ** 2 * g + 2 * h)


@pytest.mark.parametrize("targets", [1, 4])
@pytest.mark.parametrize("function", [lambda x: x * 2, Cube.apply])
def test_a_tensor_that_no_output_depends_on_has_none(targets, function):
    x, other = draw(0, 3).requires_grad_(), draw(1, 3).requires_grad_()
    assert vector_jacobian_products([function(x)], [draw(2, targets, 3)], other) is None


@pytest.mark.parametrize("targets", [1, 4])
def test_the_graph_is_freed_when_it_is_not_retained(targets):
    x = draw(0, 3).requires_grad_()
    output, gradient = x.sin().sin(), draw(1, targets, 3)
    vector_jacobian_products([output], [gradient], x)
    vector_jacobian_products([output], [gradient], x, retain_graph=False)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        vector_jacobian_products([output], [gradient], x)


@pytest.mark.parametrize("function", [F.gelu, F.silu, torch.tanh])
def test_an_activations_derivative_is_computed_once(function):
    calls = []
    x, gradients = draw(0, 2, 3).requires_grad_(), draw(1, 4, 2, 3)
    output = SavedDerivative.apply(x, lambda inputs: calls.append(1) or function(inputs))
    exact(output.detach(), function(x.detach()))
    plain = function(x)
    expected = torch.stack([torch.autograd.grad(plain, x, each, retain_graph=True)[0] for each in gradients])
    exact(vector_jacobian_products([output], [gradients], x), expected)
    exact(vector_jacobian_products([output], [gradients[:1]], x), expected[:1])
    assert calls == [1]
