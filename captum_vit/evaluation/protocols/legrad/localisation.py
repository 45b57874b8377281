"""Tables 1 to 3: is what a map marks where the object is?"""

from __future__ import annotations

from captum_vit.evaluation.protocols.base import Column, Method, Model, Protocol, Run, printed
from captum_vit.evaluation.protocols.legrad.shared import (
    ATTENTION_CAM,
    CHEFER_CAM,
    CLASS_NAMES,
    DEMO_SIZE,
    GRAD_CAM,
    GRAD_CAM_BLOCK,
    LEGRAD_METHOD,
    PAPER,
    PARTIAL_LRP,
    POINT_CHOICES,
    POINT_NOTES,
    RAW_ATTENTION,
    ROLLOUT,
    SIZE_NOTE,
    TEMPLATE,
    TEXT_SPAN,
    clip,
    pointed,
)

__all__ = ["LOCALISATION"]

_PRESET = "segmentation(preset='legrad')"
_SEGMENTATION = (
    Column("Pixel Acc.", _PRESET, "pixel_accuracy"),
    Column("mIoU", _PRESET, "miou"),
    Column("mAP", _PRESET, "ap_two_channel"),
)

_TABLE_1 = Protocol(
    "legrad-table-1",
    "Segmentation on ImageNet-Segmentation, OpenCLIP",
    f"{PAPER}, table 1",
    (Run("segmentation", ("imagenet-segmentation",), clip("ViT-B/16", DEMO_SIZE), _SEGMENTATION),),
    (
        Method("LRP", "lrp"),
        PARTIAL_LRP,
        ROLLOUT,
        RAW_ATTENTION,
        GRAD_CAM,
        CHEFER_CAM,
        TEXT_SPAN,
        LEGRAD_METHOD,
    ),
    printed(
        [("ViT-B/16", column.name) for column in _SEGMENTATION],
        {
            "LRP": (52.81, 33.57, 54.37),
            "Partial-LRP": (61.49, 40.71, 72.29),
            "rollout": (60.63, 40.64, 74.47),
            "Raw attention": (65.67, 43.83, 76.05),
            "GradCAM": (70.27, 44.50, 70.30),
            "CheferCAM": (69.21, 47.47, 78.29),
            "TextSpan": (73.01, 40.26, 81.4),
            "LeGrad": (77.52, 58.66, 82.49),
        },
    ),
    (
        "The paper names ImageNet-S, but its 4,276 images are those of ImageNet-Segmentation (Guillaumin et al.).",
        "Maps are of the true class, as the paper says: the WordNet id in the file, by OpenCLIP's name where the class "
        "is one of ImageNet-1k and by WordNet's elsewhere.",
        "mIoU is taken to be the mean of object and background over all pixels, and mAP that of both channels, as in "
        "the code of Chefer et al.: the paper does not say.",
        "A pixel at 0.5 is taken to be background.",
        SIZE_NOTE,
        CLASS_NAMES,
        GRAD_CAM_BLOCK,
    ),
    TEMPLATE,
)

_SIZES = ("ViT-B/16", "ViT-L/14", "ViT-H/14")

_TABLE_2 = Protocol(
    "legrad-table-2",
    "Open-vocabulary localisation on the points of OpenImages V7, OpenCLIP",
    f"{PAPER}, table 2",
    tuple(pointed(clip(name, DEMO_SIZE)) for name in _SIZES),
    (ROLLOUT, RAW_ATTENTION, GRAD_CAM, ATTENTION_CAM, CHEFER_CAM, TEXT_SPAN, LEGRAD_METHOD),
    printed(
        [(name, "p-mIoU") for name in _SIZES],
        {
            "rollout": (8.75, 6.85, 5.82),
            "Raw attention": (0.94, 1.60, 0.85),
            "GradCAM": (8.72, 2.80, 2.46),
            "AttentionCAM": (5.87, 4.74, 1.20),
            "CheferCAM": (5.87, 2.51, 9.49),
            "TextSpan": (9.44, 21.73, 23.74),
            "LeGrad": (48.38, 47.69, 46.51),
        },
    ),
    (*POINT_NOTES, GRAD_CAM_BLOCK),
    POINT_CHOICES,
)

_IMAGE_BIND = Model("ImageBind", None, "scenes:clip")


def _prompted(kind: str, title: str) -> Run:
    columns = (
        Column(f"{title} mAP", "pooled-segmentation", "ap", digits=1),
        Column(f"{title} mIoU", "pooled-segmentation", "iou", digits=1),
    )
    geometry = {"mode": "crop", "interpolation": "bilinear"}
    return Run(kind, (f"ade20k-{kind}",), _IMAGE_BIND, columns, prompts="embeddings", geometry=geometry)


_PROMPTED = (_prompted("speech", "Speech"), _prompted("sound", "Sound"))
_AUDIO = [column.name for run in _PROMPTED for column in run.columns]

_TABLE_3 = Protocol(
    "legrad-table-3",
    "Segmentation of ADE20K prompted by speech and sound",
    f"{PAPER}, table 3",
    _PROMPTED,
    (
        Method("DAVENet", None, "DAVENet"),
        Method("CAVMAE", None, "CAVMAE"),
        Method("ImageBind", None),
        Method("ImageBind + LeGrad", "legrad"),
        Method("DenseAV", None, "DenseAV"),
    ),
    printed([("DAVENet", column) for column in _AUDIO], {"DAVENet": (32.2, 26.3, 16.8, 17.0)})
    | printed([("CAVMAE", column) for column in _AUDIO], {"CAVMAE": (27.2, 19.9, 26.0, 20.5)})
    | printed(
        [("ImageBind", column) for column in _AUDIO],
        {"ImageBind": (20.2, 19.7, 18.3, 18.1), "ImageBind + LeGrad": (23.3, 21.8, 48.0, 38.9)},
    )
    | printed([("DenseAV", column) for column in _AUDIO], {"DenseAV": (48.7, 36.8, 32.7, 24.2)}),
    (
        "mIoU is the best of 20 thresholds for each class, chosen by its masks, as in the code of DenseAV: no number "
        "to compare with one at a fixed threshold.",
        "Each map is brought to [0, 1] by itself; DenseAV scales the maps of the whole dataset together.",
        "Audio is not decoded here: embeddings of the image encoder's space are given with the dataset. ImageBind is "
        "in no library that models are loaded from, so it is given, too.",
        "DenseAV's evaluation reads a part of each spoken prompt for its advanced numbers; which was taken is "
        "not stated.",
        "Images are scaled to 224 pixels on the shorter side and cropped, as in the code of DenseAV.",
    ),
)

LOCALISATION = (_TABLE_1, _TABLE_2, _TABLE_3)
