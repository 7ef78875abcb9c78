"""Tokens that a task needs and a checkpoint does not have: added to the tokenizer and to the model."""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken

from minitransformer.errors import InputError, TokenizerError
from minitransformer.model import Transformer
from minitransformer.model.vocabulary import add_rows, vocab_size
from minitransformer.text import Tokenizer
from minitransformer.text.load import added_texts
from minitransformer.text.marian import MarianBackend


def add_tokens(
    transformer: Transformer, tokenizer: Tokenizer, raw_config: dict[str, Any], tokens: Sequence[str]
) -> tuple[str, ...]:
    """Make each of these a special token, found in a text as a whole, with a vector to learn. Returns the new ones.

    `raw_config`: config.json, whose vocab_size is brought up to date. A token that is there already stays as it is.
    """
    if not all(isinstance(token, str) and token.strip() for token in tokens) or isinstance(tokens, str):
        raise InputError(f"tokens: got {tokens!r:.60}, expected a list of texts that are not empty")
    if isinstance(tokenizer.backend, MarianBackend):
        raise TokenizerError("tokens: Marian's vocabulary is fixed, and takes no new tokens; use another model")
    vocab_size(transformer)  # raises, where a model takes no new tokens
    new = [token for token in dict.fromkeys(tokens) if tokenizer.backend.token_to_id(token) is None]
    known = added_texts(tokenizer.backend)
    missing = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in known]
    tokenizer.backend.add_special_tokens(missing)
    if new:
        numbers = tokenizer.backend.get_vocab()
        add_rows(transformer, [numbers[token] for token in new])
        raw_config["vocab_size"] = vocab_size(transformer)
    return tuple(new)
