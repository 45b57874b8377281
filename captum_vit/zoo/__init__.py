"""Any model by name, with its own preprocessing, and the images to try it on."""

from captum_vit.zoo.images import SAMPLES, load_image, load_scene
from captum_vit.zoo.models import LIBRARIES, LoadedModel, load_model
from captum_vit.zoo.weights import WeightsUnavailableError

__all__ = ["LIBRARIES", "SAMPLES", "LoadedModel", "WeightsUnavailableError", "load_image", "load_model", "load_scene"]
