"""What fused kernels are compared in with PyTorch, on a GPU or, with TRITON_INTERPRET=1, in Triton's interpreter.

As a script it prints the differences of the interpreter as JSON.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from unittest import mock

import torch
from torch import Tensor

from captum_vit import GMAR, AttentionCAM, AttentionRollout, CheferCAM, LeGrad
from captum_vit.adapters import AttentionRecord, fused
from captum_vit.attr.rows import head_sums, weighted_row

TOLERANCE = 5e-5
"""Of a difference, relative to the largest number: both sum in float32."""

SHAPES = [
    ("several images", (2, 3, 25, 25, 8), torch.float32),
    ("over the edges of tiles", (1, 2, 70, 67, 40), torch.float32),
    ("over the edges of tiles", (1, 2, 70, 67, 40), torch.bfloat16),
    ("over the edges of tiles", (1, 2, 70, 67, 40), torch.float16),
    ("whole tiles", (1, 2, 64, 64, 32), torch.bfloat16),
    ("one query", (2, 2, 1, 37, 24), torch.float32),
    ("wide heads", (1, 2, 33, 35, 104), torch.float32),
]
"""(B, h, Q, N, d)."""

FAMILIES = {
    "timm_vit_reg_gap": torch.bfloat16,  # a mean over tokens
    "timm_beit_shared": torch.float32,  # a position bias
    "open_clip_siglip": torch.float32,  # an attention pooler, of which LeGrad has a few rows to read in PyTorch
}


@dataclass(frozen=True)
class Difference:
    """How far a kernel is from PyTorch, relative to the largest number, and how many kernels ran."""

    name: str
    error: float
    launches: int


def differences(device: str) -> Iterator[Difference]:
    """Of every reduction and of whole maps."""
    for name, shape, dtype in SHAPES:
        record, output_gradient, row = _record(shape, dtype, device)
        for what, reduce in _reductions(record, output_gradient, row).items():
            yield _compared(f"{what}, {name}, {dtype}", reduce)
    for name, bias in _biases(device).items():
        record, output_gradient, row = _record((2, 2, 70, 67, 16), torch.float32, device, bias)
        yield _compared(f"bias {name}", _reductions(record, output_gradient, row)["row, multiplied"])
    record, output_gradient, row = _record(SHAPES[0][1], torch.float32, device)
    output_gradient[0, 1, 2] = float("nan")  # of the first image, whose sums it makes NaN
    for what, reduce in _reductions(record, output_gradient, row).items():
        yield _compared(f"{what}, where NaN is", lambda reduce=reduce: 1.0 + reduce().isnan())
    for family, dtype in FAMILIES.items():
        for method, explain in _methods(family, dtype, device).items():
            yield _compared(f"{method}, {family}, {dtype}", explain)


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _record(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, bias: Tensor | None = None
) -> tuple[AttentionRecord, Tensor, Tensor]:
    """A call, a gradient at its output, and a row of which some numbers are zero; all but the row are views."""
    batch, heads, queries, keys, width = shape

    def factor(seed: int, tokens: int) -> Tensor:
        return _draw(seed, batch, tokens, heads, 2 * width).to(device, dtype).transpose(1, 2)[..., ::2]

    query, key, value = factor(0, queries), factor(1, keys), factor(2, keys)
    record = AttentionRecord(query, key, value, factor(3, queries), 0.3, bias)
    row = _draw(5, batch, queries).to(device)
    row[:, 3:40] = 0  # a whole tile of float32 that is left out, and parts of others
    return record, factor(4, queries), row


def _biases(device: str) -> dict[str, Tensor]:
    first_tile = torch.zeros(2, 1, 1, 67)
    first_tile[0, ..., :64] = float("-inf")
    biases = {
        "of each head": _draw(6, 2, 70, 67),
        "of all": _draw(7, 70, 67),
        "of each image": _draw(8, 2, 1, 70, 67).bfloat16(),
        "that masks the first tile": first_tile,
    }
    return {name: each.to(device) for name, each in biases.items()}


def _reductions(record: AttentionRecord, output_gradient: Tensor, row: Tensor) -> dict[str, Callable[[], Tensor]]:
    attention, gradient = record.attention, record.gradient(output_gradient)
    weights = _draw(9, *record.shape[:2]).to(row.device)
    return {
        "positive sums": lambda: record.gradient_sums(output_gradient),
        "sums": lambda: record.gradient_sums(output_gradient, positive=False),
        **{f"{kind} sums of heads": lambda kind=kind: head_sums(gradient, kind) for kind in ("absolute", "square")},
        "sums of heads": lambda: head_sums(gradient, "plain"),
        "row": lambda: weighted_row(row, attention),
        "row, heads weighted": lambda: weighted_row(row, attention, head_weights=weights),
        "row, multiplied": lambda: weighted_row(row, attention, gradient=gradient),
        "row, class token": lambda: weighted_row(torch.eye(*row.shape).roll(1, 0).to(row), attention),
    }


def _methods(family: str, dtype: torch.dtype, device: str) -> dict[str, Callable[[], Tensor]]:
    import cases

    case = cases.case(family)
    model = copy.deepcopy(case.model).to(device, dtype)
    images = case.images[:1].to(device, dtype)
    methods = [CheferCAM(model), GMAR(model), AttentionCAM(model), AttentionRollout(model, residual=0.3)]
    methods += [] if family == "open_clip_siglip" else [LeGrad(model)]
    return {method.name: lambda method=method: method.attribute(images, target=1) for method in methods}


def _compared(name: str, reduce: Callable[[], Tensor]) -> Difference:
    with mock.patch.dict(os.environ, {fused.SWITCH: "0"}):
        expected = reduce()
    with mock.patch.object(fused, "_launch", wraps=fused._launch) as launch:
        actual = reduce()
    assert actual.dtype == expected.dtype == torch.float32
    error = (actual - expected).abs().max() / expected.abs().max()
    return Difference(name, float(error), launch.call_count)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fused.DEVICE_TYPES.add("cpu")
    json.dump([asdict(each) for each in differences("cpu")], sys.stdout)
