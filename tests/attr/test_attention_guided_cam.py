from math import exp

import cases
import pytest
import torch
from oracle import exact, gradients, plain_pass, random_attention, random_gradient
from torch import Tensor

from captum_vit import AttentionGuidedCAM
from captum_vit.attr import attention_guided_cam


def cam_in_loops(scores: list[Tensor], grads: list[Tensor], shares: Tensor, heads: str = "sum") -> Tensor:
    """Leem & Seo: for each block, the fused heads' σ(S) ∘ (∇A)⁺, at the rows of ``shares`` (B, Q); (L, B, N)."""
    fuse = {"sum": sum, "mean": lambda values: sum(values) / len(values), "max": max}[heads]
    result = torch.zeros(len(scores), len(scores[0]), scores[0].shape[-1], dtype=torch.float64)
    for block, (score, gradient) in enumerate(zip(scores, grads, strict=True)):
        for image in range(len(score)):
            for i, share in enumerate(shares[image].tolist()):
                for j in range(score.shape[-1]):
                    values = [
                        max(float(g[i, j]), 0.0) / (1 + exp(-float(s[i, j])))
                        for s, g in zip(score[image], gradient[image], strict=True)
                    ]
                    result[block, image, j] += share * fuse(values)
    return result


CLASS_TOKEN = torch.tensor([[1.0, 0, 0, 0, 0]] * 2, dtype=torch.float64)


@pytest.mark.parametrize("heads", ["sum", "mean", "max"])
@pytest.mark.parametrize("blocks", ["sum", "mean"])
def test_guides_positive_gradients_by_the_sigmoid_of_the_scores(heads, blocks):
    scores = [4 * random_gradient(2, 3, 5, 5, seed=seed + 9) for seed in range(3)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(3)]
    each = cam_in_loops(scores, grads, CLASS_TOKEN, heads)
    expected = each.sum(0) if blocks == "sum" else each.mean(0)
    exact(attention_guided_cam(scores, grads, head_fusion=heads, block_fusion=blocks), expected)


def test_rows_count_by_their_share_in_the_pooled_vector():
    scores, grads = [random_gradient(2, 3, 5, 5, seed=9)], [random_gradient(2, 3, 5, 5)]
    shares = torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
    expected = cam_in_loops(scores, grads, shares.expand(2, -1)).sum(0)
    exact(attention_guided_cam(scores, grads, start=shares), expected)


@pytest.mark.parametrize("blocks", ["sum", "mean"])
def test_a_pooler_is_one_more_block_and_gives_the_others_their_shares(blocks):
    scores = [random_gradient(2, 3, 5, 5, seed=seed + 9) for seed in range(2)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(2)]
    attention, gradient = random_attention(2, 2, 1, 4, seed=7), random_gradient(2, 2, 1, 4, seed=7)
    score = attention.log()  # softmax(log A) = A
    first = torch.zeros(2, 1, dtype=torch.float64)  # the pooler reads no prefix token
    shares = torch.cat([first, attention.mean(1)[:, 0]], 1)
    own = torch.cat([first, cam_in_loops([score], [gradient], torch.ones(2, 1))[0]], 1)
    total = own + cam_in_loops(scores, grads, shares).sum(0)
    expected = total if blocks == "sum" else total / 3
    exact(attention_guided_cam(scores, grads, pooler=(score, gradient), block_fusion=blocks), expected)


@pytest.mark.parametrize("through_attention", [True, False])
def test_method_takes_scores_and_gradients_of_all_blocks(vit, images, target, through_attention):
    plain = plain_pass(vit, images, detached=not through_attention)
    grads = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.attentions)
    shares = torch.eye(25, dtype=torch.float64)[:1].expand(3, -1)
    expected = cam_in_loops([s.detach() for s in plain.scores], grads, shares).sum(0)[:, 1:].reshape(3, 1, 4, 6)
    method = AttentionGuidedCAM(vit, through_attention=through_attention)
    exact(method.attribute(images, target=target, resolution="patch"), expected)


@pytest.mark.parametrize("name", [name for name in cases.ALL_FAMILIES if name != "timm_vit_max"])
def test_the_cut_at_the_attention_works_on_every_family(name):
    case = cases.case(name)
    full, cut = (
        AttentionGuidedCAM(case.model, through_attention=through).attribute(case.images, target=1)
        for through in (True, False)
    )
    assert (full - cut).abs().max() > 1e-3 * full.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_fusion": "min"}, "head_fusion must be 'sum', 'mean' or 'max', got 'min'"),
        ({"block_fusion": "max"}, "block_fusion must be 'sum' or 'mean', got 'max'"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionGuidedCAM(vit, **options)
