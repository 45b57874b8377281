import pytest
import torch
from oracle import exact, plain_pass, random_attention

from captum_vit import RawAttention
from captum_vit.attr import raw_attention


def test_is_the_head_mean_of_the_class_tokens_row():
    """LeGrad, eq. 12."""
    attention = random_attention(2, 3, 5, 5)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for image in range(2):
        for key in range(5):
            for head in range(3):
                expected[image, key] += attention[image, head, 0, key] / 3
    exact(raw_attention(attention), expected)


def test_rows_sum_to_one_from_any_start():
    attention = random_attention(2, 3, 5, 5)
    start = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)
    exact(raw_attention(attention, start=start).sum(1), torch.ones(2, dtype=torch.float64))
    exact(raw_attention(attention, start=start), torch.einsum("q,bhqn->bn", start, attention) / 3)


def test_permuting_heads_changes_nothing():
    attention = random_attention(2, 3, 5, 5)
    exact(raw_attention(attention[:, [2, 0, 1]]), raw_attention(attention))


def test_method_reads_the_last_block(vit, images):
    last = plain_pass(vit, images).attentions[-1].detach()
    expected = last.mean(1)[:, 0, 1:].reshape(3, 1, 4, 6)
    exact(RawAttention(vit).attribute(images, resolution="patch"), expected)


def test_needs_no_target_and_ignores_one(vit, images):
    method = RawAttention(vit)
    exact(method.attribute(images, target=3), method.attribute(images))


def test_an_impossible_target_is_refused_all_the_same(vit, images):
    with pytest.raises(ValueError, match=r"target must be in \[0, 4\], got 5\."):
        RawAttention(vit).attribute(images, target=5)
