import pytest
import torch
from oracle import exact, gradients, plain_pass
from torch import Tensor

from captum_vit import GradCAMPlusPlus
from captum_vit.attr import grad_cam_plus_plus


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cam_in_loops(tokens: Tensor, gradient: Tensor, counted: range, stabiliser: float = 0.0) -> Tensor:
    """Chattopadhay et al., eq. 18-19: α = g² / (2 g² + Σ_a z_a g³), w = Σ α g⁺, i and a over some tokens."""
    result = torch.zeros(tokens.shape[:2], dtype=torch.float64)
    for image in range(len(tokens)):
        for k in range(tokens.shape[2]):
            total = sum(float(tokens[image, a, k]) for a in counted)
            weight = 0.0
            for i in counted:
                g = float(gradient[image, i, k])
                if g > 0:
                    weight += g**2 / (2 * g**2 + total * g**3 + stabiliser) * g
            for i in range(tokens.shape[1]):
                result[image, i] += weight * tokens[image, i, k]
    return result


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("stabiliser", [0.0, 0.1])
def test_is_the_formula(prefix, stabiliser):
    tokens, gradient = random_tokens(2, 6, 4).abs(), random_tokens(2, 6, 4, seed=1)
    gradient[0, 3, 1] = 0.0
    expected = cam_in_loops(tokens, gradient, range(prefix, 6), stabiliser)
    exact(grad_cam_plus_plus(tokens, gradient, num_prefix_tokens=prefix, stabiliser=stabiliser), expected)


def test_a_region_counts_by_where_its_gradient_is_positive_and_not_by_its_size():
    """As in the paper: with S g large, each position's α g is near 1 / S, whatever its gradient."""
    tokens = torch.ones(1, 4, 1, dtype=torch.float64) * 1e6
    one, other = (torch.tensor([[[g], [g], [0.0], [-1.0]]], dtype=torch.float64) for g in (1.0, 100.0))
    torch.testing.assert_close(grad_cam_plus_plus(tokens, one), grad_cam_plus_plus(tokens, other), rtol=1e-6, atol=0)


def test_no_positive_gradient_gives_zero_and_not_nan():
    tokens = random_tokens(1, 4, 3)
    for gradient in (torch.zeros(1, 4, 3, dtype=torch.float64), -tokens.abs()):
        exact(grad_cam_plus_plus(tokens, gradient), torch.zeros(1, 4, dtype=torch.float64))


def test_signed_tokens_can_turn_a_weight_round():
    """The paper's feature maps are rectified. Here Σ z g = -3, so that α = 1 / (2 - 3) is negative."""
    tokens = torch.tensor([[[-4.0], [1.0]]], dtype=torch.float64)
    gradient = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    exact(grad_cam_plus_plus(tokens, gradient), torch.tensor([[4.0, -1.0]], dtype=torch.float64))


@pytest.mark.parametrize("place", ["norm", "block"])
@pytest.mark.parametrize("count_prefix", [False, True])
def test_method_reads_the_tokens_of_a_block(vit, images, target, place, count_prefix):
    plain = plain_pass(vit, images)
    tokens = (plain.normed if place == "norm" else plain.tokens)[1]
    (gradient,) = gradients(plain.logits.gather(1, target[:, None]).sum(), [tokens])
    expected = cam_in_loops(tokens.detach(), gradient, range(0 if count_prefix else 1, 25), 1e-3)[:, 1:]
    method = GradCAMPlusPlus(vit, block=1, tokens=place, count_prefix=count_prefix, stabiliser=1e-3)
    actual = method.attribute(images, target=target, resolution="patch")
    exact(actual / expected.abs().max(), expected.reshape(3, 1, 4, 6) / expected.abs().max())


@pytest.mark.parametrize("stabiliser", [-1.0, float("nan"), float("inf")])
def test_a_bad_stabiliser_is_refused_at_once(vit, stabiliser):
    with pytest.raises(ValueError, match=f"stabiliser must be finite and at least 0, got {stabiliser}"):
        GradCAMPlusPlus(vit, stabiliser=stabiliser)
