import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def small_tensors(one_thread):
    pass


@pytest.fixture(autouse=True)
def the_same_weights_each_time():
    torch.manual_seed(0)
