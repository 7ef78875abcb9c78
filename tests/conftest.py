"""What every test gets: one thread for each worker, a fixed seed, and markers that skip where something is missing."""

import os
import signal
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, notebooks among them

import pytest
import torch
from hypothesis import settings
from parity_record import pytest_configure  # noqa: F401 - a hook

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would theirs
torch.set_num_threads(1)  # xdist runs one worker for each core
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("suite")


def pytest_collection_modifyitems(config, items):
    """Skip what needs a GPU where there is none, and what needs the network or time unless it is asked for."""
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
        for marker, why in {"online": "needs the network", "slow": "the longer form of a test"}.items():
            if item.get_closest_marker(marker) and marker not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason=f"{why}; run with -m {marker}"))


def pytest_sessionfinish(session):
    """Remove what `oracle.py` keeps for a whole session: a worker of xdist ends without its exit handlers."""
    if "oracle" in sys.modules:
        sys.modules["oracle"]._HOME.cleanup()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
