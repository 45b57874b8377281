from __future__ import annotations

import numpy as np
import pytest

from captum_vit.viz import colour, normalise, overlay


def test_normalise_takes_the_smallest_value_to_zero_and_the_largest_to_one():
    np.testing.assert_allclose(normalise(np.array([[-1.0, 0.0], [2.0, 3.0]])), [[0, 0.25], [0.75, 1]], atol=1e-15)


def test_signed_normalise_keeps_zero_and_divides_by_the_largest_magnitude():
    np.testing.assert_allclose(normalise(np.array([[-4.0, 0.0, 2.0]]), signed=True), [[-1, 0, 0.5]], atol=1e-15)


@pytest.mark.parametrize("signed", [False, True])
def test_normalise_forgets_the_scale_of_the_map(signed):
    relevance = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(
        normalise(relevance * 1e-9, signed=signed), normalise(relevance, signed=signed), atol=1e-12
    )


def test_a_map_without_contrast_becomes_zeros():
    assert not normalise(np.full((2, 2), 7.0)).any()
    assert not normalise(np.zeros((2, 2)), signed=True).any()


def test_normalise_leaves_its_argument_and_computes_half_precision_in_single():
    relevance = np.array([[1.0, 3.0]], dtype=np.float16)
    assert normalise(relevance).dtype == np.float32
    np.testing.assert_array_equal(relevance, [[1.0, 3.0]])


def test_zero_of_a_signed_map_has_the_neutral_colour_whatever_its_range():
    lopsided, symmetric = np.array([[0.0, 9.0]]), np.array([[0.0, -1.0]])
    np.testing.assert_array_equal(colour(lopsided, signed=True)[0, 0], colour(symmetric, signed=True)[0, 0])
    red, green, blue = colour(lopsided, signed=True)[0, 0]
    assert abs(red - green) < 0.02
    assert abs(green - blue) < 0.02
    for_, against = colour(np.array([[1.0, -1.0]]), signed=True)[0]
    assert for_[0] > for_[2]  # orange
    assert against[2] > against[1]  # purple


def test_unsigned_colours_grow_lighter():
    luma = colour(np.linspace(0, 1, 50)[None])[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > 0).all()


def test_overlay_mixes_the_colours_with_the_grey_image():
    image = np.zeros((1, 2, 3))
    image[0, 0] = [1.0, 0.5, 0.25]
    relevance = np.array([[0.0, 1.0]])
    grey = 0.299 + 0.587 * 0.5 + 0.114 * 0.25
    expected = 0.3 * colour(relevance)
    expected[0, 0] += 0.7 * grey
    np.testing.assert_allclose(overlay(image, relevance, opacity=0.3), expected, atol=1e-12)


def test_overlay_stays_in_range():
    rng = np.random.default_rng(0)
    result = overlay(rng.uniform(size=(5, 6, 3)), rng.normal(size=(5, 6)), signed=True)
    assert result.shape == (5, 6, 3)
    assert result.min() >= 0
    assert result.max() <= 1


def test_bad_maps_and_images_are_refused():
    with pytest.raises(ValueError, match=r"one map \(H, W\), got shape \(1, 2, 2\)"):
        normalise(np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="got 2 NaN or infinite values"):
        normalise(np.array([[np.nan, np.inf, 1.0]]))
    with pytest.raises(ValueError, match=r"got \(2, 2, 3\) and \(2, 3\)"):
        overlay(np.zeros((2, 2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="got values from 0 to 255"):
        overlay(np.array([[[0.0, 255.0, 1.0]]]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"opacity must be in \[0, 1\], got 1\.5"):
        overlay(np.zeros((1, 1, 3)), np.zeros((1, 1)), opacity=1.5)
