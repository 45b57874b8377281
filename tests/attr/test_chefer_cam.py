import pytest
import torch
from oracle import exact, gradients, plain_pass, random_attention, random_gradient
from torch import Tensor

from captum_vit import CheferCAM
from captum_vit.attr import chefer_cam


def relevance_in_loops(attentions: list[Tensor], gradients_: list[Tensor]) -> Tensor:
    """Chefer et al. 2021, eq. 5 and 6: Ā = E_h((∇A ∘ A)⁺); R ← R + Ā R, R₀ = I, one image and one entry at a time."""
    results = []
    for image in range(len(attentions[0])):
        tokens = attentions[0].shape[-1]
        relevance = torch.eye(tokens, dtype=torch.float64)
        for attention, gradient in zip(attentions, gradients_, strict=True):
            mean = torch.zeros(tokens, tokens, dtype=torch.float64)
            for head in range(attention.shape[1]):
                for i in range(tokens):
                    for j in range(tokens):
                        product = float(attention[image, head, i, j] * gradient[image, head, i, j])
                        mean[i, j] += max(product, 0.0) / attention.shape[1]
            relevance = relevance + mean @ relevance
        results.append(relevance)
    return torch.stack(results)


def test_is_the_class_tokens_row_of_the_full_recursion():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(3)]
    exact(chefer_cam(attentions, grads), relevance_in_loops(attentions, grads)[:, 0])


def test_the_clamp_comes_before_the_mean_over_heads():
    attention = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]]], dtype=torch.float64)
    gradient = torch.tensor([[[[0.0, 2.0], [0.0, 0.0]], [[0.0, -2.0], [0.0, 0.0]]]], dtype=torch.float64)
    exact(chefer_cam([attention], [gradient]), torch.tensor([[1.0, 0.5]], dtype=torch.float64))


def test_negative_gradients_leave_the_identity():
    attentions = [random_attention(2, 3, 5, 5)]
    exact(
        chefer_cam(attentions, [-random_gradient(2, 3, 5, 5).abs()]),
        torch.eye(5, dtype=torch.float64)[:1].expand(2, -1),
    )


def test_a_mean_pooled_model_starts_from_all_its_pooled_tokens():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(3)]
    start = torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
    exact(chefer_cam(attentions, grads, start=start), (start @ relevance_in_loops(attentions, grads)))


def test_a_pooler_has_no_skip_term():
    """Eq. 10 without its first summand: R_pool = Ā_pool R."""
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(2)]
    grads = [random_gradient(2, 3, 5, 5, seed=seed) for seed in range(2)]
    attention, gradient = random_attention(2, 2, 1, 5, seed=7), random_gradient(2, 2, 1, 5, seed=7)
    row = (attention * gradient).clamp(min=0).mean(1)  # (B, 1, N)
    exact(
        chefer_cam(attentions, grads, pooler=(attention, gradient)),
        (row @ relevance_in_loops(attentions, grads))[:, 0],
    )


def test_method_takes_the_gradient_of_the_logit(vit, images, target):
    plain = plain_pass(vit, images)
    grads = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.attentions)
    attentions = [a.detach() for a in plain.attentions]
    for start_block in (0, 1, -1):
        expected = relevance_in_loops(attentions[start_block:], grads[start_block:])[:, 0, 1:].reshape(3, 1, 4, 6)
        method = CheferCAM(vit, start_block=start_block)
        exact(method.attribute(images, target=target, resolution="patch"), expected)


def test_a_block_that_does_not_exist_is_refused(vit):
    with pytest.raises(ValueError, match=r"start_block must be in \[-3, 2\], got 7"):
        CheferCAM(vit, start_block=7)
