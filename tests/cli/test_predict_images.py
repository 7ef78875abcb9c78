"""`minitransformer predict` with a model that reads images."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from oracle import Case, checkpoint, rewritten

import minitransformer as mt

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def folder():
    """A classifier of images."""
    labels = {"0": "cat", "1": "dog", "2": "neither"}
    folder = rewritten(checkpoint(Case("vit", "image-classification")), config={"id2label": labels})
    preprocessor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 15, "width": 15}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture
def pictures(tmp_path):
    """The names of three files."""
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(3)]


def predict(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "minitransformer", "predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
        **options,
    )


def test_labels_for_image_files(folder, pictures):
    expected = mt.load(folder).predict(pictures)
    done = predict(folder, *pictures, "--json", "--batch-size", 2)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["text"], row["label"]) for row in told] == [(x.text, x.label) for x in expected], done.stderr
    assert [row["score"] for row in told] == pytest.approx([x.score for x in expected])


def test_what_is_no_image_is_one_message(folder, pictures, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    done = predict(folder, input=f"{pictures[0]}\n{tmp_path / 'text.png'}\n")
    assert done.returncode == 2
    assert done.stderr.startswith(f"minitransformer: {tmp_path / 'text.png'}: no image in one of the formats")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_help_speaks_of_images(capsys):
    from minitransformer.cli import app

    app(["predict", "--help"], standalone_mode=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "Texts or, for a model that reads images, image files" in told
    assert "image files" in told
