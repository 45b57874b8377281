"""Loaded before collection."""

import torch

import captum_vit.attr  # noqa: F401  doctests must find the modules that the tests import, not second copies of them

torch.set_num_threads(1)  # the models are tiny: a second thread costs three times what it brings
