import pytest
import torch
from metric_cases import L4, M4, VOID, B, L, T, random_case, undefined_case
from oracle import exact
from sklearn.metrics import average_precision_score

from captum_vit.metrics.functional import foreground_average_precision, two_channel_average_precision
from captum_vit.metrics.functional.average_precision import _by_rank, average_precision

METRICS = [foreground_average_precision, two_channel_average_precision]
FULL = torch.ones_like(L)


@pytest.mark.parametrize(
    ("maps", "masks", "two_channel", "foreground"),
    [
        (B, L, 0.95, 1),
        (T, L, 0.833333, 0.833333),
        (M4, L4, 0.927102, 0.890909),
        (B, VOID, 0.916667, 1),
        (B, FULL, 0.475, 1),
    ],
)
def test_the_protocols_worked_numbers(maps, masks, two_channel, foreground):
    assert two_channel_average_precision(maps, masks).item() == pytest.approx(two_channel, abs=1e-6)
    assert foreground_average_precision(maps, masks).item() == pytest.approx(foreground, abs=1e-6)


def steps(scores, labels):
    """Σ_k (R_k − R_{k−1}) P_k over the distinct scores, from the highest."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        recall = sum(taken) / sum(labels)
        total += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    return total


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_foreground_is_its_formula_and_scikit_learns(void, ties):
    maps, masks = random_case(0, void=void, ties=ties)
    for image, value in enumerate(foreground_average_precision(maps, masks).tolist()):
        known = masks[image] >= 0
        scores, labels = maps[image][known].tolist(), masks[image][known].tolist()
        assert value == pytest.approx(steps(scores, labels), abs=1e-10)
        assert value == pytest.approx(average_precision_score(labels, scores), abs=1e-10)


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_two_channels_are_their_formula_and_scikit_learns(void, ties):
    maps, masks = random_case(1, void=void, ties=ties)
    for image, value in enumerate(two_channel_average_precision(maps, masks).tolist()):
        low, high = maps[image].min().item(), maps[image].max().item()
        known = masks[image] >= 0
        scaled = [(each - low) / (high - low) for each in maps[image][known].tolist()]
        labels = masks[image][known].tolist()
        scores = [1 - each for each in scaled] + scaled
        both = [1 - each for each in labels] + labels
        assert value == pytest.approx(steps(scores, both), abs=1e-10)
        assert value == pytest.approx(average_precision_score(both, scores), abs=1e-10)


def test_only_the_foreground_one_ignores_monotone_changes():
    maps, masks = random_case(2)
    changed = maps.exp()
    exact(foreground_average_precision(changed, masks), foreground_average_precision(maps, masks))
    assert (two_channel_average_precision(changed, masks) - two_channel_average_precision(maps, masks)).abs().min() > 0


def test_two_channels_are_symmetric():
    maps, masks = random_case(3, ties=False)
    swapped = two_channel_average_precision(-maps, 1 - masks)
    exact(swapped, two_channel_average_precision(maps, masks))


@pytest.mark.parametrize("metric", METRICS)
def test_the_mask_itself_is_the_best_map(metric):
    _, masks = random_case(4)
    assert (metric(masks.double(), masks) == 1).all()
    assert (metric(-masks.double(), masks) <= 0.5).all()


@pytest.mark.parametrize("metric", METRICS)
def test_maps_that_rank_nothing_and_empty_masks_have_no_score(metric):
    assert metric(*undefined_case()).isnan().tolist() == [True] * 4 + [False]


def test_a_map_without_positive_values_ranks_nothing_once_it_is_clipped():
    assert two_channel_average_precision(B - 9, L, normalise="clip_min_max").isnan().all()
    assert two_channel_average_precision(B - 1, L, normalise="clip_min_max").item() != 0.95


def test_bad_scale():
    with pytest.raises(ValueError, match=r"maps must be in \[0, 1\] .*, got 4\.0\. Normalise"):
        two_channel_average_precision(B, L, normalise="none")
    with pytest.raises(ValueError, match=r"normalise must be one of min_max, clip_min_max, none, got 'max'\."):
        two_channel_average_precision(B, L, normalise="max")


def test_both_ways_to_count_give_the_same():
    """The one that a CPU takes is held against the formula above."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(9, (6, 200), generator=generator) / 8
    counted = torch.rand(6, 200, generator=generator) > 0.2
    labels = counted & (torch.rand(6, 200, generator=generator) > 0.6)
    labels[4] = False
    labels[5], counted[5] = True, True
    found, expected = _by_rank(scores, labels, counted), average_precision(scores, labels, counted)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0, equal_nan=True)
    assert found.isnan().tolist() == [False] * 4 + [True, False]
