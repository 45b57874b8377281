"""Methods × a model × a dataset × metrics: resumable, and as distributed as ``torchrun`` makes it."""

from captum_vit.evaluation.datasets import DATASETS, dataset_of
from captum_vit.evaluation.distribution import LayerDistribution
from captum_vit.evaluation.explainers import Explainer, UnsupportedMethodError, explainer_of
from captum_vit.evaluation.gamma import GammaChoice, choose_gamma
from captum_vit.evaluation.layers import layer_distribution, write_layers
from captum_vit.evaluation.measures import MEASURES, Measure, MissingAnnotationError, measure_of
from captum_vit.evaluation.report import write_report
from captum_vit.evaluation.result import Result
from captum_vit.evaluation.runner import evaluate
from captum_vit.evaluation.store import ChangedConfigurationError, DamagedResultsError, Store
from captum_vit.evaluation.stored import NoResultsError, Stored, stored
from captum_vit.evaluation.subject import Subject, subject_of

__all__ = [
    "DATASETS",
    "MEASURES",
    "ChangedConfigurationError",
    "DamagedResultsError",
    "Explainer",
    "GammaChoice",
    "LayerDistribution",
    "Measure",
    "MissingAnnotationError",
    "NoResultsError",
    "Result",
    "Store",
    "Stored",
    "Subject",
    "UnsupportedMethodError",
    "choose_gamma",
    "dataset_of",
    "evaluate",
    "explainer_of",
    "layer_distribution",
    "measure_of",
    "stored",
    "subject_of",
    "write_layers",
    "write_report",
]
