"""One geometry for images, masks, boxes and points: they stay together, and each is where a closed form says."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit.data.geometry import Geometry
from captum_vit.data.sample import Points, Region, Sample

SIZES = [(7, 5), (5, 7), (64, 64), (37, 90), (333, 500), (500, 375), (168, 62)]
GEOMETRIES = [
    Geometry((24, 24)),
    Geometry((33, 21)),
    Geometry((24, 24), "crop"),
    Geometry((24, 24), "crop", crop=0.875),
    Geometry((21, 34), "crop", crop=0.6),
]


def centre_pixel(place: int, length: int, resized: int) -> int:
    """The pixel that the centre of a resized pixel lies in, in rational numbers."""
    return int((place + Fraction(1, 2)) * Fraction(length, resized))


def described(geometry: Geometry, height: int, width: int) -> tuple[int, int, int, int]:
    """Size after resizing, and the corner that is cut out, from the words of the docstring."""
    if geometry.mode == "squash":
        return *geometry.size, 0, 0
    factor = max(geometry.size[0] / geometry.crop / height, geometry.size[1] / geometry.crop / width)
    high, wide = round(height * factor), round(width * factor)
    return high, wide, (high - geometry.size[0]) // 2, (wide - geometry.size[1]) // 2


def blocks(height: int, width: int) -> tuple[Image.Image, torch.Tensor]:
    """A picture that is white where its mask is 1."""
    mask = torch.zeros(height, width, dtype=torch.int64)
    mask[height // 4 : height // 2 + 1, width // 3 : width - width // 5] = 1
    return Image.fromarray((mask.numpy() * 255).astype(np.uint8)).convert("RGB"), mask


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_mask_takes_the_pixel_that_the_centre_lies_in(geometry, size):
    numbers = torch.arange(size[0] * size[1]).reshape(size)
    high, wide, top, left = described(geometry, *size)
    expected = [
        [
            int(numbers[centre_pixel(row + top, size[0], high), centre_pixel(column + left, size[1], wide)])
            for column in range(geometry.size[1])
        ]
        for row in range(geometry.size[0])
    ]
    assert geometry.mask(numbers).tolist() == expected


@pytest.mark.parametrize(("length", "resized"), [(168, 100), (448, 96), (62, 7), (454, 7)])
def test_a_mask_is_exact_where_single_precision_rounds_to_the_wrong_pixel(length, resized):
    got = Geometry((1, resized)).mask(torch.arange(length)[None])[0].tolist()
    assert got == [centre_pixel(place, length, resized) for place in range(resized)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_a_mask_keeps_its_type_and_its_values(dtype):
    mask = torch.tensor([[0, 1, 0], [1, 1, 0]], dtype=dtype)
    got = Geometry((4, 9)).mask(mask)
    assert got.dtype == dtype
    assert torch.equal(got, mask.repeat_interleave(2, 0).repeat_interleave(3, 1))
    void = torch.tensor([[-1, 2**60 + 1]])
    assert Geometry((1, 4)).mask(void).tolist() == [[-1, -1, 2**60 + 1, 2**60 + 1]]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("size", SIZES[2:], ids=str)
def test_a_mask_stays_with_its_image(geometry, size):
    """Where no pixel of another value is near, the picture has the colour that its mask says."""
    picture, mask = blocks(*size)
    grey = torch.from_numpy(np.array(geometry.image(picture).convert("L"))).float()
    moved = geometry.mask(mask)
    assert grey.shape == moved.shape == geometry.size
    assert ((grey > 127.5) == (moved == 1)).float().mean() > 0.97  # pixels across the border are mixed
    inner = [torch.nn.functional.max_pool2d(each[None].float(), 5, 1, 2)[0] == 0 for each in (moved == 0, moved == 1)]
    assert inner[0].any()
    assert inner[1].any()
    assert grey[inner[0]].min() > 220
    assert grey[inner[1]].max() < 35


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_is_resized_as_pillow_does(interpolation):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8))
    filter_ = getattr(Image.Resampling, interpolation.upper())
    squashed = Geometry((20, 24), interpolation=interpolation).image(noise)
    assert squashed.tobytes() == noise.resize((24, 20), filter_).tobytes()
    cropped = Geometry((16, 16), "crop", crop=0.8, interpolation=interpolation).image(noise)
    assert cropped.tobytes() == noise.resize((30, 20), filter_).crop((7, 2, 23, 18)).tobytes()


def test_crop_is_256_and_224_of_the_usual_preprocessing():
    boxes = Geometry((224, 224), "crop", crop=0.875).boxes(torch.tensor([[0.0, 0, 1024, 512]]), 512, 1024)
    assert boxes.tolist() == [[0, 0, 224, 224]]
    inside = Geometry((224, 224), "crop", crop=0.875).boxes(torch.tensor([[400.0, 100, 600, 200]]), 512, 1024)
    assert inside.tolist() == [[200 - 144, 50 - 16, 300 - 144, 100 - 16]]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_points_and_boxes_go_the_same_way(geometry, size):
    """A point at the corner of a box is at its corner afterwards, as long as neither is cut off."""
    height, width = size
    spots = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = spots * torch.tensor([width, height])
    moved = geometry.points(Points(spots, torch.ones(200, dtype=torch.int64)), height, width)
    boxes = geometry.boxes(torch.cat([pixels, pixels], 1), height, width)
    scale = torch.tensor([geometry.size[1], geometry.size[0]])
    torch.testing.assert_close(boxes[:, :2], moved.positions * scale, rtol=0, atol=1e-10)
    torch.testing.assert_close(boxes[:, 2:], moved.positions * scale, rtol=0, atol=1e-10)
    high, wide, top, left = described(geometry, *size)
    exact = (spots * torch.tensor([wide, high]) - torch.tensor([left, top])) / scale
    seen = ((exact >= 0) & (exact <= 1)).all(1)
    assert moved.labels.tolist() == torch.where(seen, 1, -1).tolist()
    torch.testing.assert_close(moved.positions[seen], exact[seen], rtol=0, atol=1e-10)
    assert seen.all() == (high * wide == geometry.size[0] * geometry.size[1])  # nothing is cut out


@pytest.mark.parametrize("geometry", [Geometry((64, 96)), Geometry((72, 48), "crop")], ids=str)
def test_points_stay_on_their_mask_where_pixels_become_blocks(geometry):
    """8×12 pixels become blocks of 8×8 or 9×9: the pixel under a point has the value that it had."""
    mask = torch.arange(8 * 12).reshape(8, 12)
    spots = torch.rand(300, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = geometry.points(Points(spots, torch.ones(300, dtype=torch.int64)), 8, 12)
    before, after = mask, geometry.mask(mask)
    assert (moved.labels == 1).sum() > 100
    for (x, y), (u, v), label in zip(spots, moved.positions, moved.labels, strict=True):
        if label == 1:
            new = after[int(v * after.shape[0]), int(u * after.shape[1])]
            assert new == before[int(y * 8), int(x * 12)]


@pytest.mark.parametrize("geometry", [Geometry((60, 60)), Geometry((60, 30), "crop")], ids=str)
def test_a_filled_box_is_the_moved_mask_of_the_box(geometry):
    """20×20 pixels become blocks of 3×3, so that the borders of boxes fall on borders of pixels."""
    mask = torch.zeros(20, 20, dtype=torch.int64)
    mask[4:11, 3:16] = 1
    left, top, right, bottom = geometry.boxes(torch.tensor([[3.0, 4, 16, 11]]), 20, 20)[0].int().tolist()
    filled = torch.zeros(geometry.size, dtype=torch.int64)
    filled[top:bottom, left:right] = 1
    assert torch.equal(geometry.mask(mask), filled)


def test_what_is_cut_off():
    geometry = Geometry((10, 10), "crop")  # of a wide image the left and the right third
    points = Points(torch.tensor([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5], [0.5, 0.0]]), torch.tensor([1, 0, 0, -1]))
    moved = geometry.points(points, 10, 30)
    assert moved.labels.tolist() == [-1, 0, -1, -1]
    assert ((moved.positions >= 0) & (moved.positions <= 1)).all()
    boxes = torch.tensor([[0.0, 2, 15, 8], [0, 0, 5, 5], [0, 0, 30, 10]])
    assert geometry.boxes(boxes, 10, 30).tolist() == [[0, 2, 5, 8], [0, 0, 0, 5], [0, 0, 10, 10]]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_boxes_of_whole_numbers_are_not_rounded(geometry):
    boxes = torch.tensor([[1, 2, 30, 31]])
    assert torch.equal(geometry.boxes(boxes, 37, 90), geometry.boxes(boxes.float(), 37, 90))


def test_a_sample_is_moved_as_a_whole():
    geometry = Geometry((6, 6), "crop")
    picture, mask = blocks(3, 6)
    points = Points(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    embedding = torch.zeros(4)
    region = Region(3, "a dog", mask, points, torch.tensor([[1.0, 1, 4, 2]]), {"ear": 1 - mask}, embedding)
    moved = geometry(Sample("x", picture, 3, (region, Region(4))))
    assert (moved.id, moved.label, moved.image.size) == ("x", 3, (6, 6))
    first, second = moved.regions
    assert (first.label, first.prompt, second.label) == (3, "a dog", 4)
    assert first.embedding is embedding
    assert torch.equal(first.mask, mask.repeat_interleave(2, 0).repeat_interleave(2, 1)[:, 3:9])
    assert torch.equal(first.parts["ear"], 1 - first.mask)
    assert first.boxes.tolist() == [[0, 2, 5, 4]]
    assert first.points.positions.tolist() == [[0.5, 0.5]]
    assert second.mask is second.points is second.boxes is None
    assert second.parts == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 4)}, r"size must be positive \(height, width\), got \(0, 4\)\."),
        ({"size": (4,)}, r"size must be positive \(height, width\), got \(4,\)\."),
        ({"mode": "pad"}, r"mode must be 'squash' or 'crop', got 'pad'\."),
        ({"crop": 0.0}, r"crop must be in \(0, 1\], got 0\.0\."),
        ({"crop": 1.5}, r"crop must be in \(0, 1\], got 1\.5\."),
        ({"interpolation": "nearest"}, r"interpolation must be 'bilinear' or 'bicubic', got 'nearest'\."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Geometry(**({"size": (4, 4)} | arguments))
