import re
from functools import partial

import pytest
import torch
from perturbed import Linear, case, close, ordered_pixels, swapped

from captum_vit.metrics.functional import (
    average_drop,
    deletion,
    energy_inside,
    faithfulness_correlation,
    insertion,
    masked_confidence,
    probabilities,
    saco,
    sensitivity_max,
)
from captum_vit.metrics.functional.fills import Change
from captum_vit.metrics.functional.probe import Probe


def test_probabilities_are_the_softmax_or_the_sigmoid_of_the_logits():
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]], dtype=torch.float64)
    expected = [[1 / (1 + 2.718281828459045**2), 0], [1 / (1 + 2.718281828459045**4), 0]]
    for row in expected:
        row[1] = 1 - row[0]
    close(probabilities(lambda _: logits)(logits), expected)
    close(probabilities(lambda _: logits, kind="sigmoid")(logits)[0], [0.5, 1 / (1 + 2.718281828459045**-2)])


def test_probabilities_of_half_precision_are_single():
    assert probabilities(lambda images: images)(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_an_unknown_kind_of_probability_is_refused():
    with pytest.raises(ValueError, match=r"kind must be 'softmax' or 'sigmoid', got 'hardmax'\."):
        probabilities(lambda images: images, kind="hardmax")


@pytest.mark.parametrize("patch", [(1, 1), (4, 2)])
@pytest.mark.parametrize("descending", [True, False])
def test_ranks_follow_the_mean_of_each_patch(patch, descending):
    images, maps, targets = case()
    ranks = Probe(Linear(), images, maps, targets, patch=patch).ranks(descending=descending)
    for number in range(3):
        for place, pixels in enumerate(ordered_pixels(maps[number], patch, descending=descending)):
            row, column = pixels[0]
            assert ranks[number, row // patch[0], column // patch[1]] == place


def test_equal_patches_are_ranked_in_reading_order():
    images, maps, targets = case(1)
    maps[:] = 0
    maps[0, 5, 5] = 1
    for descending, place in ((True, 0), (False, 95)):
        ranks = Probe(Linear(), images, maps, targets).ranks(descending=descending).flatten()
        assert ranks[5 * 12 + 5] == place
        others = ranks[torch.arange(96) != 5 * 12 + 5]
        assert (others.diff() > 0).all()


def test_a_trace_changes_the_patches_of_each_window():
    images, maps, targets = case()
    other = images.flip(0) + 1
    probe = Probe(Linear(), images, maps, targets, patch=(4, 2))
    ranks = torch.stack([probe.ranks(), probe.ranks(descending=False)], dim=1)
    windows = [(0, 0), (0, 3), (2, 7), (0, 12), (5, 5)]
    traced = probe.trace(Change(images, other), ranks, torch.tensor(windows))
    for number, target in enumerate(targets):
        for order, descending in enumerate((True, False)):
            patches = ordered_pixels(maps[number], (4, 2), descending=descending)
            for step, (start, stop) in enumerate(windows):
                changed = swapped(images[number], other[number], patches[start:stop])
                close(traced[number, order, step], Linear()(changed[None])[0, target])


@pytest.mark.parametrize(
    ("metric", "passes"),
    [
        (partial(deletion, steps=4), 2 + 5 * 3),
        (partial(insertion, steps=4), 2 + 5 * 3),
        (partial(deletion, steps=4, fill="mean"), 2 + 5 * 3),
        (partial(saco, groups=4), 1 + 5 * 4),
        (average_drop, 1 + 5),  # what a map leaves of the image differs
    ],
)
def test_maps_of_one_image_share_what_does_not_depend_on_them(metric, passes):
    images, maps, targets = case(5)
    shared, copied = images[:1].expand_as(images), images[:1].repeat(5, 1, 1, 1)
    model, other = Linear(probabilities=True), Linear(probabilities=True)
    one = targets[:1].expand(5)
    found, expected = metric(model, shared, maps, one), metric(other, copied, maps, one)
    assert sum(model.seen) == passes < sum(other.seen)
    close(getattr(found, "score", found), getattr(expected, "score", expected))
    model.seen.clear()
    several = metric(model, shared, maps, targets)
    assert sum(model.seen) == passes
    for number in range(5):
        alone = metric(Linear(probabilities=True), images[:1], maps[number, None], targets[number, None])
        close(getattr(several, "score", several)[number], getattr(alone, "score", alone)[0])


@pytest.mark.parametrize("metric", [partial(deletion, steps=4), partial(insertion, steps=4, fill="mean")])
@pytest.mark.parametrize("batch_size", [64, 2])
def test_maps_of_one_image_that_rank_alike_are_asked_about_once_whatever_their_targets(metric, batch_size):
    images, maps, targets = case(5)
    maps[2], maps[4] = 2 * maps[0], maps[1].exp()
    model = Linear(probabilities=True)
    found = metric(model, images[:1].expand_as(images), maps, targets, batch_size=batch_size)
    assert sum(model.seen) == 2 + 3 * 3  # the ends, and three steps of three orders
    assert max(model.seen) <= batch_size
    for number in range(5):
        alone = metric(Linear(probabilities=True), images[:1], maps[number, None], targets[number, None])
        close(found.values[number], alone.values[0])
    assert len(found.score.unique()) == 5
    copied = Linear(probabilities=True)
    metric(copied, images[:1].repeat(5, 1, 1, 1), maps, targets)
    assert sum(copied.seen) >= 5 * 4 + 1  # copies of an image may be different ones


def test_subsets_that_are_drawn_are_the_same_for_all_maps_of_an_image():
    images, maps, targets = case(5)
    model = Linear()
    options = {"patch": (4, 2), "subset": 3, "runs": 6}
    found = faithfulness_correlation(model, images[:1].expand_as(images), maps, targets, **options)
    assert sum(model.seen) == 1 + 6
    for number in range(5):
        alone = faithfulness_correlation(Linear(), images[:1], maps[number, None], targets[number, None], **options)
        close(found.drops[number], alone.drops[0])


def test_what_a_map_leaves_of_an_image_is_not_shared_by_maps_that_only_rank_alike():
    images, maps, targets = case(3)
    maps[2] = maps[0].exp()
    one = targets[:1].expand(3)
    model = Linear(probabilities=True)
    found = masked_confidence(model, images[:1].expand_as(images), maps, one).masked
    assert sum(model.seen) == 1 + 3
    for number in range(3):
        alone = masked_confidence(Linear(probabilities=True), images[:1], maps[number, None], one[:1])
        close(found[number], alone.masked[0])
    assert found[0] != found[2]


def test_maps_that_rank_nothing_share_nothing():
    images, maps, targets = case(4)
    maps[0], maps[3] = 1, maps[1]
    model = Linear(probabilities=True)
    found = deletion(model, images[:1].expand_as(images), maps, targets, steps=4)
    assert sum(model.seen) == 2 + 3 * 2
    assert found.score.isnan().tolist() == [True, False, False, False]


def test_an_image_that_two_orders_share_runs_once():
    images, maps, targets = case()
    model = Linear()
    probe = Probe(model, images, maps, targets)
    ranks = torch.stack([probe.ranks(), probe.ranks(descending=False)], dim=1)
    probe.trace(Change(images, images + 1), ranks, torch.tensor([(0, 0), (0, 5), (0, 5), (0, 96)]))
    assert sum(model.seen) == 3 * (1 + 2 + 1)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_batches_are_never_larger_than_asked(batch_size):
    images, maps, targets = case()
    model = Linear()
    windows = torch.tensor([(0, count) for count in range(6)])
    probe = Probe(model, images, maps, targets, batch_size=batch_size)
    traced = probe.trace(Change(images, images + 1), probe.ranks()[:, None], windows)
    assert sum(model.seen) == 18
    assert max(model.seen) == min(batch_size, 18)
    whole = Probe(Linear(), images, maps, targets)
    close(traced, whole.trace(Change(images, images + 1), whole.ranks()[:, None], windows))


def test_the_model_is_not_asked_about_maps_that_rank_nothing():
    images, maps, targets = case(5)
    maps[0], maps[1, 0, 0], maps[3, 2, 2] = 1, torch.nan, torch.inf
    model = Linear()
    probe = Probe(model, images, maps, targets)
    traced = probe.trace(Change(images, images + 1), probe.ranks()[:, None], torch.tensor([(0, 0), (0, 5)]))
    assert sum(model.seen) == 2 * 2
    assert traced.isnan().flatten(1).all(1).tolist() == [True, True, False, True, False]
    assert traced[[2, 4]].isfinite().all()


def test_without_any_map_that_ranks_the_model_is_not_asked_at_all():
    images, maps, targets = case()
    model = Linear()
    probe = Probe(model, images, torch.zeros_like(maps), targets)
    traced = probe.trace(Change(images, images + 1), probe.ranks()[:, None], torch.tensor([(0, 0), (0, 5)]))
    assert traced.isnan().all()
    assert traced.shape == (3, 1, 2)
    assert not model.seen


def test_a_map_that_varies_only_inside_its_patches_ranks_nothing():
    images, maps, targets = case()
    maps[1] = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 6)
    assert Probe(Linear(), images, maps, targets, patch=(2, 2)).undefined.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("measure", "expected"), [("value", [0.2, 0.7]), ("probability", [0.2, 0.7]), ("accuracy", [0.0, 1.0])]
)
def test_what_is_read_from_the_model(measure, expected):
    images, maps, targets = case(2)
    outputs = torch.tensor([[0.5, 0.2, 0.1, 0.2], [0.1, 0.1, 0.1, 0.7]])
    probe = Probe(lambda _: outputs, images, maps, targets, measure=measure)
    close(probe.trace(Change(images, images), probe.ranks()[:, None], torch.tensor([(0, 0)]))[:, 0, 0], expected)


def test_nan_from_the_model_is_no_wrong_answer_but_none():
    images, maps, targets = case(2)
    outputs = torch.tensor([[0.0, 2.0, 0.0, torch.nan], [0.0, 0.0, 0.0, 1.0]])
    probe = Probe(lambda _: outputs, images, maps, targets, measure="accuracy")
    traced = probe.trace(Change(images, images), probe.ranks()[:, None], torch.tensor([(0, 0)]))
    close(traced[:, 0, 0], [torch.nan, 1.0])


def test_half_precision_is_measured_in_single_and_no_gradient_is_kept():
    images, maps, targets = case(2)
    weight = torch.ones((), requires_grad=True)
    probe = Probe(lambda each: (weight * each.mean((2, 3)).repeat(1, 2)).bfloat16(), images, maps, targets)
    traced = probe.trace(Change(images, images), probe.ranks()[:, None], torch.tensor([(0, 3)]))
    assert traced.dtype == torch.float32
    assert not traced.requires_grad


def ask(outputs=None, **changed):
    images, maps, targets = case()
    given = {"images": images, "maps": maps, "targets": targets} | changed
    probe = Probe(Linear() if outputs is None else lambda _: outputs, **given)
    return probe.trace(Change(images, images), probe.ranks()[:, None], torch.tensor([(0, 0)]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(3, 8, 12)}, "images must have shape (B, C, H, W), got (3, 8, 12)."),
        ({"targets": torch.tensor([0, 1])}, "targets must have shape (3,), one per image, got (2,)."),
        ({"targets": torch.tensor([0, 4, 1])}, "targets must be in [0, 4), the outputs of score, got 4."),
        ({"targets": torch.tensor([0, -1, 1])}, "targets must be in [0, 4), the outputs of score, got -1."),
        ({"patch": (3, 2)}, "patch must divide the image's 8×12 pixels, got 3×2."),
        ({"patch": (0, 2)}, "patch must divide the image's 8×12 pixels, got 0×2."),
        ({"maps": torch.zeros(3, 8, 11)}, "what they are compared with, (3, 8, 12), got (3, 8, 11)."),
        ({"maps": torch.zeros(3, 1, 8, 12)}, "maps must have shape (B, H, W), got (3, 1, 8, 12)."),
        ({"measure": "logit"}, "measure must be one of value, probability, accuracy, got 'logit'."),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0."),
        ({"outputs": torch.zeros(3)}, "score must return (B, K) for B images, got shape (3,) for 3."),
        ({"outputs": torch.zeros(2, 4)}, "score must return (B, K) for B images, got shape (2, 4) for 3."),
        (
            {"outputs": torch.tensor([[0.5, 1.25, 0, 0]] * 3), "measure": "probability"},
            "score must return probabilities in [0, 1], got 1.25. For logits wrap the model: probabilities(model).",
        ),
        (
            {"outputs": torch.tensor([[0.5, -0.25, 0, 0]] * 3), "measure": "probability"},
            "score must return probabilities in [0, 1], got -0.25.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": 3}, "targets must be a tensor (B,), got int."),
        ({"targets": [0, 1, 2]}, "targets must be a tensor (B,), got list."),
        ({"images": [0]}, "images must be a tensor (B, C, H, W), got list."),
        ({"patch": 2}, "patch must be two integers (h, w), got 2."),
        ({"patch": (2, 2, 2)}, "patch must be two integers (h, w), got (2, 2, 2)."),
        ({"patch": (2.0, 2.0)}, "patch must be two integers (h, w), got (2.0, 2.0)."),
        ({"batch_size": 2.5}, "batch_size must be an integer, got 2.5."),
        ({"outputs": {"logits": 1}}, "score must return a tensor (B, K), got dict. Wrap the model: lambda images:"),
    ],
)
def test_what_is_of_another_kind_is_refused(changed, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        ask(**changed)


def test_no_image_is_refused():
    nothing = {"images": torch.zeros(0, 3, 8, 12), "maps": torch.zeros(0, 8, 12), "targets": torch.zeros(0).long()}
    message = r"images must hold at least one image \(B, C, H, W\) with pixels, got \(0, 3, 8, 12\)\."
    with pytest.raises(ValueError, match=message):
        ask(**nothing)
    with pytest.raises(ValueError, match=message):
        sensitivity_max(lambda images, _: images.sum(1), nothing["images"], nothing["targets"])
    with pytest.raises(ValueError, match=r"maps must hold at least one map .*, got \(0, 8, 12\)\."):
        energy_inside(nothing["maps"], torch.zeros(0, 8, 12).long())


def test_steps_that_are_no_integer_are_refused():
    with pytest.raises(TypeError, match=r"steps must be an integer, got 4\.0\."):
        deletion(Linear(probabilities=True), *case(), steps=4.0)


def test_targets_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match=r"targets must be integers, one per image, got torch\.float32\."):
        ask(targets=torch.zeros(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_processor_gives():
    images, maps, targets = case()
    windows = torch.tensor([(0, 0), (0, 5), (3, 9)])
    traced = []
    for device in ("cpu", "cuda"):
        here = [each.to(device) for each in (images, maps, targets)]
        model = Linear()
        model.weights = model.weights.to(device)
        probe = Probe(model, *here, patch=(4, 2))
        traced.append(probe.trace(Change(here[0], here[0] + 1), probe.ranks()[:, None], windows).cpu())
    close(traced[1], traced[0])
