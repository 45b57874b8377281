"""Data sets; the synthetic scenes need no download."""

from captum_vit.data.ade20k_prompted import ADE20KPrompted
from captum_vit.data.open_images import OpenImagesPoints
from captum_vit.data.sample import DamagedSampleError
from captum_vit.data.scenes import CLASSES, COLOURS, Scene, SceneObject, Scenes, with_article

__all__ = [
    "CLASSES",
    "COLOURS",
    "ADE20KPrompted",
    "DamagedSampleError",
    "OpenImagesPoints",
    "Scene",
    "SceneObject",
    "Scenes",
    "with_article",
]
