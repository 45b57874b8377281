"""What methods say that they need of a model, compared with what they refuse."""

from __future__ import annotations

from functools import partial

import cases
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import METHODS, Adapter, BackgroundSuppression, BlankMapError, LeGrad, LibraGrad, MaskedSinks
from captum_vit.adapters import adapt
from captum_vit.attr import Need, ViTAttribution

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
QUICK = {"transition-attention-maps": {"steps": 2}, "vit-cx": {"distance": 0.3}, "bi-attn": {"steps": 2}}


def small(**options) -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
        model = VisionTransformer(**(small | options))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval().double()


class Between(nn.Sequential):
    """Blocks behind each of which something happens."""

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self:
            tokens = block(tokens) + torch.arange(tokens.shape[-1]) / 8
        return tokens


class Cosine(nn.Module):
    """An activation without a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cos(x)


def eager() -> nn.Module:
    model = small()
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def between() -> nn.Module:
    model = small()
    model.blocks = Between(*model.blocks).eval()
    return model


def without(name: str) -> Adapter:
    """An adapter that looks for a norm under a name that no block has."""
    adapter = adapt(small())
    setattr(adapter, name, "missing")
    return adapter


def unknown_branch() -> Adapter:
    adapter = adapt(small())
    adapter.attention_branch = partial(Adapter.attention_branch, adapter)
    return adapter


LACKING = {
    "nothing": (small, set()),
    "fused attention": (eager, {Need.FUSED_ATTENTION}),
    "shares": (partial(small, global_pool="max"), {Need.SHARES, Need.CLASS_POOLING}),
    "a class token": (partial(small, global_pool="avg"), {Need.CLASS_POOLING}),
    "a LayerNorm": (partial(small, norm_layer=nn.RMSNorm), {Need.CLASS_POOLING}),
    "the first norm": (partial(without, "first_norm"), {Need.FIRST_NORM, Need.BOTH_NORMS}),
    "the second norm": (partial(without, "second_norm"), {Need.BOTH_NORMS}),
    "a branch": (unknown_branch, {Need.PRE_NORM}),
    "a chain": (between, {Need.CHAIN}),
    "rules": (partial(small, act_layer=Cosine), {Need.RULES}),
    "outputs": (partial(small, num_classes=1), {Need.OUTPUTS}),
}
"""A model, and what it lacks."""


def refusal(name: str, model: nn.Module) -> Exception | None:
    try:
        METHODS[name](model, **QUICK.get(name, {})).attribute(IMAGES, target=0)
    except BlankMapError:
        return None  # explained: relevance that is negative everywhere, for example
    except (TypeError, ValueError, RuntimeError) as error:
        return error
    return None


@pytest.mark.parametrize("lacking", LACKING)
def test_a_model_is_refused_by_the_methods_that_need_what_it_lacks(lacking):
    build, lacks = LACKING[lacking]
    model = build()
    refused = {name: refusal(name, model) for name in METHODS}
    expected = {name for name, method in METHODS.items() if lacks & set(method.model_needs())}
    assert {name for name, error in refused.items() if error is not None} == expected, refused
    if lacks:
        assert expected


def test_every_need_is_tried_and_has_a_name():
    tried = set().union(*(lacks for _, lacks in LACKING.values()))
    stated = set().union(*(method.model_needs() for method in METHODS.values()))
    assert stated == tried == set(Need) - {Need.PROMPTS}
    assert len({each.value for each in Need}) == len(Need)


def test_the_tested_families_lack_what_methods_refuse_them_for():
    one_class_token = cases.ONLY["text-span"]
    for family in cases.ALL_FAMILIES:
        lacks = set() if family in one_class_token else {Need.CLASS_POOLING}
        for name, method in METHODS.items():
            assert cases.explains(name, family) == (not lacks & set(method.model_needs()))


def test_wrappers_need_more():
    with pytest.raises(TypeError, match="method must explain a PromptClassifier"):
        BackgroundSuppression(LeGrad(small()))
    assert BackgroundSuppression.needs == (Need.PROMPTS,)
    assert MaskedSinks.needs == ()
    MaskedSinks(LeGrad(small()), factor=100.0).attribute(IMAGES, target=0)
    assert Need.RULES in LibraGrad.model_needs()
    with pytest.raises(RuntimeError, match="cos"):
        LibraGrad(LeGrad(small(act_layer=Cosine))).attribute(IMAGES, target=0)


def test_facts_are_short():
    for method in METHODS.values():
        assert 0 < len(method.memory) < 60
        assert not method.memory.endswith(".")


def test_a_method_of_ones_own_states_what_it_needs():
    class Own(ViTAttribution):
        needs = (Need.CLASS_POOLING,)
        has_own_rules = True

        def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
            raise NotImplementedError

    assert Own.model_needs() == (Need.CLASS_POOLING, Need.RULES)
