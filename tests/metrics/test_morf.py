from functools import partial

import pytest
import torch
from perturbed import Linear, case, close, ordered_pixels, swapped, total

from captum_vit.metrics import functional

abpc, aopc, deletion = (
    partial(each, measure="value") for each in (functional.abpc, functional.aopc, functional.deletion)
)


def curve_by_loops(image, relevance, target, steps, patch, descending):
    """f(x₀), f(x₁), … while patches turn black in the map's order."""
    patches = ordered_pixels(relevance, patch, descending=descending)
    return [
        Linear()(swapped(image, torch.zeros_like(image), patches[: len(patches) * step // steps])[None])[
            0, target
        ].item()
        for step in range(steps + 1)
    ]


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize(("steps", "patch"), [(6, (4, 2)), (7, (1, 1))])
def test_aopc_is_the_mean_fall_with_the_first_step_counted(order, steps, patch):
    """arXiv 1509.06321, equation 12."""
    images, maps, targets = case()
    curve = aopc(Linear(), images, maps, targets, order=order, steps=steps, patch=patch)
    for number, target in enumerate(targets):
        values = curve_by_loops(images[number], maps[number], target, steps, patch, order == "morf")
        close(curve.values[number], values)
        close(curve.score[number], sum(values[0] - value for value in values) / (steps + 1))


@pytest.mark.parametrize(("steps", "patch"), [(6, (4, 2)), (7, (1, 1))])
def test_abpc_is_the_area_between_the_two_orders(steps, patch):
    images, maps, targets = case()
    between = abpc(Linear(), images, maps, targets, steps=steps, patch=patch)
    for number, target in enumerate(targets):
        morf, lerf = (
            curve_by_loops(images[number], maps[number], target, steps, patch, order) for order in (True, False)
        )
        close(between.morf.values[number], morf)
        close(between.lerf.values[number], lerf)
        patches = 96 // (patch[0] * patch[1])
        counts = [patches * step // steps for step in range(steps + 1)]
        area = 0.0
        for step in range(steps):
            low, high = lerf[step] - morf[step], lerf[step + 1] - morf[step + 1]
            area += (low + high) / 2 * (counts[step + 1] - counts[step]) / patches
        close(between.score[number], area)


def test_worked_numbers():
    """MoRF [1, .4, .2, .1, 0] has AOPC .66 and, below LeRF [1, .9, .8, .5, 0], the area .675 − .3 = .375.

    The middle image of an additive model would give LeRF .8 and .6; this one loses more with three pixels than with all
    of them one by one.
    """
    image = torch.tensor([[[[0.6, 0.2], [0.1, 0.1]]]], dtype=torch.float64)
    maps, target = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]), torch.tensor([0])

    def model(images):
        only_the_first = (images[:, :, 0, 0] > 0) & (images.sum((2, 3)) < 0.65)
        return total(images) - only_the_first.double() / 10

    close(aopc(model, image, maps, target, steps=4).score, [0.66], atol=1e-6)
    between = abpc(model, image, maps, target, steps=4)
    close(between.lerf.values, [[1, 0.9, 0.8, 0.5, 0]])
    close(between.morf.values, [[1, 0.4, 0.2, 0.1, 0]])
    close(torch.cat([between.lerf.score, between.morf.score, between.score]), [0.675, 0.3, 0.375], atol=1e-6)


def test_most_relevant_first_is_deletion():
    images, maps, targets = case()
    expected = deletion(Linear(), images, maps, targets, steps=8)
    close(aopc(Linear(), images, maps, targets, steps=8).values, expected.values)
    close(abpc(Linear(), images, maps, targets, steps=8).morf.score, expected.score)


def test_a_negated_map_turns_the_sign_of_abpc():
    images, maps, targets = case()
    close(abpc(Linear(), images, -maps, targets, steps=8).score, -abpc(Linear(), images, maps, targets, steps=8).score)


def test_the_ends_of_both_curves_run_once():
    images, maps, targets = case(5)
    model = Linear()
    abpc(model, images, maps, targets, steps=8, batch_size=9)
    assert sum(model.seen) == 5 * (1 + 2 * 7) + 1  # one black image, whatever the targets
    assert max(model.seen) == 9


def test_accuracy_can_be_measured():
    images, maps, _ = case()
    targets = Linear()(images).argmax(1)
    values = aopc(Linear(), images, maps, targets, steps=8, measure="accuracy").values
    assert values[:, 0].tolist() == [1, 1, 1]
    assert values.unique().tolist() == [0, 1]


def test_maps_that_rank_nothing_have_no_score():
    images, maps, targets = case()
    maps[0], maps[1, 0, 0] = 1, torch.nan
    for measure in (aopc, abpc):
        assert measure(Linear(), images, maps, targets, steps=2).score.isnan().tolist() == [True, True, False]


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match=r"order must be 'morf' or 'lerf', got 'random'\."):
        aopc(Linear(), *case(), order="random")
