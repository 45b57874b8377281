from itertools import pairwise

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from captum_vit import AttnLRP, PromptClassifier
from captum_vit.evaluation import choose_gamma


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VisionTransformer(img_size=(32, 48), patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=5)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


IMAGES = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(2))
TARGETS = torch.tensor([1, 0, 4])


def area_between(model, method: AttnLRP, steps: int) -> float:
    """∫ LeRF − MoRF with patches of 16 set to zero, one image and one patch at a time."""
    areas = []
    for image, target in zip(IMAGES, TARGETS.tolist(), strict=True):
        relevance = method.attribute(image[None], target=target, resolution="patch").flatten()
        order = relevance.argsort(descending=True).tolist()
        curves = []
        for each in (list(reversed(order)), order):
            changed, values = image.clone(), []
            for step in range(steps + 1):
                for patch in each[: step * len(order) // steps]:
                    row, column = divmod(patch, 3)
                    changed[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
                values.append(float(model(changed[None]).softmax(1)[0, target]))
            curves.append(sum((a + b) / 2 for a, b in pairwise(values)) / steps)
        areas.append(curves[0] - curves[1])
    return sum(areas) / len(areas)


def test_the_best_pair_by_the_area_between_the_curves(model):
    choice = choose_gamma(model, IMAGES, TARGETS, gammas=(0.0, 0.5), patch_gammas=(0.0, 10.0), steps=6)
    assert list(choice.scores) == [(0.0, 0.0), (0.0, 10.0), (0.5, 0.0), (0.5, 10.0)]
    with torch.no_grad():
        for (gamma, patch_gamma), score in choice.scores.items():
            expected = area_between(model, AttnLRP(model, gamma=gamma, patch_gamma=patch_gamma), 6)
            assert score == pytest.approx(expected, abs=1e-6)
    assert len({round(each, 6) for each in choice.scores.values()}) > 1
    best = max(choice.scores, key=choice.scores.get)
    assert (choice.method.gamma, choice.method.patch_gamma) == best


def test_options_reach_the_method(model):
    method = choose_gamma(
        model, IMAGES, TARGETS, gammas=[0.1], patch_gammas=[1.0], variant="cp-lrp", epsilon=0.01, steps=2
    ).method
    assert (method.variant, method.gamma, method.patch_gamma, method.epsilon) == ("cp-lrp", 0.1, 1.0, 0.01)


def test_targets_in_the_forms_that_a_method_takes(model):
    options = {"gammas": [0.0, 0.5], "patch_gammas": [1.0], "steps": 2}
    expected = choose_gamma(model, IMAGES, TARGETS, **options).scores
    for targets in ([1, 0, 4], (1, 0, 4), TARGETS.numpy(), [torch.tensor(1), 0, 4]):
        assert choose_gamma(model, IMAGES, targets, **options).scores == expected
    same = choose_gamma(model, IMAGES, torch.tensor([4, 4, 4]), **options).scores
    assert same != expected
    for targets in (4, torch.tensor(4), [4]):
        assert choose_gamma(model, IMAGES, targets, **options).scores == same


def test_targets_may_be_prompts(clip):
    prompts = PromptClassifier(clip.model, clip.tokenizer, ["a cat", "the dog"])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    options = {"gammas": [0.0], "patch_gammas": [0.0, 1.0], "steps": 2}
    by_index = choose_gamma(prompts, images, [1, 0], **options).scores
    assert choose_gamma(prompts, images, ["the dog", "a cat"], **options).scores == by_index
    one = choose_gamma(prompts, images, "the dog", **options).scores
    assert one == choose_gamma(prompts, images, 1, **options).scores != by_index
    with pytest.raises(ValueError, match=r"target must be one of the prompts \['a cat', 'the dog'\], got 'a bird'"):
        choose_gamma(prompts, images, "a bird", **options)


def test_what_can_not_be_tried_is_refused(model):
    with pytest.raises(TypeError, match=r"gammas must be a list of numbers, got 0\.5"):
        choose_gamma(model, IMAGES, TARGETS, gammas=0.5)
    with pytest.raises(TypeError, match="gamma must be a number, got 'auto'"):
        choose_gamma(model, IMAGES, TARGETS, gammas=["auto"])
    with pytest.raises(ValueError, match="target must be given for a model with 5 outputs, got None"):
        choose_gamma(model, IMAGES, None)
    with pytest.raises(TypeError, match=r"inputs must be a tensor of images .* got list"):
        choose_gamma(model, [], TARGETS)
    with pytest.raises(ValueError, match="gammas must hold at least one value, got none"):
        choose_gamma(model, IMAGES, TARGETS, gammas=())
    with pytest.raises(ValueError, match=r"patch_gamma must be finite and at least 0, got -1\.0"):
        choose_gamma(model, IMAGES, TARGETS, patch_gammas=[-1.0])
    with pytest.raises(ValueError, match=r"steps must be .* got 7"):
        choose_gamma(model, IMAGES, TARGETS, steps=7)
