"""Prompts and settings drawn at random, and both libraries' answers to them."""

import functools
import random
import warnings
from dataclasses import dataclass, field

import torch
import transformers
from oracle import SIZES, checkpoint, theirs

import minitransformer as mt
from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.generation import generate
from minitransformer.generation.settings import settings

LONGEST_PROMPT, MOST_NEW = 7, 8  # together fewer than the positions of the smallest model
GROUPED = ("llama", "mistral", "qwen2", "qwen3")

# Setting -> how often it is drawn, and what from: a function of a random.Random and the size of the vocabulary.
RULES = {
    "repetition_penalty": (0.3, lambda rng, size: rng.choice([0.7, 1.3, 2.0])),
    "no_repeat_ngram_size": (0.3, lambda rng, size: rng.choice([1, 2, 3])),
    "min_new_tokens": (0.25, lambda rng, size: rng.randint(0, 6)),
    "min_length": (0.25, lambda rng, size: rng.randint(0, 10)),
    "forced_bos_token_id": (0.15, lambda rng, size: rng.randrange(size)),
    "forced_eos_token_id": (0.15, lambda rng, size: rng.choice([rng.randrange(size), [1, 2]])),
    "suppress_tokens": (0.15, lambda rng, size: rng.sample(range(size), size // 3)),
    "begin_suppress_tokens": (0.15, lambda rng, size: rng.sample(range(size), size // 2)),
    "bad_words_ids": (0.15, lambda rng, size: [[token] for token in rng.sample(range(size), size // 4)]),
    "renormalize_logits": (0.2, lambda rng, size: True),
}
SAMPLING = {
    "temperature": (0.4, lambda rng, size: rng.choice([0.5, 2.0])),
    "top_k": (0.4, lambda rng, size: rng.choice([0, 2, 5, 10])),
    "top_p": (0.4, lambda rng, size: rng.choice([0.3, 0.8])),
    "min_p": (0.3, lambda rng, size: rng.choice([0.05, 0.5])),
}
BEAMS = {
    "num_beams": (1.0, lambda rng, size: rng.choice([2, 3, 5])),
    "length_penalty": (0.7, lambda rng, size: rng.choice([0.0, 0.6, 2.0, -1.0])),
    "early_stopping": (0.7, lambda rng, size: rng.choice([True, "never"])),
}
PADDING = ("none", "left", "right")


@dataclass
class Draw:
    """One question to both libraries."""

    ids: torch.Tensor
    mask: torch.Tensor | None
    fields: dict
    decoder_ids: torch.Tensor | None = None
    padding: str = "none"
    seed: int = 0
    kinds: set = field(default_factory=set)  # what is to be counted


@functools.cache
def pair(case, dtype=torch.float64):
    """transformers' model and ours, from one folder."""
    options = {"attn_implementation": "sdpa"} if case.family in GROUPED else {}
    their_model = theirs(case, dtype=dtype, **options)
    their_model.generation_config = transformers.GenerationConfig()
    return their_model, mt.load(checkpoint(case), head=case.head, dtype=dtype).transformer


def two_stacks(case):
    return case.head == "seq2seq-lm"


def vocabulary(model):
    embed = (model.target_embed or model.embed).config
    assert isinstance(embed, TokenEmbeddingConfig)
    return embed.vocab_size


def draw(case, seed, padded=True):
    """A batch of prompts and the settings for it. End tokens are among those that the model writes itself."""
    rng, two = random.Random(f"{case} {seed}"), two_stacks(case)
    _, model = pair(case)
    size, reads = vocabulary(model), SIZES[case.family]["vocab_size"]
    generator = torch.Generator().manual_seed(seed)
    batch, length = rng.choice([1, 2, 3]), max(1, rng.randint(-1, LONGEST_PROMPT))
    drawn = Draw(torch.randint(3, reads - 1, (batch, length), generator=generator), None, {}, seed=seed)
    drawn.padding = PADDING[seed // 4 % 3] if padded else "none"
    draw_padding(drawn, rng, two)
    if two:
        drawn.fields["decoder_start_token_id"] = 2
    if two and rng.random() < 0.3:
        drawn.kinds.add("decoder_input_ids")
        drawn.decoder_ids = torch.randint(3, size - 1, (batch, rng.randint(1, 3)), generator=generator)
        if rng.random() < 0.5:
            drawn.decoder_ids[:, 0] = 2
    new = rng.randint(2, MOST_NEW)
    limit = {"max_new_tokens": new} if rng.random() < 0.5 else {"max_length": prompt_length(drawn) + new}
    drawn.fields |= limit
    draw_fields(drawn.fields, rng, size, sampling=seed % 2 == 1, beams=seed % 4 >= 2)
    drawn.kinds |= drawn.fields.keys()
    draw_ends(drawn, rng, model)
    return drawn


def draw_padding(drawn, rng, two):
    """A mask, or pad tokens that tell it to a decoder alone; the prompts have none of these ids."""
    pad, length = rng.choice([0, 1, 2, None]), drawn.ids.shape[1]
    if pad is not None:
        drawn.fields["pad_token_id"] = pad
    if drawn.padding == "none" and rng.random() < 0.5:
        return
    drawn.mask = torch.ones_like(drawn.ids)
    for row in drawn.mask if drawn.padding != "none" else ():
        empty = rng.randint(0, length - 1)
        row[slice(0, empty) if drawn.padding == "left" else slice(length - empty, None)] = 0
    drawn.ids[drawn.mask == 0] = pad or 0
    if not two and drawn.padding == "left" and pad is not None and rng.random() < 0.3:
        drawn.kinds.add("mask told by pad tokens")
        drawn.mask = None


def draw_fields(fields, rng, size, *, sampling, beams):
    if sampling:
        fields["do_sample"] = True
    for table in (RULES, SAMPLING if sampling else {}, BEAMS if beams else {}):
        fields |= {name: value(rng, size) for name, (often, value) in table.items() if rng.random() < often}
    if "num_beams" in fields:
        fields["num_return_sequences"] = rng.randint(1, fields["num_beams"])
    elif "do_sample" in fields:
        fields["num_return_sequences"] = rng.choice([1, 3])


def draw_ends(drawn, rng, model):
    """No end tokens, or some of those that are written without them."""
    if rng.random() < 0.08:
        drawn.kinds.add("no end token")
    else:
        try:
            written = ours(model, drawn)
        except InputError:
            written = torch.zeros(1, 2, dtype=torch.int64)
        count = rng.choice([1, 1, 2, 4])
        drawn.kinds.add("one end token" if count == 1 else "several end tokens")
        later = written[:, -most_new(drawn) :].flatten().tolist()
        drawn.fields["eos_token_id"] = [rng.choice(later) for _ in range(count)]


def prompt_length(drawn):
    """What the decoder reads first, in tokens."""
    if "decoder_start_token_id" not in drawn.fields:
        return drawn.ids.shape[1]
    given = drawn.decoder_ids
    return 1 if given is None else given.shape[1] + int(given[0, 0] != drawn.fields["decoder_start_token_id"])


def most_new(drawn):
    """How many tokens may be written."""
    return drawn.fields.get("max_new_tokens") or drawn.fields["max_length"] - prompt_length(drawn)


def ours(model, drawn, **fields):
    """Our tokens; `fields` replace some of the drawn ones."""
    config = settings({}, {**drawn.fields, **fields})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "at least .* tokens were asked for")
        warnings.filterwarnings("ignore", "prompts are padded on the right")
        return generate(
            model, drawn.ids, drawn.mask, config=config, decoder_input_ids=drawn.decoder_ids, seed=drawn.seed
        )


def expected(model, drawn, two):
    """transformers' tokens. It wants the padding of a decoder's prompt on the left."""
    ids, mask = drawn.ids, drawn.mask
    if not two and drawn.padding == "right":
        places = mask.sort(dim=1, stable=True)[1]
        ids, mask = ids.gather(1, places), mask.gather(1, places)
    config = transformers.GenerationConfig(**drawn.fields)
    inputs = {} if mask is None else {"attention_mask": mask}
    if drawn.decoder_ids is not None:
        inputs["decoder_input_ids"] = drawn.decoder_ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(drawn.seed)
        return model.generate(ids, generation_config=config, **inputs)
