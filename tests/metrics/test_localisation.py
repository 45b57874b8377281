import math

import pytest
import torch
from metric_cases import L4, M4, VOID, B, L, random_case, undefined_case
from oracle import exact
from sklearn.metrics import roc_auc_score

from captum_vit.metrics import EnergyInside, LocalisationAUC, RelevanceRankAccuracy, TopKInside
from captum_vit.metrics.functional import (
    energy_inside,
    localisation_auc,
    relevance_rank_accuracy,
    top_k_inside,
)

METRICS = {
    "energy_inside": energy_inside,
    "relevance_rank_accuracy": relevance_rank_accuracy,
    "localisation_auc": localisation_auc,
    "top_k_inside": lambda maps, masks: top_k_inside(maps, masks, k=2),
}


def test_energy_inside_worked_numbers():
    assert energy_inside(B, L).item() == pytest.approx(12 / 13)
    assert energy_inside(M4, L4).item() == pytest.approx(24 / 34)
    assert energy_inside(B - 2, L).item() == 1  # negative relevance counts as none
    assert energy_inside(B, VOID).item() == 1  # the only relevance outside is void


def test_rank_accuracy_and_auc_worked_numbers():
    assert relevance_rank_accuracy(M4, L4).item() == pytest.approx(0.8)
    assert localisation_auc(M4, L4).item() == pytest.approx(0.918182, abs=1e-6)
    assert localisation_auc(B, L).item() == 1


@pytest.mark.parametrize("void", [False, True])
def test_auc_is_scikit_learns(void):
    maps, masks = random_case(1, void=void)
    for image in range(len(maps)):
        known = masks[image] >= 0
        expected = roc_auc_score(masks[image][known], maps[image][known])
        assert localisation_auc(maps, masks)[image].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("void", [False, True])
def test_rank_metrics_by_sorting(void):
    maps, masks = random_case(2, void=void)
    for image in range(len(maps)):
        known = [(-value, place) for place, value in enumerate(maps[image].flatten().tolist())]
        flat = masks[image].flatten().tolist()
        ranked = [flat[place] for _, place in sorted(known) if flat[place] >= 0]
        size = flat.count(1)
        assert relevance_rank_accuracy(maps, masks)[image].item() == pytest.approx(ranked[:size].count(1) / size)
        assert top_k_inside(maps, masks, k=7)[image].item() == pytest.approx(ranked[:7].count(1) / 7)


@pytest.mark.parametrize("name", METRICS)
def test_maps_that_rank_nothing_and_empty_masks_have_no_score(name):
    assert METRICS[name](*undefined_case()).isnan().tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("name", METRICS)
def test_an_image_does_not_depend_on_the_others(name):
    maps, masks = random_case(5, void=True)
    alone = torch.cat([METRICS[name](maps[k : k + 1], masks[k : k + 1]) for k in range(len(maps))])
    exact(METRICS[name](maps, masks), alone)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"energy_inside"}))
def test_metrics_that_only_rank_ignore_monotone_changes(name):
    maps, masks = random_case(6)
    exact(METRICS[name](maps, masks), METRICS[name](maps.exp() * 3 + 1, masks))


@pytest.mark.parametrize("name", METRICS)
def test_the_mask_itself_is_the_best_map(name):
    _, masks = random_case(7)
    assert (METRICS[name](masks.double(), masks) == 1).all()


def test_an_inverted_map_has_the_opposite_auc():
    maps, masks = random_case(8)
    exact(localisation_auc(-maps, masks), 1 - localisation_auc(maps, masks))


@pytest.mark.parametrize("name", METRICS)
def test_bad_maps_and_masks(name):
    metric = METRICS[name]
    with pytest.raises(ValueError, match=r"maps must have shape \(B, H, W\), got \(1, 3, 2, 2\).*sum\(1\)"):
        metric(torch.zeros(1, 3, 2, 2), L)
    with pytest.raises(ValueError, match=r"what they are compared with, \(1, 2, 2\), got \(1, 4, 4\)\."):
        metric(M4, L)
    with pytest.raises(ValueError, match=r"masks must hold 0 .*, got 255\."):
        metric(B, L * 255)
    with pytest.raises(TypeError, match=r"booleans or integers .*, got torch\.float32\."):
        metric(B, L.float())
    with pytest.raises(TypeError, match=r"maps must be a tensor of real numbers .*, got list\."):
        metric([[1.0]], L)


def test_fewer_known_pixels_than_asked_for_have_no_score():
    assert top_k_inside(B, VOID, k=3).item() == pytest.approx(2 / 3)
    assert top_k_inside(B, VOID, k=4).isnan()


def test_a_mask_without_background_has_no_auc():
    assert localisation_auc(B, torch.ones_like(L)).isnan()


def test_a_map_without_positive_relevance_has_no_energy():
    assert energy_inside(B - 9, L).isnan()


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (EnergyInside(), "energy_inside"),
        (RelevanceRankAccuracy(), "relevance_rank_accuracy"),
        (LocalisationAUC(), "localisation_auc"),
        (TopKInside(k=2), "top_k_inside"),
    ],
)
def test_the_mean_over_images(metric, name):
    maps, masks = random_case(9, void=True)
    masks[2] = 0
    metric.update(maps, masks)
    exact(metric.compute(), METRICS[name](maps, masks).nanmean())
    assert (metric.images, metric.excluded) == (5, 1)


def test_bad_options():
    with pytest.raises(ValueError, match=r"k must be in \[1, 4\], .*, got 5\."):
        top_k_inside(B, VOID, k=5)


def test_integer_maps_and_boolean_masks_are_taken():
    assert energy_inside(B.long(), L.bool()).item() == pytest.approx(12 / 13)
    assert math.isclose(localisation_auc(B.half(), L.bool()).item(), 1)
