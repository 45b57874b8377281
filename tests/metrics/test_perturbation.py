import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from perturbed import Linear, case, close, ordered_pixels, swapped, total

from captum_vit.metrics.functional import negative_perturbation, perturbation, positive_perturbation
from captum_vit.metrics.functional.curves import check_fractions, shares_of

TENTHS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def as_in_the_protocol(image, relevance, target, fractions, patch, descending, reading):
    """Remove ⌊n·s⌋ pixels of the original image in the map's order, black; trapezoids over s, times 100."""
    patches = ordered_pixels(relevance, patch, descending=descending)
    values = []
    for fraction in fractions:
        removed = swapped(image, torch.zeros_like(image), patches[: int(len(patches) * fraction)])
        outputs = Linear(probabilities=True)(removed[None])[0]
        correct = all(outputs[target] >= other for other in outputs)
        values.append(float(correct) if reading == "accuracy" else outputs[target].item())
    area = 0.0
    for step in range(len(values) - 1):
        area += (values[step] + values[step + 1]) / 2 * (fractions[step + 1] - fractions[step])
    return values, 100 * area


@pytest.mark.parametrize("measure", ["accuracy", "probability"])
@pytest.mark.parametrize("patch", [(1, 1), (4, 2)])
def test_the_protocol(measure, patch):
    images, maps, targets = case(5)
    targets = Linear()(images).argmax(1)  # else the accuracy of an untrained model is 0
    both = perturbation(Linear(probabilities=True), images, maps, targets, measure=measure, patch=patch)
    for curve, descending in ((both.positive, True), (both.negative, False)):
        assert curve.values.unique().numel() > 1
        for number, target in enumerate(targets):
            values, area = as_in_the_protocol(images[number], maps[number], target, TENTHS, patch, descending, measure)
            close(curve.values[number], values)
            close(curve.score[number], area)


class Looked:
    """An output that depends on how many pixels are left of an image of ones: ``values[k]`` after k steps."""

    def __init__(self, values, counts, pixels):
        self.by_left = {pixels - count: value for count, value in zip(counts, values, strict=True)}

    def __call__(self, images):
        left = [round(each.item()) for each in total(images)[:, 0]]
        return torch.tensor([[self.by_left[each]] for each in left], dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "summary", "expected"),
    [
        ([1, 1, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0, 0], "chefer", 37.5),
        ([1, 1, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0, 0], "mean", 36.111111),
        ([1, 1, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0, 0], "normalised", 41.666667),
        ([0.8] * 10, "chefer", 72.0),
        ([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0], "chefer", 33.0),
        ([1] * 10, "chefer", 90.0),
    ],
)
def test_worked_numbers(values, summary, expected):
    counts = [0, 1, 3, 4, 6, 8, 9, 11, 12, 14]
    images, maps = torch.ones(1, 1, 4, 4), torch.arange(16.0).view(1, 4, 4)
    for measure in (positive_perturbation, negative_perturbation):
        curve = measure(
            Looked(values, counts, 16), images, maps, torch.tensor([0]), measure="probability", summary=summary
        )
        close(curve.values, [values])
        close(curve.score, [expected], atol=1e-6)


def test_numbers_of_pixels_are_truncated():
    assert shares_of(16, TENTHS[1:]).tolist() == [1, 3, 4, 6, 8, 9, 11, 12, 14]
    expected = [5017, 10035, 15052, 20070, 25088, 30105, 35123, 40140, 45158]
    assert shares_of(224 * 224, TENTHS[1:]).tolist() == expected


@pytest.mark.parametrize("patches", [3, 100, 196, 224 * 224])
def test_shares_are_counted_without_rounding(patches):
    hundredths = [Fraction(number, 100) for number in range(101)]
    expected = [int(patches * share) for share in hundredths]
    assert shares_of(patches, [float(share) for share in hundredths]).tolist() == expected
    assert shares_of(3, [1 / 3, 2 / 3]).tolist() == [1, 2]


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, np.float32, torch.tensor, lambda each: torch.tensor(each).double()]
)
def test_fractions_may_be_any_sequence_of_numbers(kind):
    fractions = [0.25, 0.5, 0.75]
    images, maps, targets = case()
    given = positive_perturbation(Linear(probabilities=True), images, maps, targets, fractions=kind(fractions))
    plain = positive_perturbation(Linear(probabilities=True), images, maps, targets, fractions=fractions)
    assert torch.equal(given.score, plain.score)
    close(given.fractions, fractions)
    assert check_fractions(kind([0.29, 0.57]))[0] == pytest.approx(0.29, abs=1e-7)


def test_fractions_of_single_precision_are_read_as_printed():
    assert check_fractions(torch.tensor([0.29, 0.7])) == (0.29, 0.7)
    assert shares_of(100, check_fractions(np.array([0.29, 0.7], np.float32))).tolist() == [29, 70]


@pytest.mark.parametrize(
    ("fractions", "error", "message"),
    [
        ([0.1, float("nan"), 0.9], ValueError, r"fractions must increase, got \(0\.1, nan, 0\.9\)"),
        ([float("nan")], ValueError, r"fractions must be in \[0, 1\], got nan"),
        (torch.tensor([]), ValueError, r"fractions must increase, got \(\)"),
        (torch.tensor([0.5, 1.5]), ValueError, r"fractions must be in \[0, 1\], got 1\.5"),
        (0.5, TypeError, r"fractions must be a sequence of numbers, got 0\.5"),
        (["a", "b"], TypeError, r"fractions must be a sequence of numbers, got \['a', 'b'\]"),
    ],
)
def test_fractions_that_are_none_are_refused(fractions, error, message):
    with pytest.raises(error, match=message):
        check_fractions(fractions)


def test_the_number_over_images_is_the_area_of_the_accuracy_curve():
    images, maps, _ = case(5)
    targets = Linear()(images).argmax(1)
    curve = positive_perturbation(Linear(), images, maps, targets)
    close(curve.score.mean(), 100 * torch.trapezoid(curve.values.mean(0), torch.tensor(TENTHS, dtype=torch.float64)))


def test_each_direction_alone_and_both_together_agree():
    images, maps, targets = case()
    both = perturbation(Linear(), images, maps, targets, measure="value")
    for alone, together in ((positive_perturbation, both.positive), (negative_perturbation, both.negative)):
        close(alone(Linear(), images, maps, targets, measure="value").score, together.score)


def test_a_negated_map_exchanges_positive_and_negative():
    images, maps, targets = case()
    both = perturbation(Linear(), images, maps, targets, measure="value")
    turned = perturbation(Linear(), images, -maps, targets, measure="value")
    close(turned.positive.values, both.negative.values)
    close(turned.negative.values, both.positive.values)


def test_an_image_runs_no_oftener_than_it_must():
    """Nine states in each direction; the whole image is shared, on a coarse grid equal states too."""
    images, maps, targets = case(5)
    for patch, states in (((1, 1), 19), ((4, 4), 11)):  # of 6 patches ⌊6s⌋ is 0, 0, 1, 1, 2, 3, 3, 4, 4, 5
        model = Linear()
        perturbation(model, images, maps, targets, patch=patch, batch_size=8)
        assert sum(model.seen) == 5 * states
        assert max(model.seen) == 8


@pytest.mark.parametrize("batch_size", [1, 7])
def test_any_split_gives_the_same(batch_size):
    images, maps, targets = case(5)
    whole = perturbation(Linear(), images, maps, targets, measure="value", fill="mean")
    parts = [
        perturbation(
            Linear(),
            *(each[part] for each in (images, maps, targets)),
            measure="value",
            fill="mean",
            batch_size=batch_size,
        )
        for part in (slice(0, 1), slice(1, 5))
    ]
    close(whole.negative.values, torch.cat([part.negative.values for part in parts]))


def test_maps_that_rank_nothing_have_no_score():
    images, maps, targets = case()
    maps[0], maps[1, 0, 0] = 1, torch.nan
    for curve in perturbation(Linear(), images, maps, targets):
        assert curve.score.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0, 0.2, 0.2)}, "fractions must increase, got (0.0, 0.2, 0.2)."),
        ({"fractions": ()}, "fractions must increase, got ()."),
        ({"fractions": (-0.1, 0.2)}, "fractions must be in [0, 1], got -0.1."),
        ({"fractions": (0, 1.5)}, "fractions must be in [0, 1], got 1.5."),
        ({"fractions": (0.5,)}, "fractions must be at least two, so that there is an area, got (0.5,)."),
        ({"summary": "auc"}, "summary must be one of chefer, normalised, mean, got 'auc'."),
        ({"measure": "probability"}, "score must return probabilities in [0, 1], got "),
    ],
)
def test_bad_options_are_refused(options, message):
    images, maps, targets = case()
    with pytest.raises(ValueError, match=re.escape(message)):
        perturbation(Linear(), images, maps, targets, **options)
