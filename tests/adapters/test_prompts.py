import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import timm
import torch
import two_towers
from captum.attr import IntegratedGradients, Saliency
from models import random_images, tiny_models
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPProcessor
from two_towers import CONTEXT, EMBEDDING, NAMES, TwoTowers

from captum_vit import AttentionRollout, LeGrad, PromptClassifier

PROMPTS = ["a cat", "the dog", "a remote control"]
IMAGES = random_images(2, (32, 32))
LONG = "a cat of " + " of ".join(["a dog"] * 12)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, TwoTowers]:
    return {name: two_towers.build(name, tmp_path_factory.mktemp("tokenizer")) for name in NAMES}


@pytest.fixture(params=NAMES)
def towers(request, built) -> TwoTowers:
    return built[request.param]


@pytest.fixture
def clip(built) -> TwoTowers:
    return built["OpenCLIP CLIP"]


def classifier(towers: TwoTowers, prompts=PROMPTS, **options) -> PromptClassifier:
    return PromptClassifier(towers.model, towers.tokenizer, prompts, **options)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=1e-10, rtol=0)


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
    assert_same(ours, towers.library_logits(IMAGES, PROMPTS))


def test_a_template_is_filled_in(towers):
    ours = classifier(towers, template="a photo of {}.")(IMAGES)
    assert_same(ours, towers.library_logits(IMAGES, [f"a photo of {prompt}." for prompt in PROMPTS]))


def test_a_template_may_name_the_prompt_twice_and_a_prompt_may_hold_braces(clip):
    ours = classifier(clip, ["a {} cat", "{}"], template="{} of {}")(IMAGES)
    assert_same(ours, clip.library_logits(IMAGES, ["a {} cat of a {} cat", "{} of {}"]))


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
        assert_same(ours[index], torch.tensor(unit(mean), dtype=torch.float64))


def test_open_clips_own_templates_and_zero_shot_classifier(clip):
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    theirs = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, PROMPTS, templates)  # (E, K)
    assert_same(classifier(clip, template=templates).embeddings, theirs.T)


def test_a_processor_is_taken_for_its_tokenizer(built):
    towers = built["Hugging Face CLIP"]
    processor = CLIPProcessor(CLIPImageProcessorPil(), towers.tokenizer)
    assert_same(PromptClassifier(towers.model, processor, PROMPTS)(IMAGES), towers.library_logits(IMAGES, PROMPTS))


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
    assert_same(PromptClassifier(model, tokenizer, PROMPTS)(IMAGES), theirs.logits_per_image)


def test_a_prompts_embedding_does_not_depend_on_the_other_prompts(towers):
    alone = classifier(towers, ["a cat"]).embeddings[0]
    assert_same(classifier(towers, ["the remote control of the dog", "a cat"]).embeddings[1], alone)


# Closed form: the scale and the bias.


def test_scale_and_bias_are_an_explicit_choice(towers):
    cosine = classifier(towers, logit_scale=1.0, logit_bias=0.0)(IMAGES)
    assert cosine.abs().max() <= 1
    assert_same(classifier(towers, logit_scale=-3, logit_bias=0.25)(IMAGES), -3 * cosine + 0.25)


def test_the_models_own_scale_and_bias_are_read_at_each_call(built):
    for name in ("OpenCLIP SigLIP", "Hugging Face SigLIP"):
        towers = copy.deepcopy(built[name])
        model = classifier(towers)
        cosine = classifier(towers, logit_scale=1, logit_bias=0)(IMAGES)
        assert_same(model(IMAGES), torch.tensor(2.0).double().exp() * cosine - 10.5)
        with torch.no_grad():
            towers.model.logit_scale.fill_(0.5)
            towers.model.logit_bias.fill_(4.0)
        assert_same(model(IMAGES), torch.tensor(0.5).double().exp() * cosine + 4)


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
    assert_same(ours(IMAGES), clip.model.encode_image(IMAGES) @ ours.embeddings.T)


# Prompts and embeddings can be changed.


def test_a_method_explains_prompts_that_were_changed_after_it_was_made(towers):
    model = classifier(towers)
    method = LeGrad(model)
    first = method.attribute(IMAGES, target="the dog")
    model.prompts = ["the dog", "a photo"]
    assert model.prompts == ("the dog", "a photo")
    assert model(IMAGES).shape == (2, 2)
    assert_same(method.attribute(IMAGES, target="the dog"), first)
    fresh = LeGrad(classifier(towers, ["a photo"])).attribute(IMAGES, target=0)
    assert_same(method.attribute(IMAGES, target="a photo"), fresh)
    with pytest.raises(ValueError, match=r"target must be one of the prompts \['the dog', 'a photo'\], got 'a cat'"):
        method.attribute(IMAGES, target="a cat")


def test_new_prompts_are_filled_into_the_template(clip):
    model = classifier(clip, ["the dog"], template=["a photo of {}.", "{}"])
    model.set_prompts(PROMPTS)
    assert_same(model(IMAGES), classifier(clip, template=["a photo of {}.", "{}"])(IMAGES))


def test_prompts_that_are_refused_change_nothing(clip):
    model = classifier(clip)
    before = model(IMAGES)
    with pytest.raises(ValueError, match=r"prompts must fit the 32 tokens"):
        model.prompts = ["a cat", LONG]
    with pytest.raises(ValueError, match=r"prompts must name each of the 2 embeddings, got 1 names"):
        model.set_embeddings(torch.ones(2, EMBEDDING), ["a cat"])
    assert model.prompts == tuple(PROMPTS)
    assert_same(model(IMAGES), before)


def test_ready_made_embeddings_are_normalised_and_numbered_or_named(towers):
    encoded = classifier(towers).embeddings
    model = PromptClassifier(towers.model, embeddings=encoded * torch.tensor([[3.0], [0.2], [1.0]]))
    assert model.prompts == ("embedding 0", "embedding 1", "embedding 2")
    assert_same(model(IMAGES), classifier(towers)(IMAGES))
    model.set_embeddings(encoded[1:].flip(0), ["a sound", "a touch"])
    assert_same(model(IMAGES), classifier(towers)(IMAGES)[:, [2, 1]])
    assert_same(
        LeGrad(model).attribute(IMAGES, target="a touch"), LeGrad(classifier(towers)).attribute(IMAGES, target=1)
    )


def test_ready_made_embeddings_are_copied(clip):
    mine = torch.ones(2, EMBEDDING, dtype=torch.float64, requires_grad=True)
    model = PromptClassifier(clip.model, embeddings=mine)
    assert not model.embeddings.requires_grad
    before = model(IMAGES)
    with torch.no_grad():
        mine.fill_(float("nan"))
    assert_same(model(IMAGES), before)


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
    assert_same(model(images), expected)  # no scale and no bias of its own
    assert LeGrad(model).attribute(images, target="rain").shape == images.shape


# Any method takes the classifier, and any target.


def test_a_target_is_an_index_or_a_prompt_for_all_or_for_each_image(towers):
    method = LeGrad(classifier(towers))
    per_target = method.attribute_targets(IMAGES, PROMPTS)
    assert_same(per_target, method.attribute_targets(IMAGES, [0, 1, 2]))
    assert (per_target[:, 0] - per_target[:, 2]).abs().max() > 1e-8
    one = method.attribute(IMAGES, target="a remote control", resolution="patch")
    assert_same(one, per_target[:, 2])
    assert_same(method.attribute(IMAGES, target=2, resolution="patch"), one)
    each = method.attribute(IMAGES, target=["a remote control", "a cat"], resolution="patch")
    assert_same(each, torch.stack([per_target[0, 2], per_target[1, 0]]))


def test_captums_own_methods_take_the_classifier(towers):
    model = classifier(towers)
    images = IMAGES.clone().requires_grad_()
    saliency = Saliency(model).attribute(images, target=1)
    (gradient,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    assert_same(saliency, gradient.abs())
    attribution = IntegratedGradients(model).attribute(IMAGES, target=torch.tensor([2, 0]), n_steps=50)
    difference = (model(IMAGES) - model(torch.zeros_like(IMAGES)))[[0, 1], [2, 0]]
    # Completeness up to the error of 50 steps.
    torch.testing.assert_close(attribution.sum((1, 2, 3)), difference, atol=0.05, rtol=0)


# The classifier is an ordinary module, and the model stays as it was.


def test_copies_and_pickles_are_independent(towers):
    model = classifier(towers, template="a photo of {}.")
    before = model(IMAGES)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(twin(IMAGES), before)
        assert_same(LeGrad(twin).attribute(IMAGES, target=1), LeGrad(model).attribute(IMAGES, target=1))
        twin.prompts = ["a photo"]
        with torch.no_grad():
            twin.model.logit_scale.zero_()
        assert twin.tower.model is twin.model
        assert twin(IMAGES).shape == (2, 1)
        assert_same(model(IMAGES), before)


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
    assert_same(LeGrad(encoded).attribute(IMAGES, target=1), expected)
    assert_same(LeGrad(changed).attribute(IMAGES, target=1), expected)


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
                assert_same(each, expected)


# Bad input.


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (None, ValueError, r"prompts must be a list of texts, got None"),
        ([], ValueError, r"prompts must hold at least one text, got an empty list"),
        ("a cat", TypeError, r"prompts must be a list of texts, got the text 'a cat'; write \['a cat'\]"),
        (["a cat", ""], ValueError, r"prompts must not be empty texts, got ''"),
        (["a cat", " \n"], ValueError, r"prompts must not be empty texts, got ' \\n'"),
        (["a cat", "a dog", "a cat"], ValueError, r"prompts must differ from each other, got 'a cat' more than once"),
        (["a cat", 7], TypeError, r"prompts must be texts, got int"),
        ([["a cat"]], TypeError, r"prompts must be texts, got list"),
    ],
)
def test_prompts_that_are_refused(towers, prompts, error, message):
    with pytest.raises(error, match=message):
        classifier(towers, prompts)


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        ("a photo", ValueError, r"template must contain \{\} for the prompt, got 'a photo'"),
        (["{}", "a photo of {name}"], ValueError, r"template must contain .* got 'a photo of \{name\}'"),
        ([], ValueError, r"template must be a text or several texts with \{\}, got none"),
        (["{}", 3], TypeError, r"template must be a text with \{\} or a function, got int"),
    ],
)
def test_templates_that_are_refused(clip, template, error, message):
    with pytest.raises(error, match=message):
        classifier(clip, template=template)


@pytest.mark.parametrize("prompts", [[LONG], ["a cat", LONG]])
def test_a_prompt_that_would_be_cut_off(towers, prompts):
    message = r"prompts must fit the 32 tokens that the text tower of .* reads, got 'a cat of a dog.*…', whose end"
    with pytest.raises(ValueError, match=message):
        classifier(towers, prompts)
    with pytest.raises(ValueError, match=message):
        classifier(towers, ["a dog"], template=f"{LONG} {{}}")


def test_a_prompt_that_just_fits(towers):
    """Each "a" is one token for every tokenizer here."""
    letters = ["a"] * (CONTEXT - towers.special_tokens)
    fits = " ".join(letters)
    assert_same(classifier(towers, [fits])(IMAGES), towers.library_logits(IMAGES, [fits]))
    with pytest.raises(ValueError, match=r"whose end would be cut off\. Shorten it"):
        classifier(towers, [f"{fits} a"])


def test_a_cut_is_seen_where_the_last_token_is_always_the_same(clip, tmp_path):
    """OpenCLIP's CLIPS tokenizers put a class token behind the padding."""
    two_towers.clip_tokenizer(tmp_path, cls_token="<|startoftext|>").save_pretrained(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=CONTEXT, tokenizer_mode="clips")
    letters = ["a"] * (CONTEXT - 3)
    assert PromptClassifier(clip.model, tokenizer, ["a cat", " ".join(letters)])(IMAGES).shape == (2, 2)
    with pytest.raises(ValueError, match=r"whose end would be cut off\. Shorten it"):
        PromptClassifier(clip.model, tokenizer, ["a cat", " ".join([*letters, "a"])])


def test_no_tokenizer(towers):
    with pytest.raises(TypeError, match=r"tokenizer must be given to encode prompts, got None"):
        PromptClassifier(towers.model, None, PROMPTS)
    model = PromptClassifier(towers.model, prompts=PROMPTS, embeddings=classifier(towers).embeddings)
    with pytest.raises(TypeError, match=r"tokenizer must be given to encode prompts, got None"):
        model.prompts = ["a cat"]


def test_a_tokenizer_of_another_library(built):
    open_clips, huggingface = built["OpenCLIP CLIP"], built["Hugging Face CLIP"]
    message = r"tokenizer must be open_clip\.get_tokenizer\(\.\.\.\) for OpenCLIP CLIP, got CLIPTokenizer"
    with pytest.raises(TypeError, match=message):
        PromptClassifier(open_clips.model, huggingface.tokenizer, PROMPTS)
    message = r"must be a Hugging Face tokenizer or processor for Hugging Face CLIPModel, got SimpleTokenizer"
    with pytest.raises(TypeError, match=message):
        PromptClassifier(huggingface.model, open_clips.tokenizer, PROMPTS)


def test_a_tokenizer_of_another_model(built):
    siglip = built["OpenCLIP SigLIP"]
    with pytest.raises(ValueError, match=r"it gives token id 49407, but the vocabulary of .* has 40 tokens"):
        PromptClassifier(siglip.model, built["OpenCLIP CLIP"].tokenizer, PROMPTS)
    message = r"tokenizer must give the 32 tokens a text that OpenCLIP CLIP reads, got 77\. .*context_length=32"
    with pytest.raises(ValueError, match=message):
        PromptClassifier(built["OpenCLIP CLIP"].model, open_clip.get_tokenizer("ViT-B-32"), PROMPTS)
    with pytest.raises(ValueError, match=r"it gives token id 515, but the vocabulary of .* has 40 tokens"):
        PromptClassifier(built["Hugging Face SigLIP"].model, built["Hugging Face CLIP"].tokenizer, PROMPTS)


@pytest.mark.parametrize(
    ("embeddings", "error", "message"),
    [
        ([[1.0] * EMBEDDING], TypeError, r"embeddings must be a floating-point tensor, got list"),
        (torch.ones(2, EMBEDDING, dtype=torch.long), TypeError, r"floating-point tensor, got torch\.int64"),
        (torch.ones(EMBEDDING), ValueError, r"embeddings must have shape \(K, E\), got \(16,\)"),
        (torch.ones(0, EMBEDDING), ValueError, r"embeddings must have shape \(K, E\), got \(0, 16\)"),
        (torch.ones(2, 7), ValueError, r"must have 16 dimensions, as the image embedding of OpenCLIP CLIP, got 7"),
        (torch.tensor([[1.0], [float("nan")]]).expand(2, EMBEDDING), ValueError, r"NaN or infinity in row 1"),
        (torch.tensor([[float("inf")], [1.0]]).expand(2, EMBEDDING), ValueError, r"NaN or infinity in row 0"),
        (torch.tensor([[1.0], [0.0]]).expand(2, EMBEDDING), ValueError, r"zero in every dimension of row 1"),
    ],
)
def test_embeddings_that_are_refused(clip, embeddings, error, message):
    with pytest.raises(error, match=message):
        PromptClassifier(clip.model, embeddings=embeddings)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], r"prompts must name each of the 2 embeddings, got 1 names"),
        (["a", "a"], r"prompts must differ from each other, got 'a' more than once"),
    ],
)
def test_names_of_embeddings_that_are_refused(clip, names, message):
    with pytest.raises(ValueError, match=message):
        PromptClassifier(clip.model, prompts=names, embeddings=torch.ones(2, EMBEDDING))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"logit_scale": 0}, ValueError, r"logit_scale must not be 0, got 0"),
        ({"logit_scale": float("nan")}, ValueError, r"logit_scale must be finite, got nan"),
        ({"logit_scale": "own"}, TypeError, r"logit_scale must be a number or 'model', got 'own'"),
        ({"logit_bias": float("inf")}, ValueError, r"logit_bias must be finite, got inf"),
        ({"logit_bias": None}, TypeError, r"logit_bias must be a number or 'model', got None"),
    ],
)
def test_scales_and_biases_that_are_refused(clip, options, error, message):
    with pytest.raises(error, match=message):
        classifier(clip, **options)


def test_an_unknown_prompt_as_target_names_the_prompts(towers):
    message = r"target must be one of the prompts \['a cat', 'the dog', 'a remote control'\], got 'a bird'"
    for target in ("a bird", ["a cat", "a bird"]):
        with pytest.raises(ValueError, match=message):
            LeGrad(classifier(towers)).attribute(IMAGES, target=target)
    with pytest.raises(ValueError, match=r"target must be in \[0, 2\], got 3"):
        LeGrad(classifier(towers)).attribute(IMAGES, target=3)
    with pytest.raises(ValueError, match=r"target must be given for a model with 3 outputs, got None"):
        LeGrad(classifier(towers)).attribute(IMAGES)


def test_texts_for_a_model_in_training_mode(towers):
    model = copy.deepcopy(towers.model)
    model.train()
    with pytest.raises(RuntimeError, match=r"the model is in training mode .* Call model\.eval\(\) first"):
        PromptClassifier(model, towers.tokenizer, PROMPTS)
    assert model.training


@pytest.mark.parametrize("name", ["timm_vit", "hf_vit", "torchvision_vit"])
def test_a_plain_classifier_reads_no_text(name, clip):
    model, _ = tiny_models()[name]()
    with pytest.raises(TypeError, match=r"reads no text; give ready-made embeddings \(K, E\)"):
        PromptClassifier(model, clip.tokenizer, PROMPTS)


def test_two_towers_without_prompts_are_refused_with_the_remedy(towers):
    with pytest.raises(TypeError, match=r"Wrap it: PromptClassifier\(model, tokenizer, \['a cat', 'a dog'\]\)"):
        AttentionRollout(towers.model)


def test_encode_takes_a_list(clip):
    model = classifier(clip)
    with pytest.raises(TypeError, match=r"prompts must be a list of texts, got the text 'a cat'"):
        model.encode("a cat")
    assert model.encode([""]).shape == (1, EMBEDDING)  # a prompt that names nothing may be encoded


def test_every_argument_has_its_place_in_the_documentation():
    arguments = list(inspect.signature(PromptClassifier).parameters)
    for argument in arguments:
        assert f"        {argument}: " in PromptClassifier.__doc__
