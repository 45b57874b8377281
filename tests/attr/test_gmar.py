import pytest
import torch
from oracle import exact, gradients, plain_pass, random_attention, random_gradient
from torch import Tensor

from captum_vit import GMAR
from captum_vit.attr import attention_rollout, gmar, gmar_head_norms, gmar_rollout


def algorithm_1(
    attentions: list[Tensor], grads: list[Tensor], norm: str, scope: str, alpha: float, form: str = "recursion"
) -> Tensor:
    """GMAR, algorithm 1, with full N×N products: w_h = norm of ∇A_h over its sum; R ← R Â + αI from the first block."""
    results = []
    for image in range(len(attentions[0])):
        norms = []
        for gradient in grads:
            heads = []
            for head in gradient[image]:
                heads.append(sum(abs(float(g)) ** (1 if norm == "l1" else 2) for g in head.flatten()))
            norms.append(heads if norm == "l1" else [each**0.5 for each in heads])
        everything = sum(sum(heads) for heads in norms)
        identity = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
        rollout = identity
        for attention, heads in zip(attentions, norms, strict=True):
            total = sum(heads) if scope == "block" else everything
            fused = sum(weight / total * a for weight, a in zip(heads, attention[image], strict=True))
            rollout = (
                rollout @ fused + alpha * identity if form == "recursion" else (fused + alpha * identity) @ rollout
            )
        results.append(rollout)
    return torch.stack(results)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("scope", ["block", "model"])
@pytest.mark.parametrize("form", ["recursion", "product"])
@pytest.mark.parametrize("alpha", [1.0, 0.25, 0.0])
def test_is_the_class_tokens_row_of_algorithm_1(norm, scope, form, alpha):
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) * (seed + 1) for seed in range(3)]
    actual = gmar(attentions, grads, norm=norm, weight_scope=scope, residual=alpha, form=form)
    exact(actual, algorithm_1(attentions, grads, norm, scope, alpha, form)[:, 0])


def test_the_two_forms_are_different_numbers():
    attentions = [random_attention(1, 2, 4, 4, seed=seed) for seed in range(3)]
    grads = [random_gradient(1, 2, 4, 4, seed=seed) for seed in range(3)]
    assert (gmar(attentions, grads) - gmar(attentions, grads, form="product")).abs().max() > 0.1


def test_the_product_with_equal_weights_is_attention_rollout_times_a_power_of_two():
    attentions = [random_attention(2, 4, 5, 5, seed=seed) for seed in range(3)]
    weights = [torch.full((2, 4), 0.25, dtype=torch.float64)] * 3
    exact(gmar_rollout(attentions, weights, form="product"), 8 * attention_rollout(attentions))


def test_head_norms():
    gradient = torch.tensor([[[[3.0, -4.0]], [[0.0, 2.0]]]])
    torch.testing.assert_close(gmar_head_norms(gradient, "l1"), torch.tensor([[7.0, 2.0]]))
    torch.testing.assert_close(gmar_head_norms(gradient, "l2"), torch.tensor([[5.0, 2.0]]))


def test_the_size_of_the_gradient_does_not_matter():
    attentions = [random_attention(2, 3, 5, 5)]
    gradient = random_gradient(2, 3, 5, 5)
    exact(gmar(attentions, [gradient * 1000]), gmar(attentions, [gradient]))


def test_a_pooler_is_where_the_rollout_starts():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(3)]
    attention, gradient = random_attention(2, 2, 1, 5, seed=7), random_gradient(2, 2, 1, 5, seed=7)
    weights = gradient.abs().sum((2, 3))
    weights = weights / weights.sum(1, keepdim=True)
    row = (weights[:, :, None, None] * attention).sum(1)
    expected = (row @ algorithm_1(attentions, grads, "l1", "block", 1.0))[:, 0]
    exact(gmar(attentions, grads, pooler=(attention, gradient)), expected)


@pytest.mark.parametrize("options", [{}, {"norm": "l2", "weight_scope": "model", "residual": 0.5, "form": "product"}])
def test_method_takes_the_gradients_of_the_attention_maps(vit, images, target, options):
    plain = plain_pass(vit, images)
    grads = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.attentions)
    settings = {"norm": "l1", "weight_scope": "block", "residual": 1.0, "form": "recursion"} | options
    expected = algorithm_1(
        [a.detach() for a in plain.attentions],
        grads,
        settings["norm"],
        settings["weight_scope"],
        settings["residual"],
        settings["form"],
    )
    actual = GMAR(vit, **options).attribute(images, target=target, resolution="patch")
    exact(actual, expected[:, 0, 1:].reshape(3, 1, 4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "norm must be 'l1' or 'l2', got 'l3'"),
        ({"weight_scope": "head"}, "weight_scope must be 'block' or 'model', got 'head'"),
        ({"residual": -1.0}, r"residual must be finite and at least 0, got -1\.0"),
        ({"form": "sum"}, "form must be 'recursion' or 'product', got 'sum'"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        GMAR(vit, **options)
