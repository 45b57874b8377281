from __future__ import annotations

import pytest

from captum_vit.cli.demonstration.scores import load_models


@pytest.fixture(scope="session")
def models():
    """The shipped models with their classifiers, by name; no test may change them."""
    return {loaded.name: (loaded, classifier) for loaded, classifier in load_models()}
