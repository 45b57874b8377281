"""What holds for every library, and timm's own part; the other libraries have files of their own."""

from __future__ import annotations

import time

import pytest
import timm
import torch
from model_files import write_timm_checkpoint
from PIL import Image

from captum_vit.zoo import WeightsUnavailableError, load_image, load_model

NAME = "timm:test_vit"


def test_an_untrained_model_depends_on_its_seed_and_leaves_the_random_state():
    state = torch.get_rng_state()
    first, again, other = (load_model(NAME, weights="untrained", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.model.head.weight, again.model.head.weight)
    assert not torch.equal(first.model.head.weight, other.model.head.weight)
    assert not any(module.training for module in first.model.modules())
    assert (first.pretrained, first.class_names, first.missing_weights) == (False, None, None)
    assert (first.name, first.outputs, first.image_size) == (NAME, "classes", (160, 160))


def test_the_preprocessing_is_the_models_own():
    loaded = load_model(NAME, weights="untrained")
    image = load_image("skimage:chelsea")
    config = timm.data.resolve_model_data_config(loaded.model)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(loaded.preprocess(image), expected, rtol=0, atol=0)
    assert expected.shape == (3, *loaded.image_size)


def test_denormalise_undoes_the_preprocessing():
    loaded = load_model("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights="untrained")
    grey = loaded.preprocess(Image.new("RGB", (300, 300), (255, 51, 0)))
    expected = torch.tensor([1.0, 0.2, 0.0])[:, None, None].expand(3, 224, 224)
    torch.testing.assert_close(loaded.denormalise(grey), expected, rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_checkpoint_brings_its_weights_and_its_number_of_classes(tmp_path, ending):
    path = tmp_path / f"model.{ending}"
    written = write_timm_checkpoint(path)
    loaded = load_model(NAME, checkpoint=path)
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(written.state_dict()), rtol=0, atol=0)
    assert loaded.model.num_classes == 5
    assert (loaded.pretrained, loaded.class_names) == (True, None)


def test_a_checkpoint_of_a_thousand_classes_has_the_names_of_imagenet(tmp_path):
    write_timm_checkpoint(tmp_path / "model.pth", num_classes=1000)
    names = load_model(NAME, checkpoint=tmp_path / "model.pth").class_names
    assert (len(names), names[281], names[207]) == (1000, "tabby, tabby cat", "golden retriever")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    write_timm_checkpoint(tmp_path / "model.pth")
    with pytest.raises(
        ValueError, match=r"model\.pth does not fit VisionTransformer: \d+ missing \(.*of another shape"
    ):
        load_model("timm:vit_tiny_patch16_224", checkpoint=tmp_path / "model.pth")


def test_another_image_size_interpolates_the_positions(tmp_path):
    write_timm_checkpoint(tmp_path / "model.pth")
    loaded = load_model(NAME, checkpoint=tmp_path / "model.pth", image_size=(96, 192))
    assert loaded.image_size == (96, 192)
    assert loaded.model.patch_embed.grid_size == (6, 12)
    pixels = loaded.preprocess(load_image("skimage:coffee"))
    assert pixels.shape == (3, 96, 192)
    assert loaded.model(pixels[None]).shape == (1, 5)
    assert load_model(NAME, weights="untrained", image_size=64).image_size == (64, 64)


def test_without_a_network_the_error_comes_at_once_and_names_cause_and_remedies():
    start = time.perf_counter()
    with pytest.raises(WeightsUnavailableError) as caught:
        load_model(NAME)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert message.startswith(f"the pretrained weights of {NAME} can't be had: the model hub does not answer")
    assert "--untrained" in message
    assert "--checkpoint FILE" in message


def test_auto_takes_random_weights_and_says_why():
    loaded = load_model(NAME, weights="auto")
    assert not loaded.pretrained
    assert loaded.missing_weights.startswith("the model hub does not answer")


def test_a_model_without_published_weights():
    with pytest.raises(
        WeightsUnavailableError, match=r"timm:vit_base_patch32_plus_256 can't be had: timm has published"
    ):
        load_model("timm:vit_base_patch32_plus_256")


def test_a_model_without_a_head_gives_features():
    assert load_model("timm:vit_small_patch16_dinov3", weights="untrained").outputs == "features"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch16_224", r"one of timm:NAME, .* got 'vit_base_patch16_224'"),
        ("keras:vit", "got 'keras:vit'"),
        ("timm:", "got 'timm:'"),
        ("timm:vit_bse_patch16_224", r"no model 'vit_bse_patch16_224'. The nearest names: vit_base_patch16_224"),
        ("timm:test_vit.nope", r"no tag 'nope' for test_vit. Its tags: r160_in1k"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        load_model(name)


def test_options_that_make_no_sense():
    with pytest.raises(ValueError, match="'pretrained', 'untrained' or 'auto', got 'random'"):
        load_model(NAME, weights="random")
    with pytest.raises(ValueError, match=r"must not be 'untrained' when there is a checkpoint, got 'a\.pth'"):
        load_model(NAME, weights="untrained", checkpoint="a.pth")
    with pytest.raises(ValueError, match=r"image_size must be a positive side or \(height, width\), got 0"):
        load_model(NAME, weights="untrained", image_size=0)
    with pytest.raises(ValueError, match="image_size must be a multiple of 16×16 for timm:test_vit, got 100×96"):
        load_model(NAME, weights="untrained", image_size=(100, 96))
    with pytest.raises(FileNotFoundError, match=r"got 'nowhere\.pth', which is no file"):
        load_model(NAME, checkpoint="nowhere.pth")
