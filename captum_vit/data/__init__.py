"""Data sets; the synthetic scenes need no download."""

from captum_vit.data.ade20k_prompted import ADE20KPrompted
from captum_vit.data.funny_birds import FunnyBirds
from captum_vit.data.geometry import Geometry
from captum_vit.data.image_mask_folder import ImageMaskFolder
from captum_vit.data.imagenet import ImageNet
from captum_vit.data.imagenet_s import ImageNetS
from captum_vit.data.imagenet_segmentation import ImageNetSegmentation
from captum_vit.data.open_images import OpenImagesPoints
from captum_vit.data.pascal_voc import PascalVOC
from captum_vit.data.sample import DamagedSampleError, Points, Region, Sample
from captum_vit.data.scene_parts import SceneParts
from captum_vit.data.scene_samples import SceneSamples
from captum_vit.data.scenes import CLASSES, COLOURS, Scene, SceneObject, Scenes, with_article
from captum_vit.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CLASSES",
    "COLOURS",
    "ADE20KPrompted",
    "DamagedSampleError",
    "FunnyBirds",
    "Geometry",
    "ImageMaskFolder",
    "ImageNet",
    "ImageNetS",
    "ImageNetSegmentation",
    "OpenImagesPoints",
    "PascalVOC",
    "Points",
    "Region",
    "Sample",
    "Scene",
    "SceneObject",
    "SceneParts",
    "SceneSamples",
    "Scenes",
    "TinyImageNet",
    "with_article",
]
