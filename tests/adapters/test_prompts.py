import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import timm
import torch
import two_towers
from captum.attr import IntegratedGradients, Saliency
from models import random_images
from oracle import exact
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPProcessor
from two_towers import CONTEXT, EMBEDDING, TwoTowers

from captum_vit import LeGrad, PromptClassifier

PROMPTS = ["a cat", "the dog", "a remote control"]
IMAGES = random_images(2, (32, 32))
LONG = "a cat of " + " of ".join(["a dog"] * 12)


def classifier(towers: TwoTowers, prompts=PROMPTS, **options) -> PromptClassifier:
    return PromptClassifier(towers.model, towers.tokenizer, prompts, **options)


def plain_embedding(towers: TwoTowers, text: str) -> list[float]:
    """A text's embedding, unnormalised, from the library alone."""
    if hasattr(towers.model, "encode_text"):
        features = towers.model.encode_text(towers.tokenizer([text]), normalize=False)
    else:
        siglip = type(towers.model).__name__.startswith("Siglip")
        padding = {"padding": "max_length", "max_length": CONTEXT} if siglip else {}
        features = towers.model.get_text_features(
            **towers.tokenizer([text], return_tensors="pt", **padding)
        ).pooler_output
    return features[0].tolist()


def unit(vector: list[float]) -> list[float]:
    length = sum(each**2 for each in vector) ** 0.5
    return [each / length for each in vector]


# Formula: the library's own logits, and templates averaged as zero-shot classifiers do.


def test_logits_are_the_librarys_own(towers):
    ours = classifier(towers)(IMAGES)
    assert ours.shape == (2, 3)
    exact(ours, towers.library_logits(IMAGES, PROMPTS))


def test_a_template_is_filled_in(towers):
    ours = classifier(towers, template="a photo of {}.")(IMAGES)
    exact(ours, towers.library_logits(IMAGES, [f"a photo of {prompt}." for prompt in PROMPTS]))


def test_a_template_may_name_the_prompt_twice_and_a_prompt_may_hold_braces(clip):
    ours = classifier(clip, ["a {} cat", "{}"], template="{} of {}")(IMAGES)
    exact(ours, clip.library_logits(IMAGES, ["a {} cat of a {} cat", "{} of {}"]))


def test_several_templates_are_averaged_after_normalisation(towers):
    """arXiv:2103.00020, section 3.1.4: unit embeddings, their mean over the templates, brought to unit length again."""
    templates = ["{}", "a photo of {}.", "the {}"]
    ours = classifier(towers, template=templates).embeddings
    for index, prompt in enumerate(PROMPTS):
        mean = [0.0] * ours.shape[1]
        for template in templates:
            embedding = unit(plain_embedding(towers, template.replace("{}", prompt)))
            for dimension, value in enumerate(embedding):
                mean[dimension] += value / len(templates)
        exact(ours[index], torch.tensor(unit(mean), dtype=torch.float64))


def test_open_clips_own_templates_and_zero_shot_classifier(clip):
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    theirs = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, PROMPTS, templates)  # (E, K)
    exact(classifier(clip, template=templates).embeddings, theirs.T)


def test_a_processor_is_taken_for_its_tokenizer(built):
    towers = built["Hugging Face CLIP"]
    processor = CLIPProcessor(CLIPImageProcessorPil(), towers.tokenizer)
    exact(PromptClassifier(towers.model, processor, PROMPTS)(IMAGES), towers.library_logits(IMAGES, PROMPTS))


def test_siglip_texts_are_padded_to_the_length_of_training(built):
    towers = built["Hugging Face SigLIP"]
    unpadded = towers.model(pixel_values=IMAGES, **towers.tokenizer(PROMPTS[:1], return_tensors="pt"))
    ours = classifier(towers, PROMPTS[:1])(IMAGES)
    assert (ours - unpadded.logits_per_image).abs().max() > 1e-3


def test_siglip_texts_keep_the_mask_that_their_tokenizer_gives(built, tmp_path):
    """Checkpoints say in their tokenizer's files whether padding is masked."""
    model = built["Hugging Face SigLIP"].model
    tokenizer = two_towers.siglip_tokenizer(tmp_path)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokens = tokenizer(PROMPTS, return_tensors="pt", padding="max_length", max_length=CONTEXT)
    theirs = model(tokens["input_ids"], IMAGES, attention_mask=tokens["attention_mask"])
    exact(PromptClassifier(model, tokenizer, PROMPTS)(IMAGES), theirs.logits_per_image)


def test_a_prompts_embedding_does_not_depend_on_the_other_prompts(towers):
    alone = classifier(towers, ["a cat"]).embeddings[0]
    exact(classifier(towers, ["the remote control of the dog", "a cat"]).embeddings[1], alone)


# Closed form: the scale and the bias.


def test_scale_and_bias_are_an_explicit_choice(towers):
    cosine = classifier(towers, logit_scale=1.0, logit_bias=0.0)(IMAGES)
    assert cosine.abs().max() <= 1
    exact(classifier(towers, logit_scale=-3, logit_bias=0.25)(IMAGES), -3 * cosine + 0.25)


def test_the_models_own_scale_and_bias_are_read_at_each_call(built):
    for name in ("OpenCLIP SigLIP", "Hugging Face SigLIP"):
        towers = copy.deepcopy(built[name])
        model = classifier(towers)
        cosine = classifier(towers, logit_scale=1, logit_bias=0)(IMAGES)
        exact(model(IMAGES), torch.tensor(2.0).double().exp() * cosine - 10.5)
        with torch.no_grad():
            towers.model.logit_scale.fill_(0.5)
            towers.model.logit_bias.fill_(4.0)
        exact(model(IMAGES), torch.tensor(0.5).double().exp() * cosine + 4)


def test_a_scale_of_shape_1_is_a_number():
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    text = {"width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(8, vision, text, init_logit_bias=-1.0, nonscalar_logit_scale=True).eval()
    ours = PromptClassifier(model, open_clip.get_tokenizer("ViT-B-32"), ["a cat"])
    assert ours(IMAGES.float()).shape == (2, 1)
    assert ours.tower.logit_scale() == pytest.approx(1 / 0.07)
    assert ours.tower.logit_bias() == -1


def test_without_normalisation_the_logit_is_a_dot_product(clip):
    ours = classifier(clip, normalize=False, logit_scale=1.0)
    exact(ours(IMAGES), clip.model.encode_image(IMAGES) @ ours.embeddings.T)


# Prompts and embeddings can be changed.


def test_a_method_explains_prompts_that_were_changed_after_it_was_made(towers):
    model = classifier(towers)
    method = LeGrad(model)
    first = method.attribute(IMAGES, target="the dog")
    model.prompts = ["the dog", "a photo"]
    assert model.prompts == ("the dog", "a photo")
    assert model(IMAGES).shape == (2, 2)
    exact(method.attribute(IMAGES, target="the dog"), first)
    fresh = LeGrad(classifier(towers, ["a photo"])).attribute(IMAGES, target=0)
    exact(method.attribute(IMAGES, target="a photo"), fresh)
    with pytest.raises(ValueError, match=r"target must be one of the prompts \['the dog', 'a photo'\], got 'a cat'"):
        method.attribute(IMAGES, target="a cat")


def test_new_prompts_are_filled_into_the_template(clip):
    model = classifier(clip, ["the dog"], template=["a photo of {}.", "{}"])
    model.set_prompts(PROMPTS)
    exact(model(IMAGES), classifier(clip, template=["a photo of {}.", "{}"])(IMAGES))


def test_prompts_that_are_refused_change_nothing(clip):
    model = classifier(clip)
    before = model(IMAGES)
    with pytest.raises(ValueError, match=r"prompts must fit the 32 tokens"):
        model.prompts = ["a cat", LONG]
    with pytest.raises(ValueError, match=r"prompts must name each of the 2 embeddings, got 1 names"):
        model.set_embeddings(torch.ones(2, EMBEDDING), ["a cat"])
    assert model.prompts == tuple(PROMPTS)
    exact(model(IMAGES), before)


def test_ready_made_embeddings_are_normalised_and_numbered_or_named(towers):
    encoded = classifier(towers).embeddings
    model = PromptClassifier(towers.model, embeddings=encoded * torch.tensor([[3.0], [0.2], [1.0]]))
    assert model.prompts == ("embedding 0", "embedding 1", "embedding 2")
    exact(model(IMAGES), classifier(towers)(IMAGES))
    model.set_embeddings(encoded[1:].flip(0), ["a sound", "a touch"])
    exact(model(IMAGES), classifier(towers)(IMAGES)[:, [2, 1]])
    exact(LeGrad(model).attribute(IMAGES, target="a touch"), LeGrad(classifier(towers)).attribute(IMAGES, target=1))


def test_ready_made_embeddings_are_copied(clip):
    mine = torch.ones(2, EMBEDDING, dtype=torch.float64, requires_grad=True)
    model = PromptClassifier(clip.model, embeddings=mine)
    assert not model.embeddings.requires_grad
    before = model(IMAGES)
    with torch.no_grad():
        mine.fill_(float("nan"))
    exact(model(IMAGES), before)


def test_embeddings_of_another_dtype_are_brought_to_the_models(clip):
    exact = classifier(clip).embeddings
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.2), (torch.float16, 2e-2)):
        logits = PromptClassifier(clip.model, embeddings=exact.to(dtype))(IMAGES)
        assert logits.dtype == torch.float64
        # Rounding of an embedding, times the scale of 14.3.
        torch.testing.assert_close(logits, classifier(clip)(IMAGES), atol=tolerance, rtol=0)


def test_an_image_encoder_without_texts_takes_embeddings():
    encoder = timm.create_model("test_vit", num_classes=0).eval().double()
    images = random_images(2, (160, 160))
    embeddings = torch.randn(3, encoder.num_features, dtype=torch.float64)
    model = PromptClassifier(encoder, prompts=["a bark", "a meow", "rain"], embeddings=embeddings)
    expected = nn.functional.cosine_similarity(encoder(images)[:, None], embeddings[None], dim=-1)
    exact(model(images), expected)  # no scale and no bias of its own
    assert LeGrad(model).attribute(images, target="rain").shape == images.shape


# Any method takes the classifier, and any target.


def test_a_target_is_an_index_or_a_prompt_for_all_or_for_each_image(towers):
    method = LeGrad(classifier(towers))
    per_target = method.attribute_targets(IMAGES, PROMPTS)
    exact(per_target, method.attribute_targets(IMAGES, [0, 1, 2]))
    assert (per_target[:, 0] - per_target[:, 2]).abs().max() > 1e-8
    one = method.attribute(IMAGES, target="a remote control", resolution="patch")
    exact(one, per_target[:, 2])
    exact(method.attribute(IMAGES, target=2, resolution="patch"), one)
    each = method.attribute(IMAGES, target=["a remote control", "a cat"], resolution="patch")
    exact(each, torch.stack([per_target[0, 2], per_target[1, 0]]))


def test_captums_own_methods_take_the_classifier(towers):
    model = classifier(towers)
    images = IMAGES.clone().requires_grad_()
    saliency = Saliency(model).attribute(images, target=1)
    (gradient,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    exact(saliency, gradient.abs())
    attribution = IntegratedGradients(model).attribute(IMAGES, target=torch.tensor([2, 0]), n_steps=50)
    difference = (model(IMAGES) - model(torch.zeros_like(IMAGES)))[[0, 1], [2, 0]]
    # Completeness up to the error of 50 steps.
    torch.testing.assert_close(attribution.sum((1, 2, 3)), difference, atol=0.05, rtol=0)


# The classifier is an ordinary module, and the model stays as it was.


def test_copies_and_pickles_are_independent(towers):
    model = classifier(towers, template="a photo of {}.")
    before = model(IMAGES)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        exact(twin(IMAGES), before)
        exact(LeGrad(twin).attribute(IMAGES, target=1), LeGrad(model).attribute(IMAGES, target=1))
        twin.prompts = ["a photo"]
        with torch.no_grad():
            twin.model.logit_scale.zero_()
        assert twin.tower.model is twin.model
        assert twin(IMAGES).shape == (2, 1)
        exact(model(IMAGES), before)


def test_embeddings_follow_the_classifier_to_another_dtype(towers):
    model = classifier(copy.deepcopy(towers))
    exact = model(IMAGES)
    model.to(torch.float32)
    assert model.embeddings.dtype == torch.float32
    torch.testing.assert_close(model(IMAGES.float()), exact.float(), atol=1e-4, rtol=0)  # float32 times the scale
    model.to(torch.bfloat16)
    assert model.embeddings.dtype == torch.bfloat16
    low = model(IMAGES.bfloat16())
    assert low.dtype == torch.bfloat16
    scale = model.tower.logit_scale()
    assert (low.float() - exact).abs().max() < 0.05 * scale  # bf16 in every layer
    assert LeGrad(model).attribute(IMAGES.bfloat16(), target=1).dtype == torch.float32


def test_embeddings_come_to_a_model_that_moved_by_itself(clip):
    towers = copy.deepcopy(clip)
    model = classifier(towers)
    towers.model.float()
    assert model(IMAGES.float()).dtype == torch.float32
    model.prompts = ["a cat"]
    assert model.embeddings.dtype == torch.float32


def test_the_model_is_left_as_it_came(towers):
    model = copy.deepcopy(towers.model)
    model.logit_scale.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = facts(model)
    torch.manual_seed(3)
    rng = torch.get_rng_state()
    prompted = PromptClassifier(model, towers.tokenizer, PROMPTS, template=["{}", "a photo of {}."])
    prompted.prompts = ["a dog"]
    with pytest.raises(ValueError, match="prompts must fit"):
        prompted.prompts = [LONG]
    assert torch.equal(torch.get_rng_state(), rng)
    assert facts(model) == before
    assert list(model.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert not any("embeddings" in name.rpartition(".")[2] for name in prompted.state_dict() if "tower" not in name)


def facts(model: nn.Module) -> list[object]:
    """What a careless user of a model leaves behind."""
    modules = [
        (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
        for name, module in model.named_modules()
    ]
    parameters = [(name, each.requires_grad, each.grad is None) for name, each in model.named_parameters()]
    return [modules, parameters, torch.is_grad_enabled()]


def test_gradients_work_after_a_classifier_was_made_in_inference_mode(towers):
    with torch.inference_mode():
        encoded = classifier(towers)
        given = PromptClassifier(towers.model, embeddings=torch.ones(3, encoded.tower.num_outputs).double())
        changed = classifier(towers, ["a cat"])
        changed.prompts = PROMPTS
    expected = LeGrad(classifier(towers)).attribute(IMAGES, target=1)
    for model in (encoded, changed, given):
        images = IMAGES.clone().requires_grad_()
        assert torch.autograd.grad(model(images)[:, 1].sum(), images)[0].isfinite().all()
    exact(LeGrad(encoded).attribute(IMAGES, target=1), expected)
    exact(LeGrad(changed).attribute(IMAGES, target=1), expected)


def test_autocast(towers):
    towers = copy.deepcopy(towers)
    towers.model.float()
    images = IMAGES.float()
    exact = classifier(towers)(images)
    with torch.autocast("cpu", torch.bfloat16):
        made_inside = classifier(towers)
        logits = classifier(towers)(images)
        attribution = LeGrad(made_inside).attribute(images, target=1)
    scale = made_inside.tower.logit_scale()
    assert (logits - exact).abs().max() < 0.05 * scale  # bf16 in every layer
    assert (made_inside(images) - exact).abs().max() < 0.05 * scale
    assert attribution.isfinite().all()


def test_two_threads_ask_the_same_model_about_different_prompts(clip):
    lists = [["a cat", "the dog"], ["a remote control", "a photo", "the photo"]]

    def ask(prompts: list[str]) -> list[Tensor]:
        return [LeGrad(classifier(clip, prompts)).attribute(IMAGES, target=prompts[1]) for _ in range(5)]

    alone = [ask(prompts)[0] for prompts in lists]
    with ThreadPoolExecutor(2) as pool:
        for found, expected in zip(pool.map(ask, lists), alone, strict=True):
            for each in found:
                exact(each, expected)
