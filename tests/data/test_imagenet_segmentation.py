"""The file of ImageNet-Segmentation as MATLAB writes it, read by several processes, and what may be wrong in it."""

import multiprocessing
import pickle
import sys

import h5py
import numpy as np
import pytest
import torch
from dataset_files import SEGMENTATION_SIZES, segmentation_mask, write_imagenet_segmentation
from loader_checks import check_loader, colours

from captum_vit.data import DamagedSampleError, ImageNetSegmentation


@pytest.fixture
def path(tmp_path):
    return write_imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat")


def point(file, field, number, data):
    """Another reference in the cell of a field."""
    file[f"value/{field}"][number, 0] = data.ref


def replace(file, name, data):
    """Another record in the place of one."""
    old = file[name]
    outer, inner = ("value/img", old.ref) if name.startswith("#refs#/i") else ("value/gt", None)
    new = file.create_dataset(f"{name}new", data=data)
    number = int(name[-1])
    if inner is None:
        file[f"#refs#/g{number}"][0, 0] = new.ref
    else:
        file[outer][number, 0] = new.ref


def test_images_and_masks(path):
    samples = check_loader(ImageNetSegmentation(path))
    assert [each.id for each in samples] == ["gtsegs-0", "gtsegs-1", "gtsegs-2", "gtsegs-3"]
    for k, each in enumerate(samples):
        assert np.array_equal(np.array(each.image), colours(*SEGMENTATION_SIZES[k], seed=k))
        (region,) = each.regions
        assert np.array_equal(region.mask.numpy(), segmentation_mask(k))


def test_classes_are_the_wordnet_ids_of_the_file(path):
    dataset = ImageNetSegmentation(path)
    assert dataset.wnids == ("n00007846", "n01440764", "n02124075")
    assert dataset.classes == ("person", "tench", "Egyptian cat")
    assert [each.label for each in dataset] == [each.regions[0].label for each in dataset] == [2, 1, 2, 0]
    assert [each.regions[0].prompt for each in dataset] == ["Egyptian cat", "tench", "Egyptian cat", "person"]


def test_a_class_that_has_no_name_keeps_its_id(tmp_path):
    letters = np.array([[ord(each)] for each in "n99999999"], dtype=np.uint16)
    change = lambda file: point(file, "target", 0, file.create_dataset("#refs#/new", data=letters))  # noqa: E731
    dataset = ImageNetSegmentation(write_imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat", change))
    assert dataset.classes == ("person", "tench", "Egyptian cat", "n99999999")
    assert dataset[0].label == 3


def test_a_file_without_classes_has_no_labels(tmp_path):
    dataset = ImageNetSegmentation(
        write_imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat", lambda file: remove(file, "value/target"))
    )
    assert (dataset.wnids, dataset.classes) == ((), ())
    for each in check_loader(dataset):
        (region,) = each.regions
        assert each.label is region.label is region.prompt is None


def test_end_of_the_dataset(path):
    dataset = ImageNetSegmentation(path)
    assert [each.id for each in dataset] == [f"gtsegs-{k}" for k in range(4)]
    for index in (4, -5):
        with pytest.raises(IndexError, match=rf"sample must be in \[0, 4\), got {index}\."):
            dataset[index]


def opened_by(dataset) -> bool:
    """Runs in another process: whether the file that it reads is one that it opened itself."""
    before = dataset._handle
    assert torch.equal(dataset[3].regions[0].mask, torch.from_numpy(segmentation_mask(3).astype(np.int64)))
    return before is None or dataset._handle is not before


def test_an_open_file_is_neither_pickled_nor_used_after_a_fork(path):
    dataset = ImageNetSegmentation(path)
    dataset[0]
    assert dataset._handle is not None
    assert pickle.loads(pickle.dumps(dataset))._handle is None
    if sys.platform == "linux":
        parent, child = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=lambda: child.send(opened_by(dataset)))
        process.start()
        process.join(60)
        assert parent.poll()
        assert parent.recv()
    assert dataset[1].id == "gtsegs-1"


def test_the_file_stays_open(path):
    dataset = ImageNetSegmentation(path)
    dataset[0]
    handle = dataset._handle
    dataset[1]
    assert dataset._handle is handle


@pytest.mark.parametrize(
    ("change", "index", "reason"),
    [
        (
            lambda file: replace(file, "#refs#/i1", colours(3, 5)[..., 0]),
            1,
            r"image must be uint8 \(3, W, H\), got uint8 \(3, 5\)",
        ),
        (lambda file: replace(file, "#refs#/i0", np.zeros((3, 6, 4))), 0, r"got float64 \(3, 6, 4\)\.$"),
        (
            lambda file: replace(file, "#refs#/m0", segmentation_mask(0)),
            0,
            r"mask must have the image's \(W, H\) \(6, 4\), got \(4, 6\)\.",
        ),
        (
            lambda file: replace(file, "#refs#/m2", np.array([[0], [2]], dtype=np.uint8)),
            2,
            r"must hold 0 and 1, got 2\.$",
        ),
        (lambda file: file["value/img"].__setitem__((3, 0), h5py.Reference()), 3, r"record 3 of .*gtsegs_ijcv\.mat: "),
        (
            lambda file: file["value/gt"].__setitem__((3, 0), file["#refs#/m3"].ref),
            3,
            r"record 3 of .*gtsegs_ijcv\.mat: ",
        ),
        (lambda file: file["value/gt"].__setitem__((3, 0), file["#refs#"].ref), 3, r"record 3 of .*gtsegs_ijcv\.mat: "),
        (
            lambda file: point(file, "target", 1, file.create_dataset("#refs#/cat", data=[[99], [97], [116]])),
            1,
            r"class must be a WordNet id such as n01440764, got 'cat'\.$",
        ),
        (
            lambda file: point(file, "target", 2, file["#refs#"]),
            2,
            r"class must be a WordNet id such as n01440764, got ",
        ),
        (lambda file: point(file, "target", 0, file["value/gt"]), 0, r"class must be a WordNet id .*, got "),
    ],
)
def test_damaged_records(tmp_path, change, index, reason):
    dataset = ImageNetSegmentation(write_imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat", change))
    with pytest.raises(DamagedSampleError, match=reason) as caught:
        dataset[index]
    assert caught.value.id == f"gtsegs-{index}"
    assert dataset[(index + 1) % 3].id == f"gtsegs-{(index + 1) % 3}"


def remove(file, *names):
    for each in names:
        del file[each]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: remove(file, "value/gt"), r"must hold /value/img and /value/gt, got \['id', 'img', 'target'\]\."),
        (lambda file: remove(file, "value"), r"must hold /value/img and /value/gt, got \['#refs#'\]\."),
        (
            lambda file: (remove(file, "value/gt"), file.create_dataset("value/gt", (3, 1), dtype=h5py.ref_dtype)),
            r"must hold \(N, 1\) images and as many masks and classes, got \(4, 1\) and \(3, 1\) and \(4, 1\)\.",
        ),
        (
            lambda file: (
                remove(file, "value/target"),
                file.create_dataset("value/target", (1, 4), dtype=h5py.ref_dtype),
            ),
            r"got \(4, 1\) and \(4, 1\) and \(1, 4\)\.",
        ),
    ],
)
def test_files_of_another_structure(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ImageNetSegmentation(write_imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat", change))


def test_bad_paths(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no file .*gtsegs_ijcv\.mat\. Expected: the file.*at http://calvin-vision"
    ):
        ImageNetSegmentation(tmp_path / "gtsegs_ijcv.mat")
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(2000))
    with pytest.raises(ValueError, match=r"path must be a file of MATLAB 7\.3 \(HDF5\), got .*old\.mat"):
        ImageNetSegmentation(tmp_path / "old.mat")


def test_without_h5py(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs h5py\. Install it: pip install 'captum-vit\[data\]'\."):
        ImageNetSegmentation(path)
