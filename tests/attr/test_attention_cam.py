import pytest
import torch
from oracle import exact, gradients, plain_pass, random_attention, random_gradient
from torch import Tensor

from captum_vit import AttentionCAM
from captum_vit.attr import attention_cam


def cam_in_loops(attention: Tensor, gradient: Tensor, columns: slice, rows: slice) -> Tensor:
    """LeGrad, eq. 11: w_h = mean of ∇A_h; map = Σ_h w_h A_h at the class token's row."""
    result = torch.zeros(len(attention), attention.shape[-1], dtype=torch.float64)
    for image in range(len(attention)):
        for head in range(attention.shape[1]):
            weight = gradient[image, head, rows, columns].mean()
            for key in range(attention.shape[-1]):
                result[image, key] += weight * attention[image, head, 0, key]
    return result


def test_weights_heads_by_the_mean_gradient_of_their_map():
    attention, gradient = random_attention(2, 3, 5, 5), random_gradient(2, 3, 5, 5)
    exact(attention_cam(attention, gradient), cam_in_loops(attention, gradient, slice(None), slice(None)))


def test_or_by_that_of_the_pooled_tokens_row():
    attention, gradient = random_attention(2, 3, 5, 5), random_gradient(2, 3, 5, 5)
    exact(
        attention_cam(attention, gradient, gradient_mean="row"),
        cam_in_loops(attention, gradient, slice(1, None), slice(0, 1)),
    )


def test_is_linear_in_the_gradient_and_keeps_its_sign():
    attention, gradient = random_attention(2, 3, 5, 5), random_gradient(2, 3, 5, 5)
    exact(attention_cam(attention, -2 * gradient), -2 * attention_cam(attention, gradient))
    assert attention_cam(attention, gradient).min() < 0 < attention_cam(attention, gradient).max()


@pytest.mark.parametrize("gradient_mean", ["map", "row"])
def test_method_reads_the_last_block(vit, images, target, gradient_mean):
    plain = plain_pass(vit, images)
    (gradient,) = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.attentions[-1:])
    columns, rows = (slice(None), slice(None)) if gradient_mean == "map" else (slice(1, None), slice(0, 1))
    expected = cam_in_loops(plain.attentions[-1].detach(), gradient, columns, rows)[:, 1:].reshape(3, 1, 4, 6)
    method = AttentionCAM(vit, gradient_mean=gradient_mean)
    exact(method.attribute(images, target=target, resolution="patch"), expected)


def test_another_gradient_mean_is_refused(vit):
    with pytest.raises(ValueError, match="gradient_mean must be 'map' or 'row', got 'column'"):
        AttentionCAM(vit, gradient_mean="column")
    with pytest.raises(ValueError, match="gradient_mean must be 'map' or 'row', got 'column'"):
        attention_cam(random_attention(1, 1, 2, 2), random_gradient(1, 1, 2, 2), gradient_mean="column")
