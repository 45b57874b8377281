"""Triton kernels for `captum_vit.adapters.fused`: products that are reduced in the tile in which they are formed.

A program takes some columns (keys) of one head of one image, goes over the rows (queries) of that head, and writes one
number for each of its columns. Matrices are contiguous, and sums are in float32. Loads beyond an edge give zero.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

__all__ = ["product_sums", "softmax_normalisers", "softmax_sums"]


@triton.jit
def _tile(matrix, index, count, width, lanes: tl.constexpr, widened: tl.constexpr):
    """The rows ``index`` of a matrix (count, width), as (len(index), lanes)."""
    channels = tl.arange(0, lanes)
    inside = (index[:, None] < count) & (channels[None, :] < width)
    tile = tl.load(matrix + index[:, None] * width + channels[None, :], mask=inside, other=0.0)
    if widened:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def _scores(
    query,
    key,
    bias,
    rows,
    columns,
    queries,
    keys,
    bias_row,
    bias_column,
    scale,
    biased: tl.constexpr,
):
    """What the softmax is taken of, (len(rows), len(columns)): minus infinity beyond the last column."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    if biased:
        inside = (rows[:, None] < queries) & (columns[None, :] < keys)
        addresses = bias + rows[:, None] * bias_row + columns[None, :] * bias_column
        scores += tl.load(addresses, mask=inside, other=0.0).to(tl.float32)
    return tl.where(columns[None, :] < keys, scores, float("-inf"))


@triton.jit
def product_sums(
    left,
    right,
    sums,
    queries,
    keys,
    width,
    kind: tl.constexpr,
    step: tl.constexpr,
    lanes: tl.constexpr,
    widened: tl.constexpr,
):
    """Of each head: Σ_q f(l_q · r_n), for f the positive part, the number itself, its absolute value or its square."""
    pair = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * step + tl.arange(0, step)
    right_tile = tl.trans(_tile(right + pair * keys * width, columns, keys, width, lanes, widened))
    total = tl.zeros([step], tl.float32)
    for first in range(0, queries, step):
        rows = first + tl.arange(0, step)
        left_tile = _tile(left + pair * queries * width, rows, queries, width, lanes, widened)
        product = tl.dot(left_tile, right_tile, input_precision="ieee")
        if kind == "positive":
            product = tl.where(product < 0, 0.0, product)  # NaN stays
        elif kind == "absolute":
            product = tl.abs(product)
        elif kind == "square":
            product = product * product
        total += tl.sum(product, 0)
    tl.store(sums + pair * keys + columns, total, mask=columns < keys)


@triton.jit
def softmax_normalisers(
    query,
    key,
    bias,
    weight,
    normalisers,
    heads,
    queries,
    keys,
    width,
    scale,
    bias_image,
    bias_head,
    bias_row,
    bias_column,
    biased: tl.constexpr,
    step: tl.constexpr,
    lanes: tl.constexpr,
    widened: tl.constexpr,
):
    """Of each head: log Σ_n exp(score_qn), for rows q near one that has a weight."""
    pair = tl.program_id(0).to(tl.int64)
    image, head = pair // heads, pair % heads
    rows = tl.program_id(1) * step + tl.arange(0, step)
    bias += image * bias_image + head * bias_head
    given = tl.load(weight + image * queries + rows, mask=rows < queries, other=0.0)
    if tl.max((given != 0).to(tl.int32), 0) > 0:
        query_tile = _tile(query + pair * queries * width, rows, queries, width, lanes, widened)
        most = tl.full([step], float("-inf"), tl.float32)
        total = tl.zeros([step], tl.float32)
        for first in range(0, keys, step):
            columns = first + tl.arange(0, step)
            key_tile = _tile(key + pair * keys * width, columns, keys, width, lanes, widened)
            scores = _scores(
                query_tile, key_tile, bias, rows, columns, queries, keys, bias_row, bias_column, scale, biased
            )
            larger = tl.maximum(most, tl.max(scores, 1))
            finite = tl.where(larger == float("-inf"), 0.0, larger)  # a row that is masked so far
            total = total * tl.exp(most - finite) + tl.sum(tl.exp(scores - finite[:, None]), 1)
            most = larger
        normaliser = tl.where(most == float("-inf"), 0.0, most) + tl.log(total)
        tl.store(normalisers + pair * queries + rows, normaliser, mask=rows < queries)


@triton.jit
def softmax_sums(
    query,
    key,
    bias,
    left,
    right,
    weight,
    normalisers,
    sums,
    heads,
    queries,
    keys,
    width,
    product_width,
    scale,
    bias_image,
    bias_head,
    bias_row,
    bias_column,
    biased: tl.constexpr,
    multiplied: tl.constexpr,
    step: tl.constexpr,
    lanes: tl.constexpr,
    product_lanes: tl.constexpr,
    widened: tl.constexpr,
):
    """Of each head: Σ_q w_q A_qn, or where the map is multiplied Σ_q w_q (A_qn (l_q · r_n))⁺."""
    pair = tl.program_id(0).to(tl.int64)
    image, head = pair // heads, pair % heads
    columns = tl.program_id(1) * step + tl.arange(0, step)
    bias += image * bias_image + head * bias_head
    key_tile = _tile(key + pair * keys * width, columns, keys, width, lanes, widened)
    if multiplied:
        right_tile = _tile(right + pair * keys * product_width, columns, keys, product_width, product_lanes, widened)
    total = tl.zeros([step], tl.float32)
    for first in range(0, queries, step):
        rows = first + tl.arange(0, step)
        given = tl.load(weight + image * queries + rows, mask=rows < queries, other=0.0)
        if tl.max((given != 0).to(tl.int32), 0) > 0:
            query_tile = _tile(query + pair * queries * width, rows, queries, width, lanes, widened)
            scores = _scores(
                query_tile, key_tile, bias, rows, columns, queries, keys, bias_row, bias_column, scale, biased
            )
            normaliser = tl.load(normalisers + pair * queries + rows, mask=rows < queries, other=0.0)
            entries = tl.exp(scores - normaliser[:, None])
            if multiplied:
                left_tile = _tile(
                    left + pair * queries * product_width, rows, queries, product_width, product_lanes, widened
                )
                entries *= tl.dot(left_tile, tl.trans(right_tile), input_precision="ieee")
                entries = tl.where(entries < 0, 0.0, entries)  # NaN stays
            total += tl.sum(tl.where(given[:, None] != 0, given[:, None] * entries, 0.0), 0)
    tl.store(sums + pair * keys + columns, total, mask=columns < keys)
