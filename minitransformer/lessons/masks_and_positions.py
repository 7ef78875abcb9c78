"""The exercises of lesson 3: who may look at whom, and in what order the tokens stand."""

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.model import capture
from minitransformer.modules.masks import causal_mask, self_attention_mask
from minitransformer.ops import by_hand
from minitransformer.pretrained import Pretrained

CPU = torch.device("cpu")
TEXT = "I will not go, and I will not stay."
PLACE, OTHER = 6, " you"  # which token of TEXT is replaced, and by what


def lengths() -> Cases:
    """Numbers of tokens."""
    return {"5 tokens": (5,), "3 tokens": (3,)}


def _causal(tokens: int) -> Tensor:
    """The library's causal mask. [T T]."""
    mask = causal_mask(tokens, tokens, CPU)
    assert mask is not None
    return mask[0, 0]


def scores_and_masks() -> Cases:
    """Scores with masks: in the second, a query may see nothing; in the third, exp alone is too large or too small.

    [T S], [B H T S] with a mask for all heads, and [T S].
    """
    first = torch.tensor([True, False, True, True, False])
    mask = torch.stack((first, ~first, torch.zeros_like(first)))[None, None]  # [1 1 T S]
    return {
        "4 tokens and a causal mask": (draw(4, 4, seed=30), _causal(4)),
        "3 queries, of which the last may see nothing": (draw(1, 2, 3, 5, seed=31), mask),
        "scores near 100, and scores near -100": (
            draw(2, 5, seed=32) + torch.tensor([[100.0], [-100.0]]),
            torch.stack((first, ~first)),
        ),
    }


def _shares(x: Tensor) -> Tensor:
    """What part of its row's sum each number is."""
    return x / x.sum(-1, keepdim=True)


def attention_masks() -> Cases:
    """What a tokenizer gives: 1 for a token, 0 for padding. [B S]."""
    return {
        "3 texts, padded on the right": (torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),),
        "2 texts, padded on the left": (torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),),
    }


def _allowed(attention_mask: Tensor) -> Tensor:
    """The library's mask for a decoder. [B S] -> bool [B 1 S S]."""
    size = attention_mask.shape[1]
    mask = self_attention_mask(attention_mask, causal=True, queries=size, past=0, device=CPU)
    assert mask is not None
    return mask.expand(len(attention_mask), 1, size, size)


def _causality(attention_mask: Tensor) -> Tensor:
    """The causal mask for as many tokens. [S S]."""
    return _causal(attention_mask.shape[1])


@cache
def _shakespeare() -> Pretrained:
    return load("builtin:shakespeare")


@cache
def _changed() -> set[int]:
    """The places where the logits of TEXT change, when one token is replaced."""
    model = _shakespeare()
    ids = model.tokenizer.encode(TEXT)
    other = [*ids[:PLACE], *model.tokenizer.encode(OTHER), *ids[PLACE + 1 :]]
    with torch.no_grad():
        before, after = (model(torch.tensor([each])).logits for each in (ids, other))  # [1 T V] each
    assert before is not None
    assert after is not None
    away = (before - after).abs().amax(-1)[0]  # [T]
    return {place for place, distance in enumerate(away.tolist()) if distance > 0.01}


def some_positions() -> Cases:
    """Positions, and how wide their vectors are to be; as many positions as angles, so that none of the slips stops."""
    return {
        "positions 0 to 3, D = 8": (torch.arange(4), 8),
        "positions 20 to 22, D = 6": (torch.arange(20, 23), 6),
    }


def _angles(positions: Tensor, d_model: int, exponents: Tensor) -> Tensor:
    return positions[:, None] / 10000 ** (exponents / d_model)


def _interleaved(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), -1).flatten(-2)


def _turns(angles: Tensor) -> Tensor:
    """Sines and cosines in turns."""
    return _interleaved(angles.sin(), angles.cos())


def _evens(d_model: int) -> Tensor:
    return torch.arange(0, d_model, 2)


def _each_its_own(positions: Tensor, d_model: int, exponents: Tensor) -> Tensor:
    """Sines in even columns, cosines in odd ones, where each column has an angle of its own."""
    angles = _angles(positions, d_model, exponents)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


@cache
def _real_heads(side: Literal["left", "right"]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Queries, keys and attention mask of two padded texts in a layer of builtin:shakespeare, and its pattern."""
    model = _shakespeare()
    batch = model.tokenizer([TEXT, "Good night."], padding_side=side)
    names = [f"blocks.1.attn.hook_{name}" for name in ("q", "k", "pattern")]
    with torch.no_grad(), capture(model.transformer, names) as seen:
        model(**batch)
    q, k, found = (seen[name] for name in names)
    return (q.transpose(1, 2), k.transpose(1, 2), batch["attention_mask"]), found


def real_heads() -> Cases:
    """The second layer of builtin:shakespeare, on two texts."""
    about = "layer 1 of builtin:shakespeare on two texts, padded on the"
    return {f"{about} left": _real_heads("left")[0], f"{about} right": _real_heads("right")[0]}


def _found(q: Tensor, k: Tensor, attention_mask: Tensor) -> Tensor:
    """The pattern inside the model, for these texts."""
    return _real_heads("right" if attention_mask[:, 0].all() else "left")[1]


def _pattern(
    *,
    scale: Callable[[int], float] = lambda width: width**-0.5,
    mask: Callable[[Tensor], Tensor] = _allowed,
    weights: Callable[[Tensor, Tensor], Tensor] = by_hand.attention_weights,
) -> Callable[..., Tensor]:
    """The pattern of attention with one part that is wrong."""

    def answer(q: Tensor, k: Tensor, attention_mask: Tensor) -> Tensor:
        return weights(by_hand.attention_scores(q, k, scale=scale(q.shape[-1])), mask(attention_mask))

    return answer


EXERCISES = (
    Exercise(
        number="3.1",
        asks="causal(tokens): a query sees itself and what came before, bool [T T]",
        cases=lengths,
        right=_causal,
        wrong=(
            Wrong(
                "You forbid a token to see itself: the diagonal must be True.",
                lambda tokens: _causal(tokens).tril(-1),
            ),
            Wrong(
                "Your mask is upside down: rows are queries, columns are keys. A query sees earlier keys, on the left.",
                lambda tokens: _causal(tokens).T,
            ),
            Wrong(
                "True and False are exchanged: here True means, this query may attend to that key.",
                lambda tokens: ~_causal(tokens),
            ),
            Wrong(
                "Your queries see one token too many: the next one, which the model has to guess.",
                lambda tokens: torch.ones(tokens, tokens, dtype=torch.bool).tril(1),
            ),
            Wrong(
                "Your tokens see only themselves; what came before is missing.",
                lambda tokens: torch.eye(tokens, dtype=torch.bool),
            ),
            Wrong("All is allowed, the future, too.", lambda tokens: torch.ones(tokens, tokens, dtype=torch.bool)),
        ),
        hints=(
            "Key s is allowed for query t if s ≤ t. Which half of the matrix is that?",
            "Allow everything first; then keep what is below the diagonal, and the diagonal itself.",
            "torch.ones(tokens, tokens, dtype=torch.bool).tril().",
        ),
        stands="modules/masks.py, causal_mask",
    ),
    Exercise(
        number="3.2",
        asks="masked_weights(scores, mask): softmax over the keys that the mask allows",
        cases=scores_and_masks,
        right=by_hand.attention_weights,
        wrong=(
            Wrong(
                "You masked after the softmax: the forbidden keys took their share before, and the rows do not sum to "
                "1 any more.",
                lambda s, m: torch.softmax(s, -1) * m,
            ),
            Wrong(
                "Your forbidden scores are 0. But exp(0) = 1: a score of 0 still gets a share.",
                lambda s, m: torch.softmax(s * m, -1),
            ),
            Wrong(
                "The mask is the wrong way round: True means that the query may attend.",
                lambda s, m: by_hand.attention_weights(s, ~m),
            ),
            Wrong(
                "The mask is the wrong way round, and a row that is all True becomes NaN: you fill where you should "
                "keep.",
                lambda s, m: torch.softmax(s.masked_fill(m, -math.inf), -1),
            ),
            Wrong(
                "A query that may see nothing gives NaN: its row is 0 / 0. Its weights must be 0.",
                lambda s, m: torch.softmax(s.masked_fill(~m, -math.inf), -1),
            ),
            Wrong(
                "A query that may see nothing spreads its attention evenly over the forbidden keys: for softmax a row "
                "of equal numbers, however low, is an even choice. Its weights must be 0.",
                lambda s, m: torch.softmax(s.masked_fill(~m, torch.finfo(s.dtype).min), -1),
            ),
            Wrong(
                "Your score for a forbidden key is not low enough: where allowed scores are as low, it takes a share.",
                lambda s, m: torch.softmax(s.masked_fill(~m, -100), -1) * m,
            ),
            Wrong(
                "exp of a large score is ∞ for float32, and its share ∞ / ∞ has no value. Subtract the row's largest "
                "score first, or leave it to torch.softmax.",
                lambda s, m: _shares(s.exp() * m).nan_to_num(),
            ),
            Wrong(
                "Your quotients can be NaN in two ways: ∞ / ∞, where scores are large, and 0 / 0, where nothing is "
                "allowed.",
                lambda s, m: _shares(s.exp() * m),
            ),
            Wrong(
                "You added the mask as 0 and 1, which makes forbidden keys a little less likely, no more.",
                lambda s, m: torch.softmax(s + m.float(), -1),
            ),
            Wrong("Your result is that without a mask.", lambda s, m: torch.softmax(s, -1)),
            Wrong(
                "Your softmax runs over the queries; each query's row must sum to 1.",
                lambda s, m: torch.softmax(s.masked_fill(~m, -math.inf), -2).nan_to_num(0),
            ),
        ),
        hints=(
            "Before the softmax: scores.masked_fill(~mask, -math.inf), for exp(-∞) = 0.",
            "That leaves one case: a row in which all is forbidden is 0 / 0, NaN. What should stand there?",
            "weights = torch.softmax(scores.masked_fill(~mask, -math.inf), -1), and then "
            "weights.masked_fill(~mask, 0).",
        ),
        stands="ops/by_hand.py, attention_weights",
    ),
    Exercise(
        number="3.3",
        asks="allowed(attention_mask): causal, and no padding, bool [B 1 T T]",
        cases=attention_masks,
        right=_allowed,
        wrong=(
            Wrong(
                "You masked the queries that are padding; it is the keys that nobody may look at, the last dimension.",
                lambda a: (a != 0)[:, None, :, None] & _causality(a),
            ),
            Wrong(
                "You allow what one of the two masks allows; both must allow it.",
                lambda a: (a != 0)[:, None, None, :] | _causality(a),
            ),
            Wrong(
                "The dimension of the heads is missing: [B 1 T T].",
                lambda a: (a != 0)[:, None, :] & _causality(a),
            ),
            Wrong(
                "You have the padding, but not the causal mask.",
                lambda a: (a != 0)[:, None, None, :].expand_as(_allowed(a)),
            ),
            Wrong(
                "That is the padding alone, [B 1 1 T]; the causal mask is to be joined with it.",
                lambda a: (a != 0)[:, None, None, :],
            ),
            Wrong(
                "You have the causal mask, but padding is still seen.",
                lambda a: _causality(a).expand_as(_allowed(a)),
            ),
            Wrong(
                "You masked padding among the queries as well. Only keys count: what a padded query makes of it, "
                "nobody reads.",
                lambda a: _allowed(a) & (a != 0)[:, None, :, None],
            ),
            Wrong(
                "You took 1 for padding; it is 0 that means padding.",
                lambda a: (a == 0)[:, None, None, :] & _causality(a),
            ),
            Wrong(
                "Your causal mask is upside down: rows are queries, and a query sees earlier keys, on the left.",
                lambda a: (a != 0)[:, None, None, :] & _causality(a).T,
            ),
            Wrong(
                "The padding is right, but you forbid the past and allow the future: leave the causal mask as it is.",
                lambda a: (a != 0)[:, None, None, :] & ~_causality(a),
            ),
            Wrong("True and False are exchanged: here True means, may attend.", lambda a: ~_allowed(a)),
            Wrong(
                "B stands where the heads belong: [1 B T T] instead of [B 1 T T].",
                lambda a: _allowed(a).transpose(0, 1),
            ),
        ),
        hints=(
            "Padding is a matter of keys: its mask is [B 1 1 T], the same for all heads and all queries.",
            "keep = (attention_mask != 0)[:, None, None, :] is the padding's; the causal one, [T T], is exercise 3.1.",
            "keep & causal(attention_mask.shape[1]): the two broadcast to [B 1 T T].",
        ),
        stands="modules/masks.py, self_attention_mask",
    ),
    Exercise(
        number="3.4",
        asks=f"changed: the places whose logits change when token {PLACE} of 11 is replaced",
        right=_changed,
        wrong=(
            Wrong(
                "Token 6 itself is missing: a token sees itself, so its own logits (those of the token after it) "
                "change.",
                lambda: set(range(PLACE + 1, 11)),
            ),
            Wrong("Only itself? All that come later may look back at it.", lambda: {PLACE}),
            Wrong(
                "That is the past, which cannot see what comes later. It is the other way round.",
                lambda: set(range(PLACE)),
            ),
            Wrong(
                "That is the past with the token itself. The past cannot see what comes later.",
                lambda: set(range(PLACE + 1)),
            ),
            Wrong("Not all: some tokens cannot see token 6.", lambda: set(range(11))),
            Wrong(
                "All but itself? A token sees itself, and the past does not see the future.",
                lambda: set(range(11)) - {PLACE},
            ),
            Wrong("Places count from 0: of 11 tokens the last is number 10.", lambda: set(range(PLACE, 12))),
            Wrong(
                "You count from 1; places count from 0, as they are printed above.",
                lambda: set(range(PLACE + 1, 12)),
            ),
            Wrong("The last place is missing: the full stop sees token 6, too.", lambda: set(range(PLACE, 10))),
            Wrong("Token 5 comes before token 6, and cannot see it.", lambda: set(range(PLACE - 1, 11))),
        ),
        hints=(
            "Look at column 6 of a causal mask for 11 tokens: which queries may attend to key 6?",
            "Each token sees itself and what came before. So who sees token 6? Places count from 0.",
            "[6, 7, 8, 9, 10].",
        ),
        stands="modules/masks.py, causal_mask",
    ),
    Exercise(
        number="3.5",
        asks="sinusoidal(positions, d_model): the paper's vectors of positions, [T D]",
        cases=some_positions,
        right=by_hand.sinusoidal,
        tolerance=1e-4,
        wrong=(
            Wrong(
                "First all sines, then all cosines: some models do so, but the formula has them in turns, column 2i "
                "and column 2i + 1.",
                by_hand.sinusoidal_halves,
            ),
            Wrong(
                "Your exponent is i/D; it is 2i/D, the number of the even column over D.",
                lambda p, d: _turns(_angles(p, d, _evens(d) / 2)),
            ),
            Wrong(
                "You multiplied by 10000^(2i/D) instead of dividing.",
                lambda p, d: _turns(p[:, None] * 10000 ** (_evens(d) / d)),
            ),
            Wrong(
                "All your exponents are 0: // rounds down. Divide with /.",
                lambda p, d: _turns(p[:, None] / 10000 ** (_evens(d) // d)),
            ),
            Wrong(
                "Only 10000 is raised to the power, not p / 10000.",
                lambda p, d: _turns((p[:, None] / 10000) ** (_evens(d) / d)),
            ),
            Wrong(
                "Python raises to the power before it divides: the exponent 2i/D needs brackets.",
                lambda p, d: _turns(p[:, None] / 10000 ** _evens(d) / d),
            ),
            Wrong(
                "Sines and cosines have changed places: the even columns are sines.",
                lambda p, d: _interleaved(_angles(p, d, _evens(d)).cos(), _angles(p, d, _evens(d)).sin()),
            ),
            Wrong(
                "You count positions from 1; take them as they are given.",
                lambda p, d: by_hand.sinusoidal(p + 1, d),
            ),
            Wrong(
                "You counted the rows; positions are given, and may begin at 20.",
                lambda p, d: by_hand.sinusoidal(torch.arange(len(p)), d),
            ),
            Wrong(
                "There are sines in all columns; the odd ones are cosines.",
                lambda p, d: _interleaved(_angles(p, d, _evens(d)).sin(), _angles(p, d, _evens(d)).sin()),
            ),
            Wrong(
                "Each position meets one column only; it needs an angle for each: positions as a column, [T 1].",
                lambda p, d: _turns(p / 10000 ** (_evens(d) / d)),
            ),
            Wrong(
                "Each of your columns has its own frequency; a sine and the cosine beside it share one.",
                lambda p, d: _each_its_own(p, d, torch.arange(d)),
            ),
            Wrong(
                "Your exponent is 2 × the column's number; the 2i of the formula is already the number of the column.",
                lambda p, d: _turns(_angles(p, d, 2 * _evens(d))),
            ),
            Wrong("Your result is turned on its side: positions are rows.", lambda p, d: by_hand.sinusoidal(p, d).T),
        ),
        hints=(
            "There are D/2 angles for each position: angle = p / 10000^(2i/D), with 2i = 0, 2, 4, …",
            "columns = torch.arange(0, d_model, 2); angles = positions[:, None] / 10000 ** (columns / d_model) is "
            "[T D/2]. Sines and cosines of them must now stand in turns.",
            "torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).",
        ),
        stands="ops/by_hand.py, sinusoidal",
    ),
    Exercise(
        number="3.6",
        asks="pattern(q, k, attention_mask): the weights of all heads of a decoder's layer",
        cases=real_heads,
        right=_found,
        wrong=(
            Wrong("Your queries look at padding.", _pattern(mask=_causality)),
            Wrong(
                "Your queries look into the future: the causal mask is missing.",
                _pattern(mask=lambda a: (a != 0)[:, None, None, :]),
            ),
            Wrong(
                "You masked the queries that are padding; it is the keys that nobody may look at.",
                _pattern(mask=lambda a: (a != 0)[:, None, :, None] & _causality(a)),
            ),
            Wrong(
                "You masked padding among the queries as well; only keys count.",
                _pattern(mask=lambda a: _allowed(a) & (a != 0)[:, None, :, None]),
            ),
            Wrong(
                "The mask is the wrong way round: True means that the query may attend.",
                _pattern(mask=lambda a: ~_allowed(a)),
            ),
            Wrong("There is no mask in it.", _pattern(mask=lambda a: torch.ones_like(_allowed(a)))),
            Wrong("Your result equals the one without dividing the scores by √E.", _pattern(scale=lambda _: 1.0)),
            Wrong("You divided by E, not by its square root.", _pattern(scale=lambda width: 1 / width)),
            Wrong("You multiplied by √E; divide.", _pattern(scale=lambda width: width**0.5)),
            Wrong(
                "Your softmax runs over the queries; each query's row must sum to 1.",
                _pattern(weights=lambda s, m: torch.softmax(s.masked_fill(~m, -math.inf), -2).nan_to_num()),
            ),
            Wrong(
                "You masked after the softmax: the rows do not sum to 1.",
                _pattern(weights=lambda s, m: torch.softmax(s, -1) * m),
            ),
            Wrong(
                "The padding on the left may see nothing, and its rows are NaN; they must be 0.",
                _pattern(weights=lambda s, m: torch.softmax(s.masked_fill(~m, -math.inf), -1)),
            ),
            Wrong(
                "The padding on the left may see nothing, and your rows for it are not 0.",
                _pattern(weights=lambda s, m: torch.softmax(s.masked_fill(~m, torch.finfo(s.dtype).min), -1)),
            ),
            Wrong(
                "These are the scores; softmax and mask come next.",
                lambda q, k, _: by_hand.attention_scores(q, k, scale=q.shape[-1] ** -0.5),
            ),
        ),
        hints=(
            "Scores as in lesson 2, the mask of exercise 3.3, the weights of exercise 3.2.",
            "The scores are q @ k.mT / q.shape[-1] ** 0.5, [B H T T]; the mask is [B 1 T T] and broadcasts.",
            "masked_weights(q @ k.mT / q.shape[-1] ** 0.5, allowed(attention_mask)).",
        ),
        stands="ops/by_hand.py, attention_weights",
        tolerance=1e-4,
    ),
)
