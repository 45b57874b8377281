"""Grad-CAM, and the options that its family shares."""

import copy

import pytest
import torch
from oracle import exact, gradients, plain_pass
from torch import Tensor, nn

from captum_vit import BlankMapError, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from captum_vit.attr import grad_cam

FAMILY = [GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM]


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cam_in_loops(tokens: Tensor, gradient: Tensor, counted: range) -> Tensor:
    """LeGrad, eq. 10, without its constant factors: w_k = mean_i ∂s/∂z_ik over some tokens; r_i = Σ_k w_k z_ik."""
    result = torch.zeros(tokens.shape[:2], dtype=torch.float64)
    for image in range(len(tokens)):
        for k in range(tokens.shape[2]):
            weight = sum(float(gradient[image, i, k]) for i in counted) / len(counted)
            for i in range(tokens.shape[1]):
                result[image, i] += weight * tokens[image, i, k]
    return result


@pytest.mark.parametrize("prefix", [0, 2])
def test_weights_dimensions_by_their_mean_gradient(prefix):
    tokens, gradient = random_tokens(2, 6, 4), random_tokens(2, 6, 4, seed=1)
    expected = cam_in_loops(tokens, gradient, range(prefix, 6))
    exact(grad_cam(tokens, gradient, num_prefix_tokens=prefix), expected)
    exact(grad_cam(tokens, gradient, num_prefix_tokens=prefix, relu=True), expected.clamp(min=0))


def linear_tail(vit: nn.Module) -> nn.Module:
    """The model with the mean of its patch tokens in front of the head, and no norm between."""
    model = copy.deepcopy(vit)
    model.global_pool, model.norm = "avg", nn.Identity().eval()
    return model


def test_is_hires_cam_where_all_patch_tokens_have_the_same_gradient(vit, images):
    model = linear_tail(vit)
    one = GradCAM(model, tokens="block").attribute(images, target=1)
    exact(one, HiResCAM(model, tokens="block").attribute(images, target=1))


@pytest.mark.parametrize("place", ["norm", "block"])
@pytest.mark.parametrize("count_prefix", [False, True])
@pytest.mark.parametrize("block", [0, 1, -2])
def test_method_reads_the_tokens_of_a_block(vit, images, target, place, count_prefix, block):
    plain = plain_pass(vit, images)
    tokens = (plain.normed if place == "norm" else plain.tokens)[block]
    (gradient,) = gradients(plain.logits.gather(1, target[:, None]).sum(), [tokens])
    expected = cam_in_loops(tokens.detach(), gradient, range(0 if count_prefix else 1, 25))[:, 1:]
    method = GradCAM(vit, block=block, tokens=place, count_prefix=count_prefix)
    exact(method.attribute(images, target=target, resolution="patch"), expected.reshape(3, 1, 4, 6))


def test_the_default_is_the_last_blocks_norm_and_signed(vit, images, target):
    given = GradCAM(vit, block=2, tokens="norm", count_prefix=False, relu=False)
    signed = given.attribute(images, target=target)
    exact(GradCAM(vit).attribute(images, target=target), signed)
    assert signed.min() < 0 < signed.max()
    assert GradCAM(vit).signed
    assert not GradCAM(vit, relu=True).signed


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("relu", [False, True])
def test_all_blocks_are_the_mean_of_the_blocks_maps(vit, images, target, method, relu):
    """LeGrad, table 7: with the ReLU, each block's map loses its negative part before the mean."""

    def maps(**options: object) -> Tensor:
        return method(vit, relu=False, **options).attribute(images, target=target, resolution="patch")

    each = torch.stack([maps(block=block) for block in range(3)])
    expected = (each.clamp(min=0) if relu else each).mean(0)
    exact(method(vit, block="all", relu=relu).attribute(images, target=target, resolution="patch"), expected)


@pytest.mark.parametrize("method", FAMILY)
def test_the_last_blocks_own_patch_tokens_get_no_gradient_in_a_class_token_model(vit, images, method):
    with pytest.raises(BlankMapError, match=r"image 0, 1, 2: no gradient .* patch tokens\. With class-token"):
        method(vit, tokens="block").attribute(images, target=1)
    method(vit, tokens="block", block=-2).attribute(images, target=1)
    method(vit, tokens="block", block="all").attribute(images, target=1)


def test_but_the_class_token_does(vit, images, target):
    plain = plain_pass(vit, images)
    (gradient,) = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.tokens[-1:])
    expected = cam_in_loops(plain.tokens[-1].detach(), gradient, range(25))[:, 1:].reshape(3, 1, 4, 6)
    method = GradCAM(vit, tokens="block", count_prefix=True)
    exact(method.attribute(images, target=target, resolution="patch"), expected)


@pytest.mark.parametrize("method", FAMILY)
def test_a_map_that_the_relu_leaves_blank_says_so(vit, images, method):
    """Every token has a large first dimension, which speaks for class 0; with its sign turned, all relevance drops."""
    model = linear_tail(vit)
    with torch.no_grad():
        model.blocks[-1].mlp.fc2.bias[0] = 1000.0
        model.head.weight[0] = torch.eye(24)[0]
    assert method(model, tokens="block", relu=True).attribute(images, target=0).min() > 0
    with torch.no_grad():
        model.blocks[-1].mlp.fc2.bias[0] = -1000.0
    if method is GradCAMPlusPlus:  # its denominator turns too
        assert method(model, tokens="block", relu=True).attribute(images, target=0).min() > 0
        return
    with pytest.raises(BlankMapError, match="Or no patch has positive relevance: relu=False keeps"):
        method(model, tokens="block", relu=True).attribute(images, target=0)
    assert method(model, tokens="block").attribute(images, target=0).max() < 0


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"block": 3}, ValueError, r"block must be in \[-3, 2\] or 'all', got 3"),
        ({"block": -4}, ValueError, r"block must be in \[-3, 2\] or 'all', got -4"),
        ({"block": "last"}, TypeError, "block must be an integer or 'all', got 'last'"),
        ({"block": 1.5}, TypeError, r"block must be an integer or 'all', got 1\.5"),
        ({"tokens": "mlp"}, ValueError, "tokens must be 'norm' or 'block', got 'mlp'"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, method, options, error, message):
    with pytest.raises(error, match=message):
        method(vit, **options)
