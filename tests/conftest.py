import pytest
import two_towers
from two_towers import NAMES, TwoTowers


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> dict[str, TwoTowers]:
    """Tiny models that read texts, by name, each with its tokenizer; made once, for no test may change them."""
    return {name: two_towers.build(name, tmp_path_factory.mktemp("tokenizer")) for name in NAMES}


@pytest.fixture(params=NAMES)
def towers(request, built) -> TwoTowers:
    """Each of them in turn."""
    return built[request.param]


@pytest.fixture
def clip(built) -> TwoTowers:
    """The OpenCLIP one."""
    return built["OpenCLIP CLIP"]
