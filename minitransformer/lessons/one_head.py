"""The exercises of lesson 1: one head, by hand."""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.ops import by_hand


def queries_and_keys() -> Cases:
    """As many queries as keys, then fewer. The square root of a width of 8 is not a whole number."""
    return {
        "4 queries and 4 keys of width 4": (draw(4, 4), draw(4, 4, seed=1)),
        "3 queries and 5 keys of width 16": (draw(3, 16, seed=2), draw(5, 16, seed=3)),
        "2 queries and 6 keys of width 8": (draw(2, 8, seed=12), draw(6, 8, seed=13)),
    }


def some_scores() -> Cases:
    """Small scores, some that are too large for exp, and rows of very different size. As many queries as keys."""
    differing = [[1000.0, 999, 998, 0], [0, 1, 2, 3], [0, 0, 0, 1000], [2, 3, 2, 90]]
    return {
        "scores from -2 to 2": (draw(4, 4, seed=4).clamp(-2, 2),),
        "scores around 1000": (draw(5, 5, seed=5) + 1000,),
        "rows of very different size": (torch.tensor(differing),),
    }


def queries_keys_values() -> Cases:
    """The cases of `queries_and_keys`, with values."""
    return {
        about: (q, k, draw(*k.shape, seed=6 + place))
        for place, (about, (q, k)) in enumerate(queries_and_keys().items())
    }


def some_weights() -> Cases:
    """Rows that sum to 1, of which some have weights of 0."""
    return {
        "weights that are all above 0": (torch.softmax(draw(4, 6, seed=8), -1),),
        "weights of which some are 0": (torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4]),),
    }


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The library's attention of one head of one text. [T E], [S E], [S E] -> [T E]."""
    one = [x[None, None] for x in (q, k, v)]
    return by_hand.attention(*one, scale=q.shape[-1] ** -0.5)[0, 0]


def _shifted(s: Tensor) -> Tensor:
    """exp of the scores behind the largest of their row, as it should be. [T S] -> [T S]."""
    return (s - s.amax(-1, keepdim=True)).exp()


@cache
def _real_head() -> tuple[tuple[Tensor, ...], Tensor]:
    """The arguments of exercise 1.6, and what the model computed of them."""
    model = load("builtin:reverse")
    _, seen = model.run_with_cache("drawer", names=["encoder.0.*"])
    w = model.weights("encoder")
    head = (x[0, 0].detach() for x in (w.W_Q, w.b_Q, w.W_K, w.b_K, w.W_V, w.b_V))
    return (seen.encoder["resid_pre", 0][0], *head), seen.encoder["z", 0][0, :, 0]


def real_head() -> Cases:
    """The first head of the encoder of builtin:reverse, on a word."""
    return {"the first head of builtin:reverse": _real_head()[0]}


def _entropy(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1) / math.log(2)


def _over_keys(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1)


def _scaled(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.T / q.shape[-1] ** 0.5  # [T S]


def _projected(x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor) -> tuple[Any, ...]:
    return x @ wq + bq, x @ wk + bk, x @ wv + bv


EXERCISES = (
    Exercise(
        number="1.1",
        asks="scores(q, k): q kᵀ / √E",
        cases=queries_and_keys,
        right=lambda q, k: by_hand.attention_scores(q, k, scale=q.shape[-1] ** -0.5),
        wrong=(
            Wrong("Your scores are those without the division by √E.", lambda q, k: q @ k.T),
            Wrong("You divided by E, not by its square root.", lambda q, k: q @ k.T / q.shape[-1]),
            Wrong("You multiplied by √E instead of dividing by it.", lambda q, k: q @ k.T * q.shape[-1] ** 0.5),
            Wrong(
                "Your result is turned on its side: rows must be queries, columns keys.",
                lambda q, k: k @ q.T / q.shape[-1] ** 0.5,
            ),
            Wrong(
                "You divided by the square root of the number of queries; E is the width, q.shape[-1].",
                lambda q, k: q @ k.T / q.shape[0] ** 0.5,
            ),
            Wrong(
                "You divided by the square root of the number of keys; E is the width, q.shape[-1].",
                lambda q, k: q @ k.T / k.shape[0] ** 0.5,
            ),
            Wrong("2 = √4 fits the lesson's E only; take the root of q.shape[-1].", lambda q, k: q @ k.T / 2),
            Wrong(
                "You rounded √E: the square root of 8 is not a whole number.",
                lambda q, k: q @ k.T / math.isqrt(q.shape[-1]),
            ),
            Wrong(
                "You applied softmax already; that comes in exercise 1.2.",
                lambda q, k: _over_keys(_scaled(q, k)),
            ),
            Wrong("The keys must lie on their side for that product: k.T.", lambda q, k: q @ k / q.shape[-1] ** 0.5),
            Wrong(
                "You turned the queries; it is the keys that lie on their side.",
                lambda q, k: q.T @ k / q.shape[-1] ** 0.5,
            ),
        ),
        hints=(
            "The dot product of row i of q with row j of k belongs at place [i, j].",
            "A matrix product takes rows of the first with columns of the second: turn k on its side, k.T.",
            "q @ k.T, divided by the square root of q.shape[-1].",
        ),
        stands="ops/by_hand.py, attention_scores",
    ),
    Exercise(
        number="1.2",
        asks="weights(scores): softmax over the keys",
        cases=some_scores,
        right=by_hand.softmax,
        wrong=(
            Wrong("Your columns sum to 1; it is each query's row that must.", lambda s: torch.softmax(s, 0)),
            Wrong(
                "Your columns sum to 1, and large scores give NaN: sum over the row, and first subtract its largest.",
                lambda s: s.exp() / s.exp().sum(0),
            ),
            Wrong(
                "You divided by the sums of the columns; each row has its own sum, over the last dimension.",
                lambda s: _shifted(s) / _shifted(s).sum(0),
            ),
            Wrong("You forgot to divide by the sum.", _shifted),
            Wrong("You divided the scores by their sum; exp comes first.", lambda s: s / s.sum(-1, keepdim=True)),
            Wrong(
                "Scores around 1000 give NaN, for exp(1000) is infinite: subtract the largest of each row first.",
                lambda s: s.exp() / s.exp().sum(-1, keepdim=True),
            ),
            Wrong(
                "You subtract one number for all rows; a row far below the largest becomes 0/0. Each row needs its own "
                "maximum.",
                lambda s: (s - s.amax()).exp() / (s - s.amax()).exp().sum(-1, keepdim=True),
            ),
            Wrong(
                "One score far above the others of its row gives NaN: subtract the row's largest, not its mean or its "
                "smallest.",
                lambda s: (s - s.mean(-1, keepdim=True)).exp() / (s - s.mean(-1, keepdim=True)).exp().sum(-1, True),
            ),
            Wrong(
                "argmax is the place of the largest; amax is the number.",
                lambda s: (s - s.argmax(-1, keepdim=True)).exp() / (s - s.argmax(-1, keepdim=True)).exp().sum(-1, True),
            ),
            Wrong(
                "e.sum(-1) is one number a row, but it is laid along the columns; keepdim=True keeps it a column.",
                lambda s: _shifted(s) / _shifted(s).sum(-1),
            ),
            Wrong(
                "e.sum(-1) is laid along the columns (keepdim=True keeps it a column), and large scores give NaN "
                "(subtract each row's largest first).",
                lambda s: s.exp() / s.exp().sum(-1),
            ),
            Wrong(
                "amax(-1) is one number a row, but it is laid along the columns; keepdim=True keeps it a column.",
                lambda s: (s - s.amax(-1)).exp() / (s - s.amax(-1)).exp().sum(-1, keepdim=True),
            ),
            Wrong(
                "The largest and the sum are one number a row, but both are laid along the columns; keepdim=True keeps "
                "them columns.",
                lambda s: (s - s.amax(-1)).exp() / (s - s.amax(-1)).exp().sum(-1),
            ),
            Wrong(
                "The sign is reversed: the smallest score gets the largest share.",
                lambda s: (s.amax(-1, True) - s).exp() / (s.amax(-1, True) - s).exp().sum(-1, True),
            ),
            Wrong(
                "All numbers together sum to 1; it is each row that must.",
                lambda s: (s - s.amax()).exp() / (s - s.amax()).exp().sum(),
            ),
        ),
        hints=(
            "Three steps: subtract the row's largest score, take exp, divide by the row's sum.",
            "The sum of each row, kept as a column so that it divides the row: e.sum(-1, keepdim=True).",
            "e = (scores - scores.amax(-1, keepdim=True)).exp(), and then e / e.sum(-1, keepdim=True).",
        ),
        stands="ops/by_hand.py, softmax",
    ),
    Exercise(
        number="1.3",
        asks="attention(q, k, v): softmax(q kᵀ / √E) v",
        cases=queries_keys_values,
        right=attend,
        wrong=(
            Wrong(
                "Your result equals the one without dividing the scores by √E.",
                lambda q, k, v: _over_keys(q @ k.T) @ v,
            ),
            Wrong(
                "Your softmax runs over the queries; each query's row must sum to 1.",
                lambda q, k, v: torch.softmax(_scaled(q, k), 0) @ v,
            ),
            Wrong(
                "You return the weights; they have still to be multiplied with the values.",
                lambda q, k, v: _over_keys(_scaled(q, k)),
            ),
            Wrong("There is no softmax in it.", lambda q, k, v: _scaled(q, k) @ v),
            Wrong(
                "You divided after the softmax; the scores are what must be divided.",
                lambda q, k, v: _over_keys(q @ k.T) / q.shape[-1] ** 0.5 @ v,
            ),
            Wrong(
                "You mixed the keys; it is the values that are mixed.",
                lambda q, k, v: _over_keys(_scaled(q, k)) @ k,
            ),
            Wrong(
                "You compared the queries with the values; they are compared with the keys.",
                lambda q, k, v: _over_keys(_scaled(q, v)) @ v,
            ),
            Wrong(
                "Keys and values are exchanged.",
                lambda q, k, v: _over_keys(_scaled(q, v)) @ k,
            ),
            Wrong("Softmax comes before the mix, not after it.", lambda q, k, v: _over_keys(_scaled(q, k) @ v)),
            Wrong(
                "You applied softmax twice: `weights` has done it already.",
                lambda q, k, v: _over_keys(_over_keys(_scaled(q, k))) @ v,
            ),
            Wrong(
                "You divided by E (or twice by √E: your `scores` has already divided).",
                lambda q, k, v: _over_keys(q @ k.T / q.shape[-1]) @ v,
            ),
        ),
        hints=(
            "It is exercise 1.1, then 1.2, then a matrix product with v.",
            "The weights are [T S] and v is [S E]: their product is [T E].",
            "weights(scores(q, k)) @ v.",
        ),
        stands="ops/by_hand.py, attention",
    ),
    Exercise(
        number="1.4",
        asks="spread: the standard deviation of q·k for E = 1024",
        right=lambda: 32.0,
        tolerance=2e-2,  # who measures it has 32.1, say
        wrong=(
            Wrong("That is the variance. The standard deviation is its square root.", lambda: 1024.0),
            Wrong("That is the spread after the division by √E; the question is before.", lambda: 1.0),
            Wrong("That is 1/√E, the scale itself. The question is how large q·k is without it.", lambda: 1024**-0.5),
            Wrong("That is E/2, not √E.", lambda: 512.0),
        ),
        hints=(
            "Look at the table above: what does E = 256 give, and how does that come from 256?",
            "The standard deviation is the square root of the variance.",
            "The square root of 1024.",
        ),
        stands="ops/by_hand.py, attention: scale = 1/√E",
    ),
    Exercise(
        number="1.5",
        asks="entropy(weights): −Σ p · log₂ p of each row",
        cases=some_weights,
        right=_entropy,
        wrong=(
            Wrong(
                "That is in nats, with the natural logarithm; bits take log₂.",
                lambda w: torch.special.entr(w).sum(-1),
            ),
            Wrong("The sign is wrong: entropy is never negative.", lambda w: -_entropy(w)),
            Wrong("A weight of 0 gives NaN: 0 · log₂ 0 must count as 0.", lambda w: -(w * w.log2()).sum(-1)),
            Wrong("You took the mean over the row; the sum is asked.", lambda w: _entropy(w) / w.shape[-1]),
            Wrong("You summed over the queries; each row has its own entropy.", lambda w: _entropy(w.T)),
            Wrong(
                "That is in nats, with the natural logarithm, and a weight of 0 gives NaN: bits take log₂.",
                lambda w: -(w * w.log()).sum(-1),
            ),
            Wrong(
                "You left out the factor p: that is −Σ log₂ p.",
                lambda w: -torch.where(w > 0, w, 1).log2().sum(-1),
            ),
            Wrong(
                "You left out the factor p, and a weight of 0 gives infinity: that is −Σ log₂ p.",
                lambda w: -w.log2().sum(-1),
            ),
            Wrong(
                "Each row should give one number, [T]; yours is a column, [T 1]: leave out keepdim.",
                lambda w: _entropy(w)[:, None],
            ),
            Wrong("You summed over all rows; each has its own entropy.", lambda w: _entropy(w).sum()),
        ),
        hints=(
            "Sum over the last dimension: one number for each query.",
            "torch.where(weights > 0, weights, 1).log2() is log₂ p, with 0 in place of −∞.",
            "Multiply that with the weights, sum over -1, and change the sign.",
        ),
        stands="lens/attention.py, entropy",
    ),
    Exercise(
        number="1.6",
        asks="one_head(x, W_Q, b_Q, W_K, b_K, W_V, b_V): one head's z",
        cases=real_head,
        right=lambda *_: _real_head()[1],
        wrong=(
            Wrong("You left out the biases.", lambda x, wq, bq, wk, bk, wv, bv: attend(x @ wq, x @ wk, x @ wv)),
            Wrong(
                "Your result equals the one without dividing the scores by √E.",
                lambda *given: (
                    torch.softmax(_projected(*given)[0] @ _projected(*given)[1].T, -1) @ _projected(*given)[2]
                ),
            ),
            Wrong(
                "You divided by √D; it is the head's width E that counts, that of q.",
                lambda x, *w: by_hand.attention(*(y[None, None] for y in _projected(x, *w)), scale=x.shape[-1] ** -0.5)[
                    0, 0
                ],
            ),
            Wrong(
                "Queries and keys are exchanged.",
                lambda x, wq, bq, wk, bk, wv, bv: attend(x @ wk + bk, x @ wq + bq, x @ wv + bv),
            ),
            Wrong(
                "Keys and values are exchanged.",
                lambda x, wq, bq, wk, bk, wv, bv: attend(x @ wq + bq, x @ wv + bv, x @ wk + bk),
            ),
            Wrong(
                "You used W_Q for all three; keys and values have matrices of their own.",
                lambda x, wq, bq, *_: attend(x @ wq + bq, x @ wq + bq, x @ wq + bq),
            ),
            Wrong(
                "Your softmax runs over the queries; each query's row must sum to 1.",
                lambda *given: torch.softmax(_scaled(*_projected(*given)[:2]), 0) @ _projected(*given)[2],
            ),
            Wrong(
                "You forgot the bias of the queries.",
                lambda x, wq, bq, wk, bk, wv, bv: attend(x @ wq, x @ wk + bk, x @ wv + bv),
            ),
            Wrong(
                "You forgot the bias of the values.",
                lambda x, wq, bq, wk, bk, wv, bv: attend(x @ wq + bq, x @ wk + bk, x @ wv),
            ),
            Wrong(
                "nn.Linear and F.linear keep a matrix on its side, [out in]. W_Q is [D E]: write x @ W_Q + b_Q.",
                lambda x, wq, bq, wk, bk, wv, bv: attend(
                    *(F.linear(x, w, b) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
                ),
            ),
        ),
        hints=(
            "First the three products: q = x @ W_Q + b_Q, and likewise k and v. (torch's linear(x, W_Q, b_Q) does not "
            "do: it wants the matrix turned, [E D].)",
            "Then your attention of exercise 1.3.",
            "attention(x @ W_Q + b_Q, x @ W_K + b_K, x @ W_V + b_V).",
        ),
        stands="modules/attention.py, MultiHeadAttention (all heads at once)",
    ),
)
