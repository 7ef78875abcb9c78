"""The logit lens: what the language model's head makes of the residual stream after each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens import figures
from minitransformer.lens.answers import language_model, masked_places
from minitransformer.lens.result import Result
from minitransformer.lens.stream import read_out, stages
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import LayersTab, Tab
from minitransformer.lens.words import bar, visible
from minitransformer.pretrained import Pretrained
from minitransformer.reading import tokens_of
from minitransformer.tasks.inference import inference
from minitransformer.text import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 32  # positions, in a figure
PREDICTED = {"masked-lm": "the token at this place", "causal-lm": "the next token", "seq2seq-lm": "the next token"}


@dataclass(frozen=True, eq=False)
class LogitLens(Result):
    """What the head predicts at each place, were the model to stop at each stage. R stages, T places, k tokens."""

    predicted: str  # "the next token", "the token at this place"
    stages: tuple[str, ...]  # R: "embedding", "block 0", …; the last is the model's output
    tokens: tuple[str, ...]  # T: what the stack reads
    masked: tuple[int, ...]  # the positions of mask tokens
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...]  # [R][T][k]
    probabilities: Tensor  # [R T k], theirs
    final_ranks: Tensor  # int [R T]: which place the final prediction has at each stage, from 1
    final_probabilities: Tensor  # [R T], its probability there

    @property
    def title(self) -> str:
        """The headline."""
        return f"Logit lens: {self.predicted} after each block"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this does not show."""
        return (
            "The head was trained on the last block's stream alone: what an earlier block knows in other directions, "
            "it cannot read (Belrose et al. 2023).",
        )

    def table(self) -> Table:
        """A row for each stage and position."""
        candidates = [column for k in range(self.probabilities.shape[2]) for column in (f"top {k + 1}", f"p {k + 1}")]
        rows = [
            (stage, place, token, place in self.masked, self._rank(r, place), self._probability(r, place), *tops)
            for r, stage in enumerate(self.stages)
            for place, token in enumerate(self.tokens)
            for tops in [[each for pair in self._top(r, place) for each in pair]]
        ]
        final = ("rank of the final", "its probability")
        return Table(("stage", "position", "token", "masked", *final, *candidates), tuple(rows))

    def text(self) -> str:
        """Stage by stage, the masked positions; without any, the last one."""
        return "\n\n".join(self._story(place) for place in self.masked or (len(self.tokens) - 1,))

    def figure(self) -> Figure:
        """A grid of the first tokens, stages × positions; the darker, the more probable."""
        places = self._drawn()
        title = self.title if len(places) == len(self.tokens) else f"{self.title} ({len(places)} positions)"
        best = self.probabilities[:, places, 0]  # [R places]
        columns = [self.tokens[place] for place in places]
        figure = figures.heatmap(best, self.stages, columns, title=title, row_name="stage", column_name="token")
        figure.set_size_inches(2.6 + 0.8 * len(places), 1.8 + 0.3 * len(self.stages))
        axes = figure.axes[0]
        for r in range(len(self.stages)):
            for column, place in enumerate(places):
                word = figures.drawable(self.top_tokens[r][place][0], 10)
                colour = "w" if best[r, column] > 0.55 * best.max() else "k"
                how = figures.plain_text(word)
                axes.text(column, r, word, ha="center", va="center", fontsize=7, color=colour, **how)
        return figure

    def tabs(self) -> tuple[Tab, ...]:
        """The page's view of layers."""
        where = "at" if self.predicted == PREDICTED["masked-lm"] else "after"
        place = (*self.masked, len(self.tokens) - 1)[0]
        return (LayersTab(self.stages, self.tokens, self.top_tokens, self.probabilities, where, place),)

    def facts(self) -> dict[str, object]:
        """Which positions are masked."""
        return {"predicted": self.predicted, "masked": list(self.masked)}

    def _story(self, place: int) -> str:
        """One position, stage by stage."""
        rows = []
        for r, stage in enumerate(self.stages):
            rank, probability = self._rank(r, place), self._probability(r, place)
            top = [f"{share:.2f} {token}" for token, share in self._top(r, place)]
            rows.append((stage, rank, probability, bar(probability, 1.0, 10), *top))
        final = self.top_tokens[-1][place][0]
        head = visible(f"position {place} ({self.tokens[place]}): the model predicts {final}")
        tops = [f"top {k + 1}" for k in range(self.probabilities.shape[2])]
        table = Table(("stage", "its rank", "its probability", "", *tops), tuple(rows))
        return f"{head}\n{table}"

    def _drawn(self) -> list[int]:
        """The positions in a figure: all, if they are few; else the masked ones or the last."""
        every = list(range(len(self.tokens)))
        return every if len(every) <= MOST_DRAWN else list(self.masked[:MOST_DRAWN]) or every[-MOST_DRAWN:]

    def _rank(self, stage: int, place: int) -> int:
        return int(self.final_ranks[stage, place])

    def _probability(self, stage: int, place: int) -> float:
        return float(self.final_probabilities[stage, place])

    def _top(self, stage: int, place: int) -> list[tuple[str, float]]:
        shares: list[float] = self.probabilities[stage, place].tolist()
        return list(zip(self.top_tokens[stage][place], shares, strict=True))


def logit_lens(
    model: Pretrained, text: str, pair: str | None = None, *, target: str | None = None, top: int = 5
) -> LogitLens:
    """What the head makes of the stream after each block, through the final norm where there is one.

    Of two stacks, the decoder's stream; `target`: what it is to write, by default what the model writes. `top`: how
    many tokens to keep at each place. An InputError for a model whose head gives no logits over tokens.
    nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    predicted = PREDICTED[language_model(model, "logit lens").task]
    reading = model.read(text, pair, target=target)
    with inference(model.transformer):
        stream = stages(model.transformer, reading.batch)
        last = read_out(model.transformer, stream[next(reversed(stream))])[0]  # [T V]: the model's own logits
        top = _checked(top, last.shape[-1])
        final = last.topk(1).indices  # [T 1]
        read = [_read(read_out(model.transformer, x)[0], final, top) for x in stream.values()]
    ids, shares, ranks, probabilities = (torch.stack(each).cpu() for each in zip(*read, strict=True))
    return LogitLens(
        predicted=predicted,
        stages=tuple(stream),
        tokens=reading.tokens if reading.decoder_tokens is None else reading.decoder_tokens,
        masked=masked_places(model, reading),
        top_tokens=_words(model.tokenizer.target, ids),
        probabilities=shares,
        final_ranks=ranks,
        final_probabilities=probabilities,
    )


def _read(logits: Tensor, final: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The top tokens' ids and probabilities, [T k] each, and the final prediction's rank and probability, [T] each."""
    probabilities = logits.to(torch.float32).softmax(-1)  # [T V]
    shares, ids = probabilities.topk(top)  # [T k]
    rank = 1 + (logits > logits.gather(1, final)).sum(-1)  # [T]
    return ids, shares, rank, probabilities.gather(1, final)[:, 0]


def _words(tokenizer: Tokenizer, ids: Tensor) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The token of each id: int [R T k] -> [R][T][k]."""
    return tuple(tuple(tokens_of(tokenizer, place[None]) for place in stage) for stage in ids)


def _checked(top: int, vocabulary: int) -> int:
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= vocabulary:
        raise InputError(f"top: got {top!r}, expected how many tokens to keep, 1 to {vocabulary}")
    return top
