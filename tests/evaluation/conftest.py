from __future__ import annotations

import pytest

from captum_vit.data import Scenes, SceneSamples
from captum_vit.evaluation import subject_of
from captum_vit.zoo import load_model


@pytest.fixture(scope="session")
def vit():
    return subject_of(load_model("scenes:vit"))


@pytest.fixture(scope="session")
def scenes():
    return SceneSamples(Scenes(12, seed=31))
