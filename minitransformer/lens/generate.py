"""How a decoder chooses: at each step the next token's probabilities, before and after temperature, top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.generate import go_on
from minitransformer.generation.look_back import look_back
from minitransformer.generation.prompt import Prompt, check_model, prepare
from minitransformer.generation.settings import GenerationConfig, settings
from minitransformer.generation.texts import decode, encode
from minitransformer.generation.write import check_seed
from minitransformer.lens import figures
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import TableTab
from minitransformer.lens.words import bar
from minitransformer.reading import tokens_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.pretrained import Pretrained

SHOWN = 20  # candidates in a figure
RIVALS = 3  # in a line of the table


@dataclass(frozen=True, eq=False)
class NextTokens(Result):
    """The steps of one text, N of them, each with its K most probable tokens."""

    written: str  # the prompt's first, of a decoder alone
    prompt_tokens: tuple[str, ...]  # what the decoder read first
    tokens: tuple[str, ...]  # N, drawn one after the other
    candidates: tuple[tuple[str, ...], ...]  # [N][K], the most probable first, by the model itself
    candidate_ids: Tensor  # int [N K]
    before: Tensor  # [N K], the model's own probabilities
    after: Tensor  # [N K], after temperature, top-k, top-p and the checkpoint's other rules: what was drawn from
    drawn_ids: Tensor  # int [N]
    drawn_before: Tensor  # [N], the probability of the token that was drawn
    drawn_after: Tensor  # [N]
    rank: Tensor  # int [N], of the token that was drawn, in the model's own order; 1 is the most probable
    kept: Tensor  # int [N], how many tokens the cut left to draw from
    left_out: Tensor  # [N], the probability, after temperature, of those that it cut off
    settings: dict[str, Any]  # temperature, top_k, top_p, seed

    @property
    def title(self) -> str:
        """What was written, and how."""
        return f"Next tokens ({', '.join(f'{name} {value}' for name, value in self.settings.items())})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What one text does not show."""
        return (
            "One text that was drawn: another seed draws another.",
            "before: the model's own probability. left out: how probable, after temperature, all that was cut off is.",
        )

    def table(self) -> Table:
        """A row for each step: the token drawn, its probabilities and rank, what the cut kept, the nearest rivals."""
        rows = []
        for step, token in enumerate(self.tokens):
            rivals = " ".join(each for each in self.candidates[step][: RIVALS + 1] if each != token)
            chances = (float(self.drawn_before[step]), float(self.drawn_after[step]), int(self.rank[step]))
            rows.append((step, token, *chances, int(self.kept[step]), float(self.left_out[step]), rivals))
        return Table(("step", "token", "before", "after", "rank", "kept", "left out", "rivals"), tuple(rows))

    def candidates_table(self) -> Table:
        """A row for each candidate of each step."""
        rows = [
            (step, place + 1, token, before, after, int(self.candidate_ids[step, place]) == int(self.drawn_ids[step]))
            for step, names in enumerate(self.candidates)
            for place, (token, before, after) in enumerate(
                zip(names, self.before[step].tolist(), self.after[step].tolist(), strict=True)
            )
        ]
        return Table(("step", "rank", "token", "before", "after", "drawn"), tuple(rows))

    def text(self) -> str:
        """The steps, with a bar for the probability that each token was drawn with."""
        table = self.table()
        rows = (
            (*row[:4], bar(chance, 1.0, 10), *row[4:])
            for row, chance in zip(table.rows, self.drawn_after.tolist(), strict=True)
        )
        return str(Table((*table.columns[:4], "", *table.columns[4:]), tuple(rows)))

    def facts(self) -> dict[str, object]:
        """The text, the settings, and the candidates of each step."""
        candidates = self.candidates_table()
        return {
            "text": self.written,
            "settings": dict(self.settings),
            "prompt_tokens": list(self.prompt_tokens),
            "candidates": [dict(zip(candidates.columns, row, strict=True)) for row in candidates.rows],
        }

    def figure(self, step: int = 0) -> Figure:
        """The twenty most probable tokens of a step, before and after."""
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < len(self.tokens):
            raise InputError(f"step: got {step!r:.40}, expected one of 0 to {len(self.tokens) - 1}")
        return figures.bars(
            self.candidates[step][:SHOWN],
            self.before[step][:SHOWN].tolist(),
            others=self.after[step][:SHOWN].tolist(),
            names_of_both=("before", "after"),
            title=f"Step {step}, drawn: {self.tokens[step]}",
            value_name="probability",
        )

    def tabs(self) -> tuple[TableTab, ...]:
        """The steps, and all candidates."""
        return (TableTab("next tokens", self.table()), TableTab("candidates", self.candidates_table()))


def generate(
    model: Pretrained,
    prompt: str,
    *,
    max_new_tokens: int = 20,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    keep_top: int = 50,
) -> NextTokens:
    """Draw a text token by token, and keep what each was drawn from.

    The tokens and probabilities are those of `model.generate(prompt, do_sample=True, …)` with the same settings and
    seed. keep_top: how many of the most probable tokens to keep of each step.
    """
    check_model(model.transformer)
    check_seed(seed)
    if not isinstance(prompt, str):
        raise InputError(f"prompt: got a {type(prompt).__name__}, expected one text")
    if isinstance(keep_top, bool) or not isinstance(keep_top, int) or keep_top < 1:
        raise InputError(f"keep_top: got {keep_top!r:.40}, expected a whole number, 1 or more")
    chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    single = {"do_sample": True, "num_beams": 1, "num_return_sequences": 1}
    config = settings(model.generation_fields, {"max_new_tokens": max_new_tokens, **chosen, **single})
    batch = encode(model.transformer, model.tokenizer, [prompt], config)
    prepared = prepare(model.transformer, batch["input_ids"], batch["attention_mask"], config=config)
    sequence = go_on(model.transformer, prepared, config=config, tokenizer=model.tokenizer, seed=seed)
    written = decode(model.transformer, model.tokenizer, [prompt], batch["attention_mask"], sequence)[0]
    return _steps(model, prepared, sequence, config, written, keep_top, {**chosen, "seed": seed})


def _steps(
    model: Pretrained,
    prompt: Prompt,
    sequence: Tensor,
    config: GenerationConfig,
    written: str,
    keep_top: int,
    chosen: dict[str, Any],
) -> NextTokens:
    """Read the finished text again by the model's own rules, without the cut, and with it."""
    uncut = replace(config, top_k=0, top_p=1.0, min_p=None)
    own = GenerationConfig(max_new_tokens=config.max_new_tokens, do_sample=True, top_k=0)
    before, warm, after = (_probabilities(model, prompt, sequence, each) for each in (own, uncut, config))  # [N V]
    ids = sequence[0, prompt.ids.shape[1] :].cpu()  # [N]
    top = before.topk(min(keep_top, before.shape[1]))[1]  # [N K]
    target = model.tokenizer.target
    at = ids[:, None]
    return NextTokens(
        written=written,
        prompt_tokens=tokens_of(target, prompt.ids),
        tokens=tokens_of(target, ids[None]),
        candidates=tuple(tokens_of(target, row[None]) for row in top),
        candidate_ids=top,
        before=before.gather(1, top),
        after=after.gather(1, top),
        drawn_ids=ids,
        drawn_before=before.gather(1, at)[:, 0],
        drawn_after=after.gather(1, at)[:, 0],
        rank=1 + (before > before.gather(1, at)).sum(1),
        kept=(after > 0).sum(1),
        left_out=warm.masked_fill(after > 0, 0).sum(1),
        settings=chosen,
    )


def _probabilities(model: Pretrained, prompt: Prompt, sequence: Tensor, config: GenerationConfig) -> Tensor:
    """Of each token at each step, by these settings: [N V] on the CPU."""
    found = look_back(
        model.transformer, prompt, sequence, config, scores=True, attentions=False, tokenizer=model.tokenizer
    ).probabilities
    if found is None:
        raise InputError("generate: this model gives no logits over tokens")
    return torch.as_tensor(found[0]).cpu()
