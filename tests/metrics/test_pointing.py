import pytest
import torch
from metric_cases import B, L, random_case, undefined_case

from captum_vit.metrics import ClassPointingGame, PointingGame
from captum_vit.metrics.functional import pointing_game


@pytest.mark.parametrize(
    ("peak", "tolerance", "expected"),
    [((0, 2), 0, 0), ((0, 2), 1, 0), ((0, 2), 2, 0), ((0, 2), 3, 1), ((0, 0), 0, 0), ((0, 0), 1, 1)],
)
def test_the_protocols_worked_numbers(peak, tolerance, expected):
    maps, masks = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    maps[0][peak] = 1
    masks[0, 0, 0] = True
    assert pointing_game(maps, masks, tolerance=tolerance) == expected


def test_an_empty_mask_is_missed_where_the_reference_is_to_be_matched():
    assert pointing_game(B, torch.zeros_like(L)).isnan()
    assert pointing_game(B, torch.zeros_like(L), undefined="reference") == 0


@pytest.mark.parametrize("tolerance", [0.5, 1, 1.5, 2, 4, 15, 400])
@pytest.mark.parametrize("ties", ["first", "any"])
def test_it_is_its_definition(tolerance, ties):
    maps, masks = random_case(0)
    masks *= torch.rand(masks.shape, generator=torch.Generator().manual_seed(9)) < 0.1
    masks[:, 4, 4] = 1
    for image, (relevance, mask) in enumerate(zip(maps.tolist(), masks.tolist(), strict=True)):
        top = max(map(max, relevance))
        peaks = [(r, c) for r, row in enumerate(relevance) for c, value in enumerate(row) if value == top]
        inside = [(r, c) for r, row in enumerate(mask) for c, value in enumerate(row) if value == 1]
        hits = [any((r - y) ** 2 + (c - x) ** 2 < tolerance**2 for y, x in inside) for r, c in peaks]
        expected = hits[0] if ties == "first" else any(hits)
        assert pointing_game(maps, masks, tolerance=tolerance, ties=ties)[image] == expected


def test_ties_go_to_the_first_pixel_or_to_the_luckiest():
    maps = torch.tensor([[[0.0, 5.0], [5.0, 1.0]]])
    assert pointing_game(maps, L, tolerance=1) == 0
    assert pointing_game(maps, L, tolerance=1, ties="any") == 1


def test_void_pixels_are_background():
    assert pointing_game(B, torch.tensor([[[0, 0], [1, -1]]]), tolerance=1) == 0


def test_undefined_images():
    assert pointing_game(*undefined_case()).isnan().tolist() == [True] * 4 + [False]
    maps, masks = undefined_case()
    masks[0] = 0
    masks[0, 0, 0] = 1  # where a constant map points
    scored = pointing_game(maps, masks, tolerance=1, undefined="reference")
    assert scored[[0, 3]].tolist() == [1, 0]
    assert scored.isnan().tolist() == [False, True, True, False, False]


def test_the_mean_over_images():
    maps, masks = random_case(1)
    metric = PointingGame(tolerance=1, ties="any")
    metric.update(maps, masks)
    metric.update(*undefined_case())
    values = torch.cat([pointing_game(maps, masks, tolerance=1, ties="any")])
    last = pointing_game(*undefined_case(), tolerance=1, ties="any")[-1]
    assert metric.compute().item() == pytest.approx((values.sum() + last).item() / 7)
    assert (metric.images, metric.excluded) == (7, 4)


def points_at(*inside):
    """Maps whose highest pixel is inside the mask, or not."""
    maps = torch.stack([B[0] if hit else B[0].flip(0, 1) for hit in inside])
    return maps, L.expand(len(inside), -1, -1)


def test_a_constant_map_and_an_empty_mask_count_as_the_reference_counts_them():
    maps = torch.tensor([[[2.0, 2.0], [2.0, 2.0]], [[0.0, 3.0], [1.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]]])
    masks = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]])
    excluding, reference = PointingGame(tolerance=1), PointingGame(tolerance=1, undefined="reference")
    for metric in (excluding, reference):
        metric.update(maps, masks)
    assert excluding.compute().isnan()
    assert (excluding.images, excluding.excluded) == (0, 3)
    assert reference.compute().item() == pytest.approx(1 / 3)  # the first points at its first pixel
    assert (reference.images, reference.excluded) == (3, 0)


def test_the_mean_over_classes():
    metric = ClassPointingGame(4, tolerance=1)
    metric.update(*points_at(True, False, True), torch.tensor([0, 0, 0]))
    metric.update(*points_at(False), torch.tensor([2]))
    assert metric.compute().item() == pytest.approx((2 / 3 + 0) / 2)
    assert metric.seen.tolist() == [3, 0, 1, 0]
    assert metric.images == 4


def test_classes_that_never_occur_count_as_zero_where_asked_for():
    metric = ClassPointingGame(4, tolerance=1, empty_class="zero")
    metric.update(*points_at(True, False, True), torch.tensor([0, 0, 1]))
    assert metric.compute().item() == pytest.approx((1 / 2 + 1) / 4)


def test_undefined_images_of_a_class():
    maps, masks = undefined_case()
    classes = torch.tensor([0, 0, 0, 1, 1])
    metric, reference = ClassPointingGame(2, tolerance=1), ClassPointingGame(2, tolerance=1, undefined="reference")
    metric.update(maps, masks, classes)
    reference.update(maps, masks, classes)
    assert (metric.excluded, reference.excluded) == (4, 2)
    assert metric.seen.tolist() == [0, 1]
    assert reference.seen.tolist() == [1, 2]


def test_bad_options():
    with pytest.raises(ValueError, match=r"tolerance must be at least 0 pixels, got -1\."):
        pointing_game(B, L, tolerance=-1)
    with pytest.raises(ValueError, match=r"ties must be 'first' or 'any', got 'last'\."):
        pointing_game(B, L, ties="last")
    with pytest.raises(ValueError, match=r"undefined must be 'exclude' or 'reference', got 'zero'\."):
        pointing_game(B, L, undefined="zero")
    with pytest.raises(ValueError, match=r"num_classes must be at least 1, got 0\."):
        ClassPointingGame(0)
    with pytest.raises(ValueError, match=r"empty_class must be 'skip' or 'zero', got 'one'\."):
        ClassPointingGame(2, empty_class="one")


def test_bad_classes():
    metric = ClassPointingGame(2)
    with pytest.raises(ValueError, match=r"classes must be in \[0, 2\), got 2\."):
        metric.update(B, L, torch.tensor([2]))
    with pytest.raises(ValueError, match=r"classes must have shape \(1,\), one per map, got \(2,\)\."):
        metric.update(B, L, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"classes must be a tensor of integers \(B,\), got torch\.float32\."):
        metric.update(B, L, torch.tensor([1.0]))
