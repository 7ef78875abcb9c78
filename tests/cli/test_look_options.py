"""Each option of a command that looks inside reaches the lens, and a page opens at what was asked for."""

import functools
import json
import re
import sys
import tempfile
from pathlib import Path

import oracle
import pytest
import torch
from small_readers import reader

import minitransformer as mt
from minitransformer import lens
from minitransformer.cli import main

TEXT, OTHER, PAIR, TARGET = "the cat was good", "the was cat good", "it was the cat", "a good film"
ARCHITECTURES = {
    "bert": "BertForMaskedLM",
    "classifier": "BertForSequenceClassification",
    "gpt2": "GPT2LMHeadModel",
    "t5": "T5ForConditionalGeneration",
}
FLAGS = {lens.head_importance: ["--gradient"]}
SPELLED = {"unit": "by", "corrupted": "corrupt"}  # an argument of a lens -> the option's name
CASES = [
    ("attention", lens.attention, ["bert"], [TEXT], {"pair": PAIR}),
    ("attention", lens.attention, ["t5"], [TEXT], {"target": TARGET}),
    ("explain", lens.explain, ["bert"], [TEXT], {"layer": 1, "head": 2, "query": 3, "pair": PAIR}),
    ("explain", lens.explain, ["gpt2"], [TEXT], {"layer": -1, "head": 2, "query": "oo"}),
    ("explain", lens.explain, ["t5"], [TEXT],
     {"layer": 1, "head": 2, "query": 1, "target": TARGET, "attention": "cross"}),
    ("explain", lens.explain, ["t5"], [TEXT],
     {"layer": 1, "head": 2, "query": 1, "target": TARGET, "attention": "decoder"}),
    ("shapes", lens.shapes, ["bert"], [TEXT], {"pair": PAIR}),
    ("shapes", lens.shapes, ["t5"], [TEXT], {"target": TARGET}),
    ("heads", lens.head_types, ["gpt2"], [[TEXT, PAIR]], {}),
    ("heads", lens.head_types, ["t5"], [[TEXT, PAIR]], {"target": [TARGET, OTHER]}),
    ("lens", lens.logit_lens, ["bert"], ["the [MASK] was"], {"pair": PAIR, "top": 2}),
    ("lens", lens.logit_lens, ["t5"], [TEXT], {"target": TARGET, "top": 3}),
    ("lens", lens.logit_attribution, ["gpt2"], [TEXT], {"answer": " film", "foil": " the", "by": "head"}),
    ("lens", lens.logit_attribution, ["t5"], [TEXT], {"answer": "▁the", "target": TARGET, "by": "layer"}),
    ("why", lens.saliency, ["classifier"], [TEXT],
     {"pair": PAIR, "answer": "LABEL_0", "steps": 60, "baseline": "mask"}),
    ("why", lens.saliency, ["gpt2"], [TEXT], {"method": "gradient_x_input", "answer": " the", "position": 1}),
    ("why", lens.saliency, ["classifier"], [TEXT], {"method": "occlusion", "baseline": "mask"}),
    ("why", lens.saliency, ["t5"], [TEXT], {"target": TARGET, "method": "gradient_x_input"}),
    ("ablate", lens.ablate, ["t5"], [[TEXT, PAIR]], {"attention": "cross", "mode": "uniform"}),
    ("ablate", lens.ablate, ["gpt2"], [[TEXT]], {"unit": "mlp", "mode": "mean"}),
    ("ablate", lens.ablate, ["gpt2"], [[TEXT]], {"unit": "attention"}),
    ("ablate", lens.head_importance, ["t5"], [[TEXT]], {"attention": "decoder"}),
    ("patch", lens.patch, ["gpt2"], [],
     {"clean": TEXT, "corrupted": OTHER, "at": "z", "answer": " film", "foil": " the", "position": 2}),
    ("patch", lens.patch, ["t5"], [],
     {"clean": TEXT, "corrupted": OTHER, "at": "pattern", "target": TARGET, "attention": "cross"}),
    ("compare", lens.compare, ["bert", "other bert"], [TEXT], {"pair": PAIR}),
    ("compare", lens.compare, ["t5", "other t5"], [TEXT], {"target": TARGET}),
]  # fmt: skip
NEEDED = ("layer", "head", "query", "attention", "clean", "corrupted")  # there is no leaving these out


@functools.cache
def folder(name):
    """A small model of that kind, or another of its shape."""
    kind, path = name.removeprefix("other "), Path(tempfile.mkdtemp(dir=oracle._HOME.name))
    if name == kind:
        return reader(path, "bert" if kind == "classifier" else kind, ARCHITECTURES[kind])
    model = mt.load(folder(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save(path / "other")
    return path / "other"


@functools.cache
def loaded(name):
    return mt.load(folder(name))


def spelled(texts, options):
    """The words of a command line."""
    words = [text for given in texts for text in (given if isinstance(given, list) else [given])]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{SPELLED.get(name, name)}", str(each)]
    return words


@pytest.fixture
def said(monkeypatch, capsys):
    """said("lens", ...) -> what the command prints."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["minitransformer", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            main()
        told = capsys.readouterr()
        assert (told.err, exit.value.code or 0) == ("", 0)
        return told.out

    return run


@pytest.mark.parametrize(("command", "look", "names", "texts", "options"), CASES)
def test_a_command_says_what_the_lens_finds(command, look, names, texts, options, said):
    models = list(map(loaded, names))
    found = look(*models, *texts, **options).to_dict()
    out = said(command, *map(folder, names), *spelled(texts, options), *FLAGS.get(look, []), "--json")
    assert out == json.dumps(found, ensure_ascii=False) + "\n"
    for name in options.keys() - NEEDED - ({"answer"} if look is lens.logit_attribution else set()):
        without = {other: value for other, value in options.items() if other != name}
        assert look(*models, *texts, **without).to_dict() != found, name


@pytest.mark.parametrize(
    ("name", "options", "start", "place"),
    [
        (
            "t5",
            {"layer": 1, "head": 3, "query": "▁film", "target": TARGET},
            "decoder&layer=1&head=3&heads=3&query=3",
            3,
        ),
        ("t5", {"layer": 1, "head": 2, "query": 7, "target": TARGET}, "encoder&layer=1&head=2&heads=2&query=7", 7),
        ("bert", {"layer": 1, "head": 2, "query": 9, "pair": PAIR}, "attention&layer=1&head=2&heads=2&query=9", 9),
        ("gpt2", {"layer": 2, "head": 4}, "attention&layer=2&head=4&heads=4", 8),
    ],
)
def test_a_page_opens_at_the_head_that_was_asked_for(name, options, start, place, said, tmp_path):
    said("attention", folder(name), TEXT, *spelled([], options), "-o", tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text("utf-8")
    header = json.loads(re.search(r'id="header">(.*?)</script>', page, re.DOTALL)[1])
    assert header["start"] == f"group={start}"
    groups, steps = header["tabs"][0]["groups"], [tab for tab in header["tabs"] if tab["kind"] == "steps"]
    assert {(tab["layer"], tab["head"]) for tab in steps} == {(options["layer"], options["head"])}
    assert steps[0]["query"] == place
    reading = loaded(name).read(TEXT, options.get("pair"), target=options.get("target"))
    assert groups[0]["keys"] == list(reading.tokens)
    assert groups[-1]["queries"] == list(reading.decoder_tokens or reading.tokens)


def test_a_figure_is_of_the_head_that_was_asked_for(said, tmp_path):
    said("attention", folder("gpt2"), TEXT, "--layer", 2, "--head", 3, "-o", tmp_path / "x.svg")
    assert "Layer 2, head 3" in (tmp_path / "x.svg").read_text("utf-8")
