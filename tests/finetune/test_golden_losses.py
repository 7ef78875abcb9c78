"""The first five losses of a run of each task, as they were: no change of the code may change them unnoticed.

The models' weights, in float64, come from numpy's RandomState, whose numbers never change, and their tokenizers' pieces
are letters and bytes. Where the losses are meant to change, write them anew and look at the difference:

    PYTHONPATH=tests python tests/finetune/test_golden_losses.py
"""

import json
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_readers import BRACKETS, reader, say
from small_runs import begin
from small_tasks import CHAT, InDouble, rows_of
from tokenizers import pre_tokenizers

from minitransformer.finetune.loop import train

GOLDEN = Path(__file__).with_name("golden_losses.json")
CASES = {  # task -> (family, fields of the recipe)
    "classify": ("bert", {"class_weights": "auto", "label_smoothing": 0.1}),
    "pair": ("bert", {"optimizer": "adafactor"}),
    "regress": ("bert", {"schedule": "cosine"}),
    "multilabel": ("bert", {"train": "top:1"}),
    "tag": ("bert", {"max_length": 30, "stride": 8}),
    "relation": ("bert", {"train": "lora"}),
    "span": ("bert", {"layer_decay": 0.8}),
    "choice": ("bert", {"optimizer": "sgd"}),
    "lm": ("gpt2", {"train": "adapter"}),
    "mlm": ("bert", {"micro_batch_size": 3}),
    "translate": ("bart", {"label_smoothing": 0.1}),
    "dialogue": ("gpt2", {"warmup": 3}),
    "image": ("vit", {"flip": True}),
}


def letters(folder):
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*BRACKETS, *signs, *(f"##{sign}" for sign in signs)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")


def bytes_alone(*special):
    def write(folder):
        pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        if len(special) == 1:
            say(folder, bos_token=special[0], eos_token=special[0], unk_token=special[0], chat_template=CHAT)

    return write


VOCABULARIES = {
    "bert": letters,
    "gpt2": bytes_alone("<|endoftext|>"),
    "bart": bytes_alone("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "vit": None,
}


def draw_weights(model):
    """New values for all weights, those of norms around 1."""
    random = np.random.RandomState(0)
    with torch.no_grad():
        for name, x in sorted(model.named_parameters()):
            x.copy_(0.1 * torch.from_numpy(random.standard_normal(tuple(x.shape))))
            if name.endswith("norm.weight"):
                x.add_(1)


def first_losses(name, folder):
    """The losses of five steps; the model and the images are written to `folder`."""
    family, fields = CASES[name]
    start = reader(folder / name, family, vocabulary=VOCABULARIES[family])
    task = "classify" if name == "pair" else name
    recipe = {"steps": 5, "batch_size": 4, "learning_rate": 1e-3, **fields}
    model, task, examples, recipe = begin(start, rows_of(name, folder), task, **recipe)
    draw_weights(model.double())
    return [event["loss"] for event in train(model, InDouble(task), examples, recipe)]


@pytest.mark.parametrize("name", CASES)
def test_losses_are_as_they_were(name, tmp_path):
    assert first_losses(name, tmp_path) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = {name: [round(x, 9) for x in first_losses(name, Path(folder))] for name in CASES}
    GOLDEN.write_text(json.dumps(losses, indent=2) + "\n")
