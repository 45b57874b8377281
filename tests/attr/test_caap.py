import copy

import pytest
import torch
from oracle import exact, plain_parts
from torch import Tensor

from captum_vit import CAAP, BlankMapError
from captum_vit.attr import neighbourhoods


def near(i: int, j: int, columns: int, radius: int) -> bool:
    return abs(i // columns - j // columns) <= radius and abs(i % columns - j % columns) <= radius


@torch.no_grad()
def patched(model, images, target, blocks, baseline, direction="insert", radius=0) -> Tensor:
    """One whole forward pass for each patch, in which hooks put tokens of one run into the other."""
    neutral = torch.zeros_like(images) + baseline
    source, host = (images, neutral) if direction == "insert" else (neutral, images)
    given = [entering for entering, *_ in plain_parts(model, source)]
    unpatched = model(host).gather(1, target[:, None])
    scores = []
    for i in range(24):
        region = [1 + j for j in range(24) if near(i, j, 6, radius)]

        def put(_, args, index, region=region):
            tokens = args[0].clone()
            tokens[:, region] = given[index][:, region]
            return (tokens,)

        handles = [
            model.blocks[index].register_forward_pre_hook(lambda m, args, index=index: put(m, args, index))
            for index in blocks
        ]
        scores.append(model(host).gather(1, target[:, None]))
        for handle in handles:
            handle.remove()
    change = torch.cat(scores, 1) - unpatched
    return (change if direction == "insert" else -change).reshape(3, 1, 4, 6)


@pytest.mark.parametrize("radius", [0, 1, 9])
def test_regions_are_squares_cut_at_the_border(radius):
    expected = torch.tensor([[near(i, j, 6, radius) for j in range(24)] for i in range(24)])
    assert torch.equal(neighbourhoods((4, 6), radius), expected)


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, [1]),
        ({"blocks": range(1, 3), "baseline": 0.5, "radius": 1}, [1, 2]),
        ({"blocks": [-1], "direction": "remove", "masks_per_batch": 5}, [2]),
        ({"blocks": [2, 0, 0]}, [0, 2]),
    ],
)
def test_is_a_patched_pass_for_each_patch(vit, images, target, options, blocks):
    actual = CAAP(vit, **options).attribute(images, target=target, resolution="patch")
    settings = {key: options[key] for key in ("direction", "radius") if key in options}
    exact(actual, patched(vit, images, target, blocks, options.get("baseline", 0.0), **settings))


def test_a_baseline_image(vit, images, target):
    baseline = images[1].flip(-1)
    actual = CAAP(vit, baseline=baseline).attribute(images, target=target, resolution="patch")
    exact(actual, patched(vit, images, target, [1], baseline))


def test_patching_everything_up_to_the_head_gives_the_whole_change(vit, images, target):
    """A region as large as the image, in a model that pools patches only."""
    model = copy.deepcopy(vit)
    model.global_pool = "avg"
    actual = CAAP(model, blocks=[0], radius=9).attribute(images, target=target, resolution="patch")
    with torch.no_grad():  # at the first block the prefix is the same in both runs
        gain = (model(images) - model(images * 0)).gather(1, target[:, None])
    exact(actual, gain[:, :, None, None].expand(-1, 1, 4, 6))


def test_the_middle_third_is_the_default(vit):
    assert CAAP(vit).blocks == [1]
    for depth, blocks in ((1, [0]), (2, [0]), (12, [4, 5, 6, 7]), (24, list(range(8, 16)))):
        model = copy.deepcopy(vit)
        model.blocks = torch.nn.Sequential(*[vit.blocks[0]] * depth)
        assert CAAP(model).blocks == blocks


def test_blocks_before_the_range_run_once_for_all_patches(vit, images):
    model, calls = copy.deepcopy(vit), [0, 0, 0]
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    CAAP(model, masks_per_batch=72).attribute(images, target=1)
    assert calls == [2, 4, 4]  # image and baseline, the check, all regions


def test_an_image_that_is_the_baseline_has_no_relevance(vit, images):
    with pytest.raises(BlankMapError, match=r"for image 1: no patched token .* an image that is the baseline itself"):
        CAAP(vit, baseline=images[1]).attribute(images, target=1)


def test_a_baseline_of_another_shape_is_refused(vit, images):
    with pytest.raises(ValueError, match=r"baseline must be a number or \(3, 32, 48\), got shape \(3, 8, 8\)"):
        CAAP(vit, baseline=torch.zeros(3, 8, 8)).attribute(images, target=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"blocks": 2}, TypeError, r"blocks must be a list of indices, got 2; write \[2\]"),
        ({"blocks": range(2, 2)}, ValueError, "blocks must hold at least one index, got none"),
        ({"blocks": [0, 3]}, ValueError, r"blocks must be in \[-3, 2\], got 3"),
        ({"baseline": float("nan")}, ValueError, "baseline must be finite, got nan"),
        ({"direction": "both"}, ValueError, "direction must be 'insert' or 'remove', got 'both'"),
        ({"radius": -1}, ValueError, "radius must be at least 0, got -1"),
        ({"masks_per_batch": 0}, ValueError, "masks_per_batch must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, error, message):
    with pytest.raises(error, match=message):
        CAAP(vit, **options)
