"""What every test gets: one thread for each worker, a fixed seed, and markers that skip where something is missing."""

import functools
import os
import socket

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # xdist runs one worker for each core
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("suite")


def pytest_collection_modifyitems(config, items):
    """Skip what needs the network, a GPU or time, where there is none."""
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
        if item.get_closest_marker("online") and not _online():
            item.add_marker(pytest.mark.skip(reason="needs the network"))
        if item.get_closest_marker("slow") and "slow" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="the longer form of a test; run with -m slow"))


@functools.cache
def _online():
    if os.environ.get("HF_HUB_OFFLINE"):
        return False
    try:
        socket.create_connection(("huggingface.co", 443), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
