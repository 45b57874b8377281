import copy

import pytest
import torch
import torch.nn.functional as F
from oracle import exact, plain_pass
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import ReciproCAM
from captum_vit.attr import reciprocal_masks


def weight(i: int, j: int, columns: int, gaussian: bool) -> float:
    """What is left of patch j when patch i is looked at."""
    down, right = abs(i // columns - j // columns), abs(i % columns - j % columns)
    if not gaussian:
        return float(i == j)
    return {(0, 0): 1 / 4, (0, 1): 1 / 8, (1, 0): 1 / 8, (1, 1): 1 / 16}.get((down, right), 0.0)


def rest(model: VisionTransformer, z: Tensor, n: Tensor, block: int) -> Tensor:
    """The plain equations from the first norm's output n and the skip connection z of one block on."""
    for index, each in enumerate(model.blocks[block:]):
        n = each.norm1(z) if index else n
        q, k, v = (p.unflatten(-1, (each.attn.num_heads, -1)).transpose(1, 2) for p in each.attn.qkv(n).chunk(3, -1))
        a = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        z = z + each.attn.proj((a @ v).transpose(1, 2).flatten(2))
        z = z + each.mlp.fc2(F.gelu(each.mlp.fc1(each.norm2(z))))
    return model.head(model.norm(z)[:, 0])


@torch.no_grad()
def reciprocal_cam(model, images, target, block=2, gaussian=True, kept=1.0) -> Tensor:
    """A pass for each patch: its logit less that of a pass without patches."""
    plain = plain_pass(model, images)
    scores = torch.zeros(3, 25, dtype=torch.float64)
    for i in range(25):
        masked = [kept] + [weight(i, j, 6, gaussian) if i < 24 else 0.0 for j in range(24)]
        masked = torch.tensor(masked, dtype=torch.float64)[:, None]
        logits = rest(model, plain.tokens[block - 1] * masked, plain.normed[block] * masked, block)
        scores[:, i] = logits.gather(1, target[:, None])[:, 0]
    return (scores[:, :-1] - scores[:, -1:]).reshape(3, 1, 4, 6)


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("grid", [(4, 6), (1, 3), (1, 1)])
def test_masks_are_the_weights_around_each_patch(grid, gaussian):
    n = grid[0] * grid[1]
    expected = torch.tensor([[weight(i, j, grid[1], gaussian) for j in range(n)] for i in range(n)])
    exact(reciprocal_masks(grid, gaussian=gaussian), expected)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"block": 1, "gaussian": False}, {"block": 1, "gaussian": False}),
        ({"keep_prefix": False, "masks_per_batch": 7}, {"kept": 0.0}),
    ],
)
def test_is_a_pass_for_each_patch(vit, images, target, options, settings):
    actual = ReciproCAM(vit, **options).attribute(images, target=target, resolution="patch")
    exact(actual, reciprocal_cam(vit, images, target, **settings))


def test_the_number_of_masks_at_a_time_changes_nothing(vit, images, target):
    whole = ReciproCAM(vit, masks_per_batch=1000).attribute(images, target=target)
    for number in (1, 10):
        exact(ReciproCAM(vit, masks_per_batch=number).attribute(images, target=target), whole)


def test_earlier_blocks_run_once(vit, images):
    """One pass of the model, one that checks that the block can be begun at, one for the masks."""
    model, calls = copy.deepcopy(vit), [0, 0, 0]
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    ReciproCAM(model, masks_per_batch=75).attribute(images, target=1)
    assert calls == [1, 1, 3]


def test_a_block_without_a_first_norm_is_refused_at_once(vit):
    model = copy.deepcopy(vit)
    model.blocks[2].norm1 = None
    with pytest.raises(TypeError, match=r"but block 2 \(blocks\.2\) of timm VisionTransformer has no module 'norm1'"):
        ReciproCAM(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 3}, r"block must be in \[-3, 2\], got 3"),
        ({"masks_per_batch": 0}, "masks_per_batch must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        ReciproCAM(vit, **options)


def test_a_norm_of_any_kind_is_masked_at_its_output(vit, images, target):
    model = copy.deepcopy(vit)
    model.blocks[2].norm1 = nn.Sequential(model.blocks[2].norm1, nn.Identity()).eval()
    exact(ReciproCAM(model).attribute(images, target=target), ReciproCAM(vit).attribute(images, target=target))
