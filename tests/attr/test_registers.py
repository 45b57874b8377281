import copy
import re
import threading

import pytest
import torch
import torch.nn.functional as F
from cases import case
from models import random_images, tiny_models
from oracle import exact, gradients, plain_parts, plain_pass, random_gradient
from planted import NEURON, TOKEN, with_register_neuron
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_vit import (
    METHODS,
    AttentionRollout,
    BackgroundSuppression,
    CheferCAM,
    LibraGrad,
    MaskedSinks,
    PromptClassifier,
    RawAttention,
    TestTimeRegisters,
    find_register_neurons,
)
from captum_vit.adapters.registers import moved_activations
from captum_vit.attr import chefer_cam, find_sinks

NEURONS = [NEURON, (0, 3), (1, 7), (2, 11)]


def moved_in_loops(activations: Tensor, chosen: list[int], registers: int, patches: str) -> Tensor:
    """Activations of one image (registers, class token, patches; neurons)."""
    result = activations.clone()
    for neuron in chosen:
        on_patches = [float(value) for value in activations[registers + 1 :, neuron]]
        largest = max(on_patches, key=abs)
        for token in range(len(result)):
            if token < registers:
                result[token, neuron] = largest
            elif token > registers:
                result[token, neuron] = 0.0 if patches == "zero" else sum(on_patches) / len(on_patches)
    return result


def plain_registers(
    model: VisionTransformer, images: Tensor, neurons: list[tuple[int, int]], registers: int, patches: str
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The model with registers before all other tokens, in plain equations: logits, attention, tokens of each block."""
    z = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
    z = torch.cat([model.cls_token.expand(len(images), -1, -1), z], 1) + model.pos_embed
    z = torch.cat([torch.zeros(len(images), registers, z.shape[2], dtype=z.dtype), z], 1)
    attentions, tokens = [], []
    for index, block in enumerate(model.blocks):
        chosen = [neuron for at, neuron in neurons if at == index]
        q, k, v = (
            part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
            for part in block.attn.qkv(block.norm1(z)).chunk(3, -1)
        )
        attentions.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
        z = z + block.attn.proj((attentions[-1] @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(block.mlp.fc1(block.norm2(z)))
        if chosen:
            with torch.no_grad():
                moved = torch.stack([moved_in_loops(each, chosen, registers, patches) for each in hidden])
                sources = hidden[:, registers + 1 :].abs().argmax(1)  # (B, H)
            differentiable = hidden.clone()
            for neuron in chosen:
                on_patches = hidden[:, registers + 1 :, neuron]
                largest = on_patches.gather(1, sources[:, neuron, None])
                left = 0 * on_patches if patches == "zero" else 0 * on_patches + on_patches.mean(1, keepdim=True)
                column = torch.cat(
                    [largest.expand(-1, registers), hidden[:, registers : registers + 1, neuron], left], 1
                )
                differentiable[:, :, neuron] = column
            exact(differentiable.detach(), moved)
            hidden = differentiable
        z = z + block.mlp.fc2(hidden)
        tokens.append(z)
    return model.head(model.norm(z)[:, registers]), attentions, tokens


@pytest.fixture
def planted(vit, images) -> VisionTransformer:
    return with_register_neuron(vit, images)


@pytest.mark.parametrize("options", [{}, {"registers": 2}, {"patches": "mean"}])
def test_maps_and_logits_are_those_of_the_model_with_registers(planted, images, target, options):
    registers, patches = options.get("registers", 1), options.get("patches", "zero")
    logits, attentions, _ = plain_registers(planted, images, NEURONS, registers, patches)
    raw = TestTimeRegisters(RawAttention(planted), NEURONS, **options)
    exact(raw.forward_func(images), logits)
    expected = attentions[-1].mean(1)[:, registers, registers + 1 :].reshape(3, 1, 4, 6)
    exact(raw.attribute(images, resolution="patch"), expected.detach())
    grads = gradients(logits.gather(1, target[:, None]).sum(), attentions)
    start = F.one_hot(torch.tensor(registers), 25 + registers).double()
    row = chefer_cam([each.detach() for each in attentions], grads, start=start)
    method = TestTimeRegisters(CheferCAM(planted), NEURONS, **options)
    actual = method.attribute(images, target=target, resolution="patch")
    exact(actual, row[:, registers + 1 :].reshape(3, 1, 4, 6))
    assert (actual - CheferCAM(planted).attribute(images, target=target, resolution="patch")).abs().max() > 1e-3


def test_the_planted_outlier_moves_from_its_patch_to_the_register(planted, images):
    before = plain_pass(planted, images).tokens[-1]
    assert find_sinks(before[:, 1:]).nonzero().tolist() == [[0, TOKEN - 1]]
    _, _, tokens = plain_registers(planted, images, [NEURON], 1, "zero")
    assert not find_sinks(tokens[-1][:, 2:]).any()
    assert tokens[-1][0, 0].norm() > 3 * tokens[-1][0, 2:].norm(dim=-1).median()
    inside = TestTimeRegisters(AttentionRollout(planted), [NEURON])
    assert MaskedSinks(AttentionRollout(planted)).sinks(images).sum() == 1
    assert not MaskedSinks(inside).sinks(images).any()
    exact(MaskedSinks(inside).attribute(images), inside.attribute(images))


def test_the_planted_neuron_is_found(planted, images):
    found = find_register_neurons(planted, images, top=5)
    assert found[0] == NEURON
    assert len(found) == 5
    with torch.no_grad():
        scores = []  # only the first image has an outlier
        for index, (block, parts) in enumerate(zip(planted.blocks, plain_parts(planted, images[:1]), strict=True)):
            hidden = F.gelu(block.mlp.fc1(block.norm2(parts[2])))[0, TOKEN]
            scores += [(-abs(float(each)), index, neuron) for neuron, each in enumerate(hidden)]
    assert found == [(index, neuron) for _, index, neuron in sorted(scores)[:5]]
    assert find_register_neurons(planted, images, top=5, internal_batch_size=1) == found
    assert all(block == 0 for block, _ in find_register_neurons(planted, images, last_block=0))
    with pytest.raises(ValueError, match=r"must hold a token longer than 1e\+09 at block -1, got none"):
        find_register_neurons(planted, images, threshold=1e9)
    with pytest.raises(ValueError, match=r"last_block must be in \[-3, 2\], got 3"):
        find_register_neurons(planted, images, last_block=3)
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        find_register_neurons(planted, images, top=0)


@pytest.mark.parametrize("patches", ["zero", "mean"])
def test_the_largest_magnitude_keeps_its_sign(patches):
    activations, chosen = random_gradient(2, 8, 6), torch.tensor([True, False, True, True, False, False])
    expected = torch.stack([moved_in_loops(each, [0, 2, 3], 2, patches) for each in activations])
    assert (expected[:, 0, [0, 2, 3]] < 0).any()
    exact(moved_activations(activations, chosen, 2, 1, patches), expected)


def test_a_neuron_that_fires_negatively_is_found(planted, images):
    planted.blocks[NEURON[0]].mlp.act = torch.nn.Identity().eval()  # far below zero on all tokens but one
    assert find_register_neurons(planted, images, top=1, factor=0.01) == [NEURON]


TAKE_BLOCKS_APART = {
    METHODS[name] for name in ("caap", "gem", "text-span", "transformer-attribution", "partial-lrp", "lrp")
}
"""Methods that run parts of the model by themselves, which know nothing of the registers."""


@pytest.mark.parametrize("method_class", METHODS.values())
def test_every_method(planted, images, method_class):
    if method_class in TAKE_BLOCKS_APART:
        with pytest.raises(TypeError, match=f"must take a model as a whole, got {re.escape(method_class.name)}"):
            TestTimeRegisters(method_class(planted), NEURONS)
        return
    wrapped = TestTimeRegisters(method_class(planted), NEURONS)
    together = wrapped.attribute_targets(images, [1, 0])
    assert together.shape == (3, 2, 1, 4, 6)
    exact(together[1:2, 0], wrapped.attribute(images[1:2], target=1, resolution="patch"))
    assert (together - method_class(planted).attribute_targets(images, [1, 0])).abs().max() > 1e-6


NO_PLACE = ("timm_eva02", "timm_dinov3", "timm_rope", "timm_pe", "timm_beit", "timm_naflexvit", "hf_beit")
NO_PLACE += ("open_clip_eva02", "open_clip_pe")
READS_PREFIX = ("timm_reg_map", "open_clip_coca")


@pytest.mark.parametrize("name", tiny_models())
def test_every_family_is_explained_or_refused(name):
    if name == "timm_vit_max":
        return  # has no pooled token to start at
    where, images = case(name), case(name).images
    method = AttentionRollout(where.model)
    if name.startswith(NO_PLACE):
        with pytest.raises(TypeError, match="is not known to take extra tokens"):
            TestTimeRegisters(method, NEURONS)
        return
    if name in READS_PREFIX:
        with pytest.raises(TypeError, match=r"the attention pooler of .* reads prefix tokens"):
            TestTimeRegisters(method, NEURONS)
        return
    logits = method.forward_func(images)
    wrapped = TestTimeRegisters(method, NEURONS, registers=2)
    with torch.no_grad():
        assert (wrapped.forward_func(images) - logits).abs().max() > 1e-6
        exact(method.forward_func(images), logits)
    map_ = wrapped.attribute(images, resolution="patch")
    assert map_.shape == (3, 1, *where.grid)
    assert (map_ - method.attribute(images, resolution="patch")).abs().max() > 1e-6
    chefer = TestTimeRegisters(CheferCAM(where.model), NEURONS).attribute(images, target=[0, 1, 0], resolution="patch")
    assert chefer.flatten(1).std(1).min() > 0


def test_another_thread_sees_a_model_without_registers(planted, images):
    wrapped = TestTimeRegisters(CheferCAM(planted), NEURONS)
    plain, expected = planted(images).detach(), wrapped.attribute(images, target=1)
    found: list[Tensor] = []
    stop = threading.Event()

    def predict() -> None:
        while not stop.is_set():
            found.append(planted(images).detach())

    thread = threading.Thread(target=predict)
    thread.start()
    for _ in range(5):
        exact(wrapped.attribute(images, target=1), expected)
    stop.set()
    thread.join()
    for each in found:
        exact(each, plain)


def test_nothing_is_left_on_the_model_even_after_an_error(planted, images):
    def hooks() -> list[int]:
        return [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in planted.modules()]

    before, state = hooks(), copy.deepcopy(planted.state_dict())
    wrapped = TestTimeRegisters(CheferCAM(planted), NEURONS)

    def fail(*_: object) -> None:
        raise OverflowError("planted")

    handle = planted.blocks[1].register_forward_hook(fail)
    with pytest.raises(OverflowError, match="planted"):
        wrapped.attribute(images, target=1)
    handle.remove()
    wrapped.attribute(images, target=1)
    assert hooks() == before
    for name, value in planted.state_dict().items():
        assert torch.equal(value, state[name])


def test_balanced_gradients_inside_and_outside(planted, images):
    inside = TestTimeRegisters(LibraGrad(CheferCAM(planted)), NEURONS).attribute(images, target=1)
    outside = LibraGrad(TestTimeRegisters(CheferCAM(planted), NEURONS)).attribute(images, target=1)
    exact(inside, outside)
    assert (inside - TestTimeRegisters(CheferCAM(planted), NEURONS).attribute(images, target=1)).abs().max() > 1e-6


def test_prompts_changed_later_are_explained():
    model, size = tiny_models()["open_clip_vit"]()
    classifier = PromptClassifier(model, embeddings=random_gradient(2, 24))
    wrapped = TestTimeRegisters(CheferCAM(classifier), [(0, 1)])
    classifier.set_embeddings(random_gradient(3, 24, seed=1), ["a cat", "a dog", "a bird"])
    images = random_images(2, size)
    exact(wrapped.attribute(images, target="a bird"), wrapped.attribute(images, target=2))
    with pytest.raises(TypeError, match="must bring no other view of the model, got Background Suppression"):
        TestTimeRegisters(BackgroundSuppression(CheferCAM(classifier), embedding=random_gradient(24)), [(0, 1)])


@pytest.mark.parametrize(
    ("neurons", "options", "message"),
    [
        ([], {}, r"neurons must hold at least one \(block, neuron\), got none"),
        ([(3, 0)], {}, r"neurons must be of blocks in \[0, 2\], got \(3, 0\)"),
        ([(1, 96)], {}, r"neurons of block 1 must be in \[0, 95\], got 96"),
        ([(1, 0)], {"registers": 0}, "registers must be at least 1, got 0"),
        ([(1, 0)], {"patches": "none"}, "patches must be 'zero' or 'mean', got 'none'"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, neurons, options, message):
    with pytest.raises(ValueError, match=message):
        TestTimeRegisters(RawAttention(vit), neurons, **options)
