"""A small BERT on disk to fine-tune, and rows that it can learn."""

import functools

import pytest
import torch
import transformers
from small_tasks import write_model

import minitransformer as mt
from minitransformer.tasks import Row

WORDS = ["good", "bad", "film", "a", "the", "very", "not", "fine", "awful", "plot"]


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory):
    """A folder with a two-layer BERT without a head, and its vocab.txt."""
    folder = tmp_path_factory.mktemp("small-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


@pytest.fixture(scope="session")
def calm_bert(small_bert, tmp_path_factory):
    """The same without dropout."""
    folder = tmp_path_factory.mktemp("calm-bert") / "bert"
    mt.load(small_bert, config={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}).save(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """model_folder("gpt2"): a folder with a small model of a family and its tokenizer, the same each time."""
    home = tmp_path_factory.mktemp("models")
    return functools.cache(lambda family: write_model(home / family, family))


@pytest.fixture(scope="session")
def rows():
    """Texts of 1 to 8 words; those with "good" in them are positive."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(120):
        length = int(torch.randint(1, 9, (), generator=generator))
        words = [WORDS[i] for i in torch.randint(2, len(WORDS), (length,), generator=generator).tolist()]
        words[0] = "good" if number % 2 else "bad"
        found.append(Row(text=" ".join(words), label="positive" if number % 2 else "negative"))
    return found
