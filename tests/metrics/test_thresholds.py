import pytest
import torch
from metric_cases import B, L, T, random_case
from oracle import exact
from skimage.filters import threshold_otsu

from captum_vit.metrics import PointMIoU, Segmentation, WrongPromptArea, WrongPromptEnergy
from captum_vit.metrics.functional import (
    BestOf,
    class_iou,
    foreground_iou,
    min_max,
    otsu_threshold,
    point_iou,
    wrong_prompt_area,
)
from captum_vit.metrics.functional.thresholds import threshold_values


def cut_with_largest_variance_between(values):
    """Otsu 1979, equation 14: ω₀ ω₁ (μ₁ − μ₀)² for every cut of the sorted values, the first of the largest."""
    best, threshold = -1.0, None
    for candidate in sorted(set(values))[:-1]:
        low, high = ([v for v in values if (v > candidate) == above] for above in (False, True))
        apart = sum(high) / len(high) - sum(low) / len(low)
        between = len(low) * len(high) / len(values) ** 2 * apart**2
        if between > best + 1e-12:
            best, threshold = between, candidate
    return threshold


@pytest.mark.parametrize("ties", [False, True])
def test_otsu_is_its_formula(ties):
    maps, _ = random_case(0, ties=ties)
    expected = [cut_with_largest_variance_between(each.flatten().tolist()) for each in maps]
    assert otsu_threshold(maps).tolist() == expected


def test_otsu_is_scikit_images_on_integers():
    maps, _ = random_case(1)
    for each in maps:
        assert otsu_threshold(each[None]).item() == threshold_otsu(each.long().numpy())


def test_otsu_moves_along_with_the_scale():
    maps, _ = random_case(2)
    assert torch.equal(otsu_threshold(maps * 4 - 3), otsu_threshold(maps) * 4 - 3)


def test_values_of_each_rule():
    scaled = torch.cat([min_max(B), min_max(T)])
    assert threshold_values(scaled, "mean").tolist() == [[0.40625], [0.5]]
    assert threshold_values(scaled[:1], "otsu").tolist() == [[0.125]]
    assert threshold_values(scaled, 0.25).tolist() == [[0.25], [0.25]]
    assert threshold_values(scaled, BestOf(3)).tolist() == [[0, 0.5, 1], [0, 0.5, 1]]


def test_the_best_of_twenty_by_the_protocols_numbers():
    assert foreground_iou(B, L, threshold=BestOf(20)).item() == 1
    assert foreground_iou(B, L, threshold=0.5).item() == 0.5


def test_the_best_threshold_of_each_image_serves_every_measure():
    maps, masks = random_case(3)
    candidates = [class_iou(maps, masks, threshold=k / 6) for k in range(7)]
    foreground = torch.stack([each[:, 1] for each in candidates])
    best = foreground.argmax(0)
    expected = torch.stack([candidates[k][image] for image, k in enumerate(best.tolist())])
    exact(class_iou(maps, masks, threshold=BestOf(7)), expected)
    assert len(best.unique()) > 1


@pytest.mark.parametrize("threshold", ["median", float("nan"), float("inf")])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be a finite number, .*, got '?{threshold}'?\."):
        foreground_iou(B, L, threshold=threshold)


@pytest.mark.parametrize("cut", [-0.1, 1.5])
@pytest.mark.parametrize("normalise", ["min_max", "clip_min_max"])
def test_a_number_outside_the_scale(cut, normalise):
    refused = pytest.raises(ValueError, match=rf"in \[0, 1\] with normalise='{normalise}', got {cut}\.")
    for call in (
        lambda: foreground_iou(B, L, threshold=cut, normalise=normalise),
        lambda: Segmentation(cut, normalise=normalise),
        lambda: PointMIoU(3, threshold=cut, normalise=normalise),
        lambda: point_iou(B, torch.rand(1, 2, 2), torch.ones(1, 2).long(), threshold=cut, normalise=normalise),
    ):
        with refused:
            call()
    Segmentation(cut, normalise="none")


@pytest.mark.parametrize("scale", ["shared", "own"])
def test_a_painted_area_above_a_number_outside_the_scale(scale):
    settings = {"threshold": 7, "scale": scale}
    for call in (lambda: wrong_prompt_area(B, B, L, **settings), lambda: WrongPromptArea(**settings)):
        with pytest.raises(ValueError, match=rf"threshold must be in \[0, 1\] with scale='{scale}', got 7\."):
            call()
    assert wrong_prompt_area(B, B, L, threshold=7, scale="none") == 0.5


def test_settings_are_refused_before_the_first_image():
    with pytest.raises(ValueError, match=r"threshold must be a finite number, .*, got 'median'"):
        Segmentation("median")
    with pytest.raises(TypeError, match=r"threshold must be a finite number, .*, got NoneType"):
        Segmentation(None)
    for make in (lambda: Segmentation(0.5, normalise="max"), lambda: PointMIoU(2, normalise="max")):
        with pytest.raises(ValueError, match=r"normalise must be one of .*, got 'max'"):
            make()
    for make in (lambda: WrongPromptEnergy(scale="max"), lambda: WrongPromptArea(scale="max")):
        with pytest.raises(ValueError, match="scale must be 'shared', 'own' or 'none', got 'max'"):
            make()
    with pytest.raises(ValueError, match=r"one for all images with aggregate='dataset', got BestOf.*count=5.*'none'"):
        Segmentation(BestOf(5), normalise="none")
    points = torch.rand(1, 2, 2), torch.ones(1, 2).long()
    for call in (lambda: point_iou(B, *points, threshold="mean"), lambda: PointMIoU(2, threshold="mean")):
        with pytest.raises(ValueError, match="threshold must be a finite number, got 'mean'"):
            call()


def test_the_best_of_a_map_that_is_not_normalised_lies_on_its_own_scale():
    maps, masks = random_case(5)
    maps = 100 * maps - 300
    same = foreground_iou(maps, masks, threshold=BestOf(6))
    exact(foreground_iou(maps, masks, threshold=BestOf(6), normalise="none"), same)
    metric = Segmentation(BestOf(6), normalise="none", aggregate="image")
    assert threshold_values(B, BestOf(3)).tolist() == [[0, 4, 8]]
    metric.update(min_max(maps), masks)
    exact(metric.compute()["iou_foreground"], same.mean())


def test_best_of_one_threshold():
    with pytest.raises(ValueError, match=r"count must be at least 2 thresholds, got 1\."):
        BestOf(1)
