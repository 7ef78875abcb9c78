"""Small loaded models with their tokenizers, for what looks inside: one of each kind, made once for a test session.

No test may change one of them; `fresh` gives one that may be changed.
"""

import functools
import tempfile
from pathlib import Path

import oracle
import torch
from small_readers import reader

import minitransformer as mt

# kind -> (family, transformers' class)
KINDS = {
    "bert": ("bert", "BertForMaskedLM"),
    "classifier": ("bert", "BertForSequenceClassification"),
    "roberta": ("roberta", "RobertaForMaskedLM"),
    "albert": ("albert", "AlbertForMaskedLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "llama": ("llama", "LlamaForCausalLM"),
    "t5": ("t5", "T5ForConditionalGeneration"),
    "t5-base": ("t5", "T5Model"),
    "bart": ("bart", "BartForConditionalGeneration"),
    "bart-classifier": ("bart", "BartForSequenceClassification"),
    "vit": ("vit", "ViTForImageClassification"),
    "deit": ("deit", "DeiTForImageClassificationWithTeacher"),
}
TEXT = "The film was good, and the cat was good too."
PAIR = "It was the cat."
TARGET = "The cat was a good film."


@functools.cache
def folder(kind):
    """The checkpoint's folder, which transformers reads too."""
    family, architecture = KINDS[kind]
    return reader(Path(tempfile.mkdtemp(dir=oracle._HOME.name)), family, architecture)


@functools.cache
def loaded(kind):
    return fresh(kind)


def fresh(kind):
    return mt.load(folder(kind))


def image(side=15):
    """An image as an array."""
    return torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
