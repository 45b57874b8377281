from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapter_checks import assert_same
from torch import Tensor

from captum_vit.adapters import AttentionRecord, attention
from captum_vit.adapters.attention import LazyMap, head_groups, propagate, query_chunks, rows_of, start_row

BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 5, 7, 4


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def record() -> AttentionRecord:
    return AttentionRecord(
        query=normal(BATCH, HEADS, QUERIES, WIDTH, seed=0),
        key=normal(BATCH, HEADS, KEYS, WIDTH, seed=1),
        value=normal(BATCH, HEADS, KEYS, WIDTH, seed=2),
        output=normal(BATCH, HEADS, QUERIES, WIDTH, seed=3),
        scale=0.3,
        bias=normal(HEADS, QUERIES, KEYS, seed=4),
    )


def test_attention_is_the_softmax_of_scaled_products_and_bias(record):
    """A_ij = exp(scale q_i·k_j + b_ij) / Σ_j' …, in loops."""
    expected = torch.zeros(record.shape, dtype=torch.float64)
    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(QUERIES):
                scores = [0.3 * record.query[b, h, i].dot(record.key[b, h, j]) for j in range(KEYS)]
                powers = torch.stack([s + record.bias[h, i, j] for j, s in enumerate(scores)]).exp()
                expected[b, h, i] = powers / powers.sum()
    assert record.shape == (BATCH, HEADS, QUERIES, KEYS)
    assert_same(record.attention.full(), expected)


def test_gradient_is_the_output_gradient_times_the_values(record):
    """∂s/∂A_ij = Σ_d G_id V_jd, which autograd finds for s = Σ G ∘ (A V)."""
    given = normal(BATCH, HEADS, QUERIES, WIDTH, seed=5)
    weights = record.attention.full().requires_grad_()
    (given * (weights @ record.value)).sum().backward()
    assert_same(record.gradient(given).full(), weights.grad)


def test_maps_of_half_precision_are_formed_in_float32(record):
    halves = {name: getattr(record, name).bfloat16() for name in ("query", "key", "value", "output", "bias")}
    half = AttentionRecord(**halves, scale=record.scale)
    exact = AttentionRecord(**{name: each.float() for name, each in halves.items()}, scale=record.scale)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert half.attention.dtype == torch.float32
            torch.testing.assert_close(half.attention.full(), exact.attention.full(), atol=0, rtol=0)
            gradient = half.gradient(half.output).full()
        torch.testing.assert_close(gradient, exact.gradient(exact.output).full(), atol=0, rtol=0)


def test_rows_of_a_lazy_map_are_those_of_the_whole(record):
    index = torch.tensor([4, 0, 2])
    whole = record.attention.full()
    assert_same(rows_of(record.attention, index), whole[:, :, index])
    assert_same(rows_of(whole, index), whole[:, :, index])


@pytest.mark.parametrize(("rows_in_a_chunk", "lengths"), [(2, [2, 2, 1]), (5, [5]), (0, [1] * 5)])
def test_chunks_keep_under_the_memory_limit(monkeypatch, record, rows_in_a_chunk, lengths):
    row = BATCH * HEADS * KEYS * 8
    monkeypatch.setattr(attention, "CHUNK_BYTES", rows_in_a_chunk * row + row // 2)
    chunks = list(query_chunks(record.attention))
    assert [len(each) for each in chunks] == lengths
    assert torch.cat(chunks).tolist() == list(range(QUERIES))
    assert [each.tolist() for each in query_chunks(record.attention, torch.tensor([3]))] == [[3]]


def test_start_row_is_the_class_token_or_the_shares(record):
    assert start_row(record.attention).tolist() == [[1, 0, 0, 0, 0]] * BATCH
    shares = torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25])
    row = start_row(record.attention, shares)
    assert row.dtype == torch.float64
    assert row.tolist() == [shares.tolist()] * BATCH


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_propagate_is_the_product_with_the_fused_matrix(monkeypatch, record, chunk_bytes):
    monkeypatch.setattr(attention, "CHUNK_BYTES", chunk_bytes)
    row = normal(BATCH, QUERIES, seed=6)
    gradient = normal(BATCH, HEADS, QUERIES, KEYS, seed=7)
    indices = []

    def fuse(index: Tensor, maps: Tensor, gradients: Tensor) -> Tensor:
        indices.extend(index.tolist())
        return (maps * gradients).mean(1)

    expected = torch.einsum("bq,bqn->bn", row, (record.attention.full() * gradient).mean(1))
    assert_same(propagate(row, [record.attention, gradient], fuse), expected)
    assert indices == list(range(QUERIES))


@pytest.mark.parametrize("join", [torch.add, torch.maximum, torch.minimum])
@pytest.mark.parametrize("limit", [1, 8 * KEYS * 8, 2**20])
def test_propagate_joins_a_few_heads_at_a_time(monkeypatch, record, join, limit):
    monkeypatch.setattr(attention, "CHUNK_BYTES", limit)
    row = normal(BATCH, QUERIES, seed=6)
    shapes = []

    def fuse(index: Tensor, maps: Tensor, columns: Tensor) -> Tensor:
        shapes.append(maps.shape)
        return maps * columns

    def finish(index: Tensor, fused: Tensor) -> Tensor:
        return fused + index[:, None]

    columns = normal(BATCH, HEADS, QUERIES, 1, seed=8)
    first, second, third = (record.attention.full() * columns).unbind(1)
    expected = (row[:, None] @ (join(join(first, second), third) + torch.arange(QUERIES)[:, None]))[:, 0]
    assert_same(propagate(row, [record.attention, columns], fuse, join=join, finish=finish), expected)
    assert all(shape.numel() * 8 <= limit or shape[1:3] == (1, 1) for shape in shapes)
    assert sum(shape[1] * shape[2] for shape in shapes) == HEADS * QUERIES


@pytest.mark.parametrize("join", [None, torch.add])
def test_a_row_of_zeros_leads_nowhere(record, join):
    row = torch.zeros(BATCH, QUERIES, dtype=torch.float64)
    relevance = propagate(row, [record.attention], lambda _, maps: maps if join else maps.mean(1), join=join)
    assert relevance.tolist() == [[0.0] * KEYS] * BATCH


def test_on_a_cpu_chunks_are_smaller(monkeypatch, record):
    monkeypatch.setattr(attention, "CACHED_CHUNK_BYTES", BATCH * KEYS * 8 * 3)
    assert [len(each) for each in query_chunks(record.attention)] == [1] * QUERIES
    assert [len(each) for each in query_chunks(record.attention, by_head=True)] == [3, 2]
    elsewhere = LazyMap(record.shape, record.attention.rows, record.query.to("meta"))
    assert [len(each) for each in query_chunks(elsewhere)] == [QUERIES]
    assert list(head_groups(elsewhere, QUERIES)) == [slice(0, 2**26 // (BATCH * QUERIES * KEYS * 8))]
    assert list(head_groups(record.attention, 1)) == [slice(0, 3)]
    assert list(head_groups(record.attention, 3)) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize("shape", [(BATCH, HEADS, 1, KEYS), (1, 1, QUERIES, KEYS), (QUERIES, KEYS), (KEYS,)])
def test_a_bias_of_any_shape_is_that_of_its_heads(record, shape):
    biased = replace(record, bias=normal(*shape, seed=9))
    if len(shape) == 1:
        biased = replace(biased, bias=biased.bias[None])
    index, heads = torch.tensor([3, 0]), slice(1, 3)
    expected = (record.query * record.scale @ record.key.mT + biased.bias).softmax(-1)
    assert_same(biased.attention.full(), expected)
    assert_same(biased.attention.rows(index, heads), expected[:, heads, index])


def test_propagate_forms_no_row_that_meets_a_zero(record):
    formed = []

    def form_rows(index: Tensor, heads: slice) -> Tensor:
        formed.extend(index.tolist())
        return record.attention.rows(index, heads)

    lazy = LazyMap(record.shape, form_rows, record.query)
    row = torch.zeros(BATCH, QUERIES, dtype=torch.float64)
    row[0, 1], row[1, 3] = 2.0, -1.0
    relevance = propagate(row, [lazy], lambda _, maps: maps.mean(1))
    whole = record.attention.full().mean(1)
    assert_same(relevance, torch.stack([2 * whole[0, 1], -whole[1, 3]]))
    assert formed == [1, 3]
