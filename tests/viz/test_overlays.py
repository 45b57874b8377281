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


def test_signed_maps_with_one_limit_can_be_compared():
    relevance = np.array([[1.0, -2.0]])
    np.testing.assert_array_equal(normalise(relevance, signed=True, limit=4.0), relevance / 4)
    with pytest.raises(ValueError, match="limit must be at least the map's largest magnitude 2, got 1"):
        normalise(relevance, signed=True, limit=1.0)
    with pytest.raises(ValueError, match="limit must be None for a map that is not signed, got 4"):
        normalise(relevance, limit=4.0)


DEUTERANOPIA = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
PROTANOPIA = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
TRITANOPIA = [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]
"""What is left of linear RGB: Machado, Oliveira and Fernandes 2009 (10.1109/TVCG.2009.113), table 1, severity 1."""


def seen(matrix, colours):
    """CIELAB (N, 3) of sRGB colours as eyes see them that lack one kind of cones."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.transpose(matrix)).clip(0, 1)
    xyz = linear @ np.transpose([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("matrix", [np.eye(3), DEUTERANOPIA, PROTANOPIA, TRITANOPIA])
def test_colours_are_told_apart_by_all_eyes(matrix):
    values = np.linspace(-1, 1, 41)
    lightness = seen(matrix, colour(values[None])[0])[:, 0]
    assert (np.diff(lightness) > 0).all()  # the higher the lighter
    signed = seen(matrix, colour(values[None], signed=True)[0])
    assert (np.diff(signed[:21, 0]) > 0).all()  # lightest at zero
    assert (np.diff(signed[20:, 0]) < 0).all()
    for against, for_ in zip(signed[:16], signed[:-17:-1], strict=True):  # from 0.25 on
        assert np.linalg.norm(against - for_) > 10  # five times what is just seen
