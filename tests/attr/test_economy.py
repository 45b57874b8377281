"""What methods form, keep and compute in: counted, never timed."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import cases
import models
import pytest
import torch
from oracle import exact
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from without_float64 import Device, OnDevice, on_device

from captum_vit import GMAR, METHODS, AttentionCAM, AttentionRollout, CheferCAM, RawAttention, adapt
from captum_vit.adapters import attention, shared_passes, trace, trace_last

DEPTH, HEADS, WIDTH, TOKENS = 3, 3, 24, 145
MAP = HEADS * TOKENS * TOKENS
"""Entries of one block's attention map."""
LIMIT = 16 * TOKENS
"""Entries of a chunk: sixteen rows of one head."""

FIVE = [RawAttention, AttentionRollout, AttentionCAM, GMAR, CheferCAM]


class Seen(TorchDispatchMode):
    """What operations of PyTorch return in memory of its own.

    Attributes:
        of_all_columns: numbers of entries of tensors with as many columns as there are tokens.
        products: entries of those that are products of matrices.
        dtypes: how many tensors there were of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_all_columns: list[int] = []
        self.products = 0
        self.dtypes: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each, returned in zip(tree_leaves(result), func._schema.returns, strict=False):
            if isinstance(each, Tensor) and returned.alias_info is None:
                self.dtypes[each.dtype] += 1
                if each.ndim > 2 and each.shape[-1] == TOKENS:
                    self.of_all_columns.append(each.numel())
                    self.products += each.numel() * (func is torch.ops.aten.bmm.default)
        return result


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = VisionTransformer(
            img_size=96, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=5, mlp_ratio=2
        )
    return vit.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@contextmanager
def kept_for_gradients():
    """The storages that graphs keep, with their bytes."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not tensor._is_view():
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


@pytest.mark.parametrize("method", FIVE)
def test_no_piece_of_a_map_is_larger_than_the_limit(monkeypatch, model, images, method):
    monkeypatch.setattr(attention, "CHUNK_BYTES", 4 * LIMIT)
    with Seen() as seen:
        method(model).attribute(images, target=3, resolution="patch")
    assert seen.of_all_columns
    assert max(seen.of_all_columns) <= LIMIT
    with Seen() as seen:
        trace(adapt(model), images).blocks[0].attention.full()
    assert max(seen.of_all_columns) == MAP  # what is counted


@pytest.mark.parametrize(
    ("method", "entries"),
    [
        (RawAttention, HEADS * TOKENS),
        (AttentionRollout, (DEPTH - 1) * MAP + HEADS * TOKENS),
        (AttentionCAM, MAP + HEADS * TOKENS),
        (GMAR, 2 * DEPTH * MAP - MAP + HEADS * TOKENS),  # its recursion starts at the first block's row
        (CheferCAM, 2 * ((DEPTH - 1) * MAP + HEADS * TOKENS)),
    ],
)
def test_each_entry_that_counts_is_formed_once(model, images, method, entries):
    """A class token reads one row of the map that it meets first; products of weights and rows have one row only."""
    with Seen() as seen:
        method(model).attribute(images, target=3, resolution="patch")
    rows_of_weights = 2 * DEPTH * TOKENS
    assert 0.8 * entries < seen.products <= entries + rows_of_weights  # rows of tokens without relevance are left out


def test_graphs_begin_where_a_gradient_is_asked_for(model, images):
    kept = {}
    for name, explain in {
        "all": CheferCAM(model),
        "last": CheferCAM(model, start_block=-1),
        "attention-cam": AttentionCAM(model),
        "none": AttentionRollout(model),
    }.items():
        with kept_for_gradients() as storages:
            explain.attribute(images, target=3)
        kept[name] = sum(storages.values())
    assert kept["none"] == 0
    assert kept["attention-cam"] == kept["last"]
    assert 0 < kept["last"] < kept["all"] / (DEPTH - 1)


def test_no_parameter_and_no_map_is_kept_for_gradients(model, images):
    """Per block: the MLP's hidden layer, two norms' inputs, query, key and value, the attention's output."""
    with kept_for_gradients() as storages:
        logits = trace(adapt(model), images, gradients=True).logits
        assert logits.requires_grad
    assert sum(storages.values()) < DEPTH * 9 * TOKENS * WIDTH * 4


@pytest.mark.parametrize("family", ["timm_vit_reg_gap", "open_clip_siglip", "open_clip_vit_quickgelu"])
def test_a_trace_keeps_what_was_asked_for(family):
    case = cases.case(family)
    adapter = adapt(case.model)
    whole = trace(adapter, case.images, gradients=True)
    depth = len(whole.blocks)
    for first in range(depth + 1):
        part = trace(adapter, case.images, gradients=True, first=first)
        assert len(part.blocks) == depth - first
        for kept, record in zip(part.blocks, whole.blocks[first:], strict=True):
            exact(kept.output, record.output)
            assert kept.output.requires_grad
        exact(part.logits, whole.logits)
        assert part.logits.requires_grad == (first < depth or part.pooler is not None)
    _, last = trace_last(adapter, case.images)
    exact(last.output, (whole.pooler or whole.blocks[-1]).output)
    with shared_passes():
        assert len(trace(adapter, case.images, first=1).blocks) == depth - 1
        assert len(trace(adapter, case.images).blocks) == depth


def test_maps_alone_need_no_values(model, images):
    whole = trace(adapt(model), images).blocks
    records = trace(adapt(model), images, values=False).blocks
    for record, full in zip(records, whole, strict=True):
        torch.testing.assert_close(record.attention.full(), full.attention.full(), rtol=0, atol=0)
        kept = [record.query, record.key, record.value, record.output]
        assert sum(each.untyped_storage().nbytes() for each in kept) == 2 * TOKENS * WIDTH * 4
        assert full.query.untyped_storage().nbytes() == 3 * TOKENS * WIDTH * 4
        with pytest.raises(RuntimeError, match=r"\[3, 8\] but got: \[3, 0\]"):  # no channels
            record.gradient(full.output).full()
    with_graph = trace(adapt(model), images, gradients=True, values=False).blocks[0]
    assert with_graph.output.shape == full.output.shape


@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_the_size_of_chunks(monkeypatch, name):
    for family in ("timm_vit_reg_gap", "open_clip_siglip"):
        if not cases.explains(name, family):
            continue
        case = cases.case(family)
        expected = cases.built(METHODS[name], case.model).attribute_targets(case.images, [1, 0])
        scale = expected.abs().max()
        for size in (1, 1000, 5000):
            with monkeypatch.context() as patched:
                patched.setattr(attention, "CHUNK_BYTES", size)
                actual = cases.built(METHODS[name], case.model).attribute_targets(case.images, [1, 0])
            exact(actual / scale, expected / scale)


IN_FLOAT64 = {
    "lrp": "its rules",
    "partial-lrp": "its rules",
    "transformer-attribution": "its rules",
    "attention-flow": "flows, on the host",
    "vit-cx": "distances of maps, on the host",
    "transition-attention-maps": "where on its path the steps lie, on the host",
}


@pytest.mark.parametrize("name", METHODS)
def test_float32_models_are_explained_without_float64(single, name):
    """Some devices have none, and it is slow on others."""
    model, images = single
    method = cases.built(METHODS[name], model)
    with Seen() as seen:
        method.attribute(images, target=1)
    assert (seen.dtypes[torch.float64] > 0) == (name in IN_FLOAT64)
    assert seen.dtypes[torch.float32] > 0


HALF_WAY = {"dtype": torch.float32}
"""The option of methods whose rules are computed in float64 by default."""


@pytest.mark.parametrize("name", METHODS)
def test_a_device_without_float64_explains(single, name):
    """Tensors of the host and of the device do not meet, either."""
    model, images = single
    options = HALF_WAY if IN_FLOAT64.get(name) == "its rules" else {}
    options |= cases.QUICK.get(METHODS[name], {})
    expected = METHODS[name](model, **options).attribute(images, target=1)
    with Device():
        method = METHODS[name](on_device(model), **options)
        actual = method.attribute(OnDevice(images), target=1)
    assert isinstance(actual, OnDevice)
    torch.testing.assert_close(actual.inner, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [name for name, why in IN_FLOAT64.items() if why == "its rules"])
def test_rules_in_float64_say_what_to_do_there(single, name):
    model, images = single
    message = r"dtype must be torch\.float32 on mps, which has no float64, got torch\.float64"
    with Device(), pytest.raises(ValueError, match=message):
        METHODS[name](on_device(model)).attribute(OnDevice(images), target=1)


@pytest.fixture(scope="module")
def single() -> tuple[torch.nn.Module, Tensor]:
    model, size = models.tiny_models()["timm_vit"]()
    return model.float(), models.random_images(1, size).float()
