"""Files for the tests of storage, built by hand so that every kind of damage can be put in."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import torch

import minitransformer


def file_bytes(header, data=b""):
    """A safetensors file: `header` is a dict, or bytes to be taken as they are."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def same_bits(a, b):
    """Equality that also holds for NaN and for booleans that are neither 0 nor 1."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def run_python(script, *args, cwd, timeout=60, **variables):
    """Run a script in a fresh Python that imports the same minitransformer as this one."""
    where = str(Path(minitransformer.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": where, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
