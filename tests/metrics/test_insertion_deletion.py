from functools import partial

import pytest
import torch
from perturbed import Linear, case, close, ordered_pixels, swapped, total

from captum_vit.metrics import functional
from captum_vit.metrics.functional import blurred

insertion, deletion = (partial(each, measure="value") for each in (functional.insertion, functional.deletion))


def as_in_the_paper(start, finish, relevance, target, steps, patch):
    """RISE, section 4.3: change pixels in falling order, a step at a time; trapezoids."""
    patches = ordered_pixels(relevance, patch)
    counts = [len(patches) * step // steps for step in range(steps + 1)]
    values = [Linear()(swapped(start, finish, patches[:count])[None])[0, target].item() for count in counts]
    area = 0.0
    for step in range(steps):
        area += (values[step] + values[step + 1]) / 2 * (counts[step + 1] - counts[step]) / len(patches)
    return values, area


@pytest.mark.parametrize("measure", [insertion, deletion])
@pytest.mark.parametrize(("steps", "patch"), [(1, (1, 1)), (7, (1, 1)), (96, (1, 1)), (5, (4, 2))])
def test_the_papers_procedure(measure, steps, patch):
    images, maps, targets = case()
    curve = measure(Linear(), images, maps, targets, steps=steps, patch=patch, fill=0.25)
    grey = torch.full_like(images, 0.25)
    start, finish = (grey, images) if measure is insertion else (images, grey)
    for number, target in enumerate(targets):
        values, area = as_in_the_paper(start[number], finish[number], maps[number], target, steps, patch)
        close(curve.values[number], values)
        close(curve.score[number], area)


def test_worked_number_of_rises_area():
    """Scores [.9, .5, .2, .1, 0] have the area .3125."""
    image = torch.tensor([[[[0.4, 0.3], [0.1, 0.1]]]], dtype=torch.float64)
    curve = deletion(total, image, image[:, 0].clone(), torch.tensor([0]), steps=4)
    close(curve.values, [[0.9, 0.5, 0.2, 0.1, 0.0]])
    close(curve.score, [0.3125])


def test_worked_numbers_of_deletion_and_insertion():
    """Scores [1, .5, .25, .125, 0] and [0, .5, .75, .875, 1] have the areas .34375 and .65625."""
    image, target = torch.tensor([[[[0.5, 0.25], [0.125, 0.125]]]]), torch.tensor([0])
    off = deletion(total, image, image[:, 0], target, steps=4)
    on = insertion(total, image, image[:, 0], target, steps=4, fill=0.0)
    assert off.values.tolist() == [[1, 0.5, 0.25, 0.125, 0]]
    assert off.score.item() == 0.34375
    assert on.values.tolist() == [[0, 0.5, 0.75, 0.875, 1]]
    assert on.score.item() == 0.65625
    assert on.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_perfect_map_of_a_sum_has_the_extreme_areas():
    """A map that is the image itself orders a sum's terms: no order deletes faster or inserts sooner."""
    image, target = torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(9)).double(), torch.tensor([0])
    best = [measure(total, image, image[:, 0], target, steps=96, fill=0.0).score for measure in (deletion, insertion)]
    for seed in range(5):
        maps = torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(seed))
        assert deletion(total, image, maps, target, steps=96, fill=0.0).score > best[0]
        assert insertion(total, image, maps, target, steps=96, fill=0.0).score < best[1]


def test_only_the_order_of_a_map_counts():
    images, maps, targets = case()
    for measure in (insertion, deletion):
        close(
            measure(Linear(), images, 3 * maps**3 - 5, targets, steps=8).score,
            measure(Linear(), images, maps, targets, steps=8).score,
        )


def test_insertion_begins_with_the_blurred_image():
    images, maps, targets = case()
    curve = insertion(Linear(), images, maps, targets, steps=3)
    close(curve.values[:, 0], Linear()(blurred(images)).gather(1, targets[:, None])[:, 0])


@pytest.mark.parametrize("measure", [insertion, deletion])
def test_every_state_runs_once_whatever_the_batches(measure):
    images, maps, targets = case(5)
    model = Linear()
    whole = measure(model, images, maps, targets, steps=6, batch_size=7)
    blanks = 5 if measure is insertion else 1  # one black image, whatever the targets
    assert sum(model.seen) == 5 * 6 + blanks
    assert max(model.seen) == 7
    parts = [
        measure(Linear(), *(each[part] for each in (images, maps, targets)), steps=6)
        for part in (slice(0, 2), slice(2, 5))
    ]
    close(whole.score, torch.cat([part.score for part in parts]))
    close(whole.values, torch.cat([part.values for part in parts]))


def test_images_are_left_alone():
    images, maps, targets = case()
    before = images.clone()
    deletion(Linear(), images, maps, targets, steps=2)
    assert torch.equal(images, before)


@pytest.mark.parametrize("measure", [insertion, deletion])
def test_maps_that_rank_nothing_have_no_score(measure):
    images, maps, targets = case()
    maps[0], maps[1, 0, 0] = 1, torch.nan
    assert measure(Linear(), images, maps, targets, steps=2).score.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("measure", [insertion, deletion])
def test_more_steps_than_patches_and_none_are_refused(measure):
    images, maps, targets = case()
    with pytest.raises(ValueError, match=r"steps must be in \[1, 96\], .*, got 97\."):
        measure(Linear(), images, maps, targets, steps=97)
    with pytest.raises(ValueError, match=r"steps must be in \[1, 12\], .*, got 0\."):
        measure(Linear(), images, maps, targets, steps=0, patch=(4, 2))
