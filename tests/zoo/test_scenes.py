"""The shipped models: loaded by name, whole or not at all, and each a model of its library."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from captum_vit import LeGrad, PromptClassifier, adapt
from captum_vit.data import CLASSES, Scenes
from captum_vit.zoo import WeightsUnavailableError, load_image, load_model, load_scene
from captum_vit.zoo import scenes as scenes_module
from captum_vit.zoo.scene_models import SCENE_MODELS, compress, expand, weight_file

NAMES = tuple(SCENE_MODELS)


@pytest.mark.parametrize(
    ("name", "class_path"),
    [
        ("vit", "timm.models.vision_transformer.VisionTransformer"),
        ("clip", "open_clip.model.CLIP"),
        ("siglip", "open_clip.model.CustomTextCLIP"),
    ],
)
def test_each_is_a_model_of_its_library(name, class_path):
    model = load_model(f"scenes:{name}").model
    assert f"{type(model).__module__}.{type(model).__name__}" == class_path
    assert not any(module.training for module in model.modules())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_files_are_small():
    sizes = [weight_file(name).stat().st_size for name in NAMES]
    assert max(sizes) <= 6e6
    assert sum(sizes) <= 15e6


def test_they_load_without_a_network():
    """In a fresh process whose sockets are gone."""
    script = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from captum_vit.zoo import load_model\n"
        f"for name in {NAMES}:\n"
        "    loaded = load_model(f'scenes:{name}')\n"
        "    loaded.load_tokenizer and loaded.load_tokenizer()(['a red star'])\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_classifier_knows_its_classes():
    loaded = load_model("scenes:vit")
    assert (loaded.outputs, loaded.pretrained, loaded.class_names) == ("classes", True, CLASSES)
    assert loaded.load_tokenizer is None
    assert adapt(loaded.model).num_outputs == 64


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_text_models_read_prompts_with_open_clips_tokenizer(name):
    loaded = load_model(f"scenes:{name}")
    tokenizer = loaded.load_tokenizer()
    assert type(tokenizer).__module__ == "open_clip.tokenizer"
    assert (loaded.outputs, loaded.class_names) == ("embedding", None)
    model = PromptClassifier(loaded.model, tokenizer, ["a red star", "a blue ring"])
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 2)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_words_that_were_never_seen_are_named(name):
    loaded = load_model(f"scenes:{name}")
    assert loaded.unknown_words("a photo of a red star.") == []
    assert loaded.unknown_words("an orange crescent, a cat and a white dog") == ["cat", "dog"]
    assert load_model(f"scenes:{name}", weights="untrained").unknown_words is None


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_is_shown_pixel_by_pixel(name):
    scene = Scenes(1)[0]
    loaded = load_model(f"scenes:{name}")
    pixels = loaded.preprocess(scene.picture)
    torch.testing.assert_close(pixels, scene.image / 127.5 - 1, atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.denormalise(pixels), scene.image / 255, atol=1e-6, rtol=0)


def test_a_photograph_is_scaled_and_cut_in_the_middle():
    photo = Image.new("RGB", (400, 200), "black")
    photo.paste((255, 255, 255), (100, 0, 300, 200))  # the middle square is white
    pixels = load_model("scenes:vit").preprocess(photo)
    assert pixels.shape == (3, 96, 96)
    assert pixels[:, :, 2:-2].min() > 0.99


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 128), (160, 160)])
def test_another_image_size_has_interpolated_positions(name, size):
    loaded = load_model(f"scenes:{name}", image_size=size)
    assert loaded.image_size == size
    assert name == "vit" or tuple(loaded.model.visual.image_size) == size
    assert loaded.preprocess(Image.new("RGB", (33, 50))).shape == (3, *size)
    texts = ["a red star", "a blue ring"]
    model = adapt(loaded.model) if name == "vit" else PromptClassifier(loaded.model, loaded.load_tokenizer(), texts)
    maps = LeGrad(model).attribute(torch.randn(1, 3, *size), target=0, resolution="patch")
    assert maps.shape == (1, 1, size[0] // 8, size[1] // 8)


@pytest.mark.parametrize("name", NAMES)
def test_untrained_weights_depend_on_the_seed(name):
    first, again, other = (load_model(f"scenes:{name}", weights="untrained", seed=seed) for seed in (0, 0, 1))
    assert (first.pretrained, first.class_names) == (False, None)
    weights = [next(iter(each.model.state_dict().values())) for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert any(not torch.equal(a, b) for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_takes_the_weights_place(name, tmp_path):
    model = load_model(f"scenes:{name}", weights="untrained", seed=5).model
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    loaded = load_model(f"scenes:{name}", checkpoint=tmp_path / "own.safetensors")
    for key, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_storage_to_half_precision(name):
    state = load_model(f"scenes:{name}").model.state_dict()
    for key, weight in expand(compress(state)).items():
        assert torch.equal(weight, state[key]), key  # they were rounded once, when they were stored


def test_the_cards_carry_the_checksums_of_the_files():
    for name in NAMES:
        card = json.loads(weight_file(name).with_suffix(".json").read_text(encoding="utf-8"))
        assert card["sha256"] == hashlib.sha256(weight_file(name).read_bytes()).hexdigest()


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The shipped files in a folder where they may be damaged."""
    shutil.copytree(weight_file("vit").parent, tmp_path / "weights")
    monkeypatch.setattr(scenes_module, "weight_file", lambda name: tmp_path / "weights" / f"scenes-{name}.safetensors")
    return tmp_path / "weights"


DAMAGED = r"scenes-{}\.safetensors is damaged: .* must be the one in scenes-{}\.json, got [0-9a-f]{{64}}\. Install"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_refused(name, share, copied):
    path = copied / f"scenes-{name}.safetensors"
    content = path.read_bytes()
    load_model(f"scenes:{name}")
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=DAMAGED.format(name, name)):
        load_model(f"scenes:{name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_a_flipped_bit_is_refused(name, copied):
    path = copied / f"scenes-{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=DAMAGED.format(name, name)):
        load_model(f"scenes:{name}")


@pytest.mark.parametrize("missing", ["scenes-vit.safetensors", "scenes-vit.json"])
def test_a_missing_file_is_to_be_installed_again(missing, copied):
    (copied / missing).unlink()
    with pytest.raises(WeightsUnavailableError, match=r"is missing from this installation") as error:
        load_model("scenes:vit")
    assert str(error.value) == (
        f"the pretrained weights of scenes:vit can't be had: {missing} is missing from this installation of "
        "captum-vit. Install captum-vit again: pip install --force-reinstall --no-deps captum-vit."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda small: small.pop("logit_scale"), r"1 missing \(logit_scale\)"),
        (lambda small: small.update(extra=torch.zeros(1)), r"1 not in the model \(extra\)"),
        (
            lambda small: small.update({"visual.proj": torch.zeros(3, 4)}),
            r"1 of another shape \(visual\.proj \(3, 4\) for \(128, 128\)\)",
        ),
        (
            lambda small: small["logit_scale"].fill_(torch.nan),
            r"damaged\.safetensors must hold finite .* logit_s",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change, message, tmp_path):
    small = load_file(weight_file("clip"))
    change(small)
    save_file(small, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match=message):
        load_model("scenes:clip", checkpoint=tmp_path / "damaged.safetensors")


@pytest.mark.parametrize(
    ("numbers", "got"),
    [
        (None, r"numbers none"),
        (torch.tensor([3, 3]), r"rows \(2, 4\) and numbers \(2,\) torch\.int64"),
        (torch.tensor([3, 49_408]), r"numbers \(2,\) torch\.int64"),
        (torch.tensor([-1, 3]), r"numbers \(2,\) torch\.int64"),
        (torch.tensor([1, 2, 3]), r"numbers \(3,\) torch\.int64"),
        (torch.tensor([1.0, 2.0]), r"numbers \(2,\) torch\.float32"),
        (torch.tensor([True, False]), r"numbers \(2,\) torch\.bool"),
        (torch.tensor([[1], [2]]), r"numbers \(2, 1\) torch\.int64"),
        (torch.tensor(1), r"numbers \(\) torch\.int64"),
    ],
)
def test_rows_need_their_numbers_in_the_vocabulary(numbers, got):
    name = "token_embedding.weight"
    small = {f"{name}.rows": torch.ones(2, 4)} | ({} if numbers is None else {f"{name}.indices": numbers})
    message = rf"checkpoint a\.safetensors: {name} must come as rows \(N, width\) and N different .*{got}\."
    with pytest.raises(ValueError, match=message):
        expand(small, "a.safetensors")


@pytest.mark.parametrize(("shape", "count"), [((2,), 2), ((2, 4, 1), 2), ((), 1), ((0, 4), 0)])
def test_rows_must_be_rows(shape, count):
    name = "text.token_embedding.weight"
    with pytest.raises(ValueError, match=rf"got rows {re.escape(str(shape))} and numbers \({count},\)"):
        expand({f"{name}.rows": torch.ones(shape), f"{name}.indices": torch.arange(count)}, "a.safetensors")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scenes:", {}, r"must be one of scenes:vit, scenes:clip, scenes:siglip, got 'scenes:'\."),
        ("scenes:vitt", {}, r"must be one of scenes:vit, scenes:clip, scenes:siglip, got 'scenes:vitt'\."),
        ("scenes:vit", {"image_size": 100}, r"a multiple of 8×8 for scenes:vit, got 100×100\."),
        ("scenes:siglip", {"image_size": (96, 92)}, r"a multiple of 8×8 for scenes:siglip, got 96×92\."),
        ("scenes:clip", {"image_size": (64, 144)}, r"as many patches as 96×96 in another arrangement, .* got 64×144\."),
    ],
)
def test_names_and_sizes_that_do_not_exist(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(name, **options)


def test_scenes_are_images_too():
    scene = load_scene("scene:7")
    assert torch.equal(scene.image, Scenes(100)[7].image)
    assert load_image("scene:7").tobytes() == scene.picture.tobytes()


@pytest.mark.parametrize("spec", ["scene:", "scene:x", "scene:-1", "scene:1.5", f"scene:{10**18}"])
def test_scenes_that_do_not_exist(spec):
    with pytest.raises(ValueError, match=rf"scene must be scene:NUMBER .* in \[0, 10\^18\), got '{spec}'\."):
        load_image(spec)
