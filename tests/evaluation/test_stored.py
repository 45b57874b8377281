from __future__ import annotations

import pytest
from metric_cases import CHEAP
from pandas.testing import assert_frame_equal

from captum_vit.data import Scenes, SceneSamples
from captum_vit.evaluation import MEASURES, evaluate, stored
from captum_vit.evaluation.protocols.stand_in import SampledPoints


@pytest.fixture(scope="module")
def evaluated(vit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    dataset = SampledPoints(SceneSamples(Scenes(2, seed=2, objects=(1, 2))))
    metrics = [f"{name}({CHEAP[name]})" if name in CHEAP else name for name in MEASURES]
    methods = ["attention-rollout", "captum:layer-grad-cam(layer='norm')"]
    return folder, evaluate(vit, dataset, methods=methods, metrics=metrics, folder=folder, progress=False)


def test_a_folder_gives_the_tables_of_the_run_without_its_model(evaluated):
    folder, result = evaluated
    found = stored(folder)
    assert (found.done, found.samples) == (2, 2)
    assert_frame_equal(found.result.table(resamples=5), result.table(resamples=5))
    assert_frame_equal(found.result.per_map(), result.per_map())
    assert_frame_equal(found.result.curves(), result.curves())
    assert found.result.unsupported == result.unsupported != {}


def test_the_folder_says_what_classes_and_outputs_are_called(evaluated):
    about = stored(evaluated[0]).about
    assert about["classes"][:2] == about["outputs"][:2] == ["red circle", "red square"]
