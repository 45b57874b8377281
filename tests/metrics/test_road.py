import re

import numpy as np
import pytest
import torch
from perturbed import Linear, case, close, ordered_pixels

from captum_vit.metrics.functional import impute, road, road_combined

FRACTIONS = (0.2, 0.5, 0.9)


def by_loops(image, relevance, target, descending, patch=(1, 1)):
    """arXiv 2202.00449: impute the first ⌊n·p⌋ pixels of an order, ask the model."""
    patches = ordered_pixels(relevance, patch, descending=descending)
    values = []
    for fraction in FRACTIONS:
        missing = torch.zeros(1, *relevance.shape, dtype=torch.bool)
        for pixels in patches[: int(len(patches) * fraction)]:
            for place in pixels:
                missing[0][place] = True
        values.append(Linear(probabilities=True)(impute(image[None], missing, noise=0.1, seed=3))[0, target].item())
    return values


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("patch", [(1, 1), (4, 2)])
def test_the_mean_over_fractions_of_what_the_model_says(order, patch):
    images, maps, targets = case()
    options = {"fractions": FRACTIONS, "noise": 0.1, "seed": 3, "patch": patch}
    curve = road(Linear(probabilities=True), images, maps, targets, order=order, **options)
    for number, target in enumerate(targets):
        values = by_loops(images[number], maps[number], target, order == "morf", patch)
        close(curve.values[number], values)
        close(curve.score[number], sum(values) / 3)
    close(curve.fractions, FRACTIONS)


def test_combined_is_half_the_difference_of_the_orders():
    images, maps, targets = case()
    both = road_combined(Linear(), images, maps, targets, fractions=FRACTIONS, measure="value")
    morf, lerf = (
        road(Linear(), images, maps, targets, fractions=FRACTIONS, measure="value", order=order)
        for order in ("morf", "lerf")
    )
    close(both.score, (lerf.score - morf.score) / 2)
    close(both.morf.values, morf.values)
    close(both.lerf.values, lerf.values)


def test_worked_numbers_of_pixels_that_are_kept():
    """pytorch-grad-cam keeps what lies below a percentile of a 4×4 map: 3 pixels at 20, 12 at 80.

    A fraction is what is removed: of 16 pixels 13 and 4.
    """
    maps = (torch.arange(16.0) / 16).view(1, 4, 4)
    images = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = []

    def model(changed):
        seen.extend(changed)
        return changed.sum((1, 2, 3))[:, None]

    for percentile, kept in ((20, 3), (80, 12)):
        assert int((maps < np.percentile(maps, percentile)).sum()) == kept
        seen.clear()
        road(model, images, maps, torch.tensor([0]), fractions=(1 - kept / 16,), measure="value")
        same = (seen[0] == images[0])[0]
        assert same.sum() == kept
        assert torch.equal(same, maps[0] < np.percentile(maps, percentile))


def test_every_state_runs_once_and_any_split_gives_the_same():
    images, maps, targets = case(5)
    model = Linear()
    whole = road_combined(model, images, maps, targets, fractions=FRACTIONS, measure="value", batch_size=4)
    assert sum(model.seen) == 5 * 2 * 3
    assert max(model.seen) == 4
    parts = [
        road_combined(Linear(), *(each[part] for each in (images, maps, targets)), fractions=FRACTIONS, measure="value")
        for part in (slice(0, 2), slice(2, 5))
    ]
    close(whole.score, torch.cat([part.score for part in parts]))


def test_maps_that_rank_nothing_have_no_score():
    images, maps, targets = case()
    maps[0], maps[1, 0, 0] = 1, torch.nan
    for measure in (road, road_combined):
        result = measure(Linear(), images, maps, targets, measure="value", fractions=FRACTIONS)
        assert result.score.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "roar"}, "order must be 'morf' or 'lerf', got 'roar'."),
        ({"fractions": (0.5, 1)}, "fractions must be in (0, 1), got 1.0. Nothing can be imputed from nothing."),
        ({"fractions": (0.0, 0.5)}, "fractions must be in (0, 1), got 0.0."),
        ({"fractions": (0.5, 0.3)}, "fractions must increase, got (0.5, 0.3)."),
        ({"noise": -1}, "noise must be at least 0, got -1."),
        ({"measure": "probability"}, "score must return probabilities in [0, 1], got "),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        road(Linear(), *case(), **({"measure": "value"} | options))
