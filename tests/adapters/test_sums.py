import pytest
import torch
from oracle import exact
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from captum_vit.adapters import sums
from captum_vit.adapters.sums import column_sums


class Largest(TorchDispatchMode):
    """The most numbers in one tensor that any function returned."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(gradient: Tensor, value: Tensor, positive: bool) -> Tensor:
    sums = torch.zeros(len(gradient), value.shape[2], dtype=torch.float64)
    for image in range(len(gradient)):
        for head in range(gradient.shape[1]):
            for query in gradient[image, head]:
                for number, key in enumerate(value[image, head]):
                    product = float(sum(query * key))
                    sums[image, number] += max(product, 0.0) if positive else product
    return sums


@pytest.mark.parametrize("positive", [True, False])
def test_sums_are_those_of_the_whole_map_whatever_the_piece(monkeypatch, positive):
    gradient, value = draw(0, 3, 4, 5, 2), draw(1, 3, 4, 6, 2)
    expected = plain(gradient, value, positive)
    for numbers in (1, 6, 12, 30, 70, 120, 250, 10_000):
        monkeypatch.setattr(sums, "CACHED_PIECE_BYTES", numbers * 8)
        exact(column_sums(gradient, value, positive=positive), expected)
        turned = gradient.transpose(1, 2).contiguous().transpose(1, 2)
        exact(column_sums(turned, value, positive=positive), expected)


@pytest.mark.parametrize("numbers", [40 * 40 * 2, 40 * 7], ids=["two heads", "seven rows"])
def test_no_more_than_one_piece_is_formed(monkeypatch, numbers):
    gradient, value = draw(0, 2, 6, 40, 4), draw(1, 2, 6, 40, 4)
    monkeypatch.setattr(sums, "CACHED_PIECE_BYTES", numbers * 8)
    with Largest() as largest:
        column_sums(gradient, value)
    assert largest.numbers == numbers
