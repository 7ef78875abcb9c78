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

import minitransformer as mt
from minitransformer.families import FAMILIES

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

_HOME = tempfile.TemporaryDirectory(prefix="minitransformer-oracle-")
atexit.register(_HOME.cleanup)

CONFIGS = {"bert": transformers.BertConfig, "gpt2": transformers.GPT2Config}
SIZES = {
    "bert": {
        "vocab_size": 53,
        "hidden_size": 21,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 37,
        "max_position_embeddings": 19,
        "type_vocab_size": 3,
    },
    "gpt2": {
        "vocab_size": 47,
        "n_embd": 15,
        "n_layer": 3,
        "n_head": 5,
        "n_positions": 17,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
}
# Every field that the mathematics depends on leaves its default in one variant or another.
VARIANTS = {
    "bert": {
        "plain": {},
        "odd": {
            "hidden_act": "gelu_new",
            "layer_norm_eps": 0.07,
            "num_attention_heads": 7,
            "tie_word_embeddings": False,
        },
        "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-5},
        "silu": {"hidden_act": "silu", "num_hidden_layers": 3},
        "decoder": {"is_decoder": True},
        "odd-decoder": {"is_decoder": True, "hidden_act": "silu", "layer_norm_eps": 0.07, "tie_word_embeddings": False},
    },
    "gpt2": {
        "plain": {},
        "odd": {
            "activation_function": "gelu",
            "layer_norm_epsilon": 0.07,
            "n_inner": 23,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
        "relu": {"activation_function": "relu", "n_head": 3, "n_inner": 31},
        "silu": {"activation_function": "silu", "layer_norm_epsilon": 1e-12},
    },
}


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
    def labels(self):
        if self.head == "question-answering":
            return 2
        return 1 if (self.head, self.variant) == ("sequence-classification", "odd") else 3


CASES = [
    Case(name, head, variant)
    for name, family in FAMILIES.items()
    for head in family.classes
    for variant in ("plain", "odd", *(("relu", "silu") if head == "base" else ()))
] + [Case("bert", "causal-lm", variant) for variant in ("decoder", "odd-decoder")]
PLAIN = [case for case in CASES if case.variant in ("plain", "decoder")]


@functools.cache
def checkpoint(case, **changes):
    """The folder that transformers' save_pretrained writes for this case; `changes` are fields of its config."""
    fields = {**SIZES[case.family], **VARIANTS[case.family][case.variant], **changes}
    config = CONFIGS[case.family](**fields, num_labels=case.labels)
    torch.manual_seed(len(str(case)))
    model = case.cls(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
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


def make_batch(case, padding, lengths=(9, 4, 7), seed=0):
    """Texts of odd lengths, padded on the "right", on the "left", or ("none") all of one length.

    Left padding moves GPT-2's positions, which the caller of either library has to say.
    """
    generator = torch.Generator().manual_seed(seed)
    choices = 2 if case.head == "multiple-choice" else 1
    longest, lengths = max(lengths), torch.tensor(lengths).repeat_interleave(choices)[:, None]
    places = torch.arange(longest)[None]
    real = {"none": places >= 0, "right": places < lengths, "left": places >= longest - lengths}[padding]
    real = real.expand(len(lengths), -1)
    sizes = SIZES[case.family]
    ids = torch.randint(1, sizes["vocab_size"], real.shape, generator=generator) * real  # 0 is padding
    types = torch.randint(0, sizes.get("type_vocab_size", sizes["vocab_size"]), real.shape, generator=generator)
    batch = {"input_ids": ids, "attention_mask": real.long(), "token_type_ids": types}
    if padding == "left" and (case.family == "gpt2" or "decoder" in case.variant):
        batch["position_ids"] = (real.long().cumsum(-1) - 1).clamp(min=0)
    if choices > 1:
        batch = {name: x.unflatten(0, (-1, choices)) for name, x in batch.items()}
    return batch


def make_targets(case, batch, seed=1):
    """What the head's loss is computed from, some of it not to be judged (-100, places past the end)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high, like):
        return torch.randint(0, high, like.shape, generator=generator)

    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    first = ids[:, 0]  # [B], for its shape
    words = torch.where(real & (draw(3, ids) > 0), ids, -100)
    if case.head == "causal-lm":
        words[:, 1:][~real[:, :-1]] = -100  # it would be told from padding
    match case.head:
        case "pretraining":
            return {"labels": words, "next_sentence_label": draw(2, first)}
        case "masked-lm" | "causal-lm":
            return {"labels": words}
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


def at_real_tokens(name, x, attention_mask):
    """The part of an output that is about tokens, not about padding."""
    real = attention_mask.flatten(0, -2).bool()  # [B T]
    if name == "attentions":
        x = x.transpose(1, 2)  # [B T H S]
    per_token = x.ndim >= 2 and x.shape[:2] == real.shape
    return x[real] if per_token else x


def assert_same(ours, expected, attention_mask, *, atol=1e-5, rtol=1e-5):
    """Each output that transformers gives is ours, too."""
    compared = 0
    for name, value in expected.items():
        if name in ("loss", "past_key_values"):
            continue
        if isinstance(value, tuple) and not value:  # transformers' word for "not asked for, or not there"
            assert getattr(ours, name) is None, name
            continue
        pairs = zip(_several(getattr(ours, name)), _several(value), strict=True)
        for mine, their in pairs:
            assert their.abs().max() < 10, f"{name} is too large to compare at {atol}"
            mine, their = (at_real_tokens(name, x, attention_mask) for x in (mine, their))
            torch.testing.assert_close(mine, their, atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}")
            compared += 1
    assert compared


def _several(x):
    return x if isinstance(x, tuple) else (x,)
