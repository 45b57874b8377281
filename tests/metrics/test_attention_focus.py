import pytest
import torch
from metric_cases import L4, L
from oracle import exact

from captum_vit.metrics import BackgroundAttentionFocus, ForegroundAttentionFocus
from captum_vit.metrics.functional import background_attention_focus, foreground_attention_focus

A = torch.tensor([[[1.0, 2], [3, 4]]])


def random_attention(void=False):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 3, 4, generator=generator, dtype=torch.float64)
    masks = (torch.rand(5, 15, 8, generator=generator) < 0.4).long()  # 5×2 pixels per patch
    if void:
        masks[torch.rand(5, 15, 8, generator=generator) < 0.2] = -1
        masks[:, :5, :2] = -1  # a whole patch
    return maps, masks


@pytest.mark.parametrize(("downsample", "expected"), [("area", 0.35), ("majority", 0.4), ("nearest", 0.4)])
def test_the_protocols_worked_numbers(downsample, expected):
    assert foreground_attention_focus(A, L4, downsample=downsample).item() == pytest.approx(expected, abs=1e-6)
    assert background_attention_focus(A, L4, downsample=downsample).item() == pytest.approx(1 - expected, abs=1e-6)


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("downsample", ["area", "majority", "nearest"])
def test_it_is_its_formula(downsample, void):
    """FAF = Σ A M / Σ A of section 6.3, M by hand for patches of 5×2 pixels."""
    maps, masks = random_attention(void)
    for image, value in enumerate(foreground_attention_focus(maps, masks, downsample=downsample).tolist()):
        on_object = on_background = 0.0
        for i in range(3):
            for j in range(4):
                pixels = [masks[image, 5 * i + y, 2 * j + x].item() for y in range(5) for x in range(2)]
                if downsample == "nearest":
                    pixels = pixels[:1]
                if downsample == "majority" and pixels.count(-1) < len(pixels):
                    pixels = [int(pixels.count(1) >= pixels.count(0))]
                on_object += maps[image, i, j].item() * pixels.count(1) / len(pixels)
                on_background += maps[image, i, j].item() * pixels.count(0) / len(pixels)
        assert value == pytest.approx(on_object / (on_object + on_background), abs=1e-10)


@pytest.mark.parametrize("downsample", ["area", "majority", "nearest"])
@pytest.mark.parametrize("void", [False, True])
def test_foreground_and_background_share_the_attention(downsample, void):
    maps, masks = random_attention(void)
    both = foreground_attention_focus(maps, masks, downsample=downsample) + background_attention_focus(
        maps, masks, downsample=downsample
    )
    exact(both, torch.ones_like(both))


def test_scale_does_not_matter_and_an_offset_does():
    maps, masks = random_attention()
    value = foreground_attention_focus(maps, masks)
    exact(foreground_attention_focus(maps * 7, masks), value)
    assert (foreground_attention_focus(maps + 1, masks) - value).abs().max() > 1e-3


def test_undefined_images():
    maps, masks = random_attention()
    maps[0], maps[1, 0, 0], maps[2, 0, 0], masks[3] = 0.25, torch.nan, torch.inf, 0
    assert foreground_attention_focus(maps, masks).isnan().tolist() == [True] * 4 + [False]
    assert background_attention_focus(maps, masks).isnan().tolist() == [True] * 4 + [False]


def test_the_means_over_images():
    maps, masks = random_attention()
    masks[3] = 0
    for metric, function in (
        (ForegroundAttentionFocus(downsample="majority"), foreground_attention_focus),
        (BackgroundAttentionFocus(downsample="majority"), background_attention_focus),
    ):
        metric.update(maps, masks)
        expected = function(maps, masks, downsample="majority").nanmean()
        exact(metric.compute(), expected)
        assert (metric.images, metric.excluded) == (4, 1)


def test_bad_input():
    with pytest.raises(ValueError, match=r"maps must not be negative, got -2\.0\. Use energy_inside"):
        foreground_attention_focus(A - 3, L4)
    with pytest.raises(ValueError, match=r"at least 2×2 pixels, one per patch, got \(2, 4, 4\)\."):
        foreground_attention_focus(A, L4.expand(2, -1, -1))
    with pytest.raises(ValueError, match=r"masks must be \(1, H, W\) with at least 4×4 pixels.*got \(1, 2, 2\)\."):
        foreground_attention_focus(torch.ones(1, 4, 4), L)
    with pytest.raises(ValueError, match=r"downsample must be 'area', 'majority' or 'nearest', got 'bilinear'\."):
        foreground_attention_focus(A, L4, downsample="bilinear")
