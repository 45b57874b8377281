import pytest
import torch
from oracle import exact, plain_pass, random_attention
from torch import Tensor

from captum_vit import AttentionRollout, BlankMapError
from captum_vit.adapters import LazyMap
from captum_vit.attr import attention_rollout


def rollout_in_loops(
    attentions: list[Tensor], fusion: str = "mean", residual: float = 0.5, discard: float = 0.0
) -> Tensor:
    """Abnar & Zuidema: Ã = rows of (1 - r) A + r I scaled to one; rollout = Ã_L ⋯ Ã_1, with full N×N products."""
    results = []
    for image in range(len(attentions[0])):
        product = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
        for attention in attentions:
            heads = attention[image]
            fused = {"mean": heads.mean(0), "max": heads.max(0).values, "min": heads.min(0).values}[fusion]
            entries = sorted((float(fused[i, j]), i, j) for i in range(len(fused)) for j in range(len(fused)))
            for _, i, j in entries[: int(len(entries) * discard)]:
                if (i, j) != (0, 0):
                    fused[i, j] = 0.0
            mixed = (1 - residual) * fused + residual * torch.eye(len(fused), dtype=torch.float64)
            for row in mixed:
                row /= row.sum()
            product = mixed @ product
        results.append(product)
    return torch.stack(results)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.55])
@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_is_the_class_tokens_row_of_the_full_product(fusion, discard, residual):
    attentions = [random_attention(2, 3, 6, 6, seed=seed) for seed in range(4)]
    expected = rollout_in_loops([a.clone() for a in attentions], fusion, residual, discard)[:, 0]
    actual = attention_rollout(attentions, head_fusion=fusion, residual=residual, discard_ratio=discard)
    exact(actual, expected)


def test_the_order_of_the_blocks_matters():
    attentions = [random_attention(1, 1, 4, 4, seed=seed) for seed in range(2)]
    assert (attention_rollout(attentions) - attention_rollout(attentions[::-1])).abs().max() > 0.01


def test_a_residual_of_one_is_the_identity():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    exact(attention_rollout(attentions, residual=1.0), torch.eye(5, dtype=torch.float64)[:1].expand(2, -1))


def test_rows_sum_to_one():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    for fusion in ("mean", "max", "min"):
        exact(attention_rollout(attentions, head_fusion=fusion).sum(1), torch.ones(2, dtype=torch.float64))


def test_a_row_that_is_discarded_whole_leads_nowhere():
    attention = torch.tensor([[[[0.9, 0.1], [0.95, 0.05]]]], dtype=torch.float64)
    # Two of four entries go: row 0 keeps 0.9 and row 1 keeps 0.95, so nothing arrives at token 1 without a residual.
    relevance = attention_rollout([attention] * 2, residual=0.0, discard_ratio=0.5)
    exact(relevance, torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def test_a_pooler_gives_the_first_row_and_has_no_residual():
    blocks = [random_attention(2, 3, 6, 6, seed=seed) for seed in range(3)]
    pooler = random_attention(2, 2, 4, 6, seed=9)
    start = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    expected = (pooler.mean(1)[:, 1:2] @ rollout_in_loops([b.clone() for b in blocks]))[:, 0]
    exact(attention_rollout(blocks, start=start, pooler=pooler), expected)


def test_a_pooler_over_patch_tokens_gives_prefix_tokens_nothing():
    blocks = [random_attention(2, 3, 6, 6, seed=seed) for seed in range(3)]
    pooler = random_attention(2, 2, 1, 4, seed=9)  # two prefix tokens that it does not see
    row = torch.cat([torch.zeros(2, 1, 2, dtype=torch.float64), pooler.mean(1)], -1)
    exact(attention_rollout(blocks, pooler=pooler), (row @ rollout_in_loops([b.clone() for b in blocks]))[:, 0])


def test_lazy_maps_and_held_maps_agree_whatever_the_chunk(monkeypatch):
    attentions = [random_attention(2, 3, 7, 7, seed=seed) for seed in range(3)]
    lazy = [LazyMap(a.shape, lambda index, heads, a=a: a[:, heads, index], a) for a in attentions]
    for chunk in (1, 1000, 2**26):
        monkeypatch.setattr("captum_vit.adapters.attention.CHUNK_BYTES", chunk)
        exact(attention_rollout(lazy, discard_ratio=0.3), attention_rollout(attentions, discard_ratio=0.3))


def test_method_follows_the_blocks_from_start_block_on(vit, images):
    attentions = [a.detach() for a in plain_pass(vit, images).attentions]
    for start_block, used in ((0, attentions), (1, attentions[1:]), (-1, attentions[2:])):
        expected = rollout_in_loops([a.clone() for a in used])[:, 0, 1:].reshape(3, 1, 4, 6)
        exact(AttentionRollout(vit, start_block=start_block).attribute(images, resolution="patch"), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": 1.5}, r"residual must be in \[0, 1\], got 1\.5"),
        ({"residual": -0.1}, r"residual must be in \[0, 1\], got -0\.1"),
        ({"discard_ratio": 1.0}, r"discard_ratio must be in \[0, 1\), got 1\.0"),
        ({"discard_ratio": -0.5}, r"discard_ratio must be in \[0, 1\), got -0\.5"),
        ({"head_fusion": "median"}, r"head_fusion must be 'mean', 'max' or 'min', got 'median'"),
        ({"start_block": 3}, r"start_block must be in \[-3, 2\], got 3"),
        ({"start_block": -4}, r"start_block must be in \[-3, 2\], got -4"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionRollout(vit, **options)


def test_a_residual_of_one_leaves_the_patches_blank(vit, images):
    with pytest.raises(BlankMapError, match=r"zero everywhere for image 0, 1, 2: .*residual of 1 keeps all relevance"):
        AttentionRollout(vit, residual=1.0).attribute(images)
