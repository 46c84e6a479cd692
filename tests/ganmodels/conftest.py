import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # spawned ranks inherit it, and find gloo_ranks by its name

from gloo_ranks import GlooRanks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Four processes for the whole session: starting one costs more than all that is asked of it."""
    ranks = GlooRanks(4, tmp_path_factory.mktemp("gloo"))
    yield ranks
    ranks.stop()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These tensors are so small that two threads take three times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def the_same_weights_each_time():
    torch.manual_seed(0)
