import pytest
import torch
from oracle import exact, random_gradient
from plain_legrad import equations_3_to_8

from captum_vit import LeGrad
from captum_vit.attr import legrad


def test_is_the_mean_over_blocks_heads_and_rows_of_the_positive_part():
    """Eq. 7 and 8."""
    grads = [random_gradient(2, 3, 4, 5, seed=seed) for seed in range(3)]
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for gradient in grads:
        for image in range(2):
            for head in range(3):
                for row in range(4):
                    for key in range(5):
                        expected[image, key] += max(float(gradient[image, head, row, key]), 0.0) / (3 * 3 * 4)
    exact(legrad(grads), expected)


def test_without_the_relu_it_is_linear():
    gradient = random_gradient(2, 3, 4, 5)
    exact(legrad([gradient], relu=False), gradient.mean((1, 2)))
    exact(legrad([-gradient], relu=False), -legrad([gradient], relu=False))


def test_rows_choose_the_queries():
    gradient = random_gradient(2, 3, 4, 5)
    exact(legrad([gradient], rows=torch.tensor([2])), legrad([gradient[:, :, 2:3]]))


def test_no_block_is_refused():
    with pytest.raises(ValueError, match="gradients must hold at least one block, got none"):
        legrad([])


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("per_block", [True, False])
def test_method_is_the_papers_equations(vit, images, target, relu, per_block):
    method = LeGrad(vit, relu=relu, per_block_readout=per_block)
    expected = equations_3_to_8(vit, images, target, relu=relu, per_block=per_block)
    blocks = method.attribute_blocks(images, target=target)
    exact(blocks, expected.reshape(3, 3, 1, 4, 6))
    exact(method.attribute(images, target=target, resolution="patch"), expected.mean(1).reshape(3, 1, 4, 6))


def test_blocks_choose_what_is_averaged(vit, images, target):
    per_block = LeGrad(vit).attribute_blocks(images, target=target)
    for blocks, chosen in ((range(-2, 0), [1, 2]), ([0], [0]), ([2, -3], [0, 2])):
        method = LeGrad(vit, blocks=blocks)
        exact(method.attribute_blocks(images, target=target), per_block[:, chosen])
        exact(method.attribute(images, target=target, resolution="patch"), per_block[:, chosen].mean(1))


def test_only_one_blocks_graph_exists_at_a_time(vit, images):
    """Each block's gradient comes from a graph that holds no other block's attention."""
    seen = []
    handles = [
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].requires_grad)) for block in vit.blocks
    ]
    LeGrad(vit).attribute(images, target=1)
    for handle in handles:
        handle.remove()
    assert seen == [False, False, False]


def test_the_final_norm_can_be_left_out(vit, images, target):
    kept, left = LeGrad(vit), LeGrad(vit, final_norm=False)
    difference = kept.attribute(images, target=target) - left.attribute(images, target=target)
    assert difference.abs().max() > 1e-6


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([3], r"blocks must be in \[-3, 2\], got 3"),
        ([0, -4], r"blocks must be in \[-3, 2\], got -4"),
        ([], "blocks must hold at least one index, got none"),
    ],
)
def test_blocks_that_do_not_exist_are_refused(vit, blocks, message):
    with pytest.raises(ValueError, match=message):
        LeGrad(vit, blocks=blocks)
