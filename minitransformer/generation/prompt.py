"""What a decoder is asked to go on with: inputs and lengths, checked before anything is computed."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.generation.processors import Lengths
from minitransformer.generation.settings import GenerationConfig
from minitransformer.model import Transformer
from minitransformer.modules import TokenEmbedding
from minitransformer.modules.embeddings import check_ids
from minitransformer.modules.masks import check_attention_mask

DEFAULT_NEW_TOKENS = 20


@dataclass(frozen=True)
class Prompt:
    """What a decoder reads first, and what it attends to."""

    ids: Tensor  # int [B T]
    attention_mask: Tensor | None = None  # [B T], where a prompt is padded, on the left
    source: Tensor | None = None  # int [B S], of an encoder
    source_mask: Tensor | None = None  # [B S]

    def repeat(self, times: int) -> "Prompt":
        """Each text as often as that, side by side."""
        given = (self.ids, self.attention_mask, self.source, self.source_mask)
        return Prompt(*(x if x is None else x.repeat_interleave(times, dim=0) for x in given))  # type: ignore[arg-type]


def prepare(
    model: Transformer,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    *,
    config: GenerationConfig,
    decoder_input_ids: Tensor | None = None,
) -> Prompt:
    """The inputs, checked: what is wrong with them is said before anything is computed."""
    check_model(model)
    for name, x in (("attention_mask", attention_mask), ("decoder_input_ids", decoder_input_ids)):
        if x is not None and not isinstance(x, Tensor):
            raise InputError(f"{name}: got a {type(x).__name__}, expected a tensor [batch, tokens]")
    check_ids("input_ids", input_ids, vocabulary(model.embed))
    for name in ("pad_token_id", "forced_bos_token_id", "forced_eos_token_id"):
        value = getattr(config, name)
        known = vocabulary(model.target_embed or model.embed)
        if any(number >= known for number in (value if isinstance(value, tuple) else (value or 0,))):
            raise InputError(f"{name}: got {value}, expected an id among the model's {known} tokens")
    input_ids = input_ids.to(torch.int64)
    check_attention_mask("attention_mask", attention_mask, *input_ids.shape)
    if attention_mask is None:
        mask = torch.ones_like(input_ids) if model.encoder is not None else _inferred_mask(input_ids, config)
    else:
        mask = (attention_mask != 0).to(torch.int64)
    if not mask.any(1).all():
        raise InputError(f"attention_mask: row {int(mask.any(1).int().argmin())} has no token, expected one or more")
    padded = None if bool(mask.all()) else mask
    if model.encoder is None:
        if decoder_input_ids is not None:
            raise InputError("decoder_input_ids: this model has one stack, which reads input_ids; leave it out")
        return _padded_on_the_left(input_ids, padded)
    return Prompt(_start(model, config, decoder_input_ids, len(input_ids)), None, input_ids, padded)


def check_model(model: Transformer) -> None:
    """Raise an InputError unless the model has a decoder and gives logits over tokens."""
    if not isinstance(model, Transformer):
        raise InputError(f"generate: got a {type(model).__name__}, expected a Transformer; or try model.generate(...)")
    task = model.config.task
    if model.decoder is None or not model.decoder.config.causal:
        raise InputError(
            f"generate: got an encoder (head: {task}), which reads texts and cannot continue them; expected a decoder "
            f"(GPT-2, Llama, …) or both (T5, BART, …)"
        )
    if model.config.lm is None:
        needed = "seq2seq-lm" if model.encoder is not None else "causal-lm"
        raise InputError(f"generate: got a model with the head {task}, expected {needed}; load(name, head={needed!r})")


def vocabulary(embed: nn.Module) -> int:
    """How many tokens an embedding has; 0 for one of images."""
    return embed.config.vocab_size if isinstance(embed, TokenEmbedding) else 0


def lengths_of(model: Transformer, config: GenerationConfig, prompt: Prompt) -> Lengths:
    """The prompt's length, and the least and greatest of the text with it."""
    length = prompt.ids.shape[1]
    embed = (model.target_embed or model.embed).config
    limit = embed.max_length if isinstance(embed, TokenEmbeddingConfig) and embed.positions is not None else None
    if limit is not None and length >= limit:
        raise InputError(
            f"input_ids: got a prompt of {length} tokens, and the model has {limit} positions in all; cut the prompt"
        )
    if config.max_new_tokens is not None:
        name, asked, longest = "max_new_tokens", config.max_new_tokens, length + config.max_new_tokens
    elif config.max_length is not None:
        name, asked, longest = "max_length", config.max_length, config.max_length
        if longest <= length:
            raise InputError(
                f"max_length: got {longest}, but the prompt has {length} tokens already; try max_new_tokens"
            )
    else:
        name, asked, longest = "", 0, min(length + DEFAULT_NEW_TOKENS, limit or length + DEFAULT_NEW_TOKENS)
    if limit is not None and longest > limit:
        raise InputError(
            f"{name}: got {asked} with a prompt of {length} tokens, but the model has {limit} positions: expected "
            f"max_new_tokens of at most {limit - length}"
        )
    shortest = config.min_length if config.min_new_tokens is None else length + config.min_new_tokens
    if shortest > longest:
        warnings.warn(f"at least {shortest} tokens were asked for, but at most {longest}; there it ends", stacklevel=2)
    return Lengths(prompt=length, shortest=shortest, longest=longest)


def _inferred_mask(input_ids: Tensor, config: GenerationConfig) -> Tensor:
    """Without a mask, pad tokens in a decoder's prompt are padding, unless they are end tokens as well."""
    pad = config.pad_token_id
    if pad is None or pad in (config.eos_token_id or ()):
        return torch.ones_like(input_ids)
    return (input_ids != pad).to(torch.int64)


def _padded_on_the_left(input_ids: Tensor, mask: Tensor | None) -> Prompt:
    """The prompt of a decoder, which goes on at its right end: padding there is moved to the left."""
    if mask is not None and not bool(mask[:, -1].all()):
        warnings.warn(
            "prompts are padded on the right, where they go on; the padding was moved to the left. "
            "Try tokenizer.padding_side = 'left'",
            stacklevel=4,
        )
        order = mask.sort(dim=1, stable=True)[1]  # [B T], padding first
        input_ids, mask = input_ids.gather(1, order), mask.gather(1, order)
    return Prompt(input_ids, mask)


def _start(model: Transformer, config: GenerationConfig, given: Tensor | None, batch: int) -> Tensor:
    """What a decoder behind an encoder reads first: the start token, and what was given."""
    choices = (config.decoder_start_token_id, model.config.decoder_start_id, config.bos_token_id)
    token = next((choice for choice in choices if choice is not None), None)
    if token is None:
        raise InputError("decoder_start_token_id: got none, and no bos_token_id; try decoder_start_token_id=0")
    first = torch.full((batch, 1), token, device=next(model.parameters()).device)
    check_ids("decoder_start_token_id", first, vocabulary(model.target_embed or model.embed))
    if given is None:
        return first
    check_ids("decoder_input_ids", given, vocabulary(model.target_embed or model.embed))
    if len(given) != batch:
        raise InputError(f"decoder_input_ids: got {len(given)} texts, expected {batch}, as many as input_ids")
    # As in transformers: where one row begins with the start token, no row is given another.
    return given if bool((given[:, 0] == token).any()) else torch.cat((first, given), dim=1)  # [B T]
