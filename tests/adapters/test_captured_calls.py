"""One call of PyTorch's attention at a time: captured and not, it is the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from adapter_checks import assert_same, leaves_of
from torch import Tensor, nn

from captum_vit.adapters import Adapter
from captum_vit.adapters.watching import AttentionCapture


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


@pytest.mark.parametrize("name", ["bool", "bool per head", "padding", "bool and padding"])
def test_function_with_bool_masks_is_pytorchs_own(name):
    """The module turns its bool masks into numbers; a caller of the function passes them as they are."""
    masks, attention = MULTI_HEAD_MASKS[name], multihead()
    query, key, value = (normal(n, BATCH, WIDTH, seed=n) for n in (QUERIES, KEYS, KEYS))

    def call(**options: object) -> tuple[Tensor, Tensor]:
        return F.multi_head_attention_forward(
            query, key, value, WIDTH, HEADS, attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0,
            attention.out_proj.weight, attention.out_proj.bias, training=False, average_attn_weights=False, **masks,
        )  # fmt: skip

    expected, weights = call()
    (output, returned), record = captured(call)
    assert_same(output, expected)
    assert_same(returned, weights)
    assert_same(record.attention.full(), weights)


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
        (lambda q: multihead()(*[q.flatten(2)] * 3, attn_mask=torch.eye(2), is_causal=True), "is_causal=True"),
        (lambda q: multihead()(*[q[0].flatten(1)] * 3), r"got query \(4, 1, 20\)|got query \(4, 20\)"),
    ],
)
def test_attention_of_another_kind_is_refused(call, message):
    query = normal(BATCH, HEADS, KEYS, 4, seed=1)
    with pytest.raises(RuntimeError, match=message):
        captured(lambda: call(query))
