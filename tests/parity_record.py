"""Keeps what the comparisons with transformers found, for `minitransformer families` to show.

A test that compares says so with `record_property("parity", [family, head, largest difference])`, at first with None,
which stands for a failure if the test does not come to its end. The reports of all workers arrive at one process, which
writes.
"""

import contextlib
import importlib.metadata
import json
import os
from datetime import UTC, datetime

import pytest

from minitransformer.cli import last_test_run
from minitransformer.errors import CorruptFileError


def pytest_configure(config):
    """Keep the record in the process that all reports come to, which is no worker of xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(ParityRecord())


class ParityRecord:
    """What a run found, and the hooks of pytest that gather and write it."""

    def __init__(self):
        self.found = {}  # family -> head -> the largest differences, None for a failure
        self.crashed = False

    def pytest_runtest_logreport(self, report):
        self.crashed |= report.when == "???"  # a worker died, and nobody can say what it compared
        compared = dict(report.user_properties).get("parity")
        if report.when == "call" and compared and not report.skipped:
            family, head, difference = compared
            heads = self.found.setdefault(family, {})
            heads.setdefault(head, []).append(difference)

    def pytest_sessionfinish(self, exitstatus):
        complete = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not self.crashed
        if self.found and complete:
            with contextlib.suppress(OSError):  # a record is a help, and no reason for a run to fail
                write({family: result(heads) for family, heads in self.found.items()})


def result(heads):
    """What is written of a family."""
    passed = [max(differences) for differences in heads.values() if None not in differences]
    return {
        "ran": len(heads),
        "passed": len(passed),
        "largest_difference": max(passed) if len(passed) == len(heads) else None,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }


def write(results):
    """Put the results of some families in place of what the file has of them, in one rename."""
    path = last_test_run.path()
    try:
        old = {family: result.to_dict() for family, result in last_test_run.read().items()}
    except CorruptFileError:  # written anew
        old = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(json.dumps({"families": {**old, **results}}, indent=2) + "\n", encoding="utf-8")
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
