from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from cases import case
from PIL import Image

from captum_vit import LeGrad, adapt
from captum_vit.attr import upsample
from captum_vit.viz import overlay, show, show_difference

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(2, 3, 40, 60))
SHOWN = np.moveaxis(IMAGES, 1, -1)
PATCHES = RNG.uniform(size=(2, 1, 4, 6))
ATTRIBUTIONS = RNG.normal(size=(2, 3, 40, 60))


def drawn(made):
    """Pictures by column and row."""
    arrays = [np.asarray(axes.images[0].get_array()) for axes in made.axes if axes.images]
    return np.reshape(arrays, (-1, 2, 40, 60, 3))


def ends(made):
    labels = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in made.axes if not axes.images]
    return [each for each in labels if any(each)]


def full(patches):
    """Bilinear, half-pixel centres, edges repeated; in plain loops."""
    count, height, width = len(patches), 40, 60
    gh, gw = patches.shape[-2:]
    made = np.zeros((count, height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * gh / height - 0.5, 0), gh - 1)
            u = min(max((x + 0.5) * gw / width - 0.5, 0), gw - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, gh - 1), min(left + 1, gw - 1)
            upper = patches[:, 0, top, left] * (1 - u + left) + patches[:, 0, top, right] * (u - left)
            lower = patches[:, 0, below, left] * (1 - u + left) + patches[:, 0, below, right] * (u - left)
            made[:, y, x] = upper * (1 - v + top) + lower * (v - top)
    return made


def test_attributions_and_patch_maps_are_drawn_over_their_images():
    made = show(IMAGES, {"patches": PATCHES, "pixels": torch.tensor(ATTRIBUTIONS)}, rows=["a", "b"], opacity=0.4)
    image, patches, pixels = drawn(made)
    np.testing.assert_array_equal(image, SHOWN)
    for row in range(2):
        expected = overlay(SHOWN[row], full(PATCHES)[row], opacity=0.4)
        np.testing.assert_allclose(patches[row], expected, atol=1e-10)
        summed = ATTRIBUTIONS[row, 0] + ATTRIBUTIONS[row, 1] + ATTRIBUTIONS[row, 2]
        np.testing.assert_allclose(pixels[row], overlay(SHOWN[row], summed, signed=True, opacity=0.4), atol=1e-10)
    assert [text.get_text() for text in made.texts][:3] == ["image", "patches", "pixels"]
    assert [axes.get_ylabel() for axes in made.axes if axes.get_ylabel()] == ["a", "b"]


@pytest.mark.parametrize(
    ("signed", "expected"),
    [(None, [0, 1]), (True, [1, 1]), (False, [0, 0]), (["patches"], [1, 0])],
)
def test_colours_diverge_about_zero_where_a_column_has_values_below_it(signed, expected):
    made = show(IMAGES, {"patches": PATCHES, "pixels": ATTRIBUTIONS}, signed=signed)
    assert ends(made) == [[["lowest", "highest"], ["against", "for"]][each] for each in expected]
    with pytest.raises(ValueError, match=r"signed must be names among \['patches'\], got \['pixels'\]"):
        show(IMAGES, {"patches": PATCHES}, signed=["pixels"])


def test_a_map_alone_and_one_image_for_several_maps():
    made = show(IMAGES[0], PATCHES, masks=np.ones((2, 1, 40, 60)), title="a model")
    np.testing.assert_array_equal(drawn(made)[0], np.stack([SHOWN[0]] * 2))
    np.testing.assert_allclose(drawn(made)[1][1], overlay(SHOWN[0], full(PATCHES)[1]), atol=1e-10)
    assert [text.get_text() for text in made.texts] == ["image", "attribution", "a model"]
    assert all(axes.collections for axes in made.axes if axes.images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_precision_and_with_a_graph(dtype):
    patches = torch.tensor(PATCHES, dtype=dtype)
    made = show(IMAGES, patches.clone().requires_grad_())
    np.testing.assert_allclose(drawn(made), drawn(show(IMAGES, patches.double().numpy())), atol=1e-5)


@pytest.mark.parametrize("form", ["channels last", "8 bits", "tensor", "PIL"])
def test_images_in_every_form(form):
    eight = (SHOWN * 255).astype(np.uint8)
    images = {"channels last": SHOWN, "8 bits": eight, "tensor": torch.tensor(IMAGES), "PIL": Image.fromarray(eight[0])}
    expected = eight / 255 if form in ("8 bits", "PIL") else SHOWN
    first = drawn(show(images[form], PATCHES))[0][0]
    np.testing.assert_array_equal(first, expected[0])


def test_maps_of_this_package_and_of_captum():
    tiny = case("timm_vit")
    images = tiny.images[:2]
    pictures = torch.tensor(RNG.uniform(size=images.shape))
    patches = LeGrad(tiny.model).attribute(images, target=1, resolution="patch")
    gradients = IntegratedGradients(adapt(tiny.model)).attribute(images, target=1, n_steps=2)
    made = show(pictures, {"LeGrad": patches, "IG": gradients})
    shown = [np.asarray(axes.images[0].get_array()) for axes in made.axes if axes.images]
    expected = upsample(patches, tuple(images.shape[-2:]))[1, 0].numpy()
    np.testing.assert_allclose(shown[3], overlay(pictures[1].permute(1, 2, 0).numpy(), expected), atol=1e-10)
    assert ends(made) == [["lowest", "highest"], ["against", "for"]]


def test_a_notebook_shows_the_figure():
    made = show(IMAGES, PATCHES)
    assert made._repr_png_().startswith(b"\x89PNG")


def test_the_difference_of_two_maps_has_one_scale_about_zero():
    first, second = full(PATCHES), full(RNG.uniform(size=(2, 1, 4, 6)))
    made = show_difference(IMAGES, first, second, names=("attention", "weighted attention"))
    image, one, two, difference = drawn(made)
    np.testing.assert_array_equal(image, SHOWN)
    scaled = [np.stack([(each - each.min()) / (each.max() - each.min()) for each in maps]) for maps in (first, second)]
    expected = scaled[1] - scaled[0]
    limit = np.abs(expected).max()
    for row in range(2):
        np.testing.assert_allclose(one[row], overlay(SHOWN[row], first[row]), atol=1e-10)
        np.testing.assert_allclose(two[row], overlay(SHOWN[row], second[row]), atol=1e-10)
        # a map that holds both limits is scaled by itself as the difference is by the limit of all rows
        padded = np.concatenate([expected[row], [[limit] * 30 + [-limit] * 30]])
        grey = np.concatenate([SHOWN[row], np.zeros((1, 60, 3))])
        np.testing.assert_allclose(difference[row], overlay(grey, padded, signed=True)[:40], atol=1e-10)
    headings = [text.get_text() for text in made.texts][1:4]
    assert headings == ["attention", "weighted attention", "weighted attention − attention"]
    assert ends(made)[2] == [f"−{limit:.2g}", f"+{limit:.2g}"]


def test_the_difference_of_raw_values():
    made = show_difference(IMAGES, PATCHES, PATCHES + 2, scale="none")
    grey = SHOWN @ np.array([0.299, 0.587, 0.114])
    highest = overlay(np.zeros((1, 2, 3)), np.array([[-1.0, 1.0]]), signed=True)[0, 1]
    np.testing.assert_allclose(drawn(made)[3], highest + 0.3 * grey[..., None], atol=0.02)
    assert ends(made)[2] == ["−2", "+2"]
    assert ends(show_difference(IMAGES, PATCHES, PATCHES))[2] == ["−0", "+0"]
    summed = show_difference(IMAGES, ATTRIBUTIONS, ATTRIBUTIONS + 1, scale="none")
    assert ends(summed)[2] == ["−3", "+3"]  # one for each channel


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES, {}), "maps must hold at least one, got none"),
        ((IMAGES[:, :2], PATCHES), r"\(H, W, 3\), got shape \(2, 2, 40, 60\)"),
        ((IMAGES * 3 - 1, PATCHES), r"images must be in \[0, 1\], got values from -0\.99.* LoadedModel.denormalise"),
        ((IMAGES, {"a": PATCHES[:, :, None]}), r"maps of 'a' must be attributions .* got shape \(2, 1, 1, 4, 6\)"),
        ((IMAGES, {"a": PATCHES * np.nan}), "maps of 'a' must be finite, got 48 NaN"),
        ((IMAGES, {"a": ATTRIBUTIONS[..., :-1]}), r"size 40×60 of the images.*got shape \(2, 3, 40, 59\)"),
        (
            (IMAGES[0], {"a": ATTRIBUTIONS[0]}),
            r"three maps .* or one .* \(3, 40, 60\).* \(1, 3, 40, 60\) for one",
        ),
        ((IMAGES, {"a": np.ones((2, 1, 41, 6))}), r"size 40×60 of the images.*got shape \(2, 1, 41, 6\)"),
        ((IMAGES, {"a": PATCHES, "b": PATCHES[:1]}), "for each of 2 images, or several of one, got 2 of 'a', 1 of 'b'"),
        ((IMAGES, np.ones((3, 1, 4, 6))), "for each of 2 images, or several of one, got 3 of 'attribution'"),
    ],
)
def test_images_and_maps_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        show(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ["a"]}, r"rows must be 2 texts, got \['a'\]"),
        ({"rows": "ab"}, "rows must be 2 texts, got 'ab'"),
        ({"masks": np.ones((40, 60))}, r"masks must be \(rows, H, W\) = \(2, 40, 60\), got shape \(40, 60\)"),
        ({"opacity": 1.5}, r"opacity must be in \[0, 1\], got 1.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        show(IMAGES, PATCHES, **options)
    with pytest.raises(ValueError, match=message):
        show_difference(IMAGES, PATCHES, PATCHES, **options)


def test_differences_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="scale must be 'own' or 'none', got 'both'"):
        show_difference(IMAGES, PATCHES, PATCHES, scale="both")
    with pytest.raises(ValueError, match=r"names must be two that differ, got \('a', 'a'\)"):
        show_difference(IMAGES, PATCHES, PATCHES, names=("a", "a"))
    with pytest.raises(ValueError, match="got 2 of 'first', 1 of 'second'"):
        show_difference(IMAGES, PATCHES, PATCHES[:1])


def texts(made):
    return [text.get_text() for text in made.texts]


def test_constant_maps_are_named():
    half = np.stack([PATCHES[0], np.full_like(PATCHES[1], 0.3)])  # upsampled, 0.3 up to rounding
    made = show(IMAGES, {"whole": PATCHES, "half": half})
    assert np.ptp(drawn(made)[2, 1] - overlay(SHOWN[1], np.zeros((40, 60)))) == 0
    assert "Constant, no place stands out: half, row 2" in texts(made)
    made = show(IMAGES[0], {"whole": PATCHES[:1], "none": np.zeros((1, 1, 4, 6))})
    assert "Constant, no place stands out: none" in texts(made)
    assert not any("Constant" in text for text in texts(show(IMAGES, {"whole": PATCHES})))
    made = show_difference(IMAGES[0], PATCHES[:1], np.zeros((1, 1, 4, 6)))
    assert "Constant, no place stands out: second" in texts(made)
