import numpy as np
import pytest
import torch
from perturbed import case, close

from captum_vit.metrics.functional import impute


def by_loops(image, missing):
    """arXiv 2202.00449, section 4.2, as a dense system over the missing pixels of one channel (H, W)."""
    height, width = image.shape
    unknowns = [(row, column) for row in range(height) for column in range(width) if missing[row, column]]
    left, right = np.zeros((len(unknowns), len(unknowns))), np.zeros(len(unknowns))
    for number, (row, column) in enumerate(unknowns):
        weights = 0.0
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                there = (row + down, column + across)
                if (down, across) == (0, 0) or not (0 <= there[0] < height and 0 <= there[1] < width):
                    continue
                weight = 1 / 12 if down and across else 1 / 6
                weights += weight
                if there in unknowns:
                    left[number, unknowns.index(there)] -= weight
                else:
                    right[number] += weight * image[there].item()
        left[number, number] = weights
    result = image.clone()
    for place, value in zip(unknowns, np.linalg.solve(left, right), strict=True):
        result[place] = value
    return result


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_the_linear_system(share):
    images, maps, _ = case()
    missing = maps < maps.flatten(1).quantile(share, dim=1).view(-1, 1, 1)
    imputed = impute(images, missing, noise=0)
    for number in range(3):
        for channel in range(3):
            close(imputed[number, channel], by_loops(images[number, channel], missing[number]))


def test_worked_numbers():
    image = torch.tensor([[[[0.0, 6.0, 0.0], [6.0, 99.0, 6.0], [0.0, 6.0, 12.0]]]], dtype=torch.float64)
    for places, expected in (([(1, 1)], [5.0]), ([(0, 0)], [24.6]), ([(1, 1), (1, 2)], [4.956522, 5.739130])):
        missing = torch.zeros(1, 3, 3, dtype=torch.bool)
        for place in places:
            missing[0][place] = True
        close(impute(image, missing, noise=0)[0, 0][missing[0]], expected, atol=1e-6)


def test_known_pixels_stay_and_missing_ones_do_not_count():
    images, maps, _ = case()
    missing = maps > 0
    changed = torch.where(missing[:, None], images + 5, images)
    close(impute(images, missing), impute(changed, missing))
    known = ~missing[:, None].expand_as(images)
    assert torch.equal(impute(images, missing)[known], images[known])


def test_a_constant_image_is_imputed_by_itself():
    images, maps, _ = case()
    close(impute(torch.full_like(images, 0.3), maps > -1, noise=0), torch.full_like(images, 0.3))


def test_no_missing_pixel_changes_nothing():
    images, maps, _ = case()
    assert torch.equal(impute(images, maps > 99), images)


def test_noise_comes_from_the_seed_and_is_the_same_for_every_image():
    images, maps, _ = case()
    missing = (maps > 0)[:1].expand(3, -1, -1)
    added = impute(images, missing, noise=0.5, seed=4) - impute(images, missing, noise=0)
    close(added[1], added[0])
    close(added, impute(images, missing, noise=0.5, seed=4) - impute(images, missing, noise=0))
    assert not torch.equal(added, impute(images, missing, noise=0.5, seed=5) - impute(images, missing, noise=0))
    hole = missing[:, None].expand_as(images)
    assert not added[~hole].any()
    assert added[hole].std().item() == pytest.approx(0.5, rel=0.2)


def test_dtype_is_kept():
    images, maps, _ = case()
    assert impute(images.float(), maps > 0).dtype == torch.float32
    close(impute(images.float(), maps > 0, noise=0), impute(images, maps > 0, noise=0), atol=1e-6)  # float32


def test_an_image_of_one_row_has_neighbours_too():
    image = torch.tensor([[[[1.0, 9.0, 4.0]]]])
    assert impute(image, image[:, 0] == 9, noise=0)[0, 0, 0].tolist() == [1, 2.5, 4]


def test_what_cannot_be_imputed_is_refused():
    images, maps, _ = case()
    with pytest.raises(ValueError, match=r"missing must leave a pixel of each image, got an image without any\."):
        impute(images, maps > -99)
    with pytest.raises(ValueError, match=r"noise must be at least 0, got -0\.5\."):
        impute(images, maps > 0, noise=-0.5)
    with pytest.raises(ValueError, match=r"missing must be \(B, H, W\) .*, got \(3, 8, 11\) and \(3, 3, 8, 12\)\."):
        impute(images, maps[..., 1:] > 0)
