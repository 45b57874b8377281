"""Large images: hidden layers are computed again, with the same maps and less memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import random_images, tiny_models
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from captum_vit import AttnLRP, CheferCAM, LibraGrad
from captum_vit.adapters import find_adapter, trace, watching
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
    with pytest.raises(RuntimeError, match="changes the inputs of a linear layer in place"):
        gradient("inputs", forget=True)
