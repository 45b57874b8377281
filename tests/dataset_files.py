"""Datasets as they are distributed, small, written by the tests that read them."""

import json
from itertools import chain, combinations

import numpy as np
from loader_checks import colours, save
from PIL import Image

ADE20K_SOUND = """\
image_location,ade_class_id,vggsound_file,other
home/one.jpg,276,sounds/dog.wav,x
home/one.jpg,0,sounds/dog.wav,x
home/one.jpg,276,,x
home/one.jpg,3327,far/cat.wav,x
two.jpg,276.0,cat.wav,x
"""
ADE20K_SPEECH = """\
image_location,ade_class_id,speech_prompt_file,timing
home/one.jpg,276,speech/dog.wav,"[0.5, 1.25]"
two.jpg,3327,speech/cat.wav,
"""
ADE20K_PIXELS = [[(10, 20, 0), (19, 20, 255), (20, 20, 0)], [(120, 255, 0), (129, 255, 7), (10, 21, 0)]]
"""Two of class 276, 532, two of class 3327, and 277."""


def write_ade20k(root, name, table):
    """A folder with two images, and a table of what they are asked for."""
    folder = root / name
    for image in ("home/one", "two"):
        frame, mask = folder / "frames" / f"{image}.jpg", folder / "annotations" / f"{image}_seg.png"
        for each in (frame, mask):
            each.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), "red").save(frame)
        Image.fromarray(np.array(ADE20K_PIXELS, dtype=np.uint8)).save(mask)
    (folder / "prompted_segmentation.csv").write_text(table)
    return folder


OPEN_IMAGES_HEAD = "ImageId,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,TextLabel\n"
OPEN_IMAGES_ROWS = """\
b,0.9,0.9,/m/02,yes,verification,3,0,0,
b,0.1,0.1,/m/02,no,verification,0,3,0,
z,0.5,0.5,/m/01,unsure,verification,1,1,1,
a,0.25,0.75,/m/03,yes,verification,3,0,0,"a, cat"
b,0.1,0.9,/m/02,yes,verification,3,0,0,
b,0.5,0.5,/m/02,unsure,verification,1,1,1,
b,0.5,0.5,/m/01,no,verification,0,3,0,
a,0.0,1.0,/m/01,yes,verification,3,0,0,
b,0.9,0.1,/m/02,yes,verification,3,0,0,
b,0.9,0.1,/m/02,yes,verification,3,0,0,
y,0.5,0.5,/m/01,no,verification,0,3,0,
"""
OPEN_IMAGES_DESCRIPTIONS = 'LabelName,DisplayName\n/m/03,"Cat, wild"\n/m/02,Dog\n/m/01,Tree\n/m/04,Sofa\n'


def write_open_images(root):
    """Images, points and names of classes."""
    (root / "validation").mkdir()
    for name in "ab":
        Image.new("L", (8, 4), 100).save(root / "validation" / f"{name}.jpg")
    (root / "points.csv").write_text(OPEN_IMAGES_HEAD + OPEN_IMAGES_ROWS)
    (root / "classes.csv").write_text(OPEN_IMAGES_DESCRIPTIONS)
    return root / "validation", root / "points.csv", root / "classes.csv"


SEGMENTATION_SIZES = [(4, 6), (5, 3), (1, 2), (7, 7)]
SEGMENTATION_WNIDS = ["n02124075", "n01440764", "n02124075", "n00007846"]
"""Egyptian cat, tench, the cat again, and a class that is not among those of ImageNet-1k."""


def segmentation_mask(index: int) -> np.ndarray:
    return (colours(*SEGMENTATION_SIZES[index], seed=index)[..., 0] > 127).astype(np.uint8)


def write_imagenet_segmentation(path, change=lambda file: None):
    """Cells of references, a cell in every cell of the masks, columns first, and MATLAB's block before the data.

    A text is a column of its letters' numbers.
    """
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        images, masks, wnids = [], [], []
        for k, size in enumerate(SEGMENTATION_SIZES):
            images.append(file.create_dataset(f"#refs#/i{k}", data=colours(*size, seed=k).transpose(2, 1, 0)))
            inner = file.create_dataset(f"#refs#/m{k}", data=segmentation_mask(k).T)
            cell = file.create_dataset(f"#refs#/g{k}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = inner.ref
            masks.append(cell)
            letters = np.array([[ord(each)] for each in SEGMENTATION_WNIDS[k]], dtype=np.uint16)
            wnids.append(file.create_dataset(f"#refs#/t{k}", data=letters))
        for name, cells in (("img", images), ("gt", masks), ("target", wnids)):
            outer = file.create_dataset(f"value/{name}", (len(SEGMENTATION_SIZES), 1), dtype=h5py.ref_dtype)
            for k, each in enumerate(cells):
                outer[k, 0] = each.ref
        file.create_dataset("value/id", (len(SEGMENTATION_SIZES), 1), dtype=h5py.ref_dtype)
        change(file)
    return path


GOLDFISH, GREAT_WHITE, LAST = "n01443537", "n01484850", "n15075141"


def write_imagenet(root):
    """Seven images of three classes, one of them in grey, and files that are none."""
    for number, wnid in enumerate((LAST, GOLDFISH, GREAT_WHITE)):
        for k in (2, 1):
            save(root / "val" / wnid / f"ILSVRC2012_val_{10 * number + k:08d}.JPEG", colours(9, 12, seed=number))
    save(root / "val" / GOLDFISH / "ILSVRC2012_val_00000099.JPEG", colours(9, 12)[..., 0])
    (root / "val" / GOLDFISH / "._ILSVRC2012_val_00000099.JPEG").write_bytes(b"left by a file manager")
    (root / "val" / "read.txt").write_text("not an image")
    return root


TINY_WNIDS = ("n02124075", "n04067472", "n04540053", "n02099601")
TINY_WORDS = {
    "n00001740": "entity",
    "n02124075": "Egyptian cat",
    "n02099601": "golden retriever",
    "n04067472": "reel",
    "n04540053": "volleyball",
}
TINY_VAL = [
    ("val_0.JPEG", "n04540053", (0, 32, 44, 62)),
    ("val_1.JPEG", "n04067472", (52, 55, 57, 59)),
    ("val_10.JPEG", "n02124075", (4, 0, 60, 55)),
    ("val_2.JPEG", "n02099601", (3, 3, 63, 63)),
]


def tabbed(*rows) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def write_tiny_imagenet(folder):
    """Four validation images, one of them in grey, and twelve training images."""
    root = folder / "tiny-imagenet-200"
    for seed, (name, _, _) in enumerate(TINY_VAL):
        pixels = colours(64, 64, seed)
        save(root / "val" / "images" / name, pixels[..., 0] if name == "val_1.JPEG" else pixels)
    (root / "wnids.txt").write_text("\n".join(TINY_WNIDS))
    (root / "words.txt").write_text(tabbed(*((wnid, f"{name}, another name") for wnid, name in TINY_WORDS.items())))
    (root / "val" / "val_annotations.txt").write_text(tabbed(*((name, wnid, *box) for name, wnid, box in TINY_VAL)))
    for wnid in TINY_WNIDS:
        for k in (0, 10, 2):
            save(root / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", colours(64, 64, k))
        rows = [(f"{wnid}_{k}.JPEG", k, 1, 40 + k, 50) for k in (0, 10, 2)]
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(tabbed(*rows))
    return root


BIRD_PARTS = ("beak", "eye", "foot", "tail", "wing")
BIRD_CLASSES = [
    {"class_idx": 1, "parts": dict.fromkeys(BIRD_PARTS, 2)},
    {"class_idx": 0, "parts": dict.fromkeys(BIRD_PARTS, 0)},
]
BIRD_RECORDS = [
    {"class_idx": 0, "beak_model": "beak01.glb", "bg_objects": "4,0,", "bg_radius": "120,180,", "bg_pitch": "0.5,1.5,"},
    {"class_idx": 1, "beak_model": "beak03.glb", "bg_objects": "", "bg_radius": "", "bg_pitch": ""},
]
BIRD_MAP = [
    [(0, 0, 0), (255, 255, 0), (255, 255, 253), (255, 255, 254)],
    [(255, 0, 1), (255, 0, 2), (0, 255, 2), (0, 255, 2)],
    [(0, 0, 255), (204, 204, 204), (204, 204, 205), (204, 204, 205)],
]


def save_bird(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    alpha = [[(*colour, 255) for colour in line] for line in pixels]
    Image.fromarray(np.array(alpha, dtype=np.uint8)).save(path)


def one_colour(*colour):
    return [[colour] * 4] * 3


def write_funny_birds(folder):
    """Two birds of two classes, the first with two objects, in both splits."""
    root = folder / "FunnyBirds"
    for split in ("train", "test"):
        for index, record in enumerate(BIRD_RECORDS):
            save_bird(root / split / str(record["class_idx"]) / f"{index:06d}.png", one_colour(index, 0, 0))
            save_bird(root / f"{split}_part_map" / str(record["class_idx"]) / f"{index:06d}.png", BIRD_MAP)
        (root / f"dataset_{split}.json").write_text(json.dumps(BIRD_RECORDS))
    (root / "classes.json").write_text(json.dumps(BIRD_CLASSES))
    (root / "parts.json").write_text(json.dumps({part: [{"model": f"{part}01.glb"}] * 3 for part in BIRD_PARTS}))
    for index, record in enumerate(BIRD_RECORDS):
        folder = root / "test_interventions" / str(record["class_idx"]) / f"{index:06d}"
        for number, kept in enumerate(chain.from_iterable(combinations(BIRD_PARTS, size) for size in range(6))):
            save_bird(folder / f"body_{'_'.join(kept)}.png", one_colour(index, 1, number))
        for number in range(record["bg_objects"].count(",")):
            save_bird(folder / "background_interventions" / f"{number}.png", one_colour(index, 2, number))
    return root


VOC_NUMBERS = {
    "2007_000033": [[0, 1, 1, 255], [0, 1, 20, 20]],
    "2007_000042": [[0, 0, 11, 255]],
    "2008_000001": [[15, 15], [0, 0], [0, 9]],
}


def write_voc(root):
    """Two validation images and one of training."""
    folder = root / "VOCdevkit" / "VOC2012"
    for seed, (name, numbers) in enumerate(VOC_NUMBERS.items()):
        save(folder / "JPEGImages" / f"{name}.jpg", colours(*np.shape(numbers), seed=seed))
        save(folder / "SegmentationClass" / f"{name}.png", np.array(numbers, dtype=np.uint8), "P")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000042\n2007_000033\n")
    (lists / "train.txt").write_text("2008_000001\n")
    (lists / "trainval.txt").write_text("\n".join(VOC_NUMBERS))
    return root


FOLDER_VALUES = [[0, 1, 2], [0, 254, 255]]


def write_image_mask_folder(root):
    """A folder of images and one of masks."""
    for seed, name in enumerate(("b.jpg", "a.PNG", "c.d.webp")):
        save(root / "images" / name, colours(2, 3, seed))
        save(root / "masks" / f"{name.rpartition('.')[0]}.png", np.array(FOLDER_VALUES, dtype=np.uint8))
    (root / "images" / "notes.txt").write_text("no image")
    return root / "images", root / "masks"
