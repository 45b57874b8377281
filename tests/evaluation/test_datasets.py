from __future__ import annotations

import pytest
from PIL import Image

from captum_vit.data import SceneSamples
from captum_vit.evaluation import DATASETS, dataset_of


def test_scenes_have_no_path():
    scenes = dataset_of("scenes(length=7, seed=3)")
    assert isinstance(scenes, SceneSamples)
    assert (len(scenes), scenes.scenes.seed) == (7, 3)
    assert len(dataset_of("scenes")) == 200


def test_a_folder_with_masks_and_prompts(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "dog.png")
    Image.new("L", (3, 2), 255).save(tmp_path / "masks" / "dog.png")
    assert dataset_of(f"masks(ignore=None):{tmp_path}")[0].regions[0].prompt is None
    (tmp_path / "prompts.csv").write_text("file,prompt\ndog.png,a dog\n", "utf-8")
    (region,) = dataset_of(f"masks(ignore=None):{tmp_path}")[0].regions
    assert (region.prompt, int(region.mask.sum())) == ("a dog", 6)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"scenes"}))
def test_a_folder_that_is_not_there_is_named_with_what_it_should_hold(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"(?s){tmp_path / 'nowhere'}.*"):
        dataset_of(f"{name}:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet-seg:x", r"no dataset is called 'imagenet-seg'\. Did you mean .*imagenet-segmentation\? Known"),
        ("", r"no dataset is called ''"),
        ("imagenet", r"dataset must be imagenet:PATH, got 'imagenet'\."),
        ("scenes:x", r"dataset must be scenes or scenes\(length=200, seed=0\), got 'scenes:x'\."),
        (
            "scenes(colour=3)",
            r"options of scenes must be among length, size, seed, objects, occlusion, shapes, got 'colour'\.",
        ),
        ("scenes(shapes=3)", r"options of scenes must have values that its class .*, got 'scenes\(shapes=3\)': .*int"),
        ("voc(year=2012):x", r"options of voc must be among split, per_class, got 'year'\."),
        ("masks(root=3):x", r"options of masks must be among ignore, prompts, got 'root'\."),
        ("openimages(size=3):x", r"options of openimages must be among max_images, got 'size'\."),
        ("ade20k-sound(name='x'):x", r"options of ade20k-sound must be among embeddings, got 'name'\."),
        ("imagenet-segmentation(split=3):x", r"options of imagenet-segmentation must be among none, got 'split'\."),
        ("scenes(3)", r"options must be named, such as steps=28 or method='legrad', got 'scenes\(3\)'"),
        ("scenes(length=0)", "length must be a whole number .*, got 0"),
    ],
)
def test_what_is_no_dataset_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        dataset_of(text)
