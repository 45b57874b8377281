import copy
import threading

import captum.attr
import cases
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GradientShap, InputXGradient, NoiseTunnel, Occlusion, Saliency
from oracle import exact, gradients
from rule_models import without_constants
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_vit import (
    GMAR,
    LRP,
    AttentionCAM,
    AttentionRollout,
    AttnLRP,
    BackgroundSuppression,
    CheferCAM,
    LeGrad,
    LibraGrad,
    MaskedSinks,
    PartialLRP,
    RawAttention,
    TransformerAttribution,
    libragrad,
)
from captum_vit.adapters import adapt
from captum_vit.attr import attention_cam, chefer_cam, gmar, legrad


def balanced_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    deviation = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def balanced_gelu(x: Tensor) -> Tensor:
    gate = (1 + torch.erf(x / 2**0.5)) / 2
    return x * gate.detach()


def balanced_pass(model: VisionTransformer, images: Tensor, *, block_scores: bool = False):
    """LibraGrad in plain equations: attention maps are leaves, deviations and gates are detached.

    Returns logits, attention maps and LeGrad's logits of each block; with ``block_scores`` each block starts at
    detached tokens.
    """
    patches = F.conv2d(images, model.patch_embed.proj.weight, model.patch_embed.proj.bias, model.patch_embed.patch_size)
    z = patches.flatten(2).transpose(1, 2)
    z = torch.cat([model.cls_token.expand(len(images), -1, -1), z], 1) + model.pos_embed
    attentions, scores = [], []
    for block in model.blocks:
        z = z.detach() if block_scores else z
        n = balanced_norm(z, block.norm1)
        q, k, v = (
            part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in block.attn.qkv(n).chunk(3, -1)
        )
        a = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1).detach().requires_grad_()
        attentions.append(a)
        z = z + block.attn.proj((a @ v).transpose(1, 2).flatten(2))
        z = z + block.mlp.fc2(balanced_gelu(block.mlp.fc1(balanced_norm(z, block.norm2))))
        scores.append(model.head(balanced_norm(z.mean(1), model.norm)))
    return model.head(balanced_norm(z, model.norm)[:, 0]), attentions, scores


FORMULAS = {"chefer-cam": (CheferCAM, chefer_cam), "gmar": (GMAR, gmar)}


@pytest.mark.parametrize("name", FORMULAS)
def test_rollout_methods_take_the_balanced_gradient_of_each_attention_map(vit, images, target, name):
    method, formula = FORMULAS[name]
    logits, attentions, _ = balanced_pass(vit, images)
    grads = gradients(logits.gather(1, target[:, None]).sum(), attentions)
    assert all(float(each.abs().max()) > 0 for each in grads)
    expected = formula([each.detach() for each in attentions], grads)[:, 1:].reshape(3, 1, 4, 6)
    actual = LibraGrad(method(vit)).attribute(images, target=target, resolution="patch")
    exact(actual, expected)
    plain = method(vit).attribute(images, target=target, resolution="patch")
    assert (actual - plain).abs().max() > 0.01 * plain.abs().max()


def test_attention_cam_takes_the_balanced_gradient(vit, images, target):
    logits, attentions, _ = balanced_pass(vit, images)
    gradient = gradients(logits.gather(1, target[:, None]).sum(), attentions)[-1]
    expected = attention_cam(attentions[-1].detach(), gradient)[:, 1:].reshape(3, 1, 4, 6)
    exact(LibraGrad(AttentionCAM(vit)).attribute(images, target=target, resolution="patch"), expected)


def test_legrad_takes_the_balanced_gradient_of_each_blocks_own_score(vit, images, target):
    _, attentions, scores = balanced_pass(vit, images, block_scores=True)
    picked = sum(each.gather(1, target[:, None]).sum() for each in scores)
    expected = legrad(gradients(picked, attentions))[:, 1:].reshape(3, 1, 4, 6)
    exact(LibraGrad(LeGrad(vit)).attribute(images, target=target, resolution="patch"), expected)


@pytest.mark.parametrize("method", [LeGrad, CheferCAM, GMAR, AttentionCAM])
def test_the_wrapper_is_the_block(vit, images, method):
    inner = method(vit)
    with libragrad(inner):
        expected = inner.attribute(images, target=[1, 2, 3])
    exact(LibraGrad(inner).attribute(images, target=[1, 2, 3]), expected)
    exact(LibraGrad(inner).attribute_targets(images, [1, 3])[:, 0], inner_targets(inner, images)[:, 0])


def inner_targets(method, images: Tensor) -> Tensor:
    with libragrad(method):
        return method.attribute_targets(images, [1, 3])


def wanting(images: Tensor) -> Tensor:
    """The images as Captum's gradient methods want them."""
    return images.clone().requires_grad_()


@pytest.mark.parametrize("name", [*cases.CONTRACT_FAMILIES, "timm_eva02", "hf_beit"])  # all: in test_attnlrp.py
def test_input_times_gradient_is_the_logit(name):
    """FullGrad-completeness, on models without biases, positions and tokens of their own."""
    case = cases.case(name)
    adapter = adapt(without_constants(case.model))
    method = InputXGradient(adapter)
    with libragrad(method):
        products = method.attribute(wanting(case.images), target=1)
    with torch.no_grad():
        logits = adapter(case.images)[:, 1]
    torch.testing.assert_close(products.sum((1, 2, 3)), logits, rtol=1e-8, atol=1e-9)


def test_the_plain_gradient_is_not_complete(vit, images):
    model = without_constants(vit)
    sums = InputXGradient(adapt(model)).attribute(wanting(images), target=1).sum((1, 2, 3))
    assert ((sums - model(images)[:, 1]).abs() > 0.1 * sums.abs()).all()


def test_input_times_gradient_is_cp_lrp(vit, images, target):
    method = InputXGradient(adapt(vit))
    with libragrad(method):
        products = method.attribute(wanting(images), target=target)
    exact(products, AttnLRP(vit, variant="cp-lrp").attribute(images, target=target))


@pytest.mark.parametrize("name", cases.CONTRACT_FAMILIES)
@pytest.mark.parametrize("method", [LeGrad, CheferCAM, GMAR, AttentionCAM])
def test_every_kind_of_model(name, method):
    case = cases.case(name)
    inner = method(case.model)
    maps = LibraGrad(inner).attribute(case.images, target=[0, 1, 0], resolution="patch")
    assert maps.shape == (3, 1, *case.grid)
    exact(LibraGrad(inner).attribute(case.images[1:2], target=1, resolution="patch"), maps[1:2])
    plain = inner.attribute(case.images, target=[0, 1, 0], resolution="patch")
    assert (maps - plain).abs().max() > 1e-3 * plain.abs().max()


def test_background_suppression_inside_and_outside():
    case = cases.case("open_clip_vit_quickgelu")
    empty = torch.ones(24, dtype=torch.float64)
    inside = LibraGrad(BackgroundSuppression(CheferCAM(case.model), embedding=empty))
    outside = BackgroundSuppression(LibraGrad(CheferCAM(case.model)), embedding=empty)
    exact(
        inside.attribute(case.images, target=1, resolution="patch"),
        outside.attribute(case.images, target=1, resolution="patch"),
    )


def test_noise_tunnel_around_and_within(vit, images):
    around = NoiseTunnel(LibraGrad(CheferCAM(vit))).attribute(images, nt_samples=2, stdevs=0.0, target=1)
    exact(around, LibraGrad(CheferCAM(vit)).attribute(images, target=1))
    tunnel = NoiseTunnel(CheferCAM(vit))
    with libragrad(tunnel):
        exact(tunnel.attribute(images, nt_samples=2, stdevs=0.0, target=1), around)


def test_another_thread_sees_nothing(vit, images):
    method = CheferCAM(vit)
    plain = method.attribute(images, target=1)
    results: list[Tensor] = []
    with libragrad(method):
        balanced = method.attribute(images, target=1)
        other = threading.Thread(target=lambda: results.append(method.attribute(images, target=1)))
        other.start()
        other.join()
    exact(results[0], plain)
    assert (balanced - plain).abs().max() > 1e-3
    exact(method.attribute(images, target=1), plain)


def test_two_threads_balance_at_once(vit, images):
    method = LibraGrad(CheferCAM(vit))
    alone = method.attribute(images, target=1)
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(method.attribute(images, target=1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exact(results[0], alone)
    exact(results[1], alone)


def test_nothing_is_left_after_an_error(vit, images):
    method = CheferCAM(vit)
    plain = method.attribute(images, target=1)
    broken = copy.copy(method)
    with pytest.raises(ValueError, match=r"target must be in \[0, 4\], got 9"), libragrad(broken):
        broken.attribute(images, target=9)
    exact(method.attribute(images, target=1), plain)
    LibraGrad(method).attribute(images, target=1)


def test_methods_without_gradients_are_refused(vit):
    for method in (RawAttention(vit), AttentionRollout(vit)):
        with pytest.raises(ValueError, match=f"method must take gradients .* got {method.get_name()}"):
            LibraGrad(method)
    with pytest.raises(ValueError, match=r"method must take gradients .* got Occlusion"), libragrad(Occlusion(vit)):
        pass
    with (
        libragrad(Saliency(vit)),
        pytest.raises(RuntimeError, match="rules of LibraGrad can't apply inside those of L"),
    ):
        LibraGrad(LeGrad(vit)).attribute(torch.zeros(1, 3, 32, 48, dtype=torch.float64), target=1)
    with libragrad(GradientShap(vit)):
        pass


def test_methods_with_rules_of_their_own_are_refused(vit):
    for method in (AttnLRP(vit), LibraGrad(LeGrad(vit))):
        with pytest.raises(ValueError, match=f"no backward rules of its own, got {method.get_name()}"):
            LibraGrad(method)


@pytest.mark.parametrize("method", [AttnLRP, LRP, PartialLRP, TransformerAttribution])
def test_methods_with_rules_of_their_own_are_refused_in_the_block(vit, images, method):
    own = method(vit)
    expected = own.attribute(images, target=1)
    with libragrad(CheferCAM(vit)):
        with pytest.raises(RuntimeError, match=r"can't apply inside those of LibraGrad: .* Call the method outside"):
            own.attribute(images, target=1)
        LeGrad(vit).attribute(images, target=1)
    exact(own.attribute(images, target=1), expected)
    for wrapped in (LibraGrad, lambda inner: LibraGrad(MaskedSinks(inner))):
        with pytest.raises(ValueError, match=f"no backward rules of its own, got {own.get_name()}"):
            wrapped(own)


@pytest.mark.parametrize("method", [captum.attr.LRP, captum.attr.DeepLift, captum.attr.GuidedBackprop])
def test_so_are_captum_s(vit, method):
    with pytest.raises(ValueError, match="no backward rules of its own, got "), libragrad(method(vit)):
        pass


def test_other_things_are_refused(vit):
    with pytest.raises(TypeError, match="method must be a ViTAttribution of captum_vit, got VisionTransformer"):
        LibraGrad(vit)
    with pytest.raises(TypeError, match="method must be an attribution method, got VisionTransformer"), libragrad(vit):
        pass
