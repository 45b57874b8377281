import re

import pytest
import torch
from perturbed import Linear, case, close, total

from captum_vit.metrics.functional import average_drop, average_increase, masked_confidence


def by_loops(image, relevance, target):
    """Grad-CAM++, section 4.1: Y on the image, O on the image times the min-max map."""
    low, high = min(relevance.flatten().tolist()), max(relevance.flatten().tolist())
    masked = image.clone()
    for channel in range(3):
        for row in range(8):
            for column in range(12):
                masked[channel, row, column] *= (relevance[row, column].item() - low) / (high - low)
    model = Linear(probabilities=True)
    return model(image[None])[0, target].item(), model(masked[None])[0, target].item()


@pytest.mark.parametrize("wrong", [-0.25, 1.5])
@pytest.mark.parametrize("function", [average_drop, average_increase])
def test_a_map_that_is_no_mask_is_refused(function, wrong):
    images, maps, targets = case()
    maps = maps.sigmoid()
    maps[0, 0, 0] = torch.nan  # has no score, and is refused for no other reason
    assert function(Linear(probabilities=True), images, maps, targets, normalise="none").isfinite().sum() == 2
    maps[1, 2, 3] = wrong
    with pytest.raises(ValueError, match=rf"maps must be in \[0, 1\] to be masks, got {wrong}\. Normalise them"):
        function(Linear(probabilities=True), images, maps, targets, normalise="none")


def test_the_formulas():
    images, maps, targets = case(5)
    asked = (Linear(probabilities=True), images, maps, targets)
    relative, absolute, gained = average_drop(*asked), average_drop(*asked, kind="absolute"), average_increase(*asked)
    assert {0.0, 100.0} == set(gained.tolist())
    for number, target in enumerate(targets):
        whole, masked = by_loops(images[number], maps[number], target)
        close(relative[number], 100 * max(0, whole - masked) / whole)
        close(absolute[number], max(0, whole - masked))
        close(gained[number], 100.0 if masked > whole else 0.0)


def test_worked_numbers():
    """Y = [.8, .5, .4] and O = [.6, .7, .4]: drop 8.33333, increase 33.3333, absolute drop .0666667."""
    images = torch.tensor([[0.6, 0.2], [0.7, -0.2], [0.4, 0.0]], dtype=torch.float64).view(3, 1, 1, 2)
    maps = torch.tensor([1.0, 0.0]).expand(3, 1, 2)  # keeps the left pixel
    targets = torch.zeros(3, dtype=torch.long)
    asked = (total, images, maps, targets)
    close(torch.stack(masked_confidence(*asked)), [[0.8, 0.5, 0.4], [0.6, 0.7, 0.4]])
    close(average_drop(*asked).mean(), 8.333333, atol=1e-6)
    close(average_increase(*asked).mean(), 33.333333, atol=1e-6)
    close(average_drop(*asked, kind="absolute").mean(), 0.066666667, atol=1e-6)


def test_what_is_hidden_fades_to_the_fill():
    images, maps, targets = case()
    maps[:] = -3
    maps[:, :, 0] = 5
    masked = torch.full_like(images, 0.7)
    masked[..., 0] = images[..., 0]
    model = Linear(probabilities=True)
    expected = model(masked).gather(1, targets[:, None])[:, 0]
    close(masked_confidence(model, images, maps, targets, fill=0.7).masked, expected)


@pytest.mark.parametrize(
    ("normalise", "values", "mask"), [("none", [0.5, 0.25], [0.5, 0.25]), ("clip_min_max", [0.5, -1.0], [1.0, 0.0])]
)
def test_the_scale_of_the_mask_is_as_asked(normalise, values, mask):
    image, maps = torch.tensor([[[[0.6, 0.2]]]]), torch.tensor([[values]])
    result = masked_confidence(total, image, maps, torch.tensor([0]), normalise=normalise)
    close(result.masked, [0.6 * mask[0] + 0.2 * mask[1]], atol=1e-6)  # float32


def test_a_map_of_one_scale_is_as_good_as_of_another():
    images, maps, targets = case()
    model = Linear(probabilities=True)
    close(average_drop(model, images, 7 * maps - 3, targets), average_drop(model, images, maps, targets))


def test_two_images_run_for_each_that_has_a_map():
    images, maps, targets = case(5)
    maps[0], maps[1, 0, 0] = 1, torch.nan
    for measure in (average_drop, average_increase):
        model = Linear(probabilities=True)
        values = measure(model, images, maps, targets, batch_size=4)
        assert model.seen == [4, 2]
        assert values.isnan().tolist() == [True, True, False, False, False]
        close(values[2:], measure(model, images[2:], maps[2:], targets[2:]))


def test_a_map_without_anything_positive_hides_all_that_it_is_clipped_to():
    images, maps, targets = case()
    values = average_drop(Linear(probabilities=True), images, maps.abs() * -1, targets, normalise="clip_min_max")
    assert values.isnan().all()


def test_no_share_of_nothing_is_lost():
    image, maps = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[0.5, -1.0]]])
    assert average_drop(total, image, maps, torch.tensor([0])).isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "log"}, "kind must be 'relative' or 'absolute', got 'log'."),
        ({"normalise": "softmax"}, "normalise must be one of min_max, clip_min_max, none, got 'softmax'."),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        average_drop(Linear(probabilities=True), *case(), **options)


@pytest.mark.parametrize("measure", [average_drop, average_increase])
def test_logits_are_refused(measure):
    images, maps, targets = case()
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got 2\.5\. For logits wrap the model"):
        measure(lambda each: torch.full((len(each), 4), 2.5), images, maps, targets)
