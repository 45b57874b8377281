from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from captum_vit import METHODS
from captum_vit.viz import figure, overlay

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(size=(40, 60, 3))
MAPS = {"LeGrad": RNG.uniform(size=(2, 40, 60)), "AttentionCAM": RNG.normal(size=(2, 40, 60))}


def _texts(made):
    return [text.get_text() for text in made.texts]


def _drawn(axes):
    return np.asarray(axes.images[0].get_array())


def test_every_cell_shows_the_overlay_of_its_row_and_method():
    made = figure(IMAGE, MAPS, rows=["a cat", "a dog"], signed=["AttentionCAM"])
    pictures = [axes for axes in made.axes if axes.images]
    assert len(pictures) == 6
    for column, name in enumerate((None, *MAPS)):
        for row in range(2):
            expected = IMAGE if name is None else overlay(IMAGE, MAPS[name][row], signed=name == "AttentionCAM")
            np.testing.assert_array_equal(_drawn(pictures[column * 2 + row]), expected)
    lefts = [round(axes.get_position().x0, 9) for axes in pictures]
    heights = [round(axes.get_position().y0, 9) for axes in pictures]
    assert lefts[0] == lefts[1] < lefts[2] == lefts[3] < lefts[4] == lefts[5]
    assert heights[0] == heights[2] == heights[4] > heights[1] == heights[3] == heights[5]


def test_labels_headings_title_and_notice_are_written():
    made = figure(IMAGE, MAPS, rows=["a cat", "a dog"], title="a model on a picture", notice="UNTRAINED WEIGHTS")
    assert [axes.get_ylabel() for axes in made.axes if axes.get_ylabel()] == ["a cat", "a dog"]
    assert _texts(made) == ["image", "LeGrad", "AttentionCAM", "UNTRAINED WEIGHTS\na model on a picture"]
    assert made.texts[-1].get_fontweight() == "bold"


def test_long_headings_are_broken_and_stay_above_the_pictures():
    made = figure(IMAGE, {"a name that is far too long for a column of this width": MAPS["LeGrad"]}, rows=["1", "2"])
    made.canvas.draw()
    heading = made.texts[1].get_window_extent()
    pictures = [axes.get_window_extent() for axes in made.axes if axes.images]
    assert heading.width < 1.1 * pictures[0].width
    assert heading.y0 > max(box.y1 for box in pictures)
    assert heading.y1 < made.bbox.y1


def test_the_bars_say_what_the_ends_of_the_colours_mean():
    made = figure(IMAGE, MAPS, rows=["1", "2"], signed=["AttentionCAM"])
    labels = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in made.axes if not axes.images]
    assert [each for each in labels if any(each)] == [["lowest", "highest"], ["against", "for"]]


def test_the_words_below_neighbouring_bars_do_not_meet():
    made = figure(IMAGE, dict.fromkeys("abc", MAPS["LeGrad"]), rows=["1", "2"], cell=1.2)
    made.canvas.draw()
    words = [tick for axes in made.axes if not axes.images for tick in axes.get_xticklabels() if tick.get_text()]
    boxes = sorted((word.get_window_extent() for word in words), key=lambda box: box.x0)
    assert len(boxes) == 6
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_long_names_of_methods_neither_meet_nor_leave_the_figure():
    names = [method.get_name() for method in METHODS.values()]
    names = sorted(names, key=len)[-4:]
    made = figure(np.zeros((40, 40, 3)), {name: np.eye(40)[None] for name in names}, rows=["1"], cell=1.4)
    made.canvas.draw()
    boxes = [text.get_window_extent() for text in made.texts if " ".join(text.get_text().split()) in names]
    assert len(boxes) == 4
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[-1].x1 <= made.bbox.x1


def test_rows_have_images_and_outlines_of_their_own():
    images = RNG.uniform(size=(2, 40, 60, 3))
    masks = np.zeros((2, 40, 60), dtype=bool)
    masks[1, 10:20, 30:50] = True
    made = figure(images, MAPS, rows=["a cat", "a dog"], masks=masks)
    pictures = [axes for axes in made.axes if axes.images]
    for row in range(2):
        np.testing.assert_array_equal(_drawn(pictures[row]), images[row])
        np.testing.assert_array_equal(_drawn(pictures[2 + row]), overlay(images[row], MAPS["LeGrad"][row]))
    assert [bool(axes.collections) for axes in pictures] == [False, True] * 3


def test_pictures_keep_the_shape_of_the_image_and_do_not_overlap():
    made = figure(IMAGE, MAPS, rows=["a very long prompt that has to be broken into several lines " * 3, "b"])
    made.canvas.draw()
    boxes = [axes.get_window_extent() for axes in made.axes if axes.images]
    for box in boxes:
        assert box.width / box.height == pytest.approx(1.5)
    for index, box in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1)
    labels = [axes.yaxis.label.get_window_extent() for axes in made.axes if axes.get_ylabel()]
    assert min(label.x0 for label in labels) >= 0
    assert made.texts[-1].get_window_extent().y1 <= made.bbox.y1


def test_dollar_signs_are_text_and_not_formulas(tmp_path):
    made = figure(IMAGE, MAPS, rows=[r"a $5 bill and $\frac", "2"], title=r"$\nosuch on $x_1")
    made.savefig(tmp_path / "made.png")
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


def test_no_pyplot_and_no_method_is_imported():
    code = (
        "import sys, captum_vit.viz, numpy as np\n"
        "captum_vit.viz.figure(np.zeros((4, 4, 3)), {'a': np.zeros((1, 4, 4))}, rows=['b'])\n"
        "unwanted = ('matplotlib.pyplot', 'torch', 'captum_vit.attr', 'captum_vit.adapters')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"maps of 'LeGrad' must be \(rows, H, W\) = \(1, 40, 60\), got \(2, 40, 60\)"):
        figure(IMAGE, MAPS, rows=["a cat"])
    with pytest.raises(ValueError, match="got 0 methods and 1 rows"):
        figure(IMAGE, {}, rows=["a cat"])


def test_images_and_masks_that_do_not_fit_the_rows_are_refused():
    with pytest.raises(ValueError, match="image must be one, or one for each of the 2 rows, got 3"):
        figure(np.zeros((3, 40, 60, 3)), MAPS, rows=["1", "2"])
    with pytest.raises(ValueError, match=r"maps of 'masks' must be \(rows, H, W\) = \(2, 40, 60\), got \(1, 40, 60\)"):
        figure(IMAGE, MAPS, rows=["1", "2"], masks=np.zeros((1, 40, 60), dtype=bool))
