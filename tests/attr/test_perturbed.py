import pytest
import torch
from oracle import exact

from captum_vit.attr.perturbed import perturbed_scores


@pytest.mark.parametrize("per_batch", [1, 4, 100])
def test_scores_stand_where_their_image_target_and_copy_say(per_batch):
    sizes = []

    def run(image, copy):
        sizes.append(len(image))
        return torch.stack([100.0 * image + 10 * copy, 100.0 * image + 10 * copy + 1], 1).double()

    scores = perturbed_scores(torch.tensor([[1, 0, 1], [0, 0, 1]]), 5, per_batch, run)
    expected = torch.tensor(
        [
            [[100 * i + 10 * c + t for c in range(5)] for t in targets]
            for i, targets in enumerate([[1, 0, 1], [0, 0, 1]])
        ],
        dtype=torch.float64,
    )
    exact(scores, expected)
    assert sum(sizes) == 10
    assert max(sizes) == min(per_batch, 10)


def test_half_precision_becomes_single():
    scores = perturbed_scores(
        torch.zeros(1, 1, dtype=torch.long), 2, 8, lambda image, _: torch.ones(len(image), 1).half()
    )
    assert scores.dtype == torch.float32
