"""Large images: hidden layers are computed again, with the same maps and less memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import random_images, tiny_models
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from captum_vit import GMAR, AttnLRP, CheferCAM, LeGrad, LibraGrad, adapt
from captum_vit.adapters import find_adapter, shared_passes, trace, watching
from captum_vit.adapters.hidden import HiddenLayers

DEPTH = 3


@pytest.fixture
def few_tokens_are_many(monkeypatch):
    monkeypatch.setattr(watching, "MANY_TOKENS", 0)


def gradients(model: torch.nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Of the sum of the first logit over all images, at the output of each block's attention."""
    traced = trace(find_adapter(model), images, gradients=True)
    return torch.autograd.grad(traced.logits[:, 0].sum(), [record.output for record in traced.blocks])


def linears(model: torch.nn.Module, images: Tensor) -> int:
    """Products of linear layers in the backward pass of one image's largest logit, forward again included."""
    traced = trace(find_adapter(model), images, gradients=True)
    with torch.profiler.profile() as profiler:
        torch.autograd.grad(traced.logits.amax(), traced.blocks[0].output)
    return sum(event.count for event in profiler.key_averages() if event.key == "aten::linear")


@pytest.mark.parametrize("name", list(tiny_models()))
def test_gradients_are_the_same_to_the_last_bit(name, monkeypatch):
    model, size = tiny_models()[name]()
    images = random_images(2, size)
    kept = gradients(model, images)
    monkeypatch.setattr(watching, "MANY_TOKENS", 0)
    assert all(map(torch.equal, gradients(model, images), kept))


@pytest.mark.parametrize("method", [AttnLRP, lambda model: LibraGrad(CheferCAM(model))], ids=["AttnLRP", "LibraGrad"])
def test_rules_see_what_they_saw(method, monkeypatch):
    model, size = tiny_models()["timm_vit"]()
    images = random_images(1, size)
    kept = method(model).attribute(images, 1)
    monkeypatch.setattr(watching, "MANY_TOKENS", 0)
    assert torch.equal(method(model).attribute(images, 1), kept)


def test_images_of_many_tokens_run_the_hidden_layers_again(monkeypatch):
    model, size = tiny_models()["timm_vit"]()
    images = random_images(1, size)
    gh, gw = find_adapter(model).grid(*size)
    tokens = 1 + gh * gw
    monkeypatch.setattr(watching, "MANY_TOKENS", tokens)
    assert linears(model, images) == 0
    monkeypatch.setattr(watching, "MANY_TOKENS", tokens - 1)
    assert linears(model, images) == DEPTH


@pytest.mark.usefixtures("few_tokens_are_many")
def test_no_hidden_layer_is_kept():
    model, size = tiny_models()["timm_vit"]()
    assert isinstance(model, VisionTransformer)
    held: list[StorageWeakRef] = []
    for block in model.blocks:
        block.mlp.fc1.register_forward_hook(lambda *call: held.append(StorageWeakRef(call[2].untyped_storage())))
    traced = trace(find_adapter(model), random_images(1, size), gradients=True)
    assert traced.logits.requires_grad
    assert [each.expired() for each in held] == [True] * DEPTH


@pytest.mark.usefixtures("few_tokens_are_many")
def test_autocast_is_repeated():
    model, size = tiny_models()["timm_vit"]()
    model.float()
    images = random_images(1, size).float()
    with torch.autocast("cpu", torch.bfloat16):
        forgotten = CheferCAM(model).attribute(images, 1)
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr(watching, "MANY_TOKENS", 10**6)
        assert torch.equal(CheferCAM(model).attribute(images, 1), forgotten)


def gradient(change: str | None, *, forget: bool) -> Tensor:
    """Of gelu(x Wᵀ) at x, with a change in place between, before or after."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(8, 2, generator=draw, dtype=torch.float64)
    hidden = HiddenLayers()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t) if not forget else hidden.forgotten():
        inputs = x * 1
        output = hidden.linear(inputs, weight)
        if change == "output":
            output.mul_(2)
        result = F.gelu(output)
        if change == "inputs":
            with torch.no_grad():
                inputs.add_(1)
    return torch.autograd.grad(result.sum(), x)[0]


@pytest.mark.parametrize("change", [None, "output"])
def test_outputs_that_changed_in_place_are_kept(change):
    assert torch.equal(gradient(change, forget=True), gradient(change, forget=False))


def test_inputs_that_changed_in_place_are_refused():
    with pytest.raises(RuntimeError, match=r"a tensor \(5, 2\) that the gradient needs was modified .* more than 2048"):
        gradient("inputs", forget=True)


@pytest.mark.usefixtures("few_tokens_are_many")
@pytest.mark.parametrize("name", ["timm_vit", "open_clip_vit_quickgelu"])
def test_a_graph_that_is_dropped_is_freed(name):
    """A node that is given its own output to hold would hold itself for ever."""
    model, size = tiny_models()[name]()
    traced = trace(find_adapter(model), random_images(1, size), gradients=True)
    torch.autograd.grad(traced.logits[0, 0], traced.blocks[0].output, retain_graph=True)
    outputs = [StorageWeakRef(record.output.untyped_storage()) for record in traced.blocks]
    assert not any(each.expired() for each in outputs)
    del traced
    assert all(each.expired() for each in outputs)


@pytest.mark.parametrize("many", [0, 10**6])
def test_weights_that_change_before_the_backward_pass_are_refused(many, monkeypatch):
    monkeypatch.setattr(watching, "MANY_TOKENS", many)
    model, size = tiny_models()["timm_vit"]()
    adapter, images = adapt(model), random_images(1, size)
    with shared_passes():
        CheferCAM(adapter).attribute(images, 1)
        with torch.no_grad():
            model.blocks[1].mlp.fc1.weight.mul_(1.5)
        with pytest.raises(RuntimeError, match=r"modified by an in-?place operation"):
            GMAR(adapter).attribute(images, 1)


class Overwriting(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        result = x + gate
        gate.mul_(2)
        return result


@pytest.mark.parametrize("many", [0, 10**6])
def test_a_saved_result_that_is_overwritten_is_refused(many, monkeypatch):
    monkeypatch.setattr(watching, "MANY_TOKENS", many)
    model, size = tiny_models()["timm_vit"]()
    model.blocks[1].mlp.act = Overwriting().eval()
    with pytest.raises(RuntimeError, match=r"modified by an in-?place operation"):
        CheferCAM(model).attribute(random_images(1, size), 1)


def test_a_layer_whose_output_was_exchanged_is_not_run_again(monkeypatch):
    model, size = tiny_models()["timm_vit"]()
    images = random_images(1, size)
    plain = CheferCAM(model).attribute(images, 1)

    def exchange(layer, inputs, output):
        output.data = output.data * 2

    model.blocks[1].mlp.fc1.register_forward_hook(exchange)
    kept = CheferCAM(model).attribute(images, 1)
    assert not torch.allclose(kept, plain)
    monkeypatch.setattr(watching, "MANY_TOKENS", 0)
    assert torch.equal(CheferCAM(model).attribute(images, 1), kept)


@pytest.mark.parametrize("targets", [[1], [1, 2]])
def test_activations_that_are_called_by_keyword(targets):
    model, size = tiny_models()["timm_vit"]()
    images = random_images(1, size)
    expected = LeGrad(model).attribute_targets(images, targets)

    class Named(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(input=x)

    for block in model.blocks:
        block.mlp.act = Named().eval()
    torch.testing.assert_close(LeGrad(model).attribute_targets(images, targets), expected, rtol=1e-10, atol=1e-12)
