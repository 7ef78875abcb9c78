"""The exercises of lesson 2: many heads, and every shape."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.modules import MultiHeadAttention
from minitransformer.ops import by_hand
from minitransformer.pretrained import Pretrained


def _layer(d_model: int, heads: int) -> MultiHeadAttention:
    """An attention of the library's, with seeded weights."""
    config = StackConfig(
        layers=1,
        d_model=d_model,
        heads=heads,
        d_ffn=1,
        norm_order="pre",
        norm_eps=1e-5,
        final_norm=False,
        activation="gelu",
        causal=False,
    )
    with torch.random.fork_rng(devices=[]):
        layer = MultiHeadAttention(config)
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed) / d_model**0.5
    return layer.requires_grad_(False)


def wide_vectors() -> Cases:
    """Vectors of all heads side by side, with the number of heads. B, T, H and E differ, and H divides T."""
    return {
        "2 texts of 8 tokens, 4 heads of width 3": (draw(2, 8, 12), 4),
        "1 text of 4 tokens, 2 heads of width 5": (draw(1, 4, 10, seed=1), 2),
    }


def narrow_vectors() -> Cases:
    """The same, cut into heads, as they lie in memory after attention."""
    return {about: (split(x, heads).contiguous(),) for about, (x, heads) in wide_vectors().items()}


def split(x: Tensor, heads: int) -> Tensor:
    """The library's. [B T H·E] -> [B H T E]."""
    return _layer(x.shape[-1], heads).split_heads(x)


def merge(z: Tensor) -> Tensor:
    """The library's. [B H T E] -> [B T H·E]."""
    return _layer(z.shape[1] * z.shape[3], z.shape[1]).merge_heads(z)


@cache
def _shakespeare() -> Pretrained:
    return load("builtin:shakespeare")


@cache
def _real_input() -> Tensor:
    """What goes into the first attention of builtin:shakespeare for a text. [B T D]."""
    stream = _shakespeare().run_with_cache("To be, or not to be", names=["blocks.0.hook_resid_pre"])[1]["resid_pre", 0]
    decoder: Any = _shakespeare().transformer.decoder
    with torch.no_grad():
        x: Tensor = decoder.layers[0].self_attn_norm(stream)
    return x


@cache
def _real_layer() -> MultiHeadAttention:
    decoder: Any = _shakespeare().transformer.decoder
    found: MultiHeadAttention = decoder.layers[0].self_attn
    return found


def _arguments(x: Tensor, layer: MultiHeadAttention) -> tuple[Any, ...]:
    return x, layer.q, layer.k, layer.v, layer.o, layer.heads


def layers() -> Cases:
    """A small layer of random weights, and one that was trained."""
    return {
        "2 texts of 4 tokens, 3 heads of width 2": _arguments(draw(2, 4, 6, seed=20), _layer(6, 3)),
        "the first layer of builtin:shakespeare": _arguments(_real_input(), _real_layer()),
    }


def _multi_head(x: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear, o: nn.Linear, heads: int) -> Tensor:
    """What the library's own layer gives with these four products."""
    layer = _layer(x.shape[-1], heads)
    layer.q, layer.k, layer.v, layer.o = q, k, v, o
    with torch.no_grad():
        result: Tensor = layer(x)
    return result


def _mistaken(
    *,
    cut: Callable[[Tensor, int], Tensor] = split,
    scale: Callable[[int, int], float] = lambda d_model, d_head: d_head**-0.5,
    softmax: Callable[[Tensor], Tensor] = by_hand.softmax,
    join: Callable[[Tensor], Tensor] = merge,
    project: bool = True,
) -> Callable[..., Tensor]:
    """Multi-head attention with one part that is wrong."""

    def answer(x: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear, o: nn.Linear, heads: int) -> Tensor:
        with torch.no_grad():
            mine, keys, values = cut(q(x), heads), cut(k(x), heads), cut(v(x), heads)  # [B H T E] each
            factor = scale(x.shape[-1], x.shape[-1] // heads)
            joined = join(softmax(by_hand.attention_scores(mine, keys, scale=factor)) @ values)  # [B T D]
            result: Tensor = o(joined) if project else joined
        return result

    return answer


def _count(d_model: int, heads: int) -> int:
    """The numbers in the library's layer."""
    return sum(parameter.numel() for parameter in _layer(d_model, heads).parameters())


def widths_and_heads() -> Cases:
    """The lesson's model, the same with one head, and BERT's base model."""
    return {
        "D = 160 and 5 heads": (160, 5),
        "D = 160 and 1 head": (160, 1),
        "D = 768 and 12 heads": (768, 12),
    }


@cache
def _sizes() -> dict[str, tuple[int, ...]]:
    """The shapes of 2 texts of 7 tokens in builtin:shakespeare, by `lens.shapes`."""
    from minitransformer.lens import shapes

    parts = {part.name: part.sizes for part in shapes(_shakespeare(), batch=2, tokens=7).parts}
    found = {name: parts[f"blocks.self_attn.{name}"] for name in ("q", "scores", "pattern", "z")}
    return found | {"merged": tuple(merge(torch.zeros(found["z"])).shape), "output": parts["blocks.self_attn.o"]}


def _table(**changed: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The six shapes; of some, other ones."""
    return _sizes() | changed


EXERCISES = (
    Exercise(
        number="2.1",
        asks="split_heads(x, heads): [B T H·E] -> [B H T E]",
        cases=wide_vectors,
        right=split,
        wrong=(
            Wrong(
                "The shape is right, the numbers are in the wrong places: cut straight into [B, H, T, E], the "
                "numbers of one token fall into several rows. First cut the last dimension only, then exchange two.",
                lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1),
            ),
            Wrong(
                "The heads are still behind the tokens, [B T H E]: now exchange these two dimensions.",
                lambda x, heads: x.unflatten(-1, (heads, -1)),
            ),
            Wrong(
                "You exchanged the wrong two dimensions: your result is [B E T H].",
                lambda x, heads: x.unflatten(-1, (heads, -1)).transpose(1, 3),
            ),
            Wrong(
                "Your heads are interleaved: head h has the columns h, h + H, h + 2H, … Each head owns columns that "
                "stand side by side. Cut the last dimension into (H, E), not into (E, H).",
                lambda x, heads: x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2),
            ),
            Wrong(
                "You cut into E heads of width H, the two are exchanged.",
                lambda x, heads: x.unflatten(-1, (-1, heads)).transpose(1, 2),
            ),
            Wrong(
                "Each head's matrix is turned on its side, [B H E T]; that is right for k in q kᵀ, but only there.",
                lambda x, heads: split(x, heads).mT,
            ),
            Wrong(
                "You exchanged H and E, [B T E H]; it is T and H that change places.",
                lambda x, heads: x.unflatten(-1, (heads, -1)).mT,
            ),
            Wrong(
                "You exchanged first, and then cut the tokens. Cut first, then exchange.",
                lambda x, heads: x.transpose(1, 2).unflatten(-1, (heads, -1)),
            ),
            Wrong("You return the first head only.", lambda x, heads: split(x, heads)[:, 0]),
        ),
        hints=(
            "Two steps: cut the last dimension, H·E, into two, H and E. Then bring H before T.",
            "x.unflatten(-1, (heads, -1)) is [B T H E]. Which two dimensions must change places?",
            "x.unflatten(-1, (heads, -1)).transpose(1, 2).",
        ),
        stands="modules/attention.py, split_heads",
    ),
    Exercise(
        number="2.2",
        asks="merge_heads(z): [B H T E] -> [B T H·E]",
        cases=narrow_vectors,
        right=merge,
        wrong=(
            Wrong(
                "The shape is right, the numbers are in the wrong places: you took them as they lie, one head after "
                "the other. Bring T before H first.",
                lambda z: z.reshape(len(z), z.shape[2], -1),
            ),
            Wrong(
                "Your heads are interleaved: first column 0 of all heads, then column 1. Whole heads stand side by "
                "side.",
                lambda z: z.permute(0, 2, 3, 1).flatten(-2),
            ),
            Wrong("You added the heads; they stand side by side, and the result is H·E wide.", lambda z: z.sum(1)),
            Wrong("You took the mean of the heads; they stand side by side.", lambda z: z.mean(1)),
            Wrong(
                "Tokens and heads have changed places, [B T H E]; now make one dimension of the last two.",
                lambda z: z.transpose(1, 2),
            ),
            Wrong(
                "You put the heads below each other, as if they were more tokens, [B H·T E].",
                lambda z: z.flatten(1, 2),
            ),
            Wrong(
                "You flattened first: T and E became one dimension. First transpose.",
                lambda z: z.flatten(-2).transpose(1, 2),
            ),
            Wrong("You made one dimension of T and E; it is H and E that belong together.", lambda z: z.flatten(2)),
        ),
        hints=(
            "It is 2.1 backwards: first bring T before H, then make one dimension of H and E.",
            "After z.transpose(1, 2), [B T H E], .view refuses, for the numbers do not lie in that order any more; "
            ".flatten and .reshape copy them.",
            "z.transpose(1, 2).flatten(-2).",
        ),
        stands="modules/attention.py, merge_heads",
    ),
    Exercise(
        number="2.3",
        asks="shapes: a dict of six shapes, for B = 2, T = 7, D = 160, H = 5",
        right=_table,
        wrong=(
            Wrong(
                "Each head is narrower than the model: the last dimension of q and z is E = D / H.",
                lambda: _table(q=(2, 5, 7, 160), z=(2, 5, 7, 160)),
            ),
            Wrong(
                "Scores and pattern hold a number for each pair of tokens, a query and a key: the last dimension is "
                "T again, not E.",
                lambda: _table(scores=(2, 5, 7, 32), pattern=(2, 5, 7, 32)),
            ),
            Wrong(
                "H and T are exchanged: behind `split_heads` it is [B H …].",
                lambda: _table(q=(2, 7, 5, 32), scores=(2, 7, 5, 7), pattern=(2, 7, 5, 7), z=(2, 7, 5, 32)),
            ),
            Wrong(
                "H and T are exchanged in q and z: behind `split_heads` it is [B H T E].",
                lambda: _table(q=(2, 7, 5, 32), z=(2, 7, 5, 32)),
            ),
            Wrong("H and T are exchanged in q: behind `split_heads` it is [B H T E].", lambda: _table(q=(2, 7, 5, 32))),
            Wrong(
                "H and T are exchanged in z: the pattern is [B H T S], and so z is [B H T E].",
                lambda: _table(z=(2, 7, 5, 32)),
            ),
            Wrong(
                "q kᵀ sums over E; what is left is T × T.",
                lambda: _table(scores=(2, 5, 7, 32)),
            ),
            Wrong("B = 2 is missing.", lambda: {name: sizes[1:] for name, sizes in _sizes().items()}),
            Wrong(
                "You forgot that every head has scores and a pattern of its own: [B H T T].",
                lambda: _table(scores=(2, 7, 7), pattern=(2, 7, 7)),
            ),
            Wrong(
                "Merged, the heads stand side by side; they are not added: the width is H·E.",
                lambda: _table(merged=(2, 7, 32)),
            ),
            Wrong(
                "Merged means that the heads have no dimension of their own any more.",
                lambda: _table(merged=(2, 5, 7, 32)),
            ),
            Wrong(
                "The output is added to the stream, so it must be as wide as x.",
                lambda: _table(output=(2, 7, 32)),
            ),
            Wrong(
                "q, z and merged: that is what one head would have. There are 5, of width E = D / H.",
                lambda: _table(q=(2, 1, 7, 160), scores=(2, 1, 7, 7), pattern=(2, 1, 7, 7), z=(2, 1, 7, 160)),
            ),
        ),
        hints=(
            "E = D / H = 32. In self-attention there are as many keys as queries: S = T.",
            "q and z are [B H T E], scores and pattern [B H T S]; the other two are vectors of whole tokens.",
            "Write 2 for B, 5 for H, 7 for T and S, 32 for E, 160 for D: q [B H T E], scores and pattern [B H T S], z "
            "[B H T E], merged [B T H·E], output [B T D].",
        ),
        stands="lens/shapes.py, shapes",
    ),
    Exercise(
        number="2.4",
        asks="parameters(d_model, heads): the numbers in one multi-head attention",
        cases=widths_and_heads,
        right=_count,
        wrong=(
            Wrong("You left out the biases: each of the four products adds one.", lambda d, h: 4 * d * d),
            Wrong(
                "You counted each head as if it were as wide as the model. H heads of width E share the width D.",
                lambda d, h: h * (4 * d * d + 4 * d),
            ),
            Wrong(
                "You counted q, k and v as wide as the model for each head, and W_O once. A head is only E wide.",
                lambda d, h: h * (3 * d * d + 3 * d) + d * d + d,
            ),
            Wrong("You added one bias only. Each product has its own bias.", lambda d, h: 4 * d * d + d),
            Wrong(
                "You counted b_O for each head. The heads are merged before W_O: it has one bias, of D numbers.",
                lambda d, h: 4 * d * d + 3 * d + h * d,
            ),
            Wrong(
                "That is one head, four times D × E and E. Count all heads.",
                lambda d, h: 4 * (d * (d // h) + d // h),
            ),
            Wrong("That is W_Q, W_K and W_V; W_O, the fourth, is missing.", lambda d, h: 3 * (d * d + d)),
            Wrong("Your fourth product has no bias: b_O is missing.", lambda d, h: 4 * d * d + 3 * d),
            Wrong("That is one matrix with its bias; there are four.", lambda d, h: d * d + d),
            Wrong(
                "You took matrices of E × E. A head reads the whole token: its matrices are D × E.",
                lambda d, h: 4 * h * (d // h) ** 2 + 4 * d,
            ),
            Wrong("That is one head only; count all of them.", lambda d, h: 4 * d * (d // h) + 3 * (d // h) + d),
        ),
        hints=(
            "Count one matrix and its bias first. It holds H heads of width D / H side by side: how wide is that?",
            "Each matrix is D × D, and each has a bias of D numbers.",
            "4 * (d_model * d_model + d_model). `heads` does not occur.",
        ),
        stands="modules/attention.py, MultiHeadAttention",
    ),
    Exercise(
        number="2.5",
        asks="multi_head(x, q, k, v, o, heads): the whole attention of a layer",
        cases=layers,
        right=_multi_head,
        wrong=(
            Wrong(
                "You divided by √D; it is the head's width E that counts.",
                _mistaken(scale=lambda d_model, _: d_model**-0.5),
            ),
            Wrong("Your result equals the one without dividing the scores by √E.", _mistaken(scale=lambda *_: 1.0)),
            Wrong("You forgot o, the last product, by which the heads' results are mixed.", _mistaken(project=False)),
            Wrong(
                "There is one softmax for the whole width: the heads were not split.",
                _mistaken(cut=lambda x, _: x[:, None], scale=lambda d_model, _: d_model**-0.5, join=lambda z: z[:, 0]),
            ),
            Wrong(
                "Your heads have numbers of several tokens: they were cut straight into [B, H, T, E].",
                _mistaken(cut=lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1)),
            ),
            Wrong(
                "Your heads were merged as they lie, without bringing T before H.",
                _mistaken(join=lambda z: z.reshape(len(z), z.shape[2], -1)),
            ),
            Wrong(
                "Cut and joined without exchanging T and H: right at both ends, and between them each head gets a "
                "part of the text.",
                _mistaken(
                    cut=lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1),
                    join=lambda z: z.reshape(len(z), z.shape[2], -1),
                ),
            ),
            Wrong(
                "Your softmax runs over the heads; each query shares out its attention over the keys, the last "
                "dimension.",
                _mistaken(softmax=lambda scores: torch.softmax(scores, 1)),
            ),
            Wrong("Your softmax runs over the queries.", _mistaken(softmax=lambda scores: torch.softmax(scores, 2))),
            Wrong("There is no softmax in it.", _mistaken(softmax=lambda scores: scores)),
            Wrong(
                "You divided by √E after the softmax; the scores are what must be divided.",
                _mistaken(scale=lambda *_: 1.0, join=lambda z: merge(z / z.shape[-1] ** 0.5)),
            ),
            Wrong(
                "You multiplied by √E instead of dividing by it.",
                _mistaken(scale=lambda _, d_head: d_head**0.5),
            ),
            Wrong("You divided by E, not by its square root.", _mistaken(scale=lambda _, d_head: 1 / d_head)),
            Wrong(
                "Queries and keys are exchanged.",
                lambda x, q, k, v, o, heads: _multi_head(x, k, q, v, o, heads),
            ),
            Wrong(
                "You mixed x itself; the values are v(x).",
                lambda x, q, k, v, o, heads: _mistaken()(x, q, k, nn.Identity(), o, heads),
            ),
            Wrong("x is added outside this function.", lambda x, *given: x + _multi_head(x, *given)),
            Wrong(
                "Your heads attend to each other, not tokens to tokens: q, k and v are still [B T H E].",
                _mistaken(cut=lambda x, heads: x.unflatten(-1, (heads, -1)), join=lambda z: z.flatten(-2)),
            ),
        ),
        hints=(
            "Five steps: the three products, split each, attention of all heads, merge, the last product.",
            "q, k, v and o are functions: split_heads(q(x), heads) is [B H T E]. Lesson 1's attention works for all "
            "heads at once, if k is turned by k.mT, which exchanges the last two dimensions.",
            "queries = split_heads(q(x), heads), and likewise keys and values. Then "
            "z = torch.softmax(queries @ keys.mT / queries.shape[-1] ** 0.5, -1) @ values, and the result is "
            "o(merge_heads(z)).",
        ),
        stands="modules/attention.py, MultiHeadAttention.forward",
        tolerance=1e-4,
    ),
)
