"""The exercises of lesson 6: heads with a job, and what becomes of a model without them."""

from collections.abc import Callable, Mapping
from functools import cache
from string import ascii_lowercase

import torch
from torch import Tensor

from minitransformer.lens import head_types
from minitransformer.lens.patterns import scores, self_targets
from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.metrics.classes import classification
from minitransformer.pretrained import Pretrained

Head = tuple[int, int]  # layer, head


@cache
def induction() -> Pretrained:
    """The model that goes on with letters that come again."""
    return load("builtin:induction")


def letters_twice(texts: int, length: int, seed: int = 0) -> Tensor:
    """Different random letters, and the same again: token ids, int [texts 2·length]."""
    alphabet = torch.tensor(induction().tokenizer.encode(ascii_lowercase))  # [26]
    order = draw(texts, len(alphabet), seed=seed).argsort(-1)[:, :length]  # [texts length]
    return alphabet[order].repeat(1, 2)


def copied(model: Pretrained, ids: Tensor) -> float:
    """The share of tokens of the second half, behind its first, that the model finds most probable. ids int [B 2·L]."""
    length = ids.shape[1] // 2
    logits = model(ids).logits
    assert logits is not None
    said, right = logits[:, length:-1].argmax(-1), ids[:, length + 1 :]  # [B L-1] each
    names = [str(number) for number in range(logits.shape[-1])]
    predicted, expected = ([names[number] for number in x.flatten().tolist()] for x in (said, right))
    return classification(predicted, expected, names)["accuracy"]


# ------------------------------------------------------------------------------------------------------------- 6.1, 6.2


def _pattern(size: int, seed: int, *, causal: bool) -> Tensor:
    """Random weights, [T T]."""
    x = draw(size, size, seed=seed) * 2
    return torch.softmax(x if not causal else x.masked_fill(torch.ones(size, size).triu(1) > 0, -torch.inf), -1)


def some_patterns() -> Cases:
    """Of a decoder and of an encoder."""
    return {
        "7 tokens of a decoder": (_pattern(7, 0, causal=True),),
        "5 tokens of an encoder": (_pattern(5, 1, causal=False),),
    }


def patterns_of_repeats() -> Cases:
    """Of texts that come twice."""
    return {
        "4 tokens that come twice, in a decoder": (_pattern(8, 2, causal=True), 4),
        "3 tokens that come twice, in an encoder": (_pattern(6, 3, causal=False), 3),
    }


def _score(pattern: Tensor, ids: Tensor, name: str) -> Tensor:
    """The library's score of one head. pattern [T T], ids int [T]."""
    targets = self_targets(ids, torch.zeros(len(ids), dtype=torch.bool))
    tally = scores(pattern[None, None], {name: targets[name]})[name]
    return tally.mass[0, 0] / tally.queries


def _previous(pattern: Tensor) -> Tensor:
    return _score(pattern, torch.arange(len(pattern)), "previous")


def _induction(pattern: Tensor, length: int) -> Tensor:
    return _score(pattern, torch.arange(length).repeat(2), "induction")


# ------------------------------------------------------------------------------------------------------------------ 6.3


@cache
def ranked() -> Mapping[str, list[Head]]:
    """The heads by `head_types`, the highest score first."""
    model = induction()
    texts = [model.tokenizer.decode(row) for row in letters_twice(4, 20, seed=6)]
    (group,) = head_types(model, texts).groups
    heads = group.scores.shape[2]
    return {
        name: [
            divmod(place, heads)
            for place in group.scores[group.types.index(name)].flatten().argsort(descending=True).tolist()
        ]
        for name in ("previous", "induction", "duplicate")
    }


def _best(place: int = 0, change: Callable[[Head], Head] = lambda head: head) -> dict[str, Head]:
    return {name: change(ranked()[name][place]) for name in ("previous", "induction")}


# ------------------------------------------------------------------------------------------------------------- 6.4, 6.5


def some_texts() -> Cases:
    """Some that the model knows how to go on with, and some whose second half is not quite the first."""
    ids = letters_twice(16, 12, seed=4)
    other = letters_twice(12, 9, seed=5)
    other[:4, 12:15] = other[4:8, 12:15]
    return {
        "16 texts, 12 letters that come twice": (induction(), ids),
        "12 texts, of which some do not repeat": (induction(), other),
        "6 texts, 5 letters that come four times": (induction(), letters_twice(6, 5, seed=7).repeat(1, 2)),
        "6 texts, 4 letters, each three times in a row": (
            induction(),
            letters_twice(6, 4, seed=8).repeat_interleave(3, 1),
        ),
    }


def _share(model: Pretrained, ids: Tensor, said: slice, right: slice) -> Tensor:
    """How often the most probable token at some places is the one at others."""
    logits = model(ids).logits
    assert logits is not None
    return (logits[:, said].argmax(-1) == ids[:, right]).float().mean()


def _half(ids: Tensor) -> int:
    return ids.shape[1] // 2


def _whole_texts(model: Pretrained, ids: Tensor) -> Tensor:
    logits = model(ids).logits
    assert logits is not None
    length = _half(ids)
    return (logits[:, length:-1].argmax(-1) == ids[:, length + 1 :]).all(-1).float().mean()


@cache
def measured() -> Mapping[str, float]:
    """The share that is copied with nothing muted, and without some heads."""
    model, ids = induction(), letters_twice(128, 25, seed=1)
    best = _best()
    without = {
        "previous": [best["previous"]],
        "induction": [best["induction"]],
        "layer 1": [(1, head) for head in range(model.weights().W_Q.shape[1])],
    }
    found = {}
    for name, heads in without.items():
        with model.muted(heads=heads):
            found[name] = copied(model, ids)
    return found


def _expected(previous: float, induction: float, layer: float) -> Callable[[], dict[str, float]]:
    return lambda: {"previous": previous, "induction": induction, "layer 1": layer}


EXERCISES = (
    Exercise(
        number="6.1",
        asks="previous_score(pattern): mean attention to the token before",
        cases=some_patterns,
        right=_previous,
        wrong=(
            Wrong("That is the attention to the next token.", lambda p: p.diagonal(1).mean()),
            Wrong("That is each token's attention to itself.", lambda p: p.diagonal().mean()),
            Wrong("That is the sum; a score is the mean over the queries.", lambda p: p.diagonal(-1).sum()),
            Wrong(
                "You divided by the number of all queries. The first has no token before it, and does not count.",
                lambda p: p.diagonal(-1).sum() / len(p),
            ),
            Wrong("That is the attention to the first token.", lambda p: p[1:, 0].mean()),
            Wrong("That is the attention to the first token, its own included.", lambda p: p[:, 0].mean()),
            Wrong(
                "That is the attention to all tokens before, not only to the nearest.",
                lambda p: p.tril(-1).sum() / (len(p) - 1),
            ),
            Wrong(
                "The first query is among yours, and p[0, -1] is the last key. Begin with query 1.",
                lambda p: p.roll(1, 1).diagonal().mean(),
            ),
            Wrong(
                "You left out one query too many: the diagonal begins with the second query already.",
                lambda p: p.diagonal(-1)[1:].mean(),
            ),
            Wrong(
                "You left out the last query. It has a token before it, too.",
                lambda p: p.diagonal(-1)[:-1].mean(),
            ),
        ),
        hints=(
            "Query i and key i - 1: these weights stand side by side in the matrix, on a line below the main diagonal.",
            "pattern.diagonal(0) is the main diagonal, each token's attention to itself. Below it the number is "
            "negative.",
            "pattern.diagonal(-1).mean().",
        ),
        stands="lens/patterns.py, self_targets (and scores)",
    ),
    Exercise(
        number="6.2",
        asks="induction_score(pattern, length): mean attention to the token behind the earlier copy",
        cases=patterns_of_repeats,
        right=_induction,
        wrong=(
            Wrong(
                "That is the attention to the earlier copy itself (a duplicate head's). What came behind it is asked.",
                lambda p, n: p.diagonal(-n).mean(),
            ),
            Wrong(
                "That is the attention to the token before the earlier copy; the one behind it is asked.",
                lambda p, n: p.diagonal(-n - 1).mean(),
            ),
            Wrong(
                "The last query of the first half is among yours. Its token has not come before.",
                lambda p, n: p.diagonal(1 - n).mean(),
            ),
            Wrong(
                "You averaged over all queries; those of the first half have no earlier copy, and do not count.",
                lambda p, n: p.diagonal(1 - n)[1:].sum() / len(p),
            ),
            Wrong("That is the sum; a score is the mean over the queries.", lambda p, n: p.diagonal(1 - n)[1:].sum()),
            Wrong(
                "That is above the main diagonal: rows are queries, and the key is the one that stands further ahead "
                "in the text.",
                lambda p, n: p.diagonal(n - 1)[1:].mean(),
            ),
            Wrong(
                "You left out the last query. Its token's earlier copy ends the first half, and behind that stands the "
                "second half's first token.",
                lambda p, n: p.diagonal(1 - n)[1:-1].mean(),
            ),
            Wrong(
                "That is the mean over a whole block of keys; each query has one key that counts.",
                lambda p, n: p[n:, 1 : n + 1].mean(),
            ),
            Wrong(
                "The second half's first query counts, too: its key is at place 1.",
                lambda p, n: p.diagonal(1 - n)[2:].mean(),
            ),
            Wrong(
                "You cut the diagonal at its wrong end: it begins with the last query of the first half.",
                lambda p, n: p.diagonal(1 - n)[:-1].mean(),
            ),
            Wrong(
                "It is the mean of nothing: there is no such diagonal. Use `length`; here it is 4, not 25.",
                lambda p, n: torch.tensor(torch.nan),
            ),
        ),
        hints=(
            "The query at place length + j has its earlier copy at place j. The key that counts stands at j + 1.",
            "So the key is length - 1 places before the query: again a diagonal. It begins with the last query of the "
            "first half, which does not count.",
            "pattern.diagonal(1 - length)[1:].mean().",
        ),
        stands="lens/patterns.py, self_targets (and scores)",
    ),
    Exercise(
        number="6.3",
        asks='found: the heads with the highest scores, {"previous": (layer, head), "induction": (layer, head)}',
        right=_best,
        wrong=(
            Wrong(
                "The two are exchanged.",
                lambda: dict(zip(("induction", "previous"), _best().values(), strict=True)),
            ),
            Wrong("Layers and heads count from 0.", lambda: _best(change=lambda at: (at[0] + 1, at[1] + 1))),
            Wrong("These are the heads with the second highest scores.", lambda: _best(1)),
            Wrong(
                "Your induction head has the highest score for *duplicate*: it looks at the earlier copy itself, "
                "not at what stands behind it.",
                lambda: {**_best(), "induction": ranked()["duplicate"][0]},
            ),
        ),
        hints=(
            "Call your functions for each head of both layers. patterns[layer, head] is one pattern.",
            "max(heads, key=…) gives the head for which a function is largest; heads is a list of all (layer, head).",
            "max(heads, key=lambda at: previous_score(patterns[at])), and likewise with induction_score(…, 25).",
        ),
        stands="lens/head_types.py, head_types",
    ),
    Exercise(
        number="6.4",
        asks="accuracy(model, ids): the share of the second half that is predicted",
        cases=some_texts,
        right=copied,
        wrong=(
            Wrong(
                "You compare each place's logits with its own token. They are about the next one.",
                lambda model, ids: _share(model, ids, slice(_half(ids), None), slice(_half(ids), None)),
            ),
            Wrong(
                "You counted the first half as well. There nothing can be known.",
                lambda model, ids: _share(model, ids, slice(None, -1), slice(1, None)),
            ),
            Wrong(
                "You counted the second half's first token. Before it comes, nothing says that the text begins again.",
                lambda model, ids: _share(model, ids, slice(_half(ids) - 1, -1), slice(_half(ids), None)),
            ),
            Wrong(
                "That is the first half.",
                lambda model, ids: _share(model, ids, slice(0, _half(ids) - 1), slice(1, _half(ids))),
            ),
            Wrong("That is the share of texts that are right to the end; each token counts.", _whole_texts),
            Wrong(
                "That is the share of tokens that are wrong.",
                lambda model, ids: 1 - copied(model, ids),
            ),
            Wrong(
                "That is how many are right; divide by how many there are.",
                lambda model, ids: copied(model, ids) * len(ids) * (_half(ids) - 1),
            ),
            Wrong("That is in percent; a share is a number from 0 to 1.", lambda model, ids: copied(model, ids) * 100),
            Wrong(
                "You divided by `length`, but the half's first token does not count.",
                lambda model, ids: copied(model, ids) * (_half(ids) - 1) / _half(ids),
            ),
            Wrong(
                "You left out the half's second token; it can be known.",
                lambda model, ids: _share(model, ids, slice(_half(ids) + 1, -1), slice(_half(ids) + 2, None)),
            ),
            Wrong(
                "It is 0 everywhere: you compare letters with scores, or with one index for all. argmax(-1) gives the "
                "place of the largest score.",
                lambda model, ids: 0.0,
            ),
            Wrong(
                "It is the mean of nothing: the length is not always 25. Here it is 12.",
                lambda model, ids: torch.nan,
            ),
        ),
        hints=(
            "model(ids).logits is [B T V]. What the model expects behind place i is the argmax of its logits at i.",
            "The first place that counts is `length`, where the first letter has come again; the last has nothing "
            "behind it. So logits[:, length:-1].",
            "(logits[:, length:-1].argmax(-1) == ids[:, length + 1:]).float().mean().",
        ),
        stands="metrics/classes.py, classification",
    ),
    Exercise(
        number="6.5",
        asks='expected: the accuracy without {"previous": …, "induction": …, "layer 1": …}, to 0.2 or so',
        right=lambda: dict(measured()),
        tolerance=0.18,
        wrong=(
            Wrong(
                "That is what you would get if the best-looking head did the work: without it the copy breaks, without "
                "the other nothing happens. Which of the two has another that could stand in for it?",
                _expected(1.0, 0.03, 0.03),
            ),
            Wrong(
                "You expect both heads to be needed. That is what a circuit of two heads would give, if each were the "
                "only one of its kind. Look at the scores of layer 1 again.",
                _expected(0.1, 0.1, 0.03),
            ),
            Wrong(
                "You expect that a single head is not missed, whichever it is. Of those in layer 1 there are two with "
                "a high score; how many have one in layer 0?",
                _expected(0.95, 0.95, 0.03),
            ),
            Wrong(
                "You expect that without layer 1 much is left. But layer 0 cannot find the earlier copy by itself: "
                "what it writes is for layer 1 to read.",
                _expected(0.2, 0.95, 0.5),
            ),
            Wrong(
                "You expect half the work from each. Heads are no such equal parts: one may have another that stands "
                "in for it, and one may not.",
                _expected(0.5, 0.5, 0.03),
            ),
            Wrong("You expect each induction head to do half; each does all of it.", _expected(0.03, 0.5, 0.03)),
            Wrong(
                "You expect half to be left without the previous-token head. Is there another that could do its part?",
                _expected(0.5, 0.95, 0.03),
            ),
            Wrong("A share is asked, from 0 to 1, not percent.", _expected(3, 97, 3)),
        ),
        hints=(
            "Guess by chance gives 1/32, or 0.03. With everything there it is close to 1.",
            "How many heads of layer 0 have a high previous-token score? How many of layer 1 have a high induction "
            "score?",
            "What has no stand-in, breaks the copy; what has several, is not missed.",
        ),
        stands="model/muting.py, muted",
    ),
)
