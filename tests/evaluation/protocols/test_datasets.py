"""Every protocol on datasets of the real formats, with tiny models of the real classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dataset_files import (
    ADE20K_SOUND,
    ADE20K_SPEECH,
    GOLDFISH,
    write_ade20k,
    write_funny_birds,
    write_image_mask_folder,
    write_imagenet,
    write_imagenet_segmentation,
    write_open_images,
    write_tiny_imagenet,
    write_voc,
)

from captum_vit import METHODS
from captum_vit.data import (
    ADE20KPrompted,
    FunnyBirds,
    ImageMaskFolder,
    ImageNet,
    ImageNetSegmentation,
    OpenImagesPoints,
    PascalVOC,
    TinyImageNet,
)
from captum_vit.evaluation import Store
from captum_vit.evaluation.protocols import PROTOCOLS, parts, run_protocol


def sounds(root, name, table):
    write_ade20k(root, name, table)
    generator = torch.Generator().manual_seed(0)
    vectors = {each: torch.randn(16, generator=generator) for each in ("dog.wav", "cat.wav")}
    return ADE20KPrompted(root, name, embeddings=vectors)


def segmentation(root):
    return ImageNetSegmentation(write_imagenet_segmentation(root / "gtsegs_ijcv.mat"))


DATASETS = {
    "ade20k-sound": lambda root: sounds(root, "ADE20KSoundPrompted", ADE20K_SOUND),
    "ade20k-speech": lambda root: sounds(root, "ADE20KSpeechPrompted", ADE20K_SPEECH),
    "funny-birds": lambda root: FunnyBirds(write_funny_birds(root)),
    "imagenet": lambda root: ImageNet(write_imagenet(root)),
    "imagenet-segmentation": segmentation,
    "masks": lambda root: ImageMaskFolder(*write_image_mask_folder(root)),
    "openimages": lambda root: OpenImagesPoints(*write_open_images(root)),
    "tiny-imagenet": lambda root: TinyImageNet(write_tiny_imagenet(root)),
    "voc": lambda root: PascalVOC(write_voc(root), per_class=True),
}
CLASSES = {"funny-birds": 2, "tiny-imagenet": 4}
"""Outputs of a classifier for a dataset, where they are not those of ImageNet."""


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_run_on_the_real_formats(name, tmp_path, tiny_vit, tiny_clip, tiny_siglip):
    protocol = PROTOCOLS[name]
    kinds = list(dict.fromkeys(run.kinds[0] for run in protocol.runs))
    kind = protocol.runs[0].model.stand_in
    model = {
        "scenes:vit": lambda: tiny_vit(CLASSES.get(kinds[0], 1000)),
        "scenes:clip": lambda: tiny_clip,
        "scenes:siglip": lambda: tiny_siglip,
    }[kind]()
    found = run_protocol(
        name,
        datasets={kind: DATASETS[kind](tmp_path) for kind in kinds},
        models=model,
        limit=2,
        resamples=5,
        progress=False,
    )
    available = {each.name for each in protocol.methods if each.spec and each.spec.partition("(")[0] in METHODS}
    table = found.table
    assert available or name == "cam-vs-lrp"
    for method, rows in table.groupby("method"):
        measured = rows[~rows["column"].isin(["D", "SD", "TS"])]  # which two birds of one colour may leave open
        if method not in available:
            assert measured["ours"].isna().all(), method
        elif measured["ours"].isna().any():  # on images of one colour, or a model with too few blocks
            blank = [note for note in found.notes if note.startswith(f"{method}, ") and "maps are blank" in note]
            reasons = (f"{method} is left out for {model.name}: ", f"{method} can't explain {model.name}: ")
            assert blank or any(note.startswith(reasons) for note in found.notes), method
    assert (table["low"].isna() | (table["low"] <= table["high"])).all()
    published = table.set_index(["method", "model", "column"])["published"].dropna()
    assert published.to_dict() == protocol.published
    assert published.index.is_unique
    for note in protocol.ambiguities:
        assert note in found.notes
    size = "×".join(map(str, model.image_size))
    assert f"{protocol.runs[0].model.name} is replaced by {model.name} at {size}" in found.notes
    assert f"{model.name} has untrained weights: its numbers mean nothing" in found.notes
    text = found.markdown()
    assert text.startswith(f"## {name}: ")
    assert all(f"| {each.name} | " in text for each in protocol.methods)


def test_a_stopped_run_goes_on_and_another_configuration_is_refused(tmp_path, tiny_clip, monkeypatch):
    (tmp_path / "data").mkdir()
    options = {
        "datasets": {"openimages": OpenImagesPoints(*write_open_images(tmp_path / "data"))},
        "models": tiny_clip,
        "folder": tmp_path / "results",
        "resamples": 5,
        "progress": False,
    }
    first = run_protocol("legrad-table-2", **options)
    assert sorted(each.name for each in (tmp_path / "results").iterdir()) == ["ViT-B-16-points"]  # one model for all
    monkeypatch.setattr("captum_vit.evaluation.runner.scored", lambda *arguments: pytest.fail("it was done"))
    assert run_protocol("legrad-table-2", **options).table.equals(first.table)
    with pytest.raises(ValueError, match=r"holds results with choices .*'class'.*, got .*'image'"):
        run_protocol("legrad-table-2", choices={"average": "image"}, **options)


def numbers(found):
    return found.table[["ours", "low", "high"]].to_numpy()


@pytest.fixture
def birds(tmp_path, tiny_vit):
    (tmp_path / "data").mkdir()
    dataset = FunnyBirds(write_funny_birds(tmp_path / "data"))
    return {"datasets": {"funny-birds": dataset}, "models": tiny_vit(2), "resamples": 50, "progress": False}


def test_parts_that_are_done_are_not_done_again(tmp_path, birds, monkeypatch):
    folder = tmp_path / "results"
    first = run_protocol("legrad-table-10", folder=folder, **birds)
    store, asked, measured = Store(folder / "parts"), [], parts._records
    (lines,) = folder.glob("*/results-00000.jsonl")
    text = lines.read_text("utf-8")
    lines.write_text(text[: text.index('{"unit": 1') + 100], "utf-8")  # killed within the second bird
    assert set(store.units()) == {0}
    monkeypatch.setattr(parts, "_records", lambda dataset, k, scores: asked.append(k) or measured(dataset, k, scores))
    for again in ([1], []):
        asked.clear()
        np.testing.assert_array_equal(numbers(run_protocol("legrad-table-10", folder=folder, **birds)), numbers(first))
        assert asked == again
    with pytest.raises(ValueError, match="holds results with samples 2, got 1"):
        run_protocol("legrad-table-10", folder=folder, limit=1, **birds)
    with pytest.raises(ValueError, match="holds results with seed 0, got 3"):
        run_protocol("legrad-table-10", folder=folder, seed=3, **birds)


def test_methods_of_parts_draw_from_the_seed(birds, monkeypatch):
    seeds, made = [], parts.explainer_of
    monkeypatch.setattr(parts, "explainer_of", lambda *spec, seed: seeds.append(seed) or made(*spec, seed=seed))
    run_protocol("legrad-table-10", seed=3, **birds)
    assert set(seeds) == {3}


def test_parts_are_shared_among_processes(tmp_path, birds, monkeypatch):
    whole = run_protocol("legrad-table-10", **birds)
    for rank in (1, 0):
        monkeypatch.setattr("captum_vit.evaluation.work.joined", lambda rank=rank: (rank, 2))
        shared = run_protocol("legrad-table-10", folder=tmp_path / "results", **birds)
    np.testing.assert_array_equal(numbers(shared), numbers(whole))
    assert shared.notes == whole.notes
    assert len(list(tmp_path.glob("results/parts/*.jsonl"))) == 2


def test_a_bird_that_lacks_an_image_is_left_out_and_named(tmp_path, birds):
    (removed, *_) = sorted((tmp_path / "data").glob("**/test_interventions/1/000001/*.png"))
    removed.unlink()
    found = run_protocol("legrad-table-10", **birds)
    assert "parts: 1 samples can't be read: test-000001" in found.notes
    assert found.table["ours"].notna().any()
    assert found.table["low"].isna().all()  # of one image


def test_the_true_class_where_the_model_has_it_and_the_predicted_one_elsewhere(tmp_path, tiny_vit, tiny_clip):
    dataset, options = segmentation(tmp_path), {"resamples": 2, "progress": False}
    found = run_protocol(
        "legrad-table-1", datasets={"imagenet-segmentation": dataset}, models=tiny_vit(1000), folder=tmp_path, **options
    )
    wanted = {each["sample"]: each["target"] for each in Store(tmp_path / "segmentation").records()}
    assert [wanted[f"gtsegs-{k}"] for k in range(3)] == [285, 0, 285]  # Egyptian cat, tench
    maps = sum(each.get("predicted", False) for each in Store(tmp_path / "segmentation").records())
    assert f"segmentation: {maps} maps are of the predicted class, for want of another" in found.notes
    run_protocol(
        "legrad-table-1",
        datasets={"imagenet-segmentation": dataset},
        models=tiny_clip,
        folder=tmp_path / "c",
        **options,
    )
    records = Store(tmp_path / "c" / "segmentation").records()
    assert {each["sample"]: each["target"] for each in records} == {f"gtsegs-{k}": (2, 1, 2, 0)[k] for k in range(4)}
    assert Store(tmp_path / "c" / "segmentation").about["outputs"] == ["person", "tench", "Egyptian Mau"]


def test_labels_go_to_the_outputs_of_a_model_for_imagenet(tmp_path, tiny_vit):
    """A model with the 1000 outputs of ImageNet for the four classes of this Tiny ImageNet: through WordNet ids."""
    dataset = TinyImageNet(write_tiny_imagenet(tmp_path))
    options = {"models": tiny_vit(1000), "folder": tmp_path / "results", "resamples": 2, "progress": False}
    run_protocol("gmar-table-1", datasets={"tiny-imagenet": dataset}, limit=1, **options)
    (record, *_) = Store(tmp_path / "results" / "faithfulness").records()
    assert (record["sample"], record["target"]) == ("val_0", 890)  # n04540053, volleyball
    with pytest.raises(ValueError, match=r"the 4 classes of the dataset must be among those of tiny ViT"):
        run_protocol("gmar-table-1", datasets={"tiny-imagenet": dataset}, **{**options, "models": tiny_vit(7)})


def test_prompts_are_names_of_all_classes(tmp_path, tiny_clip):
    """Labels of ImageNet are places among all 1000, whichever folders there are."""
    dataset = ImageNet(write_imagenet(tmp_path))
    assert dataset[0].id.startswith(GOLDFISH)
    run_protocol(
        "legrad-table-9",
        datasets={"imagenet": dataset},
        models=tiny_clip,
        limit=1,
        folder=tmp_path / "results",
        resamples=2,
        progress=False,
    )
    store = Store(tmp_path / "results" / "ViT-L-14-target")
    assert {record["target"] for record in store.records()} == {1}
    assert store.config["choices"] == {"template": "'A photo of a {}'"}
