from __future__ import annotations

import pytest
import torch
import transformers
from model_files import write_hf_classifier, write_hf_clip
from safetensors.torch import save_file

from captum_vit import PromptClassifier
from captum_vit.adapters import adapt
from captum_vit.zoo import WeightsUnavailableError, load_image, load_model

IMAGE = load_image("skimage:coffee")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    return folder, write_hf_classifier(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, write_hf_clip(folder)


def test_a_folder_brings_weights_names_and_preprocessing(classifier):
    folder, written = classifier
    loaded = load_model(f"hf:{folder}")
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(written.state_dict()), rtol=0, atol=0)
    assert (loaded.pretrained, loaded.outputs, loaded.image_size) == (True, "classes", (32, 32))
    assert loaded.class_names == ("cat", "dog", "tree, oak")
    own = transformers.AutoImageProcessor.from_pretrained(folder)
    torch.testing.assert_close(
        loaded.preprocess(IMAGE), own(IMAGE, return_tensors="pt")["pixel_values"][0], rtol=0, atol=0
    )


def test_untrained_weights_are_drawn_from_the_configuration(classifier):
    folder, written = classifier
    loaded = load_model(f"hf:{folder}", weights="untrained")
    assert (loaded.pretrained, loaded.class_names) == (False, None)
    assert not torch.equal(loaded.model.classifier.weight, written.classifier.weight)
    assert loaded.model.classifier.weight.std() > 0


def test_a_checkpoint_replaces_the_weights(classifier, tmp_path):
    folder, written = classifier
    save_file({name: weight + 1 for name, weight in written.state_dict().items()}, tmp_path / "a.safetensors")
    loaded = load_model(f"hf:{folder}", checkpoint=tmp_path / "a.safetensors")
    torch.testing.assert_close(loaded.model.classifier.bias, written.classifier.bias + 1, rtol=0, atol=0)


def test_two_towers_compare_with_prompts(clip):
    folder, written = clip
    loaded = load_model(f"hf:{folder}")
    assert (type(loaded.model).__name__, loaded.outputs, loaded.class_names) == ("CLIPModel", "embedding", None)
    pixels = loaded.preprocess(IMAGE)[None]
    ours = PromptClassifier(loaded.model, loaded.load_tokenizer(), ["a cat", "a photo of a dog"])(pixels)
    ids = torch.tensor([[2, 5, 8, 0, 0, 0], [2, 3, 4, 2, 6, 8]])
    with torch.no_grad():
        theirs = written(input_ids=ids, attention_mask=(ids > 0).long(), pixel_values=pixels).logits_per_image
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # float32


def test_another_size_resizes_and_crops_as_the_processor_does(clip):
    loaded = load_model(f"hf:{clip[0]}", image_size=(32, 32))
    torch.testing.assert_close(loaded.preprocess(IMAGE), load_model(f"hf:{clip[0]}").preprocess(IMAGE), rtol=0, atol=0)
    wide = load_model(f"hf:{clip[0]}", image_size=(48, 80))
    assert wide.preprocess(IMAGE).shape == (3, 48, 80)
    assert PromptClassifier(wide.model, wide.load_tokenizer(), ["a cat"]).grid(48, 80) == (6, 10)


def test_another_size_of_a_classifier_interpolates_positions(classifier):
    loaded = load_model(f"hf:{classifier[0]}", image_size=(48, 64))
    pixels = loaded.preprocess(IMAGE)[None]
    assert pixels.shape == (1, 3, 48, 64)
    with torch.no_grad():
        expected = classifier[1](pixel_values=pixels, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(adapt(loaded.model)(pixels), expected, rtol=0, atol=1e-6)  # float32


def test_a_model_that_interpolates_by_itself_stays_as_it_is(tmp_path):
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2WithRegistersForImageClassification(config).save_pretrained(tmp_path)
    transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(
        tmp_path
    )
    loaded = load_model(f"hf:{tmp_path}", image_size=(42, 28))
    assert adapt(loaded.model)(loaded.preprocess(IMAGE)[None]).shape == (1, 2)
    assert loaded.class_names is None  # LABEL_0, LABEL_1


def test_a_model_without_a_head_is_not_half_loaded(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"no weights for 2 parameters of ViTForImageClassification, classifier\.bias .* as ViTModel"
    ):
        load_model(f"hf:{tmp_path}")


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got '\./nowhere', which is no folder"):
        load_model("hf:./nowhere")
    with pytest.raises(WeightsUnavailableError, match="of hf:somebody/some-vit can't be had: the model hub does not"):
        load_model("hf:somebody/some-vit")
    with pytest.raises(ValueError, match="Unrecognized model in"):
        load_model(f"hf:{tmp_path}")
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(WeightsUnavailableError, match=r"can't be had: .*preprocessor_config\.json"):
        load_model(f"hf:{tmp_path}")
