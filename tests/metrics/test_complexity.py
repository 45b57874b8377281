from math import log

import pytest
import torch
from oracle import exact

from captum_vit.metrics import EffectiveComplexity, Entropy, Sparseness
from captum_vit.metrics.functional import effective_complexity, entropy, sparseness

MICRO = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]], dtype=torch.float64)


def random_maps(batch=4):
    maps = torch.randn(batch, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps[1] = maps[1].clamp(min=0)
    return maps


def gini_of_pairs(values):
    """Half the mean absolute difference of two values, by their mean."""
    values = [abs(each) for each in values]
    mean = sum(values) / len(values)
    return sum(abs(a - b) for a in values for b in values) / (2 * len(values) ** 2 * mean)


def entropy_of_shares(values):
    total = sum(abs(each) for each in values)
    return -sum(abs(each) / total * log(abs(each) / total) for each in values if each)


def test_the_protocols_worked_numbers():
    torch.testing.assert_close(sparseness(MICRO).item(), 0.519231, rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy(MICRO).item(), 0.858741, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("metric", "oracle"), [(sparseness, gini_of_pairs), (entropy, entropy_of_shares)])
def test_metric_is_its_formula(metric, oracle):
    maps = random_maps()
    exact(metric(maps), torch.tensor([oracle(each.flatten().tolist()) for each in maps], dtype=torch.float64))


def test_effective_complexity_counts():
    maps = random_maps()
    expected = []
    for each in maps.flatten(1).tolist():
        largest = max(abs(value) for value in each)
        expected.append(sum(abs(value) / largest > 0.4 for value in each))
    exact(effective_complexity(maps, threshold=0.4), torch.tensor(expected, dtype=torch.float64))


def test_effective_complexity_is_strict_and_normalises_only_where_asked():
    assert effective_complexity(MICRO, threshold=0.5).item() == 1
    assert effective_complexity(MICRO, threshold=0.49).item() == 2
    assert effective_complexity(MICRO, threshold=0.5, normalise=False).item() == 3


def test_one_pixel_that_holds_everything():
    maps = torch.zeros(1, 5, 7, dtype=torch.float64)
    maps[0, 2, 3] = -4
    exact(sparseness(maps), torch.tensor([34 / 35], dtype=torch.float64))
    exact(entropy(maps), torch.zeros(1, dtype=torch.float64))
    exact(effective_complexity(maps), torch.ones(1, dtype=torch.float64))


def test_relative_values_are_shares_of_the_largest_possible_one():
    maps = random_maps()
    exact(entropy(maps, relative=True), entropy(maps) / log(35))
    exact(effective_complexity(maps, threshold=0.4, relative=True), effective_complexity(maps, threshold=0.4) / 35)
    nearly_even = torch.ones(1, 5, 7, dtype=torch.float64)
    nearly_even[0, 0, 0] += 1e-12
    exact(entropy(nearly_even, relative=True), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("metric", [sparseness, entropy, effective_complexity])
def test_places_signs_and_scale_do_not_count(metric):
    maps = random_maps()
    exact(metric(-1e-6 * maps.flip(1)), metric(maps))


@pytest.mark.parametrize("metric", [sparseness, entropy, effective_complexity])
def test_maps_that_say_nothing(metric):
    maps = random_maps()
    maps[0], maps[1], maps[2, 1, 1] = 0.0, 3.0, torch.nan
    assert metric(maps).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("metric", [sparseness, entropy, effective_complexity])
def test_maps_are_left_as_they_are(metric):
    maps = random_maps()
    before = maps.clone()
    metric(maps)
    torch.testing.assert_close(maps, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("metric", "function", "options"),
    [
        (Sparseness, sparseness, {}),
        (Entropy, entropy, {"relative": True}),
        (EffectiveComplexity, effective_complexity, {"threshold": 0.4, "normalise": False, "relative": True}),
    ],
)
def test_stream_is_the_mean_in_any_split(metric, function, options):
    maps = random_maps(7)
    maps[2] = 1
    whole, split = metric(**options), metric(**options)
    whole.update(maps)
    for part in maps.split([1, 4, 2]):
        split.update(part)
    exact(whole.compute(), function(maps, **options).nanmean())
    exact(split.compute(), whole.compute())
    assert (split.images.item(), split.excluded.item()) == (6, 1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"threshold must be at least 0, got -0\.1"):
        effective_complexity(MICRO, threshold=-0.1)
    for metric in (sparseness, entropy, effective_complexity):
        with pytest.raises(ValueError, match=r"maps must have shape \(B, H, W\), got \(2, 2\)"):
            metric(MICRO[0])
