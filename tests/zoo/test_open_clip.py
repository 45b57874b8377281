from __future__ import annotations

import open_clip
import pytest
import torch
from model_files import OPEN_CLIP_CONFIG, write_open_clip
from PIL import Image

from captum_vit import PromptClassifier
from captum_vit.zoo import WeightsUnavailableError, load_image, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    return folder, write_open_clip(folder)


@pytest.fixture
def tiny(monkeypatch):
    """A tiny architecture among OpenCLIP's own, with two published tags."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", OPEN_CLIP_CONFIG["model_cfg"])
    entry = {"hf_hub": "nobody/tiny", "mean": (0.0, 0.25, 0.5), "std": (0.5, 0.5, 0.25), "resize_mode": "squash"}
    tags = {"plain": entry, "quick": {**entry, "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", tags)


def test_a_folder_brings_weights_preprocessing_and_tokenizer(folder):
    path, written = folder
    loaded = load_model(f"open_clip:{path}")
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(written.state_dict()), rtol=0, atol=0)
    assert (loaded.pretrained, loaded.outputs, loaded.image_size) == (True, "embedding", (32, 32))
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    white = loaded.preprocess(Image.new("RGB", (50, 40), (255, 255, 255)))
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6]), rtol=0, atol=1e-6)
    with torch.no_grad():
        image = loaded.preprocess(load_image("skimage:coffee"))[None]
        theirs = written(image, open_clip.get_tokenizer(f"local-dir:{path}")(["a cat", "a dog"]))
        ours = PromptClassifier(loaded.model, loaded.load_tokenizer(), ["a cat", "a dog"])(image)
    torch.testing.assert_close(ours, theirs[2] * theirs[0] @ theirs[1].T, rtol=0, atol=1e-5)  # float32


def test_a_file_after_the_architecture_is_a_checkpoint(folder, tiny):
    path, written = folder
    file = path / "open_clip_model.safetensors"
    for loaded in (load_model(f"open_clip:Tiny/{file}"), load_model("open_clip:Tiny/plain", checkpoint=file)):
        torch.testing.assert_close(dict(loaded.model.state_dict()), dict(written.state_dict()), rtol=0, atol=0)
        assert (loaded.pretrained, loaded.mean) == (True, (0.0, 0.25, 0.5))  # the tag's, not OpenCLIP's default


def test_untrained_needs_no_tag_and_takes_the_preprocessing_of_the_first(tiny):
    loaded = load_model("open_clip:Tiny", weights="untrained", image_size=(32, 64))
    assert (loaded.pretrained, loaded.std, loaded.image_size) == (False, (0.5, 0.5, 0.25), (32, 64))
    assert loaded.preprocess(load_image("skimage:coffee")).shape == (3, 32, 64)


def test_weights_that_cant_be_downloaded(tiny):
    with pytest.raises(
        WeightsUnavailableError, match="open_clip:Tiny/plain can't be had: the model hub does not answer"
    ):
        load_model("open_clip:Tiny/plain")


def test_a_checkpoint_that_does_not_fit(tiny, tmp_path):
    torch.save({"visual.proj": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth does not fit CLIP: .*Missing key"):
        load_model("open_clip:Tiny/plain", checkpoint=tmp_path / "a.pth")


def test_names_that_lead_nowhere(tiny):
    with pytest.raises(ValueError, match=r"no architecture 'ViT-B-23'\. The nearest names: .*ViT-B-32"):
        load_model("open_clip:ViT-B-23/openai")
    with pytest.raises(ValueError, match=r"no tag 'nope' for Tiny, and it is no file. Its tags: plain, quick"):
        load_model("open_clip:Tiny/nope")
    with pytest.raises(ValueError, match="open_clip:Tiny/TAG, with one of plain, quick"):
        load_model("open_clip:Tiny")
    with pytest.raises(ValueError, match="image_size must be a multiple of 8×8, got 20×16"):
        load_model("open_clip:Tiny", weights="untrained", image_size=(20, 16))


def test_weights_trained_with_another_activation_are_refused(tiny):
    with pytest.raises(
        ValueError, match="need QuickGELU, which Tiny does not have; use open_clip:Tiny-quickgelu/quick"
    ):
        load_model("open_clip:Tiny/quick")


def test_positions_are_interpolated_or_the_size_is_refused(folder):
    path, _ = folder
    loaded = load_model(f"open_clip:{path}", image_size=(16, 48))
    assert loaded.model.visual.positional_embedding.shape == (1 + 2 * 6, 32)
    with pytest.raises(ValueError, match=r"as many patches as 32×32 in another arrangement, .* got 16×64"):
        load_model(f"open_clip:{path}", image_size=(16, 64))
    assert load_model(f"open_clip:{path}", weights="untrained", image_size=(16, 64)).image_size == (16, 64)
