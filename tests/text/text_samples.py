"""Texts that tokenizers disagree about, ordinary lines, and folders with tokenizers."""

import argparse
import difflib
import inspect
import json
import textwrap

from transformers import AutoTokenizer

from minitransformer.text import load_tokenizer

ODD = [
    "",
    " ",
    "   \t\n  ",
    "plain words, then a stop.",
    "Don't stop! It's, well, n't 'm 's 've 're ' quoted ' .",
    " leading and trailing ",
    "two  spaces   three",
    "tab\tnew\nline\r\nreturn\rend",
    "nul\x00inside \x01\x02\x1f\x7f",
    "next\x85line and\u2028line\u2029paragraph",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffmark\u00adsoft",
    "no\u00a0break\u3000ideographic\u202fnarrow",
    "中文字符 mixed中with latin",
    "日本語のテキスト、カタカナ。",
    "한국어 텍스트",
    "مَرْحَبًا بِالعَالَم",
    "हिन्दी में पाठ",
    "e\u0301 é ê ñ Ångström A\u030a İstanbul ı ß ẞ ﬁ",
    "naïve Café RÉSUMÉ ÀÉÎÕÜ",
    "ＡＢＣ１２３",
    "😀 👨‍👩‍👧 🇩🇪 👍🏽 ok",
    "\U0010ffff \ud7ff \ue000 \ufffd",
    "[CLS] written [SEP] in [MASK] text [PAD][UNK]",
    "[cls] lower [Sep] mixed [ SEP ]",
    "<|endoftext|> at start and end <|endoftext|>",
    "a<|endoftext|>b <|endoftext |>",
    "w" * 99,
    "w" * 100,
    "w" * 101,
    "é" * 60 + "x" * 60,
    "##ing ## # ##",
    "Ġ Ċ ġ ▁ word</w> </s> <s>",
    "3.14159 1,000,000 2024-01-31 10:30 50% $9.99 #tag @user",
    "https://example.org/path?query=1&b=2#top",
    "def f(x): return {'a': [1, 2], **x}  # comment",
    "`~!@#$%^&*()_-+={}[]|\\:;\"'<>,.?/",
    "«quotes» “curly” ‘single’ – en — em … ellipsis",
    "ΑΒΓ Σίσυφος ΣΊΣΥΦΟΣ привет МИР",
    "x" * 1000,
    "word " * 300,
]

LINES = [line for module in (argparse, difflib, textwrap) for line in inspect.getsource(module).split("\n")][:600]


def write(folder, model_type, tokenizer, *, whole, config):
    """tokenizer.json if `whole`, else the files that came before it; a config of None: no tokenizer_config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if whole:
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        tokenizer.model.save(str(folder))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def both(folder, tokenizer_class=None):
    """Our tokenizer and transformers'; theirs pads with eos, or unk, where it has no pad token, as ours does."""
    theirs = AutoTokenizer.from_pretrained(folder)
    if theirs.pad_token is None:
        theirs.pad_token = theirs.eos_token or theirs.unk_token
    return load_tokenizer(folder, tokenizer_class=tokenizer_class), theirs


def assert_same(ours, theirs, text, pair=None, typed=None, **options):
    """Equal tensors from both. typed: whether transformers is asked for token_type_ids; None: as it likes."""
    mine = ours(text, pair, **options)
    their = theirs(text, pair, return_tensors="pt", return_token_type_ids=typed, **{"padding": True} | options)
    assert set(mine) == set(their)
    for name in their:
        if not mine[name].equal(their[name]):
            same = [a.tolist() == b.tolist() for a, b in zip(mine[name], their[name], strict=True)]
            raise AssertionError(
                (name, [(text[row], pair and pair[row]) for row, fine in enumerate(same) if not fine][:3])
            )
    return mine
