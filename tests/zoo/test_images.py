from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from captum_vit.zoo import SAMPLES, load_image


def _write(path, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def test_a_png_is_read_pixel_by_pixel(tmp_path):
    pixels = _write(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_jpeg_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    _write(tmp_path / "a.jpg", exif=exif, quality=95)
    assert load_image(str(tmp_path / "a.jpg")).size == (6, 9)


def test_palette_and_grey_images_become_rgb(tmp_path):
    for mode in ("L", "P", "1", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        Image.new(mode, (4, 3)).save(path)
        assert load_image(path).mode == "RGB"


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_photographs(name):
    image = load_image(f"skimage:{name}")
    assert image.mode == "RGB"
    assert min(image.size) >= 300


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"got 'nowhere/cat\.jpg', which is no file"):
        load_image("nowhere/cat.jpg")


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"a format that Pillow reads, got .*notes\.png"):
        load_image(tmp_path / "notes.png")


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_file_that_is_cut_short(tmp_path, ending):
    path = tmp_path / f"cut.{ending}"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(ValueError, match=rf"image .*cut\.{ending} can't be read: "):
        load_image(path)


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"8 bits per channel, got mode I;16 in .*deep\.png"):
        load_image(tmp_path / "deep.png")


def test_an_unknown_photograph():
    with pytest.raises(ValueError, match="skimage:astronaut, skimage:chelsea, skimage:coffee, got 'skimage:dog'"):
        load_image("skimage:dog")


def test_scikit_image_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ImportError, match=r"pip install 'captum-vit\[samples\]'"):
        load_image("skimage:chelsea")


def test_an_image_above_a_number_of_pixels_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    _write(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", max_pixels=54).size == (9, 6)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(ValueError, match=r"at most 5\.3e-05 megapixels, got 9×6 = 5\.4e-05\."):
        load_image(tmp_path / "a.png", max_pixels=53)


def test_images_that_pillow_takes_for_an_attack_are_refused(tmp_path, monkeypatch):
    _write(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"a\.png has too many pixels: Image size \(54 pixels\) exceeds limit of 40"):
        load_image(tmp_path / "a.png")


def test_only_some_formats(tmp_path):
    _write(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", formats=("JPEG", "PNG")).size == (9, 6)
    with pytest.raises(ValueError, match=r"image must be in one of the formats JPEG, GIF, got .*a\.png"):
        load_image(tmp_path / "a.png", formats=("JPEG", "GIF"))
