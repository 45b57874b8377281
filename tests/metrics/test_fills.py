import re

import numpy as np
import pytest
import torch
from perturbed import case, close
from scipy.ndimage import gaussian_filter

from captum_vit.metrics.functional import blurred
from captum_vit.metrics.functional.fills import filled


def test_a_number_fills_every_value_and_a_list_every_channel():
    images, _, _ = case()
    close(filled(images, 0.25), torch.full_like(images, 0.25))
    by_channel = filled(images, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64))
    for channel, value in enumerate((0.1, -0.2, 0.3)):
        close(by_channel[:, channel], torch.full_like(images[:, channel], value))


def test_mean_is_that_of_each_image_and_channel():
    images, _, _ = case()
    fill = filled(images, "mean")
    for number in range(3):
        for channel in range(3):
            mean = sum(images[number, channel].flatten().tolist()) / 96
            close(fill[number, channel], torch.full_like(images[number, channel], mean))


def test_a_function_fills_with_what_it_makes_of_the_images():
    images, _, _ = case()
    close(filled(images, lambda each: 1 - each), 1 - images)
    close(filled(images, "blur"), blurred(images))


def test_the_blur_is_a_kernel_of_rises_code_with_zero_padding():
    """A Gaussian of σ = 5 over a single one on 11×11, reflected at its edges; .00774 to .00883, sum 1."""
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = gaussian_filter(delta, 5)
    assert kernel.min() == pytest.approx(0.00774, abs=5e-6)
    assert kernel.max() == pytest.approx(0.00883, abs=5e-6)
    spots = torch.zeros(1, 3, 31, 31, dtype=torch.float64)
    spots[0, 1, 15, 15] = spots[0, 2, 0, 2] = 1
    result = blurred(spots)
    close(result[0, 1, 10:21, 10:21], kernel)
    close(result[0, 1].sum(), 1.0)
    close(result[0, 2, :6, :8], kernel[5:, 3:])
    assert not result[0, 0].any()


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ("grey", "fill must be a number, values, 'mean', 'blur' or a function, got 'grey'."),
        (torch.zeros(2), "fill must be one number or 3, one per channel, got (2,)."),
        (lambda each: each[:1], "fill must return images of shape (3, 3, 8, 12), got (1, 3, 8, 12)."),
    ],
)
def test_an_unknown_fill_is_refused(fill, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        filled(case()[0], fill)


@pytest.mark.parametrize("fill", [None, {1, 2}])
def test_what_fills_nothing_is_refused(fill):
    kind = type(fill).__name__
    with pytest.raises(TypeError, match=f"fill must be a number, values, 'mean', 'blur' or a function, got {kind}"):
        filled(case()[0], fill)
