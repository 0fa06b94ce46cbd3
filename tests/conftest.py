"""What every test gets: a state of the process that no other test has touched."""

import os

import numpy as np
import pyro
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_process():
    """Start each test from a fixed random state and an empty parameter store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    np.random.seed(0)
