"""transformers as the oracle: small models of it with odd sizes and noise on every parameter, reloaded from disk.

Noise, because first values hide errors: a norm of ones and a bias of zeros can be left out without a trace.
"""

import atexit
import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from small_families import SIZES, VARIANTS

import minitransformer as mt
from minitransformer.config import PatchEmbeddingConfig
from minitransformer.families import FAMILIES

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

_HOME = tempfile.TemporaryDirectory(prefix="minitransformer-oracle-")
atexit.register(_HOME.cleanup)

CONFIGS = {name: type(transformers.AutoConfig.for_model(name)) for name in FAMILIES}


def _ours(family, head="base", variant="plain"):
    """Our config of a small model: what the tests go by, so that a new family says it once."""
    fields = {**SIZES[family], **VARIANTS[family][variant]}
    return FAMILIES[family].translate(CONFIGS[family](**fields).to_dict(), head)


_BASES = {name: _ours(name) for name in FAMILIES}
DECODERS = {name for name, config in _BASES.items() if config.encoder is None}
ROTARY = {name for name in DECODERS if _BASES[name].decoder.rotary_theta is not None}
IMAGES = {name for name, config in _BASES.items() if isinstance(config.embed, PatchEmbeddingConfig)}
TYPED = {name for name in FAMILIES.keys() - IMAGES if _BASES[name].embed.token_types is not None}
PRE_NORM = {name for name, config in _BASES.items() if (config.encoder or config.decoder).norm_order == "pre"}
READ_TWICE = {"sequence-classification", "question-answering"}  # by an encoder and a decoder


@dataclass(frozen=True)
class Case:
    """A family, a head of it, and a variant of its config."""

    family: str
    head: str
    variant: str = "plain"

    def __str__(self):
        return f"{self.family}-{self.head}-{self.variant}"

    @property
    def cls(self):
        return getattr(transformers, FAMILIES[self.family].classes[self.head])

    @property
    def two_stacks(self):
        config = _ours(self.family, self.head)
        return config.encoder is not None and config.decoder is not None

    @property
    def labels(self):
        if self.head in ("question-answering", "pretraining"):
            return 2
        return 1 if (self.head, self.variant) == ("sequence-classification", "odd") else 3


CASES = [
    Case(name, head, variant)
    for name, family in FAMILIES.items()
    for head in family.classes
    for variant in VARIANTS[name]
    if ("decoder" in variant and head == "causal-lm")
    or ("decoder" not in variant and (variant in ("plain", "odd") or head in ("base", "masked-lm", "seq2seq-lm")))
]
PLAIN = [case for case in CASES if case.variant in ("plain", "decoder")]


@functools.cache
def checkpoint(case, **changes):
    """The folder that transformers' save_pretrained writes for this case; `changes` are fields of its config."""
    fields = {**SIZES[case.family], **VARIANTS[case.family][case.variant], **changes}
    config = CONFIGS[case.family](**fields, num_labels=case.labels)
    torch.manual_seed(len(str(case)))
    model = case.cls(config)
    generator = torch.Generator().manual_seed(7)
    noise = 0.1 if case.family in PRE_NORM else 0.2  # what is never normalised adds up from block to block
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # Marian's sinusoids are called parameters, too
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    folder = Path(tempfile.mkdtemp(dir=_HOME.name))
    model.save_pretrained(folder)
    return folder


def rewritten(folder, tensors=None, config=None):
    """A copy of a checkpoint: `tensors` makes new tensors from the old, `config` replaces fields (None: removes)."""
    copy = Path(tempfile.mkdtemp(dir=_HOME.name))
    old = load_file(folder / "model.safetensors")
    save_file(tensors(old) if tensors else old, copy / "model.safetensors", metadata={"format": "pt"})
    fields = {**json.loads((folder / "config.json").read_text()), **(config or {})}
    fields = {name: value for name, value in fields.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(fields))
    return copy


def theirs(case, folder=None, **options):
    """transformers' model, read from disk, in evaluation."""
    options = {"attn_implementation": "eager", "dtype": torch.float32, **options}
    return case.cls.from_pretrained(folder or checkpoint(case), **options)


@functools.cache
def both_models(case):
    """transformers' model and ours, from one folder. For tests that change neither."""
    return theirs(case), mt.load(checkpoint(case))


def make_batch(case, padding="right", lengths=(9, 4, 7), seed=0):
    """Texts of odd lengths, padded on the "right", on the "left", or ("none") all of one length; or images.

    Left padding moves a decoder's positions, which the caller of either library has to say.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {**SIZES[case.family], **VARIANTS[case.family][case.variant]}
    if case.family in IMAGES:
        sides = sizes["image_size"] if isinstance(sizes["image_size"], list) else [sizes["image_size"]] * 2
        return {"pixel_values": torch.randn(len(lengths), sizes["num_channels"], *sides, generator=generator)}
    choices = 2 if case.head in ("multiple-choice", "double-heads") else 1
    if case.head == "double-heads" and padding == "left":
        padding = "right"  # transformers cannot read positions of two choices
    lengths = torch.tensor(lengths).repeat_interleave(choices)[:, None]
    ids, real = _texts(sizes, padding, lengths, generator)
    batch = {"input_ids": ids, "attention_mask": real.long()}
    if case.family in TYPED:
        kinds = sizes.get("type_vocab_size", sizes["vocab_size"])
        batch["token_type_ids"] = torch.randint(0, kinds, real.shape, generator=generator)
    moves = case.family in DECODERS or (case.family in ("bert", "electra") and "decoder" in case.variant)
    if padding == "left" and moves:
        batch["position_ids"] = (real.long().cumsum(-1) - 1).clamp(min=0)
    if padding == "left" and "roberta" in case.family and "decoder" in case.variant:
        batch["position_ids"] = real.long().cumsum(-1) * real + sizes["pad_token_id"]
    if case.two_stacks and case.head in READ_TWICE:
        last = torch.where(real, torch.arange(real.shape[1]), -1).argmax(-1)  # a text ends with one end token
        ids[torch.arange(len(ids)), last] = sizes.get("eos_token_id", 1)
    elif case.two_stacks:
        words = sizes.get("decoder_vocab_size", sizes["vocab_size"])
        target, real = _texts({**sizes, "vocab_size": words}, padding, (lengths * 3) // 4, generator)
        batch |= {"decoder_input_ids": target, "decoder_attention_mask": real.long()}
    if (case.family, case.head) == ("openai-gpt", "double-heads"):
        del batch["attention_mask"]  # of two choices, transformers cannot read it
    if choices > 1:
        batch = {name: x.unflatten(0, (-1, choices)) for name, x in batch.items()}
    return batch


def _texts(sizes, padding, lengths, generator):
    longest = int(lengths.max())
    places = torch.arange(longest)[None]
    real = {"none": places >= 0, "right": places < lengths, "left": places >= longest - lengths}[padding]
    real = real.expand(len(lengths), -1)
    pad = sizes.get("pad_token_id", 0)
    ids = torch.randint(3, min(sizes["vocab_size"], 42), real.shape, generator=generator)  # no special tokens
    return torch.where(real, ids, pad), real


def make_targets(case, batch, seed=1):
    """What the head's loss is computed from, some of it not to be judged (-100, places past the end)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high, like):
        return torch.randint(0, high, like.shape, generator=generator)

    if case.family in IMAGES:
        return {"labels": draw(case.labels, batch["pixel_values"][:, 0, 0, 0])} if "image" in case.head else {}
    if case.two_stacks and case.head == "seq2seq-lm":
        ids, real = batch["decoder_input_ids"], batch["decoder_attention_mask"].bool()
    else:
        ids = batch["input_ids"]
        real = batch.get("attention_mask", torch.ones_like(ids)).bool()
    first = ids[:, 0]  # [B], for its shape
    words = torch.where(real & (draw(3, ids) > 0), ids, -100)
    if case.head == "causal-lm":
        words[:, 1:][~real[:, :-1]] = -100  # it would be told from padding
    match case.head:
        case "pretraining" if case.family == "electra":
            return {"labels": draw(2, ids)}
        case "pretraining":
            pairs = "sentence_order_label" if case.family == "albert" else "next_sentence_label"
            return {"labels": words, pairs: draw(2, first)}
        case "masked-lm" | "causal-lm" | "seq2seq-lm":
            return {"labels": words}
        case "double-heads":
            return {"labels": torch.where(real, ids, -100)}
        case "next-sentence-prediction":
            return {"labels": draw(2, first)}
        case "sequence-classification":
            numbers = torch.randn(first.shape, generator=generator)
            return {"labels": numbers if case.labels == 1 else draw(case.labels, first)}
        case "token-classification":
            return {"labels": torch.where(real, draw(case.labels, ids), -100)}
        case "question-answering":
            return {"start_positions": draw(4, first), "end_positions": draw(4, first)}
        case "multiple-choice":
            return {"labels": draw(2, ids[:, 0, 0])}
    return {}


def their_targets(case, targets):
    """The same targets for transformers, whose BART without an encoder does not shift its labels."""
    if (case.family, case.head) != ("bart", "causal-lm"):
        return targets
    labels = targets["labels"]
    return {"labels": torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], -100)), dim=1)}


def at_real_tokens(name, x, batch):
    """The part of an output that is about tokens, not about padding. `batch`: the inputs, or their attention mask."""
    if not isinstance(batch, dict):
        batch = {"attention_mask": batch}
    encoder = name.startswith("encoder") or "decoder_input_ids" not in batch
    mask = batch.get("attention_mask" if encoder else "decoder_attention_mask")
    if "attentions" in name:
        x = x.transpose(1, 2)  # [B T H S]
    if mask is None:
        return x
    real = mask.flatten(0, -2).bool()  # [B T]
    x = x.flatten(0, 1) if mask.ndim == 3 and x.shape[:3] == mask.shape else x
    per_token = x.ndim >= 2 and x.shape[:2] == real.shape
    return x[real] if per_token else x


def assert_same(ours, expected, batch, *, atol=1e-5, rtol=1e-5):
    """Each output that transformers gives is ours, too. Returns the largest difference."""
    differences = []
    for name, value in expected.items():
        if name in ("loss", "past_key_values") or ("mc_logits" in expected and "logits" not in name):
            continue  # of double heads, transformers gives the insides by question and choice
        if isinstance(value, tuple) and not value:  # transformers' word for "not asked for, or not there"
            assert getattr(ours, name) is None, name
            continue
        pairs = list(zip(_several(getattr(ours, name)), _several(value), strict=True))
        if name == "hidden_states" and isinstance(batch, dict) and "pixel_values" in batch:
            pairs.pop()  # of images, transformers gives the last one before the final norm; ours is after it
        for mine, their in pairs:
            assert their.abs().max() < 10, f"{name} is too large to compare at {atol}"
            mine, their = (at_real_tokens(name, x, batch) for x in (mine, their))
            torch.testing.assert_close(mine, their, atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}")
            differences.append((mine - their).abs().max().item() if mine.numel() else 0.0)
    assert differences
    return max(differences)


def _several(x):
    return x if isinstance(x, tuple) else (x,)
