import pytest
import torch
from oracle import exact, gradients, plain_pass, random_attention, random_gradient
from torch import Tensor

from captum_vit import GradientRollout
from captum_vit.attr import attention_rollout, gradient_rollout


def rollout_in_loops(
    attentions: list[Tensor],
    grads: list[Tensor],
    fusion: str = "mean",
    residual: float = 0.5,
    discard: float = 0.0,
    normalize: bool = True,
) -> Tensor:
    """F = (fuse_h(∇A ∘ A))⁺; Ã = rows of (1 - r) F + r I scaled to one; rollout = Ã_L ⋯ Ã_1, with full products."""
    size = attentions[0].shape[-1]
    results = []
    for image in range(len(attentions[0])):
        product = torch.eye(size, dtype=torch.float64)
        for attention, gradient in zip(attentions, grads, strict=True):
            mixed = torch.zeros(size, size, dtype=torch.float64)
            for i in range(size):
                for j in range(size):
                    heads = [float(a[i, j] * g[i, j]) for a, g in zip(attention[image], gradient[image], strict=True)]
                    fused = {"mean": sum(heads) / len(heads), "max": max(heads), "min": min(heads)}[fusion]
                    mixed[i, j] = max(fused, 0.0)
            entries = sorted((float(mixed[i, j]), i, j) for i in range(size) for j in range(size))
            for _, i, j in entries[: int(len(entries) * discard)]:
                mixed[i, j] = 0.0
            mixed = (1 - residual) * mixed + residual * torch.eye(size, dtype=torch.float64)
            for row in mixed:
                row /= row.sum() if normalize and row.sum() > 0 else 1.0
            product = mixed @ product
        results.append(product)
    return torch.stack(results)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.8])
@pytest.mark.parametrize(("residual", "normalize"), [(0.5, True), (0.0, True), (0.2, False), (0.0, False)])
def test_is_the_class_tokens_row_of_the_full_product(fusion, discard, residual, normalize):
    attentions = [random_attention(2, 3, 6, 6, seed=seed) for seed in range(3)]
    grads = [random_gradient(2, 3, 6, 6, seed=seed) for seed in range(3)]
    options = {"residual": residual, "normalize": normalize}
    expected = rollout_in_loops(attentions, grads, fusion, discard=discard, **options)[:, 0]
    actual = gradient_rollout(attentions, grads, head_fusion=fusion, discard_ratio=discard, **options)
    exact(actual, expected)


def test_a_gradient_of_one_everywhere_is_attention_rollout():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    exact(gradient_rollout(attentions, [torch.ones_like(a) for a in attentions]), attention_rollout(attentions))


def test_each_block_has_its_own_gradient_and_the_last_comes_first():
    attentions = [random_attention(1, 2, 5, 5, seed=seed) for seed in range(3)]
    grads = [random_gradient(1, 2, 5, 5, seed=seed) for seed in range(3)]
    one = gradient_rollout(attentions, grads)
    assert (one - gradient_rollout(attentions, grads[::-1])).abs().max() > 0.01
    assert (one - gradient_rollout(attentions[::-1], grads[::-1])).abs().max() > 0.01


def test_without_identity_and_positive_gradient_nothing_arrives():
    attentions, grads = [random_attention(1, 2, 4, 4)], [-torch.ones(1, 2, 4, 4, dtype=torch.float64)]
    exact(gradient_rollout(attentions, grads, residual=0.0), torch.zeros(1, 4, dtype=torch.float64))


@pytest.mark.parametrize("normalize", [True, False])
def test_a_pooler_is_where_the_rollout_starts(normalize):
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(3)]
    attention, gradient = random_attention(2, 2, 1, 4, seed=7), random_gradient(2, 2, 1, 4, seed=7)
    row = (attention * gradient).clamp(min=0).mean(1)
    row = row / row.sum(-1, keepdim=True) if normalize else row
    row = torch.cat([torch.zeros(2, 1, 1, dtype=torch.float64), row], -1)  # it reads no prefix token
    expected = (row @ rollout_in_loops(attentions, grads, normalize=normalize))[:, 0]
    exact(gradient_rollout(attentions, grads, pooler=(attention, gradient), normalize=normalize), expected)


@pytest.mark.parametrize(
    "options", [{}, {"head_fusion": "max", "residual": 0.0, "discard_ratio": 0.5}, {"start_block": -2}]
)
def test_method_takes_the_gradients_of_the_attention_maps(vit, images, target, options):
    plain = plain_pass(vit, images)
    grads = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.attentions)
    first = options.get("start_block", 0)
    expected = rollout_in_loops(
        [a.detach() for a in plain.attentions][first:],
        grads[first:],
        options.get("head_fusion", "mean"),
        options.get("residual", 0.5),
        options.get("discard_ratio", 0.0),
    )
    actual = GradientRollout(vit, **options).attribute(images, target=target, resolution="patch")
    exact(actual, expected[:, 0, 1:].reshape(3, 1, 4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_fusion": "sum"}, "head_fusion must be 'mean', 'max' or 'min', got 'sum'"),
        ({"residual": 1.5}, r"residual must be in \[0, 1\], got 1\.5"),
        ({"discard_ratio": 1.0}, r"discard_ratio must be in \[0, 1\), got 1\.0"),
        ({"start_block": 3}, r"start_block must be in \[-3, 2\], got 3"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        GradientRollout(vit, **options)
