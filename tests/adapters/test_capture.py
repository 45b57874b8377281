from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from adapter_checks import assert_same
from models import random_images, tiny_models
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit.adapters import Adapter, AttentionRecord, find_adapter, stream_blocks, trace, trace_readout
from captum_vit.adapters.capture import AttentionCapture
from captum_vit.adapters.timm import TimmAdapter

NAMES = list(tiny_models())
POOLERS = ["timm_siglip", "timm_pe", "timm_reg_map", "hf_siglip", "open_clip_coca", "open_clip_siglip"]
LIBRARIES = ["timm_pe", "hf_beit", "hf_siglip", "open_clip_coca", "open_clip_siglip", "torchvision_vit"]


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """The tensors at which a backward pass from ``tensor`` would leave a gradient."""
    found: list[Tensor] = []
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


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


class PoolerOnly(Adapter):
    """Stands for a model whose only attention is its pooler's: lets one call be captured by itself."""

    family = "one call"
    pooling = "attention"
    num_prefix_tokens = 0
    num_outputs = 1
    blocks = ()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        raise NotImplementedError

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        raise NotImplementedError

    def pool_weights(self, num_tokens: int) -> Tensor:
        raise NotImplementedError


def captured(call, *, gradients: bool = False):
    """What a function gives while its one attention call is captured, and the record."""
    capture = AttentionCapture(PoolerOnly(nn.Identity()), gradients=gradients)
    with torch.no_grad(), capture:
        result = call()
    record = capture.pooler_record()
    assert record is not None
    return result, record


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 4, 3, 5, 16
ALLOWED = normal(QUERIES, KEYS, seed=5).gt(-0.5) | torch.eye(QUERIES, KEYS, dtype=torch.bool)
PER_HEAD = normal(BATCH * HEADS, QUERIES, KEYS, seed=6)
PADDING = torch.tensor([[False, False, False, True, True], [False, False, False, False, True]])
MULTI_HEAD_MASKS = {
    "none": {},
    "bool": {"attn_mask": ~ALLOWED},
    "float": {"attn_mask": normal(QUERIES, KEYS, seed=7)},
    "bool per head": {"attn_mask": PER_HEAD.gt(0.5) & ~torch.eye(QUERIES, KEYS, dtype=torch.bool)},
    "float per head": {"attn_mask": PER_HEAD},
    "padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": normal(BATCH, KEYS, seed=8)},
    "float and float padding": {"attn_mask": PER_HEAD, "key_padding_mask": normal(BATCH, KEYS, seed=8)},
    "bool and padding": {"attn_mask": ~ALLOWED, "key_padding_mask": PADDING},
}


def multihead(**options: object) -> nn.MultiheadAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
        for parameter in attention.parameters():
            nn.init.normal_(parameter, std=0.4)
    return attention.eval()


@pytest.mark.parametrize("masks", MULTI_HEAD_MASKS.values(), ids=MULTI_HEAD_MASKS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead_attention_is_pytorchs_own(masks, batch_first):
    """Output, returned weights and captured map, against nn.MultiheadAttention that nobody watches."""
    attention = multihead(batch_first=batch_first)
    query, key, value = (normal(BATCH, n, WIDTH, seed=n) for n in (QUERIES, KEYS, KEYS))
    given = (query, key, value) if batch_first else tuple(each.transpose(0, 1) for each in (query, key, value))
    with torch.no_grad():
        expected, weights = attention(*given, **masks, average_attn_weights=False)
    for wanted, expected_weights in (
        ({"need_weights": False}, None),
        ({"need_weights": True}, weights.mean(1)),
        ({"need_weights": True, "average_attn_weights": False}, weights),
    ):
        (output, returned), record = captured(lambda wanted=wanted: attention(*given, **masks, **wanted))
        assert_same(output, expected)
        assert_same(record.attention.full(), weights)
        assert record.route == "multi_head_attention_forward"
        if expected_weights is None:
            assert returned is None
        else:
            assert_same(returned, expected_weights)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 7, "vdim": 9}], ids=str)
def test_multihead_attention_of_other_projections(options):
    attention = multihead(**options)
    query = normal(QUERIES, BATCH, WIDTH, seed=1)
    key, value = (normal(KEYS, BATCH, options.get(each, WIDTH), seed=2) for each in ("kdim", "vdim"))
    with torch.no_grad():
        expected, weights = attention(query, key, value, average_attn_weights=False)
    (output, _), record = captured(lambda: attention(query, key, value), gradients=True)
    assert_same(output.detach(), expected)
    assert_same(record.attention.full(), weights)
    assert leaves_of(output) == [record.output]


def test_multihead_attention_to_itself():
    """One tensor for query, key and value takes the fast path of PyTorch and one projection here."""
    attention = multihead(batch_first=True)
    tokens = normal(BATCH, KEYS, WIDTH, seed=1)
    with torch.no_grad():
        expected, weights = attention(tokens, tokens, tokens, average_attn_weights=False)
    (output, _), record = captured(lambda: attention(tokens, tokens, tokens, need_weights=False))
    assert_same(output, expected)
    assert_same(record.attention.full(), weights)


SCORES = normal(BATCH, HEADS, QUERIES, KEYS, seed=9)
DOT_PRODUCT_MASKS = {
    "none": None,
    "bool": ALLOWED,
    "bool per head": SCORES.gt(-0.5) | torch.eye(QUERIES, KEYS, dtype=torch.bool),
    "float": SCORES,
    "float over heads": SCORES[:, :1],
    "float of one row": SCORES[:, :, :1],
    "float of two dimensions": SCORES[0, 0],
    "float of three dimensions": SCORES[0],
}


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("mask", DOT_PRODUCT_MASKS.values(), ids=DOT_PRODUCT_MASKS)
def test_scaled_dot_product_attention_is_pytorchs_own(mask, scale):
    query, key, value = (normal(BATCH, HEADS, n, 4, seed=n + 20) for n in (QUERIES, KEYS, KEYS))
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    output, record = captured(lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale))
    assert_same(output, expected)
    assert_same(record.attention.full() @ value, expected)
    scores = query @ key.transpose(-2, -1) * (0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    assert_same(record.attention.full(), scores.softmax(-1))
    assert_same(record.attention.rows(torch.tensor([2, 0])), scores.softmax(-1)[:, :, [2, 0]])


def test_record_holds_no_graph_but_its_outputs():
    query = normal(BATCH, HEADS, KEYS, 4, seed=1).requires_grad_()
    bias = normal(KEYS, KEYS, seed=2).requires_grad_()
    _, record = captured(lambda: F.scaled_dot_product_attention(query, query, query, attn_mask=bias), gradients=True)
    assert [record.query.requires_grad, record.bias.requires_grad, record.output.requires_grad] == [False, False, True]
    assert leaves_of(record.output) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), "is_causal=True"),
        (lambda q: F.scaled_dot_product_attention(q, q[:, :2], q[:, :2], enable_gqa=True), "enable_gqa=True"),
        (lambda q: F.scaled_dot_product_attention(q[0], q[0], q[0]), r"query \(4, 5, 4\)"),
        (lambda q: multihead(add_bias_kv=True)(*[q.flatten(2)] * 3), "key or value bias"),
        (lambda q: multihead(add_zero_attn=True)(*[q.flatten(2)] * 3), "add_zero_attn=True"),
        (lambda q: multihead()(*[q[0].flatten(1)] * 3), r"got query \(4, 1, 20\)|got query \(4, 20\)"),
    ],
)
def test_attention_of_another_kind_is_refused(call, message):
    query = normal(BATCH, HEADS, KEYS, 4, seed=1)
    with pytest.raises(RuntimeError, match=message):
        captured(lambda: call(query))


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
