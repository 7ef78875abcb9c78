"""What a tokenizer's files leave in doubt: one line each, for a warning and the report."""

from __future__ import annotations

import tokenizers
from tokenizers import models, pre_tokenizers

from minitransformer.text.pipeline import pipeline_settings
from minitransformer.text.settings import Settings


def contradictions(backend: tokenizers.Tokenizer, settings: Settings) -> list[str]:
    """Where tokenizer_config.json says other than tokenizer.json, which is believed."""
    return [
        f"tokenizer_config.json says {name}={settings.config[name]}, tokenizer.json {value}; tokenizer.json is believed"
        for name, value in pipeline_settings(backend).items()
        if settings.flag(name) not in (None, value)
    ]


def unclear_case(backend: tokenizers.Tokenizer, settings: Settings) -> list[str]:
    """Whether texts are lower-cased for a vocabulary that knows upper case, only because nobody said otherwise."""
    said = settings.flag("do_lower_case") is not None or not isinstance(backend.model, models.WordPiece)
    if said or not pipeline_settings(backend).get("do_lower_case"):
        return []
    upper = [piece for piece in backend.get_vocab() if piece != piece.lower() and not piece.startswith("[")]
    if not upper:
        return []
    return [
        f"texts are lower-cased, the default, but {len(upper)} pieces have upper case ({min(upper)!r}); "
        'if the model is cased, write {"do_lower_case": false} into tokenizer_config.json'
    ]


def lost_bytes(backend: tokenizers.Tokenizer) -> list[str]:
    """Whether byte-level BPE lacks some of the 256 bytes: it drops them from a text, and tells nobody."""
    model = backend.model
    if not isinstance(model, models.BPE) or not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return []
    lost = set(pre_tokenizers.ByteLevel.alphabet()) - backend.get_vocab().keys()
    return [f"the vocabulary lacks {len(lost)} of the 256 bytes; texts lose them without a trace"] if lost else []
