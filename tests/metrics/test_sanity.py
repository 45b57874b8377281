import copy
from functools import partial

import pytest
import torch
from models import random_images, tiny_models
from oracle import exact
from scipy import stats
from torch import nn

from captum_vit import LeGrad, PromptClassifier
from captum_vit.data import Scenes
from captum_vit.metrics import ModelRandomisation, RandomTargetSimilarity
from captum_vit.metrics.functional import (
    block_groups,
    model_randomisation,
    other_targets,
    random_target_similarity,
    spearman,
    ssim,
)
from captum_vit.zoo import load_model

MODELS = tiny_models()
ORDERS = ["top_down", "bottom_up", "independent"]
TARGETS = torch.tensor([3, 7])


class Saliency:
    """The gradient of the target's logit; remembers the model's weights, the targets and the map of every call."""

    def __init__(self, model):
        self.model = model
        self.weights, self.targets, self.maps = [], [], []

    def __call__(self, images, targets):
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(images).gather(1, targets[:, None])
            (gradient,) = torch.autograd.grad(logits.sum(), images)
        self.weights.append({name: each.detach().clone() for name, each in self.model.named_parameters()})
        self.targets.append(targets)
        self.maps.append(gradient.sum(1))
        return gradient.sum(1)


@pytest.fixture(params=["timm_vit", "torchvision_vit"])
def model(request):
    model, _ = MODELS[request.param]()
    return model


@pytest.fixture
def images():
    return random_images(2, (64, 64))


def changed(model, before, after):
    """The groups that differ in all of their tensors; a group that differs in some only fails."""
    names = {id(each): name for name, each in model.named_parameters()}
    result = []
    for group, parameters in block_groups(model).items():
        differ = {not torch.equal(before[names[id(each)]], after[names[id(each)]]) for each in parameters}
        assert len(differ) == 1, f"{group} is changed in part"
        if differ == {True}:
            result.append(group)
    return result


@pytest.mark.parametrize("order", ORDERS)
def test_groups_are_randomised_in_order(model, images, order):
    explain = Saliency(model)
    similarities = model_randomisation(model, explain, images, TARGETS, order=order)
    groups = list(block_groups(model))
    steps = groups[::-1] if order == "top_down" else groups
    assert list(similarities) == steps
    original, *randomised = explain.weights
    for done, weights in enumerate(randomised, start=1):
        expected = {steps[done - 1]} if order == "independent" else set(steps[:done])
        assert set(changed(model, original, weights)) == expected
    assert len(randomised) == len(steps)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("absolute", [True, False])
def test_similarities_are_those_of_the_original_map_and_each_new_one(model, images, order, absolute):
    explain = Saliency(model)
    similarities = model_randomisation(model, explain, images, TARGETS, order=order, absolute=absolute)
    original, *others = [maps.abs() if absolute else maps for maps in explain.maps]
    for values, maps in zip(similarities.values(), others, strict=True):
        expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(original, maps, strict=True)]
        exact(values, torch.tensor(expected, dtype=torch.float64))
        assert (values < 0.9).all()


def test_a_group_gets_the_same_weights_in_every_order(model, images):
    together, alone = Saliency(model), Saliency(model)
    model_randomisation(model, together, images, TARGETS, order="bottom_up")
    model_randomisation(model, alone, images, TARGETS, order="independent")
    for group, (cascaded, single) in enumerate(zip(together.weights[1:], alone.weights[1:], strict=True)):
        parameters = list(block_groups(model).values())[group]
        names = [name for name, each in model.named_parameters() if any(each is own for own in parameters)]
        assert all(torch.equal(cascaded[name], single[name]) for name in names)


def test_blocks_of_equal_shape_get_different_weights():
    model, _ = MODELS["timm_vit"]()
    explain = Saliency(model)
    model_randomisation(model, explain, random_images(2, (64, 64)), TARGETS)
    last = explain.weights[-1]
    assert (last["blocks.0.attn.qkv.weight"] != last["blocks.1.attn.qkv.weight"]).all()


def test_targets_stay_those_of_the_original_model(model, images):
    explain = Saliency(model)
    model_randomisation(model, explain, images, TARGETS)
    assert all(torch.equal(each, TARGETS) for each in explain.targets)


def test_the_seed_decides(model, images):
    once, again, other = (
        list(model_randomisation(model, Saliency(model), images, TARGETS, seed=seed).values()) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all((a != b).all() for a, b in zip(once, other, strict=True))


def test_batch_size_does_not_matter(model, images):
    whole, split = (model_randomisation(model, Saliency(model), images, TARGETS, batch_size=size) for size in (2, 1))
    for name, values in whole.items():
        exact(split[name], values)


def test_a_map_of_the_image_alone_is_found_out(model, images):
    similarities = model_randomisation(model, lambda images, targets: images.sum(1), images, TARGETS)
    for values in similarities.values():
        exact(values, torch.ones(2, dtype=torch.float64))


def test_a_map_that_becomes_constant_is_counted_as_none(model, images):
    head = model.head if hasattr(model, "head") else model.heads.head
    trained = head.weight.detach().clone()
    explain = lambda images, targets: images.sum(1) if torch.equal(head.weight, trained) else 0 * images.sum(1)  # noqa: E731
    similarities = model_randomisation(model, explain, images, TARGETS, order="independent")
    assert similarities.pop("head").isnan().all()
    assert not torch.stack(list(similarities.values())).isnan().any()


@pytest.mark.parametrize("fails_at", [None, 0, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_the_model_and_the_global_generator_stay_as_they_are(model, images, order, fails_at):
    before = {name: each.clone() for name, each in model.state_dict().items()}
    saliency, state = Saliency(model), torch.get_rng_state()

    def explain(images, targets):
        if len(saliency.maps) == fails_at:
            raise KeyboardInterrupt
        return saliency(images, targets)

    if fails_at is None:
        model_randomisation(model, explain, images, TARGETS, order=order)
    else:
        with pytest.raises(KeyboardInterrupt):
            model_randomisation(model, explain, images, TARGETS, order=order)
    after = model.state_dict()
    assert all(torch.equal(each.view(torch.uint8), after[name].view(torch.uint8)) for name, each in before.items())
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_only_the_named_groups_are_randomised(images):
    model, _ = MODELS["timm_vit"]()
    explain = Saliency(model)
    groups = [("tokens", [model.cls_token, model.pos_embed]), ("last", [model.blocks[2].attn])]
    similarities = model_randomisation(model, explain, images, TARGETS, groups=groups, order="bottom_up")
    assert list(similarities) == ["tokens", "last"]
    original, last = explain.weights[0], explain.weights[-1]
    different = {name for name, each in last.items() if not torch.equal(each, original[name])}
    attention = {f"blocks.2.attn.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")}
    assert different == {"cls_token", "pos_embed"} | attention


def test_randomisation_refuses_what_does_not_fit(images):
    model, _ = MODELS["timm_vit"]()
    explain = Saliency(model)
    with pytest.raises(ValueError, match="order must be one of top_down, bottom_up, independent, got 'cascading'"):
        model_randomisation(model, explain, images, TARGETS, order="cascading")
    with pytest.raises(ValueError, match=r"targets must have shape \(2,\), one per image, got \(3,\)"):
        model_randomisation(model, explain, images, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), got \(3, 64, 64\)"):
        model_randomisation(model, explain, images[0], TARGETS)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model_randomisation(model, explain, images, TARGETS, batch_size=0)
    with pytest.raises(ValueError, match=r"maps must have shape \(B, H, W\), got \(2, 3, 64, 64\)"):
        model_randomisation(model, lambda images, targets: images, images, TARGETS)
    with pytest.raises(ValueError, match="one map per image, got 1 for 2 images"):
        model_randomisation(model, lambda images, targets: images[:1, 0], images, TARGETS)


def test_other_targets_are_a_round_of_all_classes():
    targets = torch.arange(7)
    others = other_targets(targets, 7, seed=1)
    assert (others != targets).all()
    assert sorted(others.tolist()) == list(range(7))
    assert torch.equal(other_targets(torch.tensor([5, 2, 5]), 7, seed=1), others[[5, 2, 5]])
    assert len({tuple(other_targets(targets, 7, seed=seed).tolist()) for seed in range(20)}) > 15


def test_random_target_similarity_compares_the_maps_of_both_targets(model, images):
    explain = Saliency(model)
    values = random_target_similarity(explain, images, TARGETS, outputs=10, similarity=spearman, seed=4)
    exact(explain.targets[0], TARGETS)
    exact(explain.targets[1], other_targets(TARGETS, 10, seed=4))
    own, other = explain.maps
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(own, other, strict=True)]
    exact(values, torch.tensor(expected, dtype=torch.float64))


def test_random_target_similarity_by_magnitude(images):
    explain = lambda images, targets: images.sum(1) * (1 - 2 * targets)[:, None, None]  # noqa: E731  its sign is the class
    similarity = partial(
        random_target_similarity, explain, images, torch.tensor([0, 1]), outputs=2, similarity=spearman
    )
    exact(similarity(), -torch.ones(2, dtype=torch.float64))
    exact(similarity(absolute=True), torch.ones(2, dtype=torch.float64))


def test_a_class_agnostic_map_fails_the_random_target_test(images):
    exact(
        random_target_similarity(lambda images, targets: images.sum(1), images, TARGETS, outputs=10),
        torch.ones(2, dtype=torch.float64),
    )


def test_random_target_similarity_refuses_what_does_not_fit(images):
    explain = lambda images, targets: images.sum(1)  # noqa: E731
    with pytest.raises(ValueError, match=r"targets must be in \[0, 7\), got 7"):
        random_target_similarity(explain, images, TARGETS, outputs=7)
    with pytest.raises(ValueError, match="outputs must be at least 2, or there is no other target, got 1"):
        random_target_similarity(explain, images, 0 * TARGETS, outputs=1)
    with pytest.raises(ValueError, match=r"targets must have shape \(2,\), one per image, got \(1,\)"):
        random_target_similarity(explain, images, TARGETS[:1], outputs=10)


def test_model_randomisation_as_a_stream():
    model, _ = MODELS["timm_vit"]()
    images, targets = random_images(5, (64, 64)), torch.tensor([0, 1, 2, 3, 4])
    whole, split = (ModelRandomisation(model, Saliency(model), similarity=ssim, seed=2) for _ in range(2))
    whole.update(images, targets)
    for part in zip(images.split([2, 3]), targets.split([2, 3]), strict=True):
        split.update(*part)
    expected = model_randomisation(model, Saliency(model), images, targets, similarity=ssim, seed=2)
    exact(whole.compute(), torch.stack(list(expected.values())).mean())
    exact(split.compute(), whole.compute())
    split.merge_state(whole)  # what synchronisation does with two processes
    assert split.images.tolist() == [10] * 5
    exact(split.compute(), whole.compute())
    assert list(whole.mean_curve()) == list(block_groups(model))
    for name, mean in whole.mean_curve().items():
        assert mean == pytest.approx(expected[name].mean().item(), abs=1e-10)


def test_model_randomisation_counts_undefined_similarities():
    model, _ = MODELS["timm_vit"]()
    metric = ModelRandomisation(model, lambda images, targets: images.sum(1))
    images = random_images(3, (64, 64))
    images[1] = 2
    metric.update(images, torch.tensor([0, 1, 2]))
    assert metric.images.tolist() == [2] * 5
    assert metric.excluded.tolist() == [1] * 5
    exact(metric.compute(), torch.tensor(1.0, dtype=torch.float64))


def test_metrics_do_not_take_the_model_for_a_part_of_theirs():
    model, _ = MODELS["timm_vit"]()
    metric = ModelRandomisation(model, Saliency(model))
    assert not any(isinstance(each, nn.Module) for each in metric.children())
    assert metric.state_dict() == {}
    copied = copy.deepcopy(metric)
    copied.update(random_images(1, (64, 64)), torch.tensor([0]))  # of the same model, which its method explains
    assert copied.compute() < 0.9


def test_random_target_similarity_as_a_stream():
    model, _ = MODELS["timm_vit"]()
    images, targets = random_images(5, (64, 64)), torch.tensor([0, 1, 2, 1, 4])
    whole, split = (RandomTargetSimilarity(Saliency(model), 10, absolute=True, seed=3) for _ in range(2))
    whole.update(images, targets)
    for part in zip(images.split([2, 3]), targets.split([2, 3]), strict=True):
        split.update(*part)
    expected = random_target_similarity(Saliency(model), images, targets, outputs=10, absolute=True, seed=3)
    exact(whole.compute(), expected.mean())
    exact(split.compute(), whole.compute())


def test_without_its_head_the_text_model_has_another_map():
    loaded = load_model("scenes:clip")
    scenes = Scenes(2, seed=3)
    images = torch.stack([scene.image for scene in scenes]) / 127.5 - 1
    prompts = [scene.objects[0].phrase for scene in scenes]
    method = LeGrad(PromptClassifier(loaded.model, loaded.load_tokenizer(), prompts))

    def explain(images, targets):
        return method.attribute(images, target=targets).sum(1)

    tower = loaded.model.visual
    similarities = model_randomisation(tower, explain, images, torch.arange(2))
    assert (similarities["head"] < 0.9).all()
    norm_alone = [("head", [tower.ln_post])]
    kept = model_randomisation(tower, explain, images, torch.arange(2), groups=norm_alone)["head"]
    assert (kept > 0.9).all()  # so that the projection is what makes the difference
