"""Data sets; the synthetic scenes need no download."""

from captum_vit.data.ade20k_prompted import ADE20KPrompted
from captum_vit.data.funny_birds import FunnyBirds
from captum_vit.data.open_images import OpenImagesPoints
from captum_vit.data.sample import DamagedSampleError
from captum_vit.data.scene_parts import SceneParts
from captum_vit.data.scenes import CLASSES, COLOURS, Scene, SceneObject, Scenes, with_article

__all__ = [
    "CLASSES",
    "COLOURS",
    "ADE20KPrompted",
    "DamagedSampleError",
    "FunnyBirds",
    "OpenImagesPoints",
    "Scene",
    "SceneObject",
    "SceneParts",
    "Scenes",
    "with_article",
]
