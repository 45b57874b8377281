import itertools

import pytest
import torch
from captum.attr import FeatureAblation
from perturbed import Linear, case, close, ordered_pixels, swapped, total

from captum_vit.metrics import SaCo
from captum_vit.metrics.functional import saco, salience_coefficient


def coefficient_by_loops(salience, drops):
    """arXiv 2404.01415, algorithm 1."""
    signed, absolute = 0.0, 0.0
    for first in range(len(salience)):
        for second in range(first + 1, len(salience)):
            gap = salience[first] - salience[second]
            weight = gap if drops[first] >= drops[second] else -gap
            signed, absolute = signed + weight, absolute + abs(weight)
    return signed / absolute


@pytest.mark.parametrize(("groups", "patch"), [(5, (1, 1)), (12, (4, 2)), (5, (4, 2))])
def test_groups_are_compared_pair_by_pair(groups, patch):
    images, maps, targets = case()
    model = Linear(probabilities=True)
    result = saco(model, images, maps, targets, groups=groups, patch=patch)
    for number, target in enumerate(targets):
        patches = ordered_pixels(maps[number], patch)
        mean = images[number].mean((1, 2), keepdim=True).expand_as(images[number])
        bounds = [len(patches) * group // groups for group in range(groups + 1)]
        salience, drops = [], []
        for start, stop in itertools.pairwise(bounds):
            values = [maps[number][place].item() for pixels in patches[start:stop] for place in pixels]
            salience.append(sum(values) / len(values) * 96 / groups)
            without = swapped(images[number], mean, patches[start:stop])
            drops.append((model(images[number][None]) - model(without[None]))[0, target].item())
        close(result.relevance[number], salience)
        close(result.drops[number], drops)
        close(result.score[number], coefficient_by_loops(salience, drops))


def test_captum_ablates_the_same_groups():
    images, maps, targets = case(1)
    rank = torch.empty(96, dtype=torch.long)
    for place, ((row, column),) in enumerate(ordered_pixels(maps[0])):
        rank[row * 12 + column] = place
    group = (rank // 16).view(1, 1, 8, 12).expand(1, 3, -1, -1)
    ablated = FeatureAblation(Linear()).attribute(images, baselines=0.5, target=targets, feature_mask=group)
    result = saco(Linear(), images, maps, targets, groups=6, fill=0.5, measure="value")
    for number in range(6):
        close(ablated[group == number].unique(), result.drops[0, number].expand(1))


@pytest.mark.parametrize(
    ("salience", "drops", "expected"),
    [
        ([0.5, 0.3, 0.2], [0.4, 0.1, 0.2], 2 / 3),
        ([0.5, 0.3, 0.2], [0.3, 0.2, 0.1], 1),
        ([0.5, 0.3, 0.2], [0.1, 0.2, 0.3], -1),
        ([0.5, 0.3, 0.2], [0.2, 0.2, 0.1], 1),
    ],
)
def test_worked_numbers(salience, drops, expected):
    given = torch.tensor([salience, drops], dtype=torch.float64)
    close(salience_coefficient(given[:1], given[1:]), [expected], atol=1e-6)


def test_equal_salience_compares_nothing():
    assert salience_coefficient(torch.ones(1, 3), torch.rand(1, 3)).isnan().all()


def test_equal_drops_tell_nothing():
    salience, drops = torch.rand(2, 3), torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.2, 0.1]])
    assert salience_coefficient(salience, drops).isnan().tolist() == [True, False]


def test_a_model_that_does_not_react_has_no_score():
    images, maps, targets = case()
    metric = SaCo(lambda images: torch.full((len(images), 4), 0.25, dtype=torch.float64), groups=5)
    metric.update(images, maps, targets)
    assert metric.compute().isnan()
    assert (metric.images.item(), metric.excluded.item()) == (0, 3)


def test_groups_of_two_sizes_are_compared_by_their_means():
    """Ten pixels in four groups of 2, 3, 2 and 3: by sums the second would be worth more than the first."""
    maps = torch.arange(10.0, 0, -1, dtype=torch.float64).view(1, 2, 5)
    images = maps[:, None] / 100
    result = saco(total, images, maps, torch.tensor([0]), groups=4, fill=0.0, measure="value")
    close(result.relevance, [[9.5 * 2.5, 7 * 2.5, 4.5 * 2.5, 2 * 2.5]])
    assert (result.relevance.diff() < 0).all()


def test_what_the_model_loses_is_the_perfect_map():
    """On a linear model with a fill of 0 an image's own terms are what each pixel is worth."""
    images, _, targets = case()
    worth = (images * Linear().weights[targets]).sum(1)
    for maps, score in ((worth, 1.0), (-worth, -1.0)):
        close(saco(Linear(), images, maps, targets, fill=0.0, measure="value").score, [score] * 3)


def test_the_scale_of_a_map_does_not_count():
    images, maps, targets = case()
    close(
        saco(Linear(probabilities=True), images, 1e-3 * maps, targets).score,
        saco(Linear(probabilities=True), images, maps, targets).score,
    )


def test_an_image_runs_once_whole_and_once_without_each_group():
    images, maps, targets = case(5)
    maps[0], maps[1, 0, 0] = 1, torch.nan
    model = Linear(probabilities=True)
    result = saco(model, images, maps, targets, groups=6, batch_size=4)
    assert sum(model.seen) == 3 * 7
    assert max(model.seen) == 4
    assert result.score.isnan().tolist() == [True, True, False, False, False]
    assert result.relevance.isnan().all(1).tolist() == [True, True, False, False, False]
    close(result.score[2:], saco(Linear(probabilities=True), images[2:], maps[2:], targets[2:], groups=6).score)


@pytest.mark.parametrize("groups", [1, 97])
def test_numbers_of_groups_that_make_no_sense_are_refused(groups):
    with pytest.raises(ValueError, match=rf"groups must be in \[2, 96\], the number of patches, got {groups}\."):
        saco(Linear(), *case(), groups=groups)


def test_logits_are_refused():
    with pytest.raises(ValueError, match=r"score must return probabilities in \[0, 1\], got -?\d\.\d+\. For logits"):
        saco(Linear(), *case())
