"""What a tokenizer writes: its vocabulary, and its steps in the words of tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors

from minitransformer.text.marian import MarianBackend

# A setting in tokenizer_config.json, and what the normalizer calls it.
NORMALIZER_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# The two pipelines that transformers' own classes can build from a vocabulary and tokenizer_config.json.
NAMED_PIPELINES = (
    ("WordPiece", "BertNormalizer", "BertPreTokenizer", "WordPiece"),
    ("BPE", "NoneType", "ByteLevel", "ByteLevel"),
)
# The classes that put <s> and </s> around a text whatever tokenizer.json says.
ROBERTA_CLASSES = ("RobertaTokenizer", "BartTokenizer")


def pipeline_settings(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """What tokenizer_config.json says of the pipeline, for a class that builds it anew; empty for other pipelines."""
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        return {name: getattr(normalizer, attribute) for name, attribute in NORMALIZER_SETTINGS.items()}
    if isinstance(splitter, pre_tokenizers.ByteLevel):
        return {"add_prefix_space": splitter.add_prefix_space}
    return {}


def tokenizer_class(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> str:
    """The class that transformers should load: in doubt the general one, which takes tokenizer.json as it is."""
    steps = (backend.model, backend.normalizer, backend.pre_tokenizer, backend.decoder)
    usual = tuple(type(step).__name__ for step in steps) in NAMED_PIPELINES
    usual = usual and getattr(backend.model, "max_input_chars_per_word", 100) == 100
    name = str((usual and config.get("tokenizer_class")) or "PreTrainedTokenizerFast")
    around = isinstance(backend.post_processor, processors.RobertaProcessing)
    return name if around or name.removesuffix("Fast") not in ROBERTA_CLASSES else "PreTrainedTokenizerFast"


def saved_files(backend: tokenizers.Tokenizer | MarianBackend) -> dict[str, bytes]:
    """Name -> content of the vocabulary files to write: tokenizer.json, or Marian's files as they were read."""
    if isinstance(backend, MarianBackend):
        return dict(backend.files)
    return {"tokenizer.json": backend.to_str(pretty=True).encode()}


def saved_settings(backend: tokenizers.Tokenizer | MarianBackend, config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json as it was read, and over it what it must say of the vocabulary files beside it."""
    if isinstance(backend, MarianBackend):
        return dict(config) | {"tokenizer_class": "MarianTokenizer"}
    settings = dict(config) | pipeline_settings(backend)
    settings.pop("added_tokens_decoder", None)  # they stand in tokenizer.json
    return settings | {"tokenizer_class": tokenizer_class(backend, settings)}
