"""Generate: the continuation of prompts, or the answer to sources, as token ids."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minitransformer.generation.beams import beam_search
from minitransformer.generation.decoder import Decoder
from minitransformer.generation.processors import Lengths, processors
from minitransformer.generation.prompt import Prompt, lengths_of, prepare, vocabulary
from minitransformer.generation.sample import tokens
from minitransformer.generation.settings import GenerationConfig
from minitransformer.generation.stopping import Stopping
from minitransformer.model import Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.text import Tokenizer

ROOM = 256  # new tokens for which there is room in the cache before it grows


def generate(
    model: Transformer,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    config: GenerationConfig | None = None,
    decoder_input_ids: Tensor | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int | None = None,
) -> Tensor:
    """Token ids, int [B · num_return_sequences, T'], shorter rows filled up on the right.

    For a model that `build` gives; one that was loaded has `model.generate`. Of a decoder alone: the prompt `input_ids`
    [B T] with its continuation. Behind an encoder, which reads `input_ids`: the start token, then `decoder_input_ids`,
    with what follows. The tokenizer is for stop_strings. The same seed draws the same tokens; without one, torch's
    global generator draws.
    """
    config = GenerationConfig() if config is None else config
    prompt = prepare(model, input_ids, attention_mask, config=config, decoder_input_ids=decoder_input_ids)
    return go_on(model, prompt, config=config, tokenizer=tokenizer, seed=seed)


def go_on(
    model: Transformer, prompt: Prompt, *, config: GenerationConfig, tokenizer: Tokenizer | None, seed: int | None
) -> Tensor:
    """The same for inputs that are checked."""
    if config.num_beams == 1:
        new = list(steps(model, prompt, config=config, tokenizer=tokenizer, seed=seed))
        copies = config.num_return_sequences
        return torch.cat((prompt.ids.repeat_interleave(copies, dim=0), *new), dim=1)  # [R T']
    lengths = lengths_of(model, config, prompt)
    found = beam_search(
        start(model, prompt, config, lengths),
        prompt.ids,
        config=config,
        processors=processors(config, lengths, prompt.repeat(config.num_beams).attention_mask),
        stopping=Stopping(config, lengths.longest, tokenizer),
        generator=generator(model, seed),
        padding=padding(model, config),
    )
    return found.clone()  # outside of inference mode: an ordinary tensor


def steps(
    model: Transformer, prompt: Prompt, *, config: GenerationConfig, tokenizer: Tokenizer | None, seed: int | None
) -> Iterator[Tensor]:
    """The next token of each text, int [R 1], step by step, until all have ended."""
    lengths, copies = lengths_of(model, config, prompt), config.num_return_sequences
    for token in tokens(
        start(model, prompt, config, lengths),
        prompt.ids,
        processors=processors(config, lengths, prompt.repeat(copies).attention_mask),
        stopping=Stopping(config, lengths.longest, tokenizer),
        draw=config.do_sample,
        generator=generator(model, seed),
        padding=padding(model, config),
        copies=copies,
    ):
        yield token.clone()


def start(model: Transformer, prompt: Prompt, config: GenerationConfig, lengths: Lengths) -> Decoder:
    """The decoder before the prompt; the encoder has read the source."""
    memory = None
    if prompt.source is not None:
        with evaluation(model), torch.inference_mode():
            memory = model.encode(prompt.source, prompt.source_mask)  # [B S D]
    return Decoder(
        model,
        attention_mask=prompt.attention_mask,
        memory=memory,
        memory_mask=prompt.source_mask,
        room=min(lengths.longest, lengths.prompt + ROOM),
        use_cache=config.use_cache,
    )


def generator(model: Transformer, seed: int | None) -> torch.Generator | None:
    """A generator of its own for a seed; None: torch's global one."""
    return None if seed is None else torch.Generator(next(model.parameters()).device).manual_seed(seed)


def padding(model: Transformer, config: GenerationConfig) -> int:
    """What follows the end of a text: the padding, or else the first end token."""
    end = (config.eos_token_id or (0,))[0]
    if config.pad_token_id is None:
        return end if end < vocabulary(model.target_embed or model.embed) else 0
    if config.num_beams > 1 and config.eos_token_id:
        return config.pad_token_id or end  # in a beam search, transformers takes a padding of 0 (T5's) for none
    return config.pad_token_id
