"""What is done to the scores of the next token before one is chosen: each rule is a function of text and scores.

A processor takes ids, int [R T], the R texts so far, and their scores, float [R V], and returns new scores. They run in
a fixed order, which is part of the result. What has score -∞ is not chosen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from minitransformer.generation.settings import GenerationConfig

Processor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lengths:
    """The lengths of a decoding, in tokens."""

    prompt: int
    shortest: int  # before it, no end token
    longest: int


def processors(config: GenerationConfig, lengths: Lengths, attention_mask: Tensor | None = None) -> list[Processor]:
    """The rules that `config` asks for, in transformers' order. attention_mask [R prompt], where texts are padded."""
    found: list[Processor] = []
    if config.repetition_penalty != 1:
        padding = None if attention_mask is None else (attention_mask != 0).int().argmax(1)  # [R], on the left
        found.append(partial(penalise_repetition, penalty=config.repetition_penalty, padding=padding))
    if config.no_repeat_ngram_size:
        found.append(partial(forbid_repeated_ngrams, size=config.no_repeat_ngram_size))
    if config.bad_words_ids:
        # An end token cannot be a bad word: the text could not end.
        ends = {(end,) for end in config.eos_token_id or ()}
        found += [partial(forbid_sequence, sequence=word) for word in config.bad_words_ids if word not in ends]
    if config.eos_token_id and lengths.shortest:
        found.append(partial(forbid_before, tokens=config.eos_token_id, length=lengths.shortest))
    if config.forced_bos_token_id is not None:
        found.append(partial(force_at, tokens=(config.forced_bos_token_id,), length=1))
    if config.forced_eos_token_id is not None:
        found.append(partial(force_at, tokens=config.forced_eos_token_id, length=lengths.longest - 1))
    if config.suppress_tokens:
        found.append(partial(forbid, tokens=config.suppress_tokens))
    if config.begin_suppress_tokens:
        # After a forced first token, the second one counts as the first.
        begin = lengths.prompt + (lengths.prompt == 1 and config.forced_bos_token_id is not None)
        found.append(partial(forbid_at, tokens=config.begin_suppress_tokens, length=begin))
    if config.do_sample:
        # A beam search drops what has ended, and needs another token to go on with.
        keep = 1 if config.num_beams == 1 else 1 + len(config.eos_token_id or (None,))
        if config.temperature != 1:
            found.append(partial(divide_by, temperature=config.temperature))
        if config.top_k:
            found.append(partial(keep_top_k, k=max(config.top_k, keep)))
        if config.top_p < 1:
            found.append(partial(keep_top_p, p=config.top_p, least=keep))
        if config.min_p is not None:
            found.append(partial(keep_min_p, p=config.min_p, least=keep))
    if config.renormalize_logits:
        found.append(lambda ids, scores: scores.log_softmax(-1))
    return found


def process(found: Sequence[Processor], ids: Tensor, scores: Tensor) -> Tensor:
    """The scores after all rules: ids [R T], scores [R V] -> [R V]."""
    for processor in found:
        scores = processor(ids, scores)
    return scores


def penalise_repetition(ids: Tensor, scores: Tensor, *, penalty: float, padding: Tensor | None) -> Tensor:
    """Lower the score of each token that is there already: divide a positive score by the penalty, multiply a negative.

    Keskar et al. 2019, "CTRL", section 4.1, which divides whatever the sign. `padding` [R]: so many tokens at the start
    do not count.
    """
    spare = scores.shape[1]  # a column behind the vocabulary, for what does not count
    if padding is not None:
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) < padding[:, None], spare)
    there = torch.zeros(len(scores), spare + 1, dtype=torch.bool, device=scores.device).scatter_(1, ids, True)
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(there[:, :spare], penalised, scores)


def forbid_repeated_ngrams(ids: Tensor, scores: Tensor, *, size: int) -> Tensor:
    """No n-gram twice: forbid each token that came after the last size - 1 tokens before. Paulus et al. 2017, sec. 2.5.

    Padding before the text counts as a token.
    """
    if ids.shape[1] < size:
        return scores
    windows = ids.unfold(1, size, 1)  # [R T-size+1 size]
    last = ids[:, ids.shape[1] - size + 1 :]  # [R size-1]
    same = (windows[..., :-1] == last[:, None]).all(-1)  # [R T-size+1]
    rows, places = same.nonzero(as_tuple=True)
    scores = scores.clone()
    scores[rows, windows[rows, places, -1]] = -math.inf
    return scores


def forbid_sequence(ids: Tensor, scores: Tensor, *, sequence: tuple[int, ...]) -> Tensor:
    """Forbid the last token of `sequence` where the others were the last to come."""
    *before, last = sequence
    if len(before) > ids.shape[1] or last >= scores.shape[1]:
        return scores
    tail = ids[:, ids.shape[1] - len(before) :]  # [R len(before)]
    scores = scores.clone()
    scores[(tail == ids.new_tensor(before)).all(1), last] = -math.inf
    return scores


def forbid(ids: Tensor, scores: Tensor, *, tokens: Sequence[int]) -> Tensor:
    """Forbid these tokens."""
    known = [token for token in tokens if token < scores.shape[1]]
    return scores.index_fill(1, torch.tensor(known, device=scores.device, dtype=torch.int64), -math.inf)


def forbid_before(ids: Tensor, scores: Tensor, *, tokens: Sequence[int], length: int) -> Tensor:
    """Forbid these tokens while the text is shorter than `length`."""
    return forbid(ids, scores, tokens=tokens) if ids.shape[1] < length else scores


def forbid_at(ids: Tensor, scores: Tensor, *, tokens: Sequence[int], length: int) -> Tensor:
    """Forbid these tokens when the text has `length` tokens."""
    return forbid(ids, scores, tokens=tokens) if ids.shape[1] == length else scores


def force_at(ids: Tensor, scores: Tensor, *, tokens: Sequence[int], length: int) -> Tensor:
    """Allow only these tokens, all alike, when the text has `length` tokens."""
    if ids.shape[1] != length:
        return scores
    forced = torch.full_like(scores, -math.inf)
    forced[:, list(tokens)] = 0
    return forced


def divide_by(ids: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    """Below 1 the probable tokens become more probable, above 1 less. Ackley et al. 1985."""
    return scores / temperature


def keep_top_k(ids: Tensor, scores: Tensor, *, k: int) -> Tensor:
    """Forbid all but the k most probable tokens. Fan et al. 2018, "Hierarchical … Generation", section 5.4."""
    least = scores.topk(min(k, scores.shape[1]))[0][:, -1:]  # [R 1]
    return scores.masked_fill(scores < least, -math.inf)


def keep_top_p(ids: Tensor, scores: Tensor, *, p: float, least: int = 1) -> Tensor:
    """Forbid all but the fewest tokens whose probabilities sum to p or more. Holtzman et al. 2019, section 3.1."""
    ascending, order = scores.sort()
    unlikely = ascending.softmax(-1).cumsum(-1) <= 1 - p  # [R V]
    unlikely[:, -least:] = False
    return scores.masked_fill(torch.empty_like(unlikely).scatter_(1, order, unlikely), -math.inf)


def keep_min_p(ids: Tensor, scores: Tensor, *, p: float, least: int = 1) -> Tensor:
    """Forbid tokens less probable than p times the most probable. Nguyen et al. 2024, "… Min-p Sampling …"."""
    probabilities = scores.softmax(-1)
    unlikely = probabilities < p * probabilities.amax(-1, keepdim=True)  # [R V]
    best = probabilities.topk(min(least, scores.shape[1]))[1]
    return scores.masked_fill(unlikely.scatter_(1, best, False), -math.inf)
