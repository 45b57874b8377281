import numpy as np
import pytest
import torch
from perturbed import Linear, case, close, swapped
from torch.utils._python_dispatch import TorchDispatchMode

from captum_vit.metrics.functional import faithfulness_correlation

SUBSETS = {"patch": (4, 2), "subset": 3, "runs": 20}


def test_relevance_and_cost_of_the_same_random_patches():
    """arXiv 2005.00631, definition 3: over subsets S, the correlation of Σ_S A with f(x) − f(x without S)."""
    images, maps, targets = case()
    seen = []

    def watching(changed):
        seen.append(changed)
        return Linear()(changed)

    grey = torch.full_like(images, 0.4)
    result = faithfulness_correlation(watching, images, maps, targets, fill=0.4, **SUBSETS)
    runs = [changed for changed in torch.cat(seen) if not any(torch.equal(changed, image) for image in images)]
    assert len(runs) == 3 * 20
    for number, target in enumerate(targets):
        pairs = []
        for changed in runs[20 * number : 20 * (number + 1)]:
            removed = [
                [(top + row, left + column) for row in range(4) for column in range(2)]
                for top in (0, 4)
                for left in range(0, 12, 2)
                if changed[0, top, left] == 0.4
            ]
            assert len(removed) == 3
            assert torch.equal(changed, swapped(images[number], grey[number], removed))
            worth = sum(maps[number][place].item() for pixels in removed for place in pixels)
            lost = (Linear()(images[number][None]) - Linear()(changed[None]))[0, target].item()
            pairs.append((worth, lost))
        close(result.score[number], np.corrcoef(*zip(*pairs, strict=True))[0, 1])
        given = zip(result.relevance[number].tolist(), result.drops[number].tolist(), strict=True)
        close(torch.tensor(sorted(given)), sorted(pairs))


def test_subsets_differ_between_runs_and_come_from_the_seed():
    images, maps, targets = case()
    first, same, other = (
        faithfulness_correlation(Linear(), images, maps, targets, seed=seed, **SUBSETS) for seed in (0, 0, 1)
    )
    assert first.relevance[0].unique().numel() > 15
    close(first.relevance, same.relevance)
    assert not torch.equal(first.relevance, other.relevance)


def test_what_the_model_loses_is_the_perfect_map():
    images, _, targets = case()
    worth = (images * Linear().weights[targets]).sum(1)
    for maps, score in ((worth, 1.0), (-worth, -1.0)):
        close(faithfulness_correlation(Linear(), images, maps, targets, **SUBSETS).score, [score] * 3)


def test_tiny_drops_of_a_single_precision_model_still_correlate():
    images, _, targets = case()
    worth = (images * Linear().weights[targets]).sum(1)
    tiny = faithfulness_correlation(lambda each: 1e-25 * Linear()(each).float(), images, worth, targets, **SUBSETS)
    close(tiny.score, [1.0] * 3, atol=1e-5)  # float32


def test_an_image_runs_once_whole_and_once_per_subset():
    images, maps, targets = case(5)
    maps[0], maps[1, 0, 0] = 1, torch.nan
    model = Linear()
    result = faithfulness_correlation(model, images, maps, targets, batch_size=8, **SUBSETS)
    assert sum(model.seen) == 3 * 21
    assert max(model.seen) == 8
    assert result.score.isnan().tolist() == [True, True, False, False, False]
    close(result.score[2:], faithfulness_correlation(Linear(), images[2:], maps[2:], targets[2:], **SUBSETS).score)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return made


def test_memory_does_not_grow_with_images_times_runs():
    images, maps, targets = (each.repeat(4, *[1] * (each.ndim - 1)) for each in case(5))
    with Largest() as largest:
        faithfulness_correlation(Linear(), images, maps, targets, patch=(1, 1), subset=9, runs=40, batch_size=4)
    assert images.nbytes <= largest.bytes <= 2 * images.nbytes
    assert 2 * images.nbytes < 20 * 40 * 96 * 8  # bytes of a number for every image, run and patch


def test_a_model_that_never_reacts_correlates_with_nothing():
    images, maps, targets = case()
    indifferent = faithfulness_correlation(lambda each: torch.ones(len(each), 4), images, maps, targets, **SUBSETS)
    assert indifferent.score.isnan().all()


@pytest.mark.parametrize("subset", [0, 12])
def test_subsets_of_nothing_and_of_everything_are_refused(subset):
    with pytest.raises(ValueError, match=rf"subset must be in \[1, 12\), part of the patches, got {subset}\."):
        faithfulness_correlation(Linear(), *case(), patch=(4, 2), subset=subset)


def test_one_run_is_refused():
    with pytest.raises(ValueError, match=r"runs must be at least 2, got 1\."):
        faithfulness_correlation(Linear(), *case(), patch=(4, 2), subset=3, runs=1)
