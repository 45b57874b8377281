"""What methods can do beside `attribute`, through what goes around them."""

import copy

import pytest
import torch
from models import random_images
from oracle import exact, random_gradient
from plain_registers import with_own_registers
from planted import NEURON, with_register_neuron
from timm.models.vision_transformer import VisionTransformer

from captum_vit import (
    LRP,
    BackgroundSuppression,
    BlankMapError,
    CheferCAM,
    GradECLIP,
    LeGrad,
    LibraGrad,
    MaskedSinks,
    PromptClassifier,
    RawAttention,
    TestTimeRegisters,
    TextSpan,
    ViTCX,
    libragrad,
)
from captum_vit.attr import upsample

NEURONS = [NEURON, (0, 3), (2, 11)]
IMAGES = random_images(2, (32, 32))
PROMPT = "a photo of the cat"


@pytest.fixture(scope="module")
def planted(vit, images) -> VisionTransformer:
    return with_register_neuron(vit, images)


def test_registers_are_in_the_map_of_each_block_and_pixel(planted, images, target):
    own = with_own_registers(planted, NEURONS, 1, "zero")
    for method, call in (
        (lambda model: LeGrad(model, blocks=[0, 2]), "attribute_blocks"),
        (lambda model: ViTCX(model, distance=0.2), "attribute_pixels"),
    ):
        wrapped = getattr(TestTimeRegisters(method(planted), NEURONS), call)
        exact(wrapped(images, target, internal_batch_size=2), getattr(method(own), call)(images, target))


def test_registers_are_in_the_image_that_words_are_compared_with(clip):
    classifier = PromptClassifier(clip.model, clip.tokenizer, ["a cat"])
    wrapped = TestTimeRegisters(GradECLIP(classifier), [(0, 3), (0, 7)])
    identity = PromptClassifier(clip.model, embeddings=torch.eye(16, dtype=torch.float64), logit_scale=1.0)
    with torch.no_grad():
        embedding = TestTimeRegisters(GradECLIP(identity), [(0, 3), (0, 7)]).forward_func(IMAGES)
    tower = copy.copy(classifier.tower)
    tower.forward = lambda images: embedding
    expected = GradECLIP(PromptClassifier(tower, clip.tokenizer, ["a cat"])).attribute_text(IMAGES, PROMPT)
    ours = wrapped.attribute_text(IMAGES, PROMPT)
    assert ours.tokens == expected.tokens
    exact(ours.relevance, expected.relevance)
    assert (ours.relevance - GradECLIP(classifier).attribute_text(IMAGES, PROMPT).relevance).abs().max() > 1e-6


def test_gradients_are_balanced_in_every_call(vit, images, target, clip):
    blocks = LibraGrad(LeGrad(vit)).attribute_blocks(images, target)
    exact(blocks.mean(1), LibraGrad(LeGrad(vit)).attribute(images, target=target, resolution="patch"))
    assert (blocks - LeGrad(vit).attribute_blocks(images, target)).abs().max() > 1e-6
    method = GradECLIP(PromptClassifier(clip.model, clip.tokenizer, ["a cat"]))
    ours = LibraGrad(method).attribute_text(IMAGES, PROMPT).relevance
    with libragrad(method):
        exact(ours, method.attribute_text(IMAGES, PROMPT).relevance)
    assert (ours - method.attribute_text(IMAGES, PROMPT).relevance).abs().max() > 1e-6


@pytest.mark.parametrize("around", [lambda method: method, LibraGrad])
def test_sinks_are_masked_in_the_map_of_each_block(vit, images, target, around):
    wrapped = MaskedSinks(around(LeGrad(vit)), factor=1.3)
    sinks = wrapped.sinks(images)[:, None].expand(-1, 3, -1, -1, -1)
    plain, masked = (each.attribute_blocks((images,), target) for each in (around(LeGrad(vit)), wrapped))
    assert sinks.any()
    assert (plain[sinks] != 0).any()
    assert (masked[sinks] == 0).all()
    exact(masked[~sinks], plain[~sinks])
    with pytest.raises(BlankMapError, match=r"every patch with relevance in the map of L.* is a sink"):
        MaskedSinks(around(LeGrad(vit)), threshold=1e-3).attribute_blocks(images, target)


def test_sinks_inside_are_those_of_the_model_that_is_explained(planted, images):
    inside = TestTimeRegisters(MaskedSinks(CheferCAM(planted)), [NEURON])
    assert MaskedSinks(CheferCAM(planted)).sinks(images).any()
    assert not inside.sinks(images).any()
    assert torch.equal(
        LibraGrad(MaskedSinks(CheferCAM(planted))).sinks(images), MaskedSinks(CheferCAM(planted)).sinks(images)
    )


def test_pixels_stay_pixels_where_a_wrapper_keeps_them(vit, images, target):
    method = LRP(vit)
    wrapped = TestTimeRegisters(method, NEURONS)
    assert wrapped.pixel_level
    assert wrapped.multiplies_by_inputs
    pixels = wrapped.attribute(images, target=target)
    assert (pixels[:, 0] - pixels[:, 1]).abs().max() > 1e-3 * pixels.abs().max()
    masked = MaskedSinks(method, factor=1.3)
    assert not masked.pixel_level
    patches = masked.attribute(images, target=target, resolution="patch")
    expected = upsample(patches, (32, 48)) / 3
    exact(masked.attribute(images, target=target), expected.expand(-1, 3, -1, -1))


def suppressed(method):
    return BackgroundSuppression(method, embedding=random_gradient(16))


@pytest.mark.parametrize(
    ("around", "method", "call", "message"),
    [
        (
            MaskedSinks,
            TextSpan,
            "contributions",
            "Masked Sinks has no 'contributions': it masks maps on the patch grid",
        ),
        (
            MaskedSinks,
            ViTCX,
            "attribute_pixels",
            "Masked Sinks has no 'attribute_pixels': .*inside: .method.attribute_p",
        ),
        (MaskedSinks, GradECLIP, "attribute_text", "Masked Sinks has no 'attribute_text': it masks"),
        (
            suppressed,
            LeGrad,
            "attribute_blocks",
            "Background Suppression has no 'attribute_blocks': it compares maps of",
        ),
        (suppressed, TextSpan, "contributions", "Background Suppression has no 'contributions'"),
        (suppressed, GradECLIP, "attribute_text", "Background Suppression has no 'attribute_text'"),
        (
            lambda method: LibraGrad(MaskedSinks(method)),
            GradECLIP,
            "attribute_text",
            "Masked Sinks has no 'attribute_t",
        ),
        (MaskedSinks, LeGrad, "contributions", "Masked Sinks has no 'contributions', nor .*: 'LeGrad' object has no"),
        (MaskedSinks, LeGrad, "blocks", "Masked Sinks has no 'blocks'; that of the method inside is .method.blocks"),
        (MaskedSinks, LeGrad, "_logits", "'MaskedSinks' object has no attribute '_logits'"),
    ],
)
def test_calls_without_a_meaning_are_refused_by_name(clip, around, method, call, message):
    wrapped = around(method(PromptClassifier(clip.model, clip.tokenizer, ["a cat", "a dog"])))
    with pytest.raises(AttributeError, match=message):
        getattr(wrapped, call)
    assert not hasattr(wrapped, call)


def test_a_copy_is_a_wrapper_as_well(vit, images):
    wrapped = MaskedSinks(RawAttention(vit), factor=1.3)
    for each in (copy.copy(wrapped), copy.deepcopy(wrapped)):
        exact(each.attribute(images), wrapped.attribute(images))
