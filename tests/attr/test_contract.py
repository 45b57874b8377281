"""Every promise of a method, for every method, on several model families."""

from __future__ import annotations

import copy
import inspect
import re
import threading
from collections.abc import Callable
from typing import Any

import cases
import matplotlib.figure
import pytest
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel, visualization
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from cases import built
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import captum_vit
import captum_vit.attr
from captum_vit import LRP, METHODS, BlankMapError, PartialLRP, TransformerAttribution, ViTAttribution, adapt
from captum_vit.attr.wrapper import MethodWrapper

PAIRS = [(name, family) for family in cases.CONTRACT_FAMILIES for name in METHODS if cases.explains(name, family)]

NEEDS_NO_SHARES = {
    captum_vit.AttnLRP,
    captum_vit.CAAP,
    captum_vit.GEM,
    captum_vit.GradCAM,
    captum_vit.GradCAMPlusPlus,
    captum_vit.HiResCAM,
    captum_vit.LRP,
    captum_vit.LayerCAM,
    captum_vit.LeGrad,
    captum_vit.ReciproCAM,
    captum_vit.ViTCX,
}
"""Methods that do not start at the pooled vector: they take any pooling, also a maximum over tokens."""

WRAPPERS = {
    captum_vit.BackgroundSuppression,
    captum_vit.LibraGrad,
    captum_vit.MaskedSinks,
    captum_vit.TestTimeRegisters,
}
"""Methods around a method, with tests of their own."""


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request) -> tuple[str, str]:
    """The name of a method and that of a family which it explains."""
    return request.param


@pytest.fixture
def case(pair) -> cases.Case:
    """A tiny model in float64 with its images (3, C, H, W)."""
    return cases.case(pair[1])


@pytest.fixture
def method(pair, case) -> ViTAttribution:
    return built(METHODS[pair[0]], case.model)


def exact(actual: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-10)


def test_every_public_method_is_listed():
    classes = [each for each in vars(captum_vit.attr).values() if inspect.isclass(each)]
    public = {each for each in classes if issubclass(each, ViTAttribution)}
    public -= {ViTAttribution, MethodWrapper}
    assert public - WRAPPERS == set(METHODS.values())
    assert public <= {getattr(captum_vit, name) for name in captum_vit.__all__ if name != "METHODS"}


def test_facts_are_stated(method):
    assert isinstance(method.class_specific, bool)
    assert isinstance(method.signed, bool)
    assert re.match("[12] forward", method.passes)
    assert method.reference.startswith(("arXiv:", "doi:", "openreview:"))
    assert method.get_name() == type(method).get_name() == method.name
    assert method.has_convergence_delta() is False
    assert method.multiplies_by_inputs is method.pixel_level
    assert isinstance(method.forward_func, nn.Module)


def test_forward_func_gives_plain_logits(method, case):
    torch.testing.assert_close(method.forward_func(case.images), case.logits(case.images), rtol=0, atol=1e-10)


def test_shapes_dtype_and_graph(method, case):
    attribution = method.attribute(case.images, target=1)
    assert attribution.shape == case.images.shape
    assert attribution.dtype == torch.float64
    assert attribution.device == case.images.device
    assert not attribution.requires_grad
    gh, gw = case.grid
    assert method.attribute(case.images, target=1, resolution="patch").shape == (3, 1, gh, gw)
    assert method.attribute_targets(case.images, [1, 0]).shape == (3, 2, 1, gh, gw)


def test_the_sum_over_channels_is_the_map(method, case):
    attribution = method.attribute(case.images, target=1)
    patch = method.attribute(case.images, target=1, resolution="patch")
    if method.pixel_level:  # the other way round: the map is the sum over each patch's 16×16 pixels
        exact(F.avg_pool2d(attribution.sum(1, keepdim=True), 16, divisor_override=1), patch)
        return
    size = tuple(case.images.shape[-2:])
    exact(attribution.sum(1, keepdim=True), F.interpolate(patch, size, mode="bilinear", align_corners=False))
    exact(attribution[:, 0], attribution[:, 2])


def test_a_tuple_comes_back_as_a_tuple(method, case):
    result = method.attribute((case.images,), target=1)
    assert isinstance(result, tuple)
    assert len(result) == 1
    exact(result[0], method.attribute(case.images, target=1))
    with pytest.raises(ValueError, match="inputs must be one tensor of images, got a tuple of 2"):
        method.attribute((case.images, case.images), target=1)


def test_targets_in_all_of_captums_forms(method, case):
    each = [method.attribute(case.images[i : i + 1], target=t)[0] for i, t in enumerate((1, 0, 1))]
    expected = torch.stack(each)
    for target in ([1, 0, 1], torch.tensor([1, 0, 1]), (1, 0, 1), [torch.tensor(1), 0, 1]):
        exact(method.attribute(case.images, target=target), expected)
    same = method.attribute(case.images, target=1)
    for target in (torch.tensor(1), torch.tensor([1]), [1]):
        exact(method.attribute(case.images, target=target), same)


def test_several_targets_are_those_of_single_calls(method, case):
    together = method.attribute_targets(case.images, [1, 0])
    for column, target in enumerate((1, 0)):
        exact(together[:, column], method.attribute(case.images, target=target, resolution="patch"))
    per_image = torch.tensor([[1, 0], [0, 0], [0, 1]])
    mixed = method.attribute_targets(case.images, per_image)
    for image in range(3):
        exact(mixed[image : image + 1], method.attribute_targets(case.images[image : image + 1], per_image[image]))


def test_only_class_specific_methods_depend_on_the_target(method, case):
    one, other = method.attribute_targets(case.images, [1, 0]).unbind(1)
    assert torch.equal(one, other) != method.class_specific


def test_only_signed_methods_give_negative_relevance(method, case):
    if not method.signed:
        assert method.attribute_targets(case.images, [1, 0]).min() >= 0


def test_one_image_does_not_depend_on_another(method, case):
    together = method.attribute(case.images, target=[0, 1, 0])
    for image, target in enumerate((0, 1, 0)):
        exact(together[image : image + 1], method.attribute(case.images[image : image + 1], target=target))
    scaled = case.images * torch.tensor([1.0, 50.0, 1.0], dtype=torch.float64)[:, None, None, None]
    exact(method.attribute(scaled, target=[0, 1, 0])[0], together[0])


def test_internal_batches_change_nothing(method, case):
    whole = method.attribute(case.images, target=[0, 1, 0])
    for size in (1, 2, 3, 10):
        exact(method.attribute(case.images, target=[0, 1, 0], internal_batch_size=size), whole)
    with pytest.raises(ValueError, match="internal_batch_size must be at least 1, got 0"):
        method.attribute(case.images, target=0, internal_batch_size=0)


def test_gradient_modes_around_it_change_nothing(method, case):
    expected = method.attribute(case.images, target=1)
    with torch.no_grad():
        exact(method.attribute(case.images, target=1), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        inside = case.images.clone()
        result = method.attribute(inside, target=torch.tensor([1, 1, 1]))
    exact(result, expected)
    assert torch.is_grad_enabled()
    wanting = case.images.clone().requires_grad_()
    exact(method.attribute(wanting, target=1), expected)
    assert wanting.grad is None
    assert wanting.requires_grad


def relative_to_range(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / (expected.max() - expected.min()))


BFLOAT16_TOLERANCE = {
    # This model's own bfloat16 pass moves its attention that far; the next test shows that the method adds nothing.
    ("raw-attention", "open_clip_vit_quickgelu"): 4e-2,
    ("bi-attn", "hf_dinov2"): 5e-2,
    ("attention-cam", "open_clip_vit_quickgelu"): 8e-2,
    ("hires-cam", "open_clip_vit_quickgelu"): 8e-2,
    ("layer-cam", "open_clip_vit_quickgelu"): 8e-2,
    ("transition-attention-maps", "hf_dinov2"): 5e-2,
    ("transition-attention-maps", "open_clip_vit_quickgelu"): 5e-2,
    # Differences of logits that lie close together.
    ("recipro-cam", "timm_vit_reg_gap"): 8e-2,
    ("recipro-cam", "hf_dinov2"): 5e-2,
    ("recipro-cam", "open_clip_vit_quickgelu"): 2e-1,
    ("recipro-cam", "open_clip_siglip"): 8e-2,
    ("caap", "hf_dinov2"): 5e-2,
    ("caap", "open_clip_vit_quickgelu"): 5e-2,
    ("caap", "open_clip_siglip"): 1e-1,
    ("vit-cx", "open_clip_siglip"): 1e-1,
    # A map more or less in a cluster makes other masks: only finite is promised.
    ("vit-cx", "hf_dinov2"): float("inf"),
    ("vit-cx", "open_clip_vit_quickgelu"): float("inf"),
    # Its denominator 2 + S g comes near zero on tokens, whose sums S have both signs: only finite is promised.
    ("grad-cam-plus-plus", "hf_dinov2"): float("inf"),
    ("grad-cam-plus-plus", "open_clip_vit_quickgelu"): float("inf"),
    ("grad-cam-plus-plus", "open_clip_siglip"): float("inf"),
    # The gradients that weight relevance are those of a bfloat16 pass.
    ("transformer-attribution", "open_clip_vit_quickgelu"): 5e-2,
    ("transformer-attribution", "open_clip_siglip"): 5e-2,
    # It rounds its interpolated position embedding to bfloat16 once more, which relevance amplifies without bound.
    ("transformer-attribution", "hf_dinov2"): float("inf"),
    ("partial-lrp", "hf_dinov2"): float("inf"),
    ("lrp", "hf_dinov2"): float("inf"),
}

FLOAT32_TOLERANCE = {
    **{("grad-cam-plus-plus", family): 1e-4 for family in cases.CONTRACT_FAMILIES},  # as above
    ("transformer-attribution", "timm_vit_reg_gap"): 1e-4,  # the gradients are those of a float32 pass
    ("lrp", "open_clip_siglip"): 2e-3,  # its pooler computes the query, which no image enters, in float32
}

RELEVANCE = (LRP, PartialLRP, TransformerAttribution)
"""Their rules amplify the rounding of the weights a ten-thousandfold, and are computed in float64."""


def test_float32_and_bfloat16_stay_close_to_float64(pair, method, case):
    def expected_of(dtype: torch.dtype) -> Tensor:
        if not isinstance(method, RELEVANCE):
            return method.attribute(case.images, target=1, resolution="patch")
        rounded = type(method)(copy.deepcopy(case.model).to(dtype).double())
        return rounded.attribute(case.images.to(dtype).double(), target=1, resolution="patch")

    bfloat16 = BFLOAT16_TOLERANCE.get(pair, 2e-2)
    for dtype, tolerance in ((torch.float32, FLOAT32_TOLERANCE.get(pair, 1e-5)), (torch.bfloat16, bfloat16)):
        expected = expected_of(dtype)
        cast = built(type(method), copy.deepcopy(case.model).to(dtype))
        actual = cast.attribute(case.images.to(dtype), target=1, resolution="patch")
        assert actual.dtype == torch.float32  # relevance is never accumulated in half precision
        assert relative_to_range(actual, expected) < tolerance
    with torch.autocast("cpu", dtype=torch.bfloat16):
        single = built(type(method), copy.deepcopy(case.model).float())
        actual = single.attribute(case.images.float(), target=1, resolution="patch")
        assert torch.is_autocast_enabled("cpu")
    assert actual.dtype == torch.float32
    assert 0 < relative_to_range(actual, expected_of(torch.float32)) < bfloat16


def test_half_precision_models_are_explained_in_float32(monkeypatch, method, case):
    """On the records of one bfloat16 pass, float64 arithmetic gives the same map."""
    if isinstance(method, RELEVANCE):
        assert method.dtype == torch.float64  # always; the test above compares
        return
    half = built(type(method), copy.deepcopy(case.model).to(torch.bfloat16))
    in_single = half.attribute(case.images.to(torch.bfloat16), target=1, resolution="patch")
    monkeypatch.setattr("captum_vit.adapters.attention.relevance_dtype", lambda tensor: tensor.detach().double())
    in_double = half.attribute(case.images.to(torch.bfloat16), target=1, resolution="patch")
    assert in_double.dtype == torch.float64
    # ViT-CX multiplies the images with masks, which are rounded to bfloat16 before the model sees them.
    tolerance = 1e-1 if isinstance(method, captum_vit.ViTCX) else 1e-5
    assert relative_to_range(in_single, in_double) < tolerance


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a method could leave behind on a model, its classes, its parameters and the process."""
    facts: dict[str, Any] = {
        "rng": torch.get_rng_state().tolist(),
        "grad enabled": torch.is_grad_enabled(),
        "sdpa": id(F.scaled_dot_product_attention),
        "mha": id(F.multi_head_attention_forward),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
    }
    for name, module in model.named_modules():
        facts[name, "class"] = type(module)
        facts[name, "methods"] = {key: id(value) for key, value in vars(type(module)).items()}
        facts[name, "attributes"] = {
            key: len(value) if key.startswith("_") and isinstance(value, dict) else id(value)
            for key, value in vars(module).items()
        }
        facts[name, "training"] = module.training
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        facts[name, "value"] = (
            id(tensor),
            tensor._version,
            tensor.requires_grad,
            tensor.grad,
            float(tensor.detach().sum()),
        )
    return facts


def test_the_model_is_left_as_it_came(method, case):
    before = fingerprint(case.model)
    method.attribute(case.images, target=1)
    method.attribute_targets(case.images, [0, 1])
    assert fingerprint(case.model) == before


@pytest.mark.parametrize("where", ["first", "last"])
def test_also_after_an_exception(method, case, where):
    block = method.forward_func.blocks[0 if where == "first" else -1]
    before = fingerprint(case.model)

    def fail(*_: object) -> None:
        raise OverflowError("planted")

    handle = block.register_forward_hook(fail)
    with pytest.raises(OverflowError, match="planted"):
        method.attribute(case.images, target=1)
    handle.remove()
    assert fingerprint(case.model) == before
    method.attribute(case.images, target=1)


def test_frozen_and_trainable_models_give_the_same_map(method, case):
    frozen = copy.deepcopy(case.model).requires_grad_(False)
    exact(built(type(method), frozen).attribute(case.images, target=1), method.attribute(case.images, target=1))


def test_two_threads_explain_one_model_at_once(method, case):
    alone = [method.attribute(image[None], target=0) for image in case.images[:2]]
    results: dict[int, list[Tensor]] = {0: [], 1: []}
    start = threading.Barrier(2)

    def explain(index: int) -> None:
        start.wait()
        for _ in range(5):
            results[index].append(method.attribute(case.images[index : index + 1], target=0))

    threads = [threading.Thread(target=explain, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert len(results[index]) == 5
        for result in results[index]:
            exact(result, alone[index])


def test_noise_tunnel(method, case):
    torch.manual_seed(0)
    smooth = NoiseTunnel(method).attribute(
        case.images, nt_type="smoothgrad", nt_samples=4, stdevs=0.1, target=[0, 1, 0]
    )
    assert smooth.shape == case.images.shape
    still = NoiseTunnel(method).attribute(case.images, nt_samples=2, stdevs=0.0, target=[0, 1, 0])
    exact(still, method.attribute(case.images, target=[0, 1, 0]))
    assert not torch.equal(smooth, still)


def test_infidelity(method, case):
    attribution = method.attribute(case.images, target=[0, 1, 0])

    @infidelity_perturb_func_decorator(multiply_by_inputs=False)
    def first_patch_grey(images: Tensor) -> Tensor:
        changed = images.clone()
        changed[..., :8, :8] = 0.0
        return changed

    value = infidelity(
        method.forward_func, first_patch_grey, case.images, attribution, target=[0, 1, 0], n_perturb_samples=2
    )
    changed = case.images.clone()
    changed[..., :8, :8] = 0.0
    picked = torch.tensor([0, 1, 0])[:, None]
    drop = (case.logits(case.images) - case.logits(changed)).gather(1, picked).squeeze(1)
    expected = (((case.images - changed) * attribution).sum((1, 2, 3)) - drop) ** 2
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-10)


def test_sensitivity_max(method, case):
    still = sensitivity_max(method.attribute, case.images, perturb_radius=0.0, n_perturb_samples=2, target=[0, 1, 0])
    torch.testing.assert_close(still, torch.zeros(3, dtype=still.dtype), rtol=0, atol=1e-10)
    moved = sensitivity_max(method.attribute, case.images, perturb_radius=0.1, n_perturb_samples=2, target=[0, 1, 0])
    assert moved.shape == (3,)
    assert (moved > 0).all()


def test_visualize_image_attr(method, case):
    attribution = method.attribute(case.images, target=1)[0].permute(1, 2, 0).numpy()
    figure, _ = visualization.visualize_image_attr(
        attribution, case.images[0].permute(1, 2, 0).numpy(), sign="absolute_value", use_pyplot=False
    )
    assert isinstance(figure, matplotlib.figure.Figure)


BAD_INPUTS: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "no batch": (
        lambda x: x[0],
        ValueError,
        r"got shape \(3, \d+, \d+\)\. For one image add a batch dimension: image\[None\]",
    ),
    "empty batch": (lambda x: x[:0], ValueError, r"at least one image, got shape \(0, 3"),
    "integers": (lambda x: (x * 255).to(torch.uint8), TypeError, r"floating point, got torch\.uint8"),
    "one channel": (lambda x: x[:, :1], ValueError, "must have 3 channels, got 1"),
    "NaN": (
        lambda x: x.clone().index_fill_(0, torch.tensor([1]), float("nan")),
        ValueError,
        "NaN or infinity in image 1",
    ),
    "infinity": (
        lambda x: x.clone().index_fill_(0, torch.tensor([2]), float("inf")),
        ValueError,
        "infinity in image 2",
    ),
    "a list": (lambda x: [x], TypeError, "must be a tensor of images .* got list"),
    "odd size": (lambda x: F.pad(x, (0, 3)), ValueError, r"got \d+×\d+"),
}


def test_bad_images_are_refused(method, case):
    before = fingerprint(case.model)
    for spoil, error, message in BAD_INPUTS.values():
        with pytest.raises(error, match=message):
            method.attribute(spoil(case.images), target=1)
    assert fingerprint(case.model) == before


def test_bad_targets_are_refused(method, case):
    outputs = method.forward_func.num_outputs
    for target in (outputs, -1, [0, 0, outputs], torch.tensor([0, 99, 0])):
        with pytest.raises(ValueError, match=rf"target must be in \[0, {outputs - 1}\], got (-1|99|{outputs})\."):
            method.attribute(case.images, target=target)
    with pytest.raises(ValueError, match=r"one for each of 3 images, got \(2,\)"):
        method.attribute(case.images, target=[0, 1])
    with pytest.raises(TypeError, match=r"target must hold integers, got torch\.float32"):
        method.attribute(case.images, target=torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(TypeError, match=r"target must be an int or a prompt, got 1\.5"):
        method.attribute(case.images, target=[0, 1, 1.5])
    with pytest.raises(ValueError, match=r"T indices, or \(3, T\) for 3 images, got \(2, 2\)"):
        method.attribute_targets(case.images, torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"targets must be a list or a tensor, got 1; write \[1\]"):
        method.attribute_targets(case.images, 1)
    with pytest.raises(ValueError, match="a dog"):
        method.attribute(case.images, target="a dog")


def test_a_missing_target_is_refused_by_class_specific_methods(method, case):
    if method.class_specific:
        with pytest.raises(
            ValueError, match=rf"target must be given for a model with {method.forward_func.num_outputs}"
        ):
            method.attribute(case.images)
    else:
        exact(method.attribute(case.images), method.attribute(case.images, target=0))


def test_other_bad_arguments_are_refused(method, case):
    with pytest.raises(ValueError, match="resolution must be 'input' or 'patch', got 'pixel'"):
        method.attribute(case.images, target=1, resolution="pixel")
    with pytest.raises(ValueError, match="additional_forward_args must be None"):
        method.attribute(case.images, 1, (case.images,))


def test_training_mode_is_refused(method, case):
    training = built(type(method), copy.deepcopy(case.model).train())
    with pytest.raises(RuntimeError, match=r"training mode .*dropout.*Call model\.eval\(\) first"):
        training.attribute(case.images, target=1)


def test_a_blank_map_is_an_error_that_says_why(method, case):
    blind = built(type(method), case.blind(copy.deepcopy(case.model)))
    if method.class_specific:
        why = re.escape(method._why_blank())
        with pytest.raises(BlankMapError, match=f"zero everywhere for image 0, 1, 2: {why}") as caught:
            blind.attribute(case.images, target=1)
        assert caught.value.images == [0, 1, 2]
    else:
        exact(blind.attribute(case.images), method.attribute(case.images))


@pytest.mark.parametrize("name", cases.ALL_FAMILIES)
def test_every_family_gives_maps_of_its_grid_that_do_not_mix_images(name):
    case = cases.case(name)
    for method_name, method_class in METHODS.items():
        if name == "timm_vit_max" and method_class not in NEEDS_NO_SHARES:
            continue  # refused below: a maximum over tokens gives no token a share
        if not cases.explains(method_name, name):
            with pytest.raises(TypeError, match=rf"^{method_class.name} .* {re.escape(adapt(case.model).family)}"):
                method_class(case.model)
            continue
        if name == "hf_clip" and method_class is PartialLRP:
            with pytest.raises(BlankMapError, match="draws no positive relevance"):  # all of it is negative there
                method_class(case.model).attribute(case.images, target=[0, 1, 0])
            continue
        if name == "timm_siglip" and method_class is captum_vit.BidirectionalAttention:
            continue  # blank, as its own tests say: one head's gradient is negative everywhere
        method = method_class(case.model)
        together = method.attribute(case.images, target=[1, 0, 1], resolution="patch")
        assert together.shape == (3, 1, *case.grid)
        assert together.isfinite().all()
        assert together.flatten(1).std(1).min() > 0
        exact(method.attribute(case.images[1:2], target=0, resolution="patch"), together[1:2])


def test_a_pooling_without_shares_is_refused_where_shares_are_needed():
    case = cases.case("timm_vit_max")
    for name, method_class in METHODS.items():
        if method_class not in NEEDS_NO_SHARES and cases.explains(name, "timm_vit_max"):
            with pytest.raises(ValueError, match=r"global_pool='max' gives no token a fixed share"):
                method_class(case.model).attribute(case.images, target=0)


def test_pixels_beyond_the_last_patch_get_no_relevance():
    """As the 6 of 384 that SigLIP's patches of 14 leave: stretched over them, every map would lie beside its image."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=30, patch_size=7
    )
    method = captum_vit.RawAttention(ViTForImageClassification(config).eval())
    images = torch.zeros(1, 3, 30, 30)
    attribution, patch = method.attribute(images), method.attribute(images, resolution="patch")
    assert attribution.shape == images.shape
    inside = F.interpolate(patch, (28, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(attribution.sum(1, keepdim=True)[..., :28, :28], inside)
    assert attribution[..., 28:, :].abs().max() == attribution[..., 28:].abs().max() == 0
