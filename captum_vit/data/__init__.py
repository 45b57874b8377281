"""Data sets; the synthetic scenes need no download."""

from captum_vit.data.scenes import CLASSES, COLOURS, Scene, SceneObject, Scenes, with_article

__all__ = ["CLASSES", "COLOURS", "Scene", "SceneObject", "Scenes", "with_article"]
