"""LeGrad's short way through the end of each block, against plain differentiation of the whole block."""

import copy
from collections.abc import Callable
from functools import partial

import cases
import pytest
import torch
from oracle import exact
from plain_legrad import equations_3_to_8
from timm.layers import SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from captum_vit import LeGrad, LibraGrad
from captum_vit.adapters import adapt
from captum_vit.adapters.tail import BlockTail, LinearCall, LinearCut

WITH_TAIL = [name for name in cases.ALL_FAMILIES if adapt(cases.case(name).model).pooling != "attention"]
TARGETS = [1, 0, 2]


@pytest.fixture
def whole_block(monkeypatch) -> Callable[[], None]:
    """Switches the cut off: each block is differentiated as a whole."""
    return lambda: monkeypatch.setattr(LinearCut, "takes", lambda *_: False)


def work(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What it returns, and the floating-point operations of its matrix products."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, int(counter.get_total_flops())


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", WITH_TAIL)
def test_short_way_gives_the_same_numbers_for_less_work(name, whole_block):
    case = cases.case(name)
    method = LeGrad(case.model)
    short, short_work = work(lambda: method.attribute_targets(case.images, TARGETS))
    alone = torch.cat([method.attribute_targets(case.images, [target]) for target in TARGETS], 1)
    whole_block()
    whole, whole_work = work(lambda: method.attribute_targets(case.images, TARGETS))
    assert relative(short, whole) < 1e-10
    assert relative(alone, whole) < 1e-10
    layers = [method.forward_func.mlp_output(index) for index in range(3)]
    per_token = 2 * sum(layer.in_features * layer.out_features for layer in layers)
    tokens = method.forward_func.num_prefix_tokens + case.grid[0] * case.grid[1]
    assert whole_work - short_work >= len(TARGETS) * len(case.images) * (tokens - 1) * per_token


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", WITH_TAIL)
def test_short_way_stays_close_in_half_precision(name, half, monkeypatch):
    """To 2e-2 of the range: of models in half precision, and of float32 models under autocast."""
    case = cases.case(name)
    cast, single = copy.deepcopy(case.model).to(half), copy.deepcopy(case.model).float()

    def explained() -> list[Tensor]:
        maps = [LeGrad(cast).attribute_targets(case.images.to(half), TARGETS)]
        with torch.autocast("cpu", half):
            return [*maps, LeGrad(single).attribute_targets(case.images.float(), TARGETS)]

    short = explained()
    monkeypatch.setattr(LinearCut, "takes", lambda *_: False)
    for actual, expected in zip(short, explained(), strict=True):
        assert expected.dtype == torch.float32
        assert float((actual - expected).abs().max() / (expected.max() - expected.min())) < 2e-2


def test_work_of_a_target_is_that_of_the_algebra(vit, images):
    """Per token the MLP's first layer, the output projection and G Vᵀ; the MLP's second layer once an image."""
    batch, tokens, width, hidden, classes = 3, 25, 24, 96, 5
    per_block = tokens * (hidden * width + width**2 + tokens * width) + width * hidden
    head = 2 * width * classes  # there and back
    (_, several), (_, one) = (
        work(lambda chosen=chosen: LeGrad(vit).attribute_targets(images, chosen)) for chosen in (TARGETS, [1])
    )
    assert several - one == 2 * 2 * batch * 3 * (per_block + head)


class Added(nn.Linear):
    """A layer of a user's own, with a second path beside the first."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.sin())


def doubled(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return 2 * output


def doubled_in_place(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output.mul_(2)


def bent(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output.tanh()


def mixed_over_tokens(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output + output.roll(1, 1) * torch.arange(output.shape[1])[:, None]


def hooked(hook: Callable[..., Tensor], model: VisionTransformer) -> None:
    model.blocks[1].mlp.fc2.register_forward_hook(hook)


def with_pre_hook(model: VisionTransformer) -> None:
    model.blocks[0].mlp.fc2.register_forward_pre_hook(lambda _, args: (args[0].sin(),))


def with_own_layer(model: VisionTransformer) -> None:
    given = model.blocks[2].mlp.fc2
    model.blocks[2].mlp.fc2 = Added(96, 24).double().eval()
    model.blocks[2].mlp.fc2.load_state_dict(given.state_dict())


def with_module_backward_hook(model: VisionTransformer) -> None:
    model.blocks[1].mlp.fc2.register_full_backward_hook(lambda *_: None)
    model.blocks[1].mlp.fc1.register_full_backward_hook(lambda _, gradients, __: (gradients[0] * 2,))


CHANGES = {
    "factor": partial(hooked, doubled),
    "in place": partial(hooked, doubled_in_place),
    "bent": partial(hooked, bent),
    "mixed": partial(hooked, mixed_over_tokens),
    "before": with_pre_hook,
    "own layer": with_own_layer,
}


@pytest.mark.parametrize("change", CHANGES)
def test_hooks_and_layers_of_the_users_own_are_part_of_the_equations(vit, images, target, change):
    model = copy.deepcopy(vit)
    CHANGES[change](model)
    plain = equations_3_to_8(vit, images, target).reshape(3, 3, 1, 4, 6)
    expected = equations_3_to_8(model, images, target).reshape(3, 3, 1, 4, 6)
    assert relative(expected, plain) > 1e-3
    exact(LeGrad(model).attribute_blocks(images, target=target), expected)


def test_a_gradient_that_differs_between_tokens_may_not_be_taken_for_one(vit, images, target, monkeypatch):
    """The check that the case above rests on: without it the map is wrong."""
    model = copy.deepcopy(vit)
    hooked(bent, model)
    expected = equations_3_to_8(model, images, target).mean(1).reshape(3, 1, 4, 6)
    monkeypatch.setattr("captum_vit.adapters.tail._repeats", lambda *_: True)
    wrong = LeGrad(model).attribute(images, target=target, resolution="patch")
    assert relative(wrong, expected) > 1e-3


def test_backward_hooks_of_modules_see_one_target_at_a_time(vit, images, whole_block):
    model = copy.deepcopy(vit)
    with_module_backward_hook(model)
    seen = []
    model.blocks[0].norm2.register_full_backward_hook(lambda _, inputs, outputs: seen.append(inputs[0].shape))
    short = LeGrad(model, targets_per_batch=3).attribute_targets(images, TARGETS)
    assert seen == [(3, 25, 24)] * 3
    assert relative(short, LeGrad(vit).attribute_targets(images, TARGETS)) > 1e-3
    whole_block()
    assert relative(short, LeGrad(model).attribute_targets(images, TARGETS)) < 1e-10


@pytest.mark.parametrize(
    "options",
    [
        {"mlp_layer": SwiGLU},
        {"mlp_layer": partial(SwiGLU, norm_layer=nn.LayerNorm)},
        {"block_fn": ParallelScalingBlock},
    ],
    ids=["gated", "gated and normed", "parallel"],
)
def test_other_blocks(options, images, whole_block):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
        model = VisionTransformer(**size, init_values=0.5, **options).double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    short = LeGrad(model).attribute_targets(images, TARGETS)
    whole_block()
    assert relative(short, LeGrad(model).attribute_targets(images, TARGETS)) < 1e-10


@pytest.mark.parametrize("name", ["timm_deit3", "timm_eva02", "hf_dinov2", "open_clip_vit_quickgelu"])
def test_maps_do_not_depend_on_how_many_targets_go_together(name, monkeypatch):
    case = cases.case(name)
    grad, passes = torch.autograd.grad, []
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or grad(*args, **kwargs))
    maps, counts = [], []
    for together in (1, 2, 3):
        passes.clear()
        maps.append(LeGrad(case.model, targets_per_batch=together).attribute_targets(case.images, TARGETS))
        counts.append(len(passes))
    assert relative(maps[1], maps[0]) < 1e-10
    assert relative(maps[2], maps[0]) < 1e-10
    assert counts[2] < counts[1] < counts[0]


def test_memory_bounds_how_many_targets_go_together():
    def together(device: str, images: int, count: int) -> int:
        tokens = torch.empty(images, 1024, 64, device=device)
        hidden = torch.empty(images, 1024, 256, device=device)  # 1 MiB an image
        return BlockTail(record=None, tokens=tokens, calls=[LinearCall(hidden, tokens, tokens)])._targets_at_once(count)

    assert [together("cpu", 1, count) for count in (1, 24, 25, 49)] == [1, 24, 13, 17]
    assert [together("meta", 1, count) for count in (64, 65)] == [64, 33]
    assert [together("cpu", images, 16) for images in (2, 12, 25)] == [8, 2, 1]


def test_rules_of_other_gradients_are_not_bypassed(vit, images, monkeypatch):
    taken = []
    takes = LinearCut.takes
    monkeypatch.setattr(LinearCut, "takes", lambda *args: taken.append(takes(*args)) or taken[-1])
    LibraGrad(LeGrad(vit)).attribute(images, target=1)
    assert taken
    assert not any(taken)
    LeGrad(vit).attribute(images, target=1)
    assert sum(taken) == 3


def test_a_block_without_a_linear_layer_has_nothing_to_cut(vit, images):
    class Product(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.weight, self.bias, self.training = layer.weight, layer.bias, False

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T + self.bias

    model = copy.deepcopy(vit)
    for block in model.blocks:
        for parent, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
            setattr(parent, name, Product(getattr(parent, name)))
    assert relative(LeGrad(model).attribute(images, target=1), LeGrad(vit).attribute(images, target=1)) < 1e-10
