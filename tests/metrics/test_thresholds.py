import pytest
import torch
from metric_cases import B, L, T, random_case
from oracle import exact
from skimage.filters import threshold_otsu

from captum_vit.metrics.functional import BestOf, class_iou, foreground_iou, min_max, otsu_threshold
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


def test_best_of_one_threshold():
    with pytest.raises(ValueError, match=r"count must be at least 2 thresholds, got 1\."):
        BestOf(1)
