import numpy as np
import pytest
import torch
from oracle import exact
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity

from captum_vit.metrics.functional import hog_correlation, spearman, ssim


def pair(size=(48, 64), batch=3, ties=False):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, batch, *size, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(maps, 5, stride=1, padding=2)
    smooth[1] += 0.3 * smooth[0]
    return (smooth * 8).round().unbind(0) if ties else smooth.unbind(0)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_agrees_with_scipy(ties):
    first, second = pair(ties=ties)
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    exact(spearman(first, second), torch.tensor(expected, dtype=torch.float64))


def test_spearman_of_the_protocols_micro_map():
    maps = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]], dtype=torch.float64)
    exact(spearman(maps, maps), torch.ones(1, dtype=torch.float64))
    exact(spearman(maps, maps.flip(1, 2)), -torch.ones(1, dtype=torch.float64))


def test_spearman_sees_order_alone():
    first, second = pair()
    exact(spearman(first.exp(), second**3), spearman(first, second))


def test_ssim_agrees_with_scikit_image():
    first, second = pair()
    expected = [
        structural_similarity(
            unit(a), unit(b), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        for a, b in zip(first.numpy(), second.numpy(), strict=True)
    ]
    exact(ssim(first, second), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("cell", [16, 7])
def test_hog_correlation_agrees_with_scikit_image(cell):
    first, second = pair((52, 64))
    expected = [
        stats.pearsonr(*(hog(unit(each), pixels_per_cell=(cell, cell)) for each in maps)).statistic
        for maps in zip(first.numpy(), second.numpy(), strict=True)
    ]
    # scikit-image counts in float32
    torch.testing.assert_close(
        hog_correlation(first, second, cell=cell), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6
    )


def unit(array: np.ndarray) -> np.ndarray:
    return (array - array.min()) / (array.max() - array.min())


@pytest.mark.parametrize("similarity", [spearman, ssim, hog_correlation])
def test_similarity_is_symmetric_one_for_equal_maps_and_blind_to_scale(similarity):
    first, second = pair()
    exact(similarity(first, second), similarity(second, first))
    exact(similarity(first, first), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(similarity(1e-9 * first + 3e-9, second), similarity(first, second), rtol=0, atol=1e-6)
    assert (similarity(first, second) < 0.9).all()


@pytest.mark.parametrize("similarity", [ssim, hog_correlation])
def test_maps_are_normalised_only_where_asked(similarity):
    first, second = pair()
    by_hand = [torch.from_numpy(np.stack([unit(each) for each in maps.numpy()])) for maps in (first, second)]
    exact(similarity(*by_hand, normalise=False), similarity(first, second))
    assert (similarity(1e-6 * first, second, normalise=False) - similarity(first, second)).abs().max() > 1e-3


@pytest.mark.parametrize("similarity", [spearman, ssim, hog_correlation])
@pytest.mark.parametrize("side", [0, 1])
def test_a_map_that_says_nothing_is_like_none(similarity, side):
    maps = [each.clone() for each in pair()]
    maps[side][0] = 0.1
    maps[side][1, 3, 4] = torch.nan
    assert similarity(*maps).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("similarity", [spearman, ssim, hog_correlation])
def test_a_batch_of_one_gives_one_value(similarity):
    first, second = pair(batch=1)
    assert similarity(first, second).shape == (1,)
    assert similarity(first.float(), second.float()).dtype == torch.float32


def test_shapes_and_sizes_that_do_not_fit_are_refused():
    first, second = pair()
    with pytest.raises(ValueError, match=r"must have the shape .* \(3, 48, 64\), got \(3, 48, 60\)"):
        spearman(first, second[:, :, :60])
    with pytest.raises(ValueError, match=r"at least 11 pixels high and wide for SSIM, got 10×64\. Upsample"):
        ssim(first[:, :10], second[:, :10])
    with pytest.raises(ValueError, match=r"at least 3×3 cells of 16 pixels, got 47×64 pixels"):
        hog_correlation(first[:, :47], second[:, :47])
    with pytest.raises(ValueError, match="cell must be at least 1 pixel, got 0"):
        hog_correlation(first, second, cell=0)
