"""What the benchmarks share: interleaved timing, and a line that says on what machine."""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version


def interleaved(runs: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each run. They take turns, so that a slower minute of the machine slows all of them.

    In another order each time: what a run leaves in the processor's caches helps or hinders the next.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = random.Random(0)
    for turn in range(warmup + rounds):
        for name in shuffled.sample(list(runs), len(runs)):
            began = time.perf_counter()
            runs[name]()
            if turn >= warmup:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def machine(*packages: str) -> str:
    """The processor, how many cores may be used, and the versions of packages."""
    with open("/proc/cpuinfo") as lines:
        model = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
        )
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {versions}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
