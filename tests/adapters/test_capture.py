from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from adapter_checks import assert_same, leaves_of
from models import random_images, tiny_models
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit.adapters import AttentionRecord, find_adapter, stream_blocks, trace, trace_readout
from captum_vit.adapters.timm import TimmAdapter

NAMES = list(tiny_models())
POOLERS = ["timm_siglip", "timm_pe", "timm_reg_map", "hf_siglip", "open_clip_coca", "open_clip_siglip"]
LIBRARIES = ["timm_pe", "hf_beit", "hf_siglip", "open_clip_coca", "open_clip_siglip", "torchvision_vit"]


@pytest.mark.parametrize("name", NAMES)
def test_graph_ends_at_attention_outputs(name):
    """No parameter is in the graph, so that none can receive a gradient or keep an activation alive for one."""
    model, size = tiny_models()[name]()
    assert all(parameter.requires_grad for parameter in model.parameters())
    adapter, images = find_adapter(model), random_images(1, size)
    traced = trace(adapter, images, gradients=True)
    assert leaves_of(traced.logits) == [traced.blocks[0].output]

    def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
        assert leaves_of(tokens) == [record.output]
        assert leaves_of(adapter.readout_of_mean(tokens)) == [record.output]

    stream_blocks(adapter, images, visit, range(3))
    parameters = [each for name, each in model.named_parameters() if "text" not in name]
    gradients = torch.autograd.grad(traced.logits.sum(), parameters, allow_unused=True)
    assert gradients == (None,) * len(parameters)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", POOLERS)
def test_graph_of_a_readout_ends_at_the_pooler(name):
    model, size = tiny_models()[name]()
    adapter = find_adapter(model)
    logits, pooler = trace_readout(adapter, trace(adapter, random_images(1, size)).tokens)
    assert leaves_of(logits) == [pooler.output]


def test_transposed_and_listed_parameters_are_constants():
    """``weight.T`` and ``torch.cat([bias, …])``, as users' own blocks write them."""
    model, size = tiny_models()["timm_vit"]()

    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(32, 32, dtype=torch.float64))
            self.shift = nn.Parameter(torch.randn(16, dtype=torch.float64))

        def forward(self, tokens: Tensor) -> Tensor:
            return tokens + tokens @ self.weight.T + tokens @ self.weight.mT + torch.cat([self.shift, self.shift])

    model.blocks[1].mlp = Unusual()
    images = random_images(1, size)
    traced = trace(find_adapter(model), images, gradients=True)
    assert leaves_of(traced.logits) == [traced.blocks[0].output]
    assert_same(traced.logits.detach(), model(images).detach())


def test_parameters_that_the_forward_pass_sets_are_set():
    """Attributes of a parameter are the parameter's own: some models clamp a temperature in their forward."""
    model, size = tiny_models()["timm_vit"]()
    temperature = nn.Parameter(torch.tensor([7.0]))
    seen = []

    def clamp(module: nn.Module, args: object, output: object) -> None:
        temperature.data = torch.clamp(temperature.data, max=5.0)
        seen.append(temperature.requires_grad)

    model.blocks[1].register_forward_hook(clamp)
    trace(find_adapter(model), random_images(1, size), gradients=True)
    assert temperature.item() == 5.0
    assert seen == [True]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_only_asked_for_passes_carry_a_graph(mode, gradients):
    model, size = tiny_models()["timm_vit"]()
    with mode():
        traced = trace(find_adapter(model), random_images(1, size), gradients=gradients)
        assert torch.is_grad_enabled() is (mode is torch.enable_grad)
    assert traced.logits.requires_grad is gradients
    assert [record.output.requires_grad for record in traced.blocks] == [gradients] * 3
    for record in traced.blocks:
        assert not any(each.requires_grad for each in (record.query, record.key, record.value))


@contextmanager
def everything_as_it_was(model: nn.Module) -> Iterator[None]:
    """Global functions, flags and random numbers; every attribute of every module, hooks and buffers included."""

    def state() -> dict[str, object]:
        found: dict[str, object] = {
            "functions": (F.scaled_dot_product_attention, F.multi_head_attention_forward),
            "grad": torch.is_grad_enabled(),
            "modes": torch._C._len_torch_function_stack(),
            "fast path": torch.backends.mha.get_fastpath_enabled(),
            "kernels": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
            "random": torch.get_rng_state().tolist(),
        }
        for name, module in model.named_modules():
            found[f"{name} class"] = (
                type(module),
                *(id(getattr(type(module), each)) for each in ("forward", "__call__")),
            )
            for attribute, value in vars(module).items():
                is_dict = isinstance(value, dict)
                found[f"{name}.{attribute}"] = {k: id(v) for k, v in value.items()} if is_dict else id(value)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            found[f"tensor {name}"] = (tensor._version, tensor.requires_grad, tensor.grad is None)
        return found

    before = state()
    yield
    after = state()
    assert {key for key in before | after if before.get(key) != after.get(key)} == set()


class PlantedError(Exception):
    pass


@pytest.mark.parametrize("name", LIBRARIES)
def test_model_leaves_as_it_came(name):
    model, size = tiny_models()[name]()
    adapter, images = find_adapter(model), random_images(2, size)
    with everything_as_it_was(model):
        trace(adapter, images)
        traced = trace(adapter, images, gradients=True)
        stream_blocks(adapter, images, lambda *seen: None, [0, 2])
        if traced.pooler is not None:
            trace_readout(adapter, traced.tokens)


@pytest.mark.parametrize("name", LIBRARIES)
def test_model_leaves_as_it_came_after_an_exception(name):
    model, size = tiny_models()[name]()
    adapter, images = find_adapter(model), random_images(2, size)

    def interrupt(*seen: object) -> None:
        raise PlantedError

    with everything_as_it_was(model), pytest.raises(PlantedError):
        stream_blocks(adapter, images, interrupt, [1])
    adapter.blocks[1].register_forward_pre_hook(interrupt)  # the user's own hook, in the middle of the pass
    for gradients in (False, True):
        with everything_as_it_was(model), pytest.raises(PlantedError):
            trace(adapter, images, gradients=gradients)


def test_exception_inside_a_function_leaves_the_model_as_it_came():
    """A readout that fails, and attention of a kind that is not captured."""
    model, size = tiny_models()["timm_siglip"]()
    adapter = find_adapter(model)
    with everything_as_it_was(model), pytest.raises(RuntimeError):
        trace_readout(adapter, torch.zeros(1, 16, 31, dtype=torch.float64))
    model.blocks[2].attn.fused_attn = False
    with everything_as_it_was(model), pytest.raises(RuntimeError, match=r"block 2 \(blocks\.2\)"):
        trace(adapter, random_images(1, size), gradients=True)


@pytest.mark.parametrize("name", ["timm_pe", "hf_vit", "open_clip_vit", "torchvision_vit"])
def test_other_threads_see_nothing(name):
    """Between two blocks of a watched pass another thread runs the same model, with its own graph to its parameters."""
    model, size = tiny_models()[name]()
    adapter, images, others = find_adapter(model), random_images(2, size), random_images(1, size, seed=1)
    expected, expected_other = trace(adapter, images), adapter(others)

    def plain_pass() -> Tensor:
        assert torch.is_grad_enabled()
        logits = adapter(others)
        assert any(leaf is parameter for leaf in leaves_of(logits) for parameter in model.parameters())
        return logits

    seen = []

    def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
        assert_same(other_thread.submit(plain_pass).result(), expected_other)
        seen.append(record)

    with ThreadPoolExecutor(1) as other_thread:
        logits = stream_blocks(adapter, images, visit, range(3))
    assert_same(logits, expected.logits)
    assert len(seen) == 3
    for record, alone in zip(seen, expected.blocks, strict=True):
        assert_same(record.output.detach(), alone.output)


@pytest.mark.parametrize("name", ["timm_pe", "hf_vit", "open_clip_vit", "torchvision_vit"])
def test_two_threads_capture_at_once(name):
    """They meet at the end of every block, so that their passes are interleaved for certain."""
    model, size = tiny_models()[name]()
    adapter = find_adapter(model)
    batches = [random_images(1, size, seed=2), random_images(3, size, seed=3)]
    expected = [trace(adapter, images) for images in batches]
    meeting = threading.Barrier(2, timeout=60)

    def run(images: Tensor) -> tuple[Tensor, list[tuple[AttentionRecord, Tensor]]]:
        seen = []

        def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
            meeting.wait()
            seen.append((record, torch.autograd.grad(tokens.sum(), record.output)[0]))
            meeting.wait()

        return stream_blocks(adapter, images, visit, range(3)), seen

    with everything_as_it_was(model), ThreadPoolExecutor(2) as threads:
        results = list(threads.map(run, batches))
    for (logits, records), alone in zip(results, expected, strict=True):
        assert_same(logits, alone.logits)
        for (record, gradient), block in zip(records, alone.blocks, strict=True):
            assert_same(record.output.detach(), block.output)
            assert gradient.shape == block.output.shape


def test_blocks_may_return_tuples():
    """As the layers of older transformers do: (tokens, attention weights or None)."""

    class OnlyTokens(nn.Module):
        def forward(self, output: Tensor | tuple[Tensor, None]) -> Tensor:
            return output[0] if isinstance(output, tuple) else output

    class TupleBlock(nn.Sequential):
        def forward(self, output: Tensor | tuple[Tensor, None]) -> tuple[Tensor, None]:
            return super().forward(output), None

    model, size = tiny_models()["timm_vit"]()
    adapter, images = find_adapter(model), random_images(2, size)
    expected = trace(adapter, images)
    model.blocks = nn.Sequential(*(TupleBlock(OnlyTokens(), block) for block in model.blocks))
    model.norm = nn.Sequential(OnlyTokens(), model.norm)
    traced = trace(adapter, images)
    assert_same(traced.logits, expected.logits)
    assert_same(traced.tokens, expected.tokens)

    def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
        assert leaves_of(tokens) == [record.output]
        assert_same(record.output.detach(), expected.blocks[index].output)

    logits = stream_blocks(adapter, images, visit, range(3))
    assert not logits.requires_grad
    assert_same(logits, expected.logits)


def test_attention_before_the_blocks_and_outside_them_is_not_the_blocks():
    """A model whose embedding attends: the records are still one per block."""
    model, size = tiny_models()["timm_vit"]()
    expected = trace(find_adapter(model), random_images(1, size))

    class AttendingIdentity(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            F.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None])
            return tokens

    model.norm_pre = AttendingIdentity()
    traced = trace(find_adapter(model), random_images(1, size))
    for record, alone in zip(traced.blocks, expected.blocks, strict=True):
        assert_same(record.output, alone.output)


def test_attention_after_the_blocks_that_no_pooling_explains_is_refused():
    model, size = tiny_models()["timm_vit"]()

    class AttendingNorm(nn.LayerNorm):
        def forward(self, tokens: Tensor) -> Tensor:
            heads = super().forward(tokens)[:, None]
            return F.scaled_dot_product_attention(heads, heads, heads)[:, 0]

    model.norm = AttendingNorm(32).double()
    with pytest.raises(RuntimeError, match=r"pools by class, but made 1 calls of fused attention .* instead of 0"):
        trace(find_adapter(model), random_images(1, size))


def test_block_with_other_tokens_than_the_grid_is_refused():
    class WrongGrid(TimmAdapter):
        def grid(self, height: int, width: int) -> tuple[int, int]:
            return 2, 4

    model, size = tiny_models()["timm_vit"]()
    with pytest.raises(RuntimeError, match=r"block 0 \(blocks\.0\) returned 17 tokens, but 1 prefix .* make 9"):
        trace(WrongGrid(model), random_images(1, size))


def test_window_attention_is_refused():
    class Windows(nn.Module):
        """Attention inside windows of four tokens."""

        def forward(self, tokens: Tensor, **kwargs: object) -> Tensor:
            windows = tokens.unflatten(1, (-1, 4)).flatten(0, 1)[:, None]  # (B·windows, 1, 4, D)
            return F.scaled_dot_product_attention(windows, windows, windows)[:, 0].unflatten(0, (-1, 4)).flatten(1, 2)

    model = VisionTransformer(img_size=64, depth=1, embed_dim=8, num_heads=2, class_token=False, global_pool="avg")
    model.blocks[0].attn = Windows()
    with pytest.raises(RuntimeError, match=r"attends from 4 to 4 tokens in batches of 8, but returns 16 tokens in b"):
        trace(find_adapter(model.eval()), torch.randn(2, 3, 64, 64))


def test_size_is_checked_before_the_pass():
    model, _ = tiny_models()["timm_vit"]()
    with everything_as_it_was(model), pytest.raises(ValueError, match="got 48×64"):
        stream_blocks(find_adapter(model), torch.zeros(1, 3, 48, 64), lambda *seen: None, [0])
