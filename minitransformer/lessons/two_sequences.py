"""The exercises of lesson 7: cross-attention, and generating."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minitransformer.generation.processors import Lengths, process, processors
from minitransformer.generation.settings import GenerationConfig
from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.ops import by_hand
from minitransformer.pretrained import Pretrained

WORD = "stressed"
MOST = 24  # tokens that an answer to exercise 7.3 may write


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The library's attention of one head of one text. [T E], [S E], [S E] -> [T E]."""
    one = [x[None, None] for x in (q, k, v)]
    return by_hand.attention(*one, mask=mask, scale=q.shape[-1] ** -0.5)[0, 0]


@cache
def reverse() -> Pretrained:
    """The model that writes strings backwards."""
    return load("builtin:reverse")


@cache
def shakespeare() -> Pretrained:
    """A small GPT-2 that has read Shakespeare."""
    return load("builtin:shakespeare")


# ------------------------------------------------------------------------------------------------------------------ 7.1


@cache
def _real_head() -> tuple[Tensor, ...]:
    """x, memory, and the weights of the first head of the last cross-attention of builtin:reverse."""
    model = reverse()
    output, seen = model.run_with_cache(WORD, target=WORD[::-1], names=["decoder.*"])
    decoder, memory = model.transformer.decoder, output.encoder_last_hidden_state
    assert decoder is not None
    assert memory is not None
    x = decoder.blocks[-1].self_attn_norm(seen.decoder["resid_mid", -1])[0]  # [T D]
    w = model.weights("cross")
    head = (matrix[-1, 0].detach() for matrix in (w.W_Q, w.b_Q, w.W_K, w.b_K, w.W_V, w.b_V))
    return (x.detach(), memory[0].detach(), *head)


def two_texts() -> Cases:
    """As many queries as keys, for those who take one text for the other; numbers of our own, and a real head's."""
    ours = (draw(5, 8), draw(5, 8, seed=1), *(draw(*s, seed=2 + i) for i, s in enumerate([(8, 4), (4,)] * 3)))
    return {
        "5 queries and 5 keys": ours,
        f"the first head of the last layer of builtin:reverse, on {WORD!r}": _real_head(),
    }


def _projected(x: Tensor, y: Tensor, *w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x @ w[0] + w[1], y @ w[2] + w[3], y @ w[4] + w[5]


def _cross(x: Tensor, memory: Tensor, *w: Tensor) -> Tensor:
    return attend(*_projected(x, memory, *w))


def _causal(x: Tensor, memory: Tensor, *w: Tensor) -> Tensor:
    q, k, v = _projected(x, memory, *w)
    return attend(q, k, v, torch.ones(1, 1, len(q), len(k), dtype=torch.bool).tril())


def _cross_by(divisor: Callable[[int, int], float], dim: int = -1) -> Callable[..., Tensor]:
    """The same, its scores divided by a number of D and E, and its softmax over a dimension."""

    def cross(x: Tensor, memory: Tensor, *w: Tensor) -> Tensor:
        q, k, v = _projected(x, memory, *w)
        return torch.softmax(q @ k.T / divisor(x.shape[-1], q.shape[-1]), dim) @ v

    return cross


# ------------------------------------------------------------------------------------------------------------------ 7.2


@cache
def _real_pattern() -> Tensor:
    """[T S], that head's weights."""
    _, seen = reverse().run_with_cache(WORD, target=WORD[::-1], names=["*cross_attn.hook_pattern"])
    return seen.decoder["pattern", -1, "cross_attn"][0, 0].detach()


def some_patterns() -> Cases:
    """A head that wanders, and the real one."""
    return {
        "random weights": (torch.softmax(draw(7, 6, seed=20), -1), 5),
        f"a real head on {WORD!r}": (_real_pattern(), len(WORD)),
    }


# ------------------------------------------------------------------------------------------------------------------ 7.3


def ends_of(model: Pretrained) -> tuple[int, int]:
    """The ids of the start token and of the end token."""
    start, end = model.transformer.config.decoder_start_id, model.tokenizer.target.eos_token_id
    assert start is not None
    assert end is not None
    return start, end


def some_sources() -> Cases:
    """Two words, as ids; then one that is longer than what may be written."""
    model = reverse()
    return {
        f"the source {word!r}, most = {most}": (model, model.tokenizer(word)["input_ids"], *ends_of(model), most)
        for word, most in (("drawer", MOST), ("lamp", MOST), ("drawer", 4))
    }


def _greedy(model: Pretrained, source: Tensor, start: int, end: int, most: int) -> list[int]:
    written: list[int] = model.generate(source, max_new_tokens=most - 1)[0].tolist()
    return written


def _step_by_step(
    *,
    first: Callable[[Tensor, int, int], int] = lambda _, start, __: start,
    place: int = -1,
    read: slice = slice(None),
    stops: bool = True,
    more: int = 0,
) -> Callable[..., list[int]]:
    """A loop like that of exercise 7.3, with a mistake in it."""

    def write(model: Pretrained, source: Tensor, start: int, end: int, most: int) -> list[int]:
        written = [first(source, start, end)]
        while len(written) < most + more and not (stops and len(written) > 1 and written[-1] == end):
            logits = model(source, decoder_input_ids=torch.tensor([written[read]])).logits
            assert logits is not None
            written.append(int(logits[0, place].argmax()))
        return written

    return write


# ------------------------------------------------------------------------------------------------------------------ 7.4


def some_logits() -> Cases:
    """Small ones, in which each of the three settings counts, and a model's.

    No top_p is 1: there, rounding would decide which mistake it is.
    """
    few = torch.tensor([0.30, 0.24, 0.16, 0.11, 0.08, 0.06, 0.04, 0.01]).log() + 2
    few = few[torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])]  # in no order
    prompt = shakespeare().tokenizer("ROMEO:\nMy")["input_ids"]
    logits = shakespeare()(prompt).logits
    assert logits is not None
    return {
        "a temperature of 0.5, nothing cut": (few, 0.5, len(few), 0.9999),
        "a temperature of 2, top_k = 3": (few, 2.0, 3, 0.99),
        "top_p = 0.6": (few, 1.0, len(few), 0.6),
        "a temperature of 0.7, top_k = 5 and top_p = 0.8": (few, 0.7, 5, 0.8),
        "the logits of builtin:shakespeare": (logits[0, -1].detach(), 0.8, 40, 0.9),
    }


def _filtered(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """The library's: [V] -> [V]."""
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    rules = processors(config, Lengths(prompt=1, shortest=0, longest=2))
    return by_hand.softmax(process(rules, torch.zeros(1, 1, dtype=torch.int64), logits[None]))[0]


def _most_probable(shares: Tensor, k: int) -> Tensor:
    """Which are among the k most probable."""
    return shares >= shares.topk(min(k, len(shares)))[0][-1]


def _nucleus(shares: Tensor, p: float, more: int = 0) -> Tensor:
    """Which are among the fewest that sum to p, and `more` besides; -1 leaves out the one that reaches p."""
    order = shares.argsort(descending=True)
    before = shares[order].cumsum(0) - shares[order]
    count = max(1, int((before < p).sum()) + more)
    return torch.zeros_like(shares, dtype=torch.bool).scatter(0, order[:count], True)


def _by_hand(
    logits: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    *,
    more: int = 0,
    divide_first: bool = True,
    divide_last: bool = True,
) -> Tensor:
    """The same on probabilities, with as many more or fewer as `more` in the nucleus, or without a division."""
    shares = torch.softmax(logits / temperature, -1)
    shares = shares * _most_probable(shares, top_k)
    shares = shares / shares.sum() if divide_first else shares
    shares = shares * _nucleus(shares, top_p, more)
    return shares / shares.sum() if divide_last else shares


def _from_below(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """With top_p's sums from the least probable up."""
    shares = _filtered(logits, temperature, top_k, 1.0)
    order = shares.argsort()
    kept = shares[order].cumsum(0) - shares[order] < top_p
    shares = shares * torch.zeros_like(kept).scatter(0, order, kept)
    return shares / shares.sum()


def _zeroed(logits: Tensor, temperature: float, top_k: int, top_p: float, *, twice: bool) -> Tensor:
    """With logits of 0 for what top_k cuts, and, if twice, for what top_p cuts."""
    x = logits / temperature
    x = torch.where(_most_probable(x, top_k), x, 0)
    shares = torch.softmax(x, -1)
    kept = _nucleus(shares, top_p)
    return torch.softmax(torch.where(kept, x, 0), -1) if twice else shares * kept / (shares * kept).sum()


# ------------------------------------------------------------------------------------------------------------------ 7.5


def some_prompts() -> Cases:
    """A prompt, with two seeds, neither of them the 0 that PyTorch's own generator has in a check."""
    model = shakespeare()
    ids = model.tokenizer("ROMEO:\n")["input_ids"]
    return {
        "a temperature of 0.8": (model, ids, 8, 1, 0.8, 2000, 1.0),
        "top_k = 50 and top_p = 0.9": (model, ids, 8, 3, 1.0, 50, 0.9),
    }


def _sampled(
    model: Pretrained, ids: Tensor, steps: int, seed: int, temperature: float, top_k: int, top_p: float
) -> list[int]:
    chosen: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    written: list[int] = model.generate(ids, max_new_tokens=steps, do_sample=True, seed=seed, **chosen)[0].tolist()
    return written


def _loop(
    *,
    reseeds: bool = False,
    place: int = -1,
    only_last: bool = False,
    shares_of: Callable[..., Tensor] = _filtered,
    choose: Callable[[Tensor, torch.Generator], Tensor] = lambda shares, g: torch.multinomial(shares, 1, generator=g),
) -> Callable[..., list[int]]:
    """A loop like that of exercise 7.5, with a mistake in it."""

    def write(model: Pretrained, ids: Tensor, steps: int, seed: int, *settings: Any) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            generator = torch.Generator().manual_seed(seed) if reseeds else generator
            logits = model(ids[:, -1:] if only_last else ids).logits
            assert logits is not None
            shares = shares_of(logits[0, place].detach(), *settings)
            ids = torch.cat((ids, choose(shares, generator)[None]), dim=1)
        written: list[int] = ids[0].tolist()
        return written

    return write


EXERCISES = (
    Exercise(
        number="7.1",
        asks="cross_attention(x, memory, W_Q, b_Q, W_K, b_K, W_V, b_V): one head's z",
        cases=two_texts,
        right=_cross,
        wrong=(
            Wrong("That is self-attention: the memory does not occur in it.", lambda x, _, *w: _cross(x, x, *w)),
            Wrong(
                "Your queries come from the memory, and keys and values from the decoder: it is the decoder that asks.",
                lambda x, memory, *w: _cross(memory, x, *w),
            ),
            Wrong(
                "Your queries come from the memory; it is the decoder's tokens that ask.",
                lambda x, memory, *w: _cross(memory, memory, *w),
            ),
            Wrong(
                "Your keys come from the decoder. A query must be compared with what the encoder has read.",
                lambda x, memory, *w: attend(*_projected(x, x, *w)[:2], _projected(x, memory, *w)[2]),
            ),
            Wrong(
                "Your values come from the decoder. What is taken away must come from the encoder's output.",
                lambda x, memory, *w: attend(*_projected(x, memory, *w)[:2], _projected(x, x, *w)[2]),
            ),
            Wrong(
                "You applied a causal mask. The source has been read to its end: a query may look at all of it.",
                _causal,
            ),
            Wrong("Your result equals the one without dividing the scores by √E.", _cross_by(lambda d, e: 1)),
            Wrong("You divided the scores by E; its square root is what divides them.", _cross_by(lambda d, e: e)),
            Wrong("You divided by √D; it is the width of a query, E, that counts.", _cross_by(lambda d, e: d**0.5)),
            Wrong("You multiplied the scores by √E; divide them.", _cross_by(lambda d, e: e**-0.5)),
            Wrong(
                "Your softmax runs over the queries; each query shares out 1 among the keys.",
                _cross_by(lambda d, e: e**0.5, dim=0),
            ),
            Wrong(
                "You took the keys as values, too: what is carried away is v.",
                lambda x, memory, *w: attend(*_projected(x, memory, *w)[:2], _projected(x, memory, *w)[1]),
            ),
            Wrong("b_Q is missing.", lambda x, memory, w_q, b_q, *w: _cross(x, memory, w_q, b_q * 0, *w)),
            Wrong("b_V is missing.", lambda x, memory, *w: _cross(x, memory, *w[:5], w[5] * 0)),
            Wrong(
                "You left out the biases.",
                lambda x, memory, *w: attend(x @ w[0], memory @ w[2], memory @ w[4]),
            ),
        ),
        hints=(
            "It is lesson 1's one_head; only the source of two of the three products is another.",
            "q = x @ W_Q + b_Q; k and v are made of memory in the same way.",
            "torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v, with k and v from memory.",
        ),
        stands="modules/attention.py, MultiHeadAttention (with a memory)",
    ),
    Exercise(
        number="7.2",
        asks="alignment(pattern, n): the place that each of n letters is read from",
        cases=some_patterns,
        right=lambda pattern, n: pattern[:n].max(-1).indices,
        wrong=(
            Wrong(
                "You searched along the queries; for each query, the key with the largest weight is asked.",
                lambda pattern, n: pattern.argmax(0)[:n],
            ),
            Wrong(
                "You skipped the first query. It stands at the start token, and that is where the first letter is "
                "written: a query stands one token before the one that it writes.",
                lambda pattern, n: pattern[1 : n + 1].argmax(-1),
            ),
            Wrong(
                "Each place is one too small. The start token is among the queries, not among the keys.",
                lambda pattern, n: pattern[:n].argmax(-1) - 1,
            ),
            Wrong(
                "Each place is one too large. Places count from 0.",
                lambda pattern, n: pattern[:n].argmax(-1) + 1,
            ),
            Wrong(
                "You return the largest weights; the places where they stand are asked.",
                lambda pattern, n: pattern[:n].amax(-1),
            ),
            Wrong(
                "You return one row too many or more: the queries behind the n-th write no letter, but the end.",
                lambda pattern, n: pattern.argmax(-1),
            ),
            Wrong(
                "You cut the keys as well. Only the rows are cut: a letter may be read from any place of the source.",
                lambda pattern, n: pattern[:n, :n].argmax(-1),
            ),
            Wrong(
                "You cut the keys to n; it is the queries, the rows, of which the first n count.",
                lambda pattern, n: pattern[:, :n].argmax(-1),
            ),
            Wrong(
                "The pattern is not used: that is what is hoped for, whatever the weights are.",
                lambda pattern, n: torch.arange(n - 1, -1, -1),
            ),
            Wrong(
                "You took the keys with the smallest weights.",
                lambda pattern, n: pattern[:n].argmin(-1),
            ),
        ),
        hints=(
            "Rows are queries. The n letters are written by the first n of them.",
            "argmax gives the place of the largest number; along which dimension do the keys lie?",
            "pattern[:n].argmax(-1).",
        ),
        stands="lens/patterns.py, cross_targets (the score of this pattern)",
    ),
    Exercise(
        number="7.3",
        asks="greedy(model, source, start, end, most): the ids that are written",
        cases=some_sources,
        right=_greedy,
        wrong=(
            Wrong(
                "You began with the first letter of the source. The decoder begins with the start token, which says "
                "nothing but: begin.",
                _step_by_step(first=lambda source, *_: int(source[0, 0])),
            ),
            Wrong(
                "You began with the end token; the decoder begins with the start token.",
                _step_by_step(first=lambda _, __, end: end),
            ),
            Wrong(
                "You gave the decoder its last token only. Without a cache it must read again all that is written.",
                _step_by_step(read=slice(-1, None)),
            ),
            Wrong(
                "You took the logits of place 0, which are always those of the first letter. The next token's stand at "
                "the last place.",
                _step_by_step(place=0),
            ),
            Wrong("You do not stop at the end token.", _step_by_step(stops=False)),
            Wrong(
                "The start token is missing from your result: give all that the decoder has read and written.",
                lambda *given: _greedy(*given)[1:],
            ),
            Wrong(
                "The end token is missing from your result: put it in, then stop.",
                lambda *given: [token for token in _greedy(*given) if token != given[3]],
            ),
            Wrong(
                "The start and end tokens are missing from your result: give all that was read and written.",
                lambda *given: [token for token in _greedy(*given)[1:] if token != given[3]],
            ),
            Wrong(
                "Your list is longer than `most`: the loop must end there, too, whether the end token has come or not.",
                _step_by_step(more=MOST),
            ),
            Wrong("Your list is longer than `most` by one; the start token counts, too.", _step_by_step(more=1)),
            Wrong("Your list ends after one step: the loop does not go on.", lambda *given: _greedy(*given)[:2]),
        ),
        hints=(
            "Keep a list, [start] at first. Each step appends one id to it, until that is `end`.",
            "model(source, decoder_input_ids=torch.tensor([written])).logits is [1 T V]; the last of the T counts.",
            "written.append(int(logits[0, -1].argmax())), while written[-1] != end and len(written) < most.",
        ),
        stands="generation/sample.py, tokens",
    ),
    Exercise(
        number="7.4",
        asks="sample_filter(logits, temperature, top_k, top_p): what is drawn from",
        cases=some_logits,
        right=_filtered,
        wrong=(
            Wrong(
                "You multiplied by the temperature. Divide: above 1, the choice must become more even.",
                lambda logits, t, k, p: _filtered(logits, 1 / t, k, p),
            ),
            Wrong(
                "The temperature has no effect. Divided by it after the softmax, it cancels out; the logits are what "
                "must be divided.",
                lambda logits, _, k, p: _filtered(logits, 1.0, k, p),
            ),
            Wrong(
                "Your top_p keeps too few: the token that reaches p belongs to those that are kept.",
                lambda logits, t, k, p: _by_hand(logits, t, k, p, more=-1),
            ),
            Wrong(
                "Your top_p keeps one too many: stop as soon as p is reached.",
                lambda logits, t, k, p: _by_hand(logits, t, k, p, more=1),
            ),
            Wrong(
                "What is left does not sum to 1: after each cut, divide by the sum of what is left.",
                lambda *given: _by_hand(*given, divide_first=False, divide_last=False),
            ),
            Wrong(
                "It does not sum to 1: divide after the second cut, too.",
                lambda *given: _by_hand(*given, divide_last=False),
            ),
            Wrong(
                "top_p must look at what top_k left, with its sum made 1 again; either you cut by top_p first, or you "
                "did not divide in between.",
                lambda *given: _by_hand(*given, divide_first=False),
            ),
            Wrong(
                "Your top_k keeps one too few: the k-th token is kept.",
                lambda logits, t, k, p: _filtered(logits, t, k - 1, p),
            ),
            Wrong("You sorted from the least probable up; top_p counts from the most probable down.", _from_below),
            Wrong(
                "You set the logits of what is cut to 0. exp(0) is 1, not 0: it takes a logit of −∞.",
                lambda *given: _zeroed(*given, twice=True),
            ),
            Wrong(
                "You set the logits of what top_k cuts to 0. exp(0) is 1, not 0: it takes a logit of −∞.",
                lambda *given: _zeroed(*given, twice=False),
            ),
            Wrong(
                "Your result is in sorted order. Put each share back at its token's place.",
                lambda *given: _filtered(*given).sort(descending=True)[0],
            ),
            Wrong(
                "Your result has only the tokens that are kept: give all V, each at its place, with 0 for what is cut.",
                lambda *given: _filtered(*given).sort(descending=True)[0][: int((_filtered(*given) > 0).sum())],
            ),
            Wrong("You return logits, or their logarithms: a softmax is missing.", lambda *g: _filtered(*g).log()),
            Wrong("You left top_p out.", lambda logits, t, k, _: _filtered(logits, t, k, 1.0)),
            Wrong("You left top_k out.", lambda logits, t, _, p: _filtered(logits, t, len(logits), p)),
        ),
        hints=(
            "Begin with shares = torch.softmax(logits / temperature, -1). Each cut sets some of them to 0, and divides "
            "by the sum of the others.",
            "top_k: keep what is not below the k-th largest share, shares.topk(top_k)[0][-1]. top_p: sort, "
            "order = shares.argsort(descending=True), and sum up, shares[order].cumsum(0).",
            "A token stays if the sum of those before it is below p: before = shares[order].cumsum(0) - shares[order]; "
            "shares[order[before >= top_p]] = 0.",
        ),
        stands="generation/processors.py, keep_top_p (and divide_by, keep_top_k)",
    ),
    Exercise(
        number="7.5",
        asks="sample(model, ids, steps, seed, temperature, top_k, top_p): a text that is drawn",
        cases=some_prompts,
        right=_sampled,
        wrong=(
            Wrong(
                "You make a new generator in each step, which draws the same number each time. One serves the whole "
                "text.",
                _loop(reseeds=True),
            ),
            Wrong(
                "You took the most probable token each time; draw it.",
                _loop(choose=lambda shares, _: shares.argmax(-1, keepdim=True)),
            ),
            Wrong(
                "You took the logits of place 0; those of the next token stand at the last place.",
                _loop(place=0),
            ),
            Wrong(
                "You gave the model its last token only. Without a cache it must read the whole text again.",
                _loop(only_last=True),
            ),
            Wrong(
                "You drew from the model's own probabilities: sample_filter is missing.",
                _loop(shares_of=lambda logits, *_: torch.softmax(logits, -1)),
            ),
            Wrong(
                "The loop is right, but the filter drops the token with which the sum reaches p: see 7.4.",
                _loop(shares_of=lambda logits, t, k, p: _by_hand(logits, t, k, p, more=0 if p == 1 else -1)),
            ),
            Wrong(
                "You draw with another generator than the one with this seed: pass generator=generator to multinomial.",
                _loop(choose=lambda shares, _: torch.multinomial(shares, 1)),
            ),
            Wrong(
                "The prompt is missing from your result: give the whole text.",
                lambda model, ids, *given: _sampled(model, ids, *given)[ids.shape[1] :],
            ),
        ),
        hints=(
            "Make the generator before the loop: torch.Generator().manual_seed(seed).",
            "In each step: the logits of the last place, your sample_filter, and "
            "torch.multinomial(shares, 1, generator=generator).",
            "What was drawn, int [1], is put behind the text: ids = torch.cat([ids, drawn[None]], dim=1).",
        ),
        stands="generation/sample.py, sampled",
    ),
)
