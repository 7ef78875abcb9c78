"""Which number of an output is meant by the model's answer: the logit of a label, of a token at a place, of a span."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from minitransformer.config import (
    DoubleHeadsConfig,
    LanguageModelConfig,
    PretrainingConfig,
    QuestionAnsweringConfig,
    ReplacedTokensConfig,
    TokenClassificationConfig,
)
from minitransformer.errors import InputError, refuse
from minitransformer.lens.words import visible
from minitransformer.model import Output
from minitransformer.model.points import place_in
from minitransformer.pretrained import Pretrained
from minitransformer.reading import Reading, tokens_of
from minitransformer.text import Tokenizer

OF_TOKENS = ("masked-lm", "causal-lm", "seq2seq-lm", "pretraining", "double-heads")  # heads with logits over tokens


@dataclass(frozen=True)
class Answer:
    """A number of the output: one logit, or the sum of several."""

    name: str  # as titles say it: printable, whatever the token is
    places: tuple[tuple[str, tuple[int, ...]], ...]  # the field of Output, and where in it behind the batch

    def of(self, output: Output) -> Tensor:
        """The number, for each text of the batch. -> [B]."""
        return reduce(add, (getattr(output, field)[:, *place] for field, place in self.places))


def answer_of(
    model: Pretrained, reading: Reading, output: Output, answer: str | int | None, position: int | None
) -> Answer:
    """What `answer` and `position` mean to the model's head. Without an answer: what the model itself answers.

    Of a language model a token, of a classifier a label, of a classifier of tokens a label at a position. Of a head for
    spans the score of the best one, the logit of its first place + that of its last.
    """
    head = model.transformer.config.head
    if head is None:
        raise InputError("this model has no head, and so no answer to look at; load it with head=...")
    if isinstance(head, LanguageModelConfig | PretrainingConfig | DoubleHeadsConfig):
        return _token_answer(model, reading, output, answer, position)
    if isinstance(head, QuestionAnsweringConfig):
        refuse("this head's answer is the best span, the whole text's", answer=answer, position=position)
        return _span(reading, output)
    logits = _of("logits", output)
    if isinstance(head, TokenClassificationConfig | ReplacedTokensConfig):
        if position is None:
            raise InputError(f"position: this head judges each token, say which: {_numbered(reading.tokens)}")
        place = place_in("position", position, len(reading.tokens))
        where = f" at position {place} ({visible(reading.tokens[place])})"
        if isinstance(head, ReplacedTokensConfig):
            refuse("this head has one logit for each token", answer=answer)
            return Answer(f"the logit of having been replaced{where}", (("logits", (place,)),))
        label, name = _label(model, answer, logits[0, place])
        return Answer(f"the logit of {name}{where}", (("logits", (place, label)),))
    refuse("this head judges the whole", position=position)
    label, name = _label(model, answer, logits[0])
    return Answer(f"the logit of {name}", (("logits", (label,)),))


def language_model(model: Pretrained, what: str) -> LanguageModelConfig:
    """The head that gives logits over tokens. An InputError for a model without one."""
    lm = model.transformer.config.lm
    if lm is None:
        there = [head for head in model.family.classes if head in OF_TOKENS]
        heads = f"load it with one that has them: {', '.join(there)}" if there else "no head of this family has them"
        head = model.transformer.config.task
        raise InputError(f"{what}: it needs logits over tokens, and this model's head is {head!r}; {heads}")
    return lm


def token_id(tokenizer: Tokenizer, answer: str | int, vocabulary: int, name: str = "answer") -> int:
    """The one token that is meant: by its id, by a text that is one token, or as it stands in the vocabulary."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < vocabulary:
            raise InputError(f"{name}: got the id {answer}, expected 0 to {vocabulary - 1}")
        return answer
    if not isinstance(answer, str) or not answer:
        raise InputError(f"{name}: got {answer!r}, expected the text of one token, or its id")
    ids = tokenizer.encode(answer, add_special_tokens=False)
    if len(ids) == 1 and (ids[0] != tokenizer.unk_token_id or answer == tokenizer.special.get("unk_token")):
        return ids[0]
    as_it_stands = tokenizer.backend.token_to_id(answer)
    if as_it_stands is not None:
        return as_it_stands
    cut = ", ".join(repr(token) for token in tokens_of(tokenizer, torch.tensor([ids], dtype=torch.int64)))
    spaced = len(tokenizer.encode(f" {answer}", add_special_tokens=False)) == 1 and len(ids) > 1
    way_out = f"{' ' + answer!r}, with a space before it" if spaced else "one of its pieces (in Python, a token's id)"
    raise InputError(f"{name}: {answer!r:.80} is {cut:.200} to this tokenizer, expected one token; try {way_out}")


def masked_places(model: Pretrained, reading: Reading) -> tuple[int, ...]:
    """Where a masked language model is to guess: the places of the mask token. Of other models, none."""
    lm = model.transformer.config.lm
    if lm is None or lm.task != "masked-lm":
        return ()
    ids = reading.batch["input_ids"][0].tolist()
    return tuple(place for place, token in enumerate(ids) if token == model.tokenizer.mask_token_id)


def _token_answer(
    model: Pretrained, reading: Reading, output: Output, answer: str | int | None, position: int | None
) -> Answer:
    field = "logits" if output.prediction_logits is None else "prediction_logits"
    logits = _of(field, output)  # [1 T V], [1 1 T V] where there may be choices
    tokens = reading.tokens if reading.decoder_tokens is None else reading.decoder_tokens
    place = _place_in_text(model, reading, tokens, position)
    at = (0, place) if logits.ndim == 4 else (place,)
    tokenizer, scores = model.tokenizer.target, logits[0, *at]  # [V]
    token = int(scores.argmax()) if answer is None else token_id(tokenizer, answer, len(scores))
    shown = tokens_of(tokenizer, torch.tensor([[token]]))[0]
    name = visible(f"the logit of {shown} at position {place} ({tokens[place]})")
    return Answer(name, ((field, (*at, token)),))


def _place_in_text(model: Pretrained, reading: Reading, tokens: tuple[str, ...], position: int | None) -> int:
    """Where a language model's answer stands: the last place, or the only one that is masked."""
    if position is not None:
        return place_in("position", position, len(tokens))
    if model.transformer.config.lm is None or model.transformer.config.lm.task != "masked-lm":
        return len(tokens) - 1
    masked = masked_places(model, reading)
    if len(masked) != 1:
        mask = model.tokenizer.special.get("mask_token", "the mask token")
        raise InputError(
            f"position: the text has {mask} {len(masked)} times, expected once; put it in place of one word, or say "
            f"the position: {_numbered(tokens)}"
        )
    return masked[0]


def _span(reading: Reading, output: Output) -> Answer:
    """The span, in the second text where there is one, whose two logits have the largest sum."""
    first = reading.second or 0
    start, end = (_of(name, output)[0, first:] for name in ("start_logits", "end_logits"))  # [T]
    sums = (start[:, None] + end).masked_fill(
        torch.ones(len(start), len(start), device=start.device).tril(-1) > 0, -torch.inf
    )
    begin, last = (first + place for place in divmod(int(sums.argmax()), len(start)))
    span = visible(f"the span from {begin} ({reading.tokens[begin]}) to {last} ({reading.tokens[last]})")
    return Answer(f"the score of {span}", (("start_logits", (begin,)), ("end_logits", (last,))))


def _label(model: Pretrained, answer: str | int | None, logits: Tensor) -> tuple[int, str]:
    """A label's number and name; without an answer, those of the largest logit. logits [labels]."""
    names = model.labels if len(model.labels) == len(logits) else tuple(map(str, range(len(logits))))
    if answer is None:
        answer = int(logits.argmax())
    if isinstance(answer, str) and answer in names:
        answer = names.index(answer)
    if isinstance(answer, str) and re.fullmatch("[0-9]{1,9}", answer):  # as a command line gives a number
        answer = int(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(names):
        shown = visible(", ".join(names))
        raise InputError(f"answer: got {answer!r:.80}, expected a label, one of {shown:.400}, or its number")
    return answer, visible(names[answer])


def _of(field: str, output: Output) -> Tensor:
    found: Tensor = getattr(output, field)
    return found.detach()


def _numbered(tokens: tuple[str, ...]) -> str:
    """The places and their tokens, for messages."""
    some = [f"{place} {token!r:.20}" for place, token in enumerate(tokens[:40])]
    return ", ".join(some) + ("" if len(tokens) <= 40 else ", …")
