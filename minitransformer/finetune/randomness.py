"""All that is random in a step, from the seed and the step alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's random numbers depend on `numbers` alone; afterwards they go on as before.

    So the state of no generator has to be saved with a run, and what is drawn between two steps changes nothing.
    """
    seed = random.Random("/".join(map(str, numbers))).getrandbits(63)
    of_python, of_numpy = random.getstate(), np.random.get_state()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []  # the others are other processes'
    with torch.random.fork_rng(gpus):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
