import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from cases import case
from models import random_images, tiny_models
from oracle import exact, gradients, plain_parts, plain_pass, random_gradient
from plain_registers import moved_in_loops, plain_registers
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
from captum_vit.attr import chefer_cam, find_sinks, suppress_background

NEURONS = [NEURON, (0, 3), (1, 7), (2, 11)]


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


@pytest.mark.parametrize("method_class", METHODS.values())
def test_every_method(planted, images, method_class):
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
    with pytest.raises(TypeError, match="must bring no registers of its own, got Test-time Registers"):
        TestTimeRegisters(LibraGrad(wrapped), [(0, 1)])


def test_background_is_suppressed_inside_and_outside():
    model, size = tiny_models()["open_clip_vit"]()
    classifier, empty = PromptClassifier(model, embeddings=random_gradient(2, 24)), random_gradient(24, seed=3)
    inside = TestTimeRegisters(BackgroundSuppression(CheferCAM(classifier), embedding=empty), [(0, 1)])
    outside = BackgroundSuppression(TestTimeRegisters(CheferCAM(classifier), [(0, 1)]), embedding=empty)
    classifier.set_embeddings(random_gradient(3, 24, seed=1), ["a cat", "a dog", "a bird"])
    images = random_images(2, size)
    extended = PromptClassifier(model, embeddings=torch.cat([random_gradient(3, 24, seed=1), empty[None]]))
    maps = TestTimeRegisters(CheferCAM(extended), [(0, 1)]).attribute_targets(images, [2, 3]).flatten(2)
    expected = suppress_background(maps[:, :1], maps[:, 1]).unflatten(2, (1, size[0] // 16, -1))
    exact(inside.attribute_targets(images, ["a bird"]), expected)
    exact(outside.attribute_targets(images, ["a bird"]), expected)
    assert (expected == 0).any()


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
