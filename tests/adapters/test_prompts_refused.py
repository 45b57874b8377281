"""Prompts, templates, tokenizers and embeddings that are refused, and with which words."""

import copy
import inspect

import open_clip
import pytest
import torch
import two_towers
from models import random_images, tiny_models
from open_clip.tokenizer import HFTokenizer
from oracle import exact
from two_towers import CONTEXT, EMBEDDING, TwoTowers

from captum_vit import AttentionRollout, LeGrad, PromptClassifier

PROMPTS = ["a cat", "the dog", "a remote control"]
IMAGES = random_images(2, (32, 32))
LONG = "a cat of " + " of ".join(["a dog"] * 12)


def classifier(towers: TwoTowers, prompts=PROMPTS, **options) -> PromptClassifier:
    return PromptClassifier(towers.model, towers.tokenizer, prompts, **options)


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
    exact(classifier(towers, [fits])(IMAGES), towers.library_logits(IMAGES, [fits]))
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
