import subprocess
import sys
from pathlib import Path

import model_streams
import pytest
import torch
from model_streams import NAMES, result
from perturbed import close


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    program = str(Path(model_streams.__file__))
    processes = [
        subprocess.Popen([sys.executable, program, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    return torch.load(folder / "results.pt")


@pytest.mark.slow  # each process imports torch
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_result_of_one(name, of_two_processes):
    close(of_two_processes[name], result(name, [torch.arange(5)]))


@pytest.mark.parametrize("sizes", [[1] * 5, [4, 1], [2, 3]])
@pytest.mark.parametrize("name", NAMES)
def test_any_split_into_batches_gives_the_result_of_one(name, sizes):
    close(result(name, torch.arange(5).split(sizes)), result(name, [torch.arange(5)]))


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_the_images_gives_another_result(name):
    """So that the tests above can fail."""
    assert not torch.equal(result(name, [torch.arange(4)]), result(name, [torch.arange(5)]))


@pytest.mark.parametrize("name", NAMES)
def test_some_images_count_and_one_does_not(name):
    excluded = result(name, [torch.arange(5)])[-1]
    assert excluded == 1
