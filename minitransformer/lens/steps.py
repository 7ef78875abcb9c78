"""The steps of one head's computation for one query, each held against the model's own numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minitransformer.lens.tabs import Product, Step
from minitransformer.lens.words import aligned, cell, fit
from minitransformer.model.weights import Weights
from minitransformer.modules import MultiHeadAttention
from minitransformer.ops import BOOKS

# The lines of the source that compute each step: what a reader finds in modules/ and ops/by_hand.py.
CODE = {
    "x": "return norm(x + sublayer(x))",
    "x pre": "return x + sublayer(norm(x))",
    "y": "source = x if memory is None else memory",
    "q": "q = self.split_heads(self.q(x))",
    "k": "k, v = self.split_heads(self.k(source)), self.split_heads(self.v(source))",
    "normed q": "q = self.q_norm(q)",
    "normed k": "k = self.k_norm(k)",
    "turned q": "q = self.book.rotary(q, *rotation)",
    "turned k": "k = self.book.rotary(k, *rotation)",
    "scores": "scores = q @ k.transpose(-2, -1) * scale",
    "biased": "return scores if bias is None else scores + bias",
    "masked": "scores = scores.masked_fill(~mask, -math.inf)",
    "weights": "return e / e.sum(-1, keepdim=True).clamp(min=1)",
    "z": "return drop(weights, dropout) @ v",
    "result": "return self.book.drop(self.o(self.merge_heads(z)), self.dropout if self.training else 0.0)",
}


class Steps:
    """The steps so far; each is held against what the model computed."""

    def __init__(
        self,
        weights: Weights,
        attn: MultiHeadAttention,
        layer: int,
        head: int,
        place: int,
        query_tokens: tuple[str, ...],
        key_tokens: tuple[str, ...],
    ) -> None:
        self.weights, self.attn, self.at, self.place = weights, attn, (layer, head), place
        self.asking, self.keys = (query_tokens[place],), key_tokens
        self.found: list[Step] = []
        self.max_error = 0.0

    def add(
        self,
        symbol: str,
        formula: str,
        code: str,
        letters: str,
        value: Tensor,
        *,
        again: Tensor | None = None,
        rows: tuple[str, ...] | None = None,
        columns: tuple[str, ...] = (),
        note: str = "",
        product: Product | None = None,
    ) -> None:
        """A step, and how far its numbers are from those that were computed `again`."""
        if again is not None:
            finite = value.isfinite() & again.isfinite()
            apart = (value - again).abs()[finite].amax().item() if finite.any() else 0.0
            largest = max(1.0, value[finite].abs().amax().item() if finite.any() else 0.0)
            same = torch.equal(value.isfinite(), again.isfinite())
            self.max_error = max(self.max_error, apart / largest if same else math.inf)
        sizes = " ".join(map(str, value.shape))
        rows = self.asking if rows is None else rows
        self.found.append(
            Step(symbol, formula, CODE[code], f"[{letters}] = [{sizes}]", value, rows, columns, note, product)
        )

    def inputs(self, x: Tensor, y: Tensor, *, pre: bool, crosses: bool) -> None:
        """The query's vector; the keys', too, where they are others."""
        self.x, self.y = x[self.place][None], y  # [1 D], [S D]
        note = "the stream, normalised" if pre else "the stream itself: its norm comes behind the attention"
        self.add("x", "x", "x pre" if pre else "x", "1 D", self.x, note=note)
        name = "the encoder's output" if crosses else "all tokens, the query's among them"
        self.add("y", "y", "y", "S D", y, rows=self.keys, note=name)

    def projections(self, seen: dict[str, Tensor]) -> None:
        """q, k and v, and what norms and positions make of them."""
        for symbol, source, name in (("q", self.x, "x"), ("k", self.y, "y"), ("v", self.y, "y")):
            w, b = (getattr(self.weights, f"{kind}_{symbol.upper()}")[self.at] for kind in "Wb")  # [D E], [E]
            value = seen[symbol][self.place][None] if symbol == "q" else seen[symbol]
            product = Product(name, f"W_{symbol.upper()}", source, w, plus=b[None])
            biased = f" + b_{symbol.upper()}" if b.any() else ""
            self.add(
                symbol,
                f"{symbol} = {name} W_{symbol.upper()}{biased}",
                "k" if symbol == "v" else symbol,
                "1 E" if symbol == "q" else "S E",
                value,
                again=(source.double() @ w.double() + b.double()).to(value),
                rows=None if symbol == "q" else self.keys,
                product=product,
            )
        self.q, self.k, self.v = seen["q"][self.place][None], seen["k"], seen["v"]
        self._normed()
        self._turned(seen)

    def _normed(self) -> None:
        """Queries and keys by the norm of a head, where the model has one."""
        for symbol, norm in (("q", self.attn.q_norm), ("k", self.attn.k_norm)):
            if norm is not None:
                value = norm(getattr(self, symbol))
                again = BOOKS["by_hand"].rms_norm(getattr(self, symbol), norm.weight, norm.eps)
                setattr(self, symbol, value)
                rows = None if symbol == "q" else self.keys
                letters = "1 E" if symbol == "q" else "S E"
                formula = f"{symbol} / √(mean of {symbol}² + ε) · gain"
                self.add(f"{symbol} normed", formula, f"normed {symbol}", letters, value, again=again, rows=rows)

    def _turned(self, seen: dict[str, Tensor]) -> None:
        """Queries and keys turned by their positions, where these are rotary."""
        if "rot_q" in seen:
            self.q, self.k = seen["rot_q"][self.place][None], seen["rot_k"]
            note = "each pair of numbers is turned by an angle that grows with the position; lengths stay"
            self.add("q turned", "rotary(q)", "turned q", "1 E", self.q, note=note)
            self.add("k turned", "rotary(k)", "turned k", "S E", self.k, rows=self.keys, note=note)

    def scores(self, seen: dict[str, Tensor], bias: Tensor | None) -> None:
        """How well the query fits each key, what position and mask make of it, and the softmax."""
        masked = seen["attn_scores"][self.place][None]  # [1 S]
        by_hand, scale = BOOKS["by_hand"], self.attn.scale
        fits = by_hand.attention_scores(self.q[None, None], self.k[None, None], scale=scale)[0, 0]  # [1 S]
        plain = fits + (0 if bias is None else bias)
        hidden = masked.isneginf()
        product = Product("q", "kᵀ", self.q, self.k.T, factor=scale)
        self.add("scores", f"q kᵀ · {scale:.4g}", "scores", "1 S", fits, columns=self.keys, product=product)
        if bias is not None:
            self.add("biased", "scores + bias of the distance", "biased", "1 S", plain, columns=self.keys)
        count = int(hidden.sum())
        note = f"{count} of {hidden.numel()} keys are hidden from this query" if count else "nothing is hidden here"
        again = plain.masked_fill(hidden, -math.inf)
        self.add(
            "masked",
            "-∞ where the query may not look",
            "masked",
            "1 S",
            masked,
            again=again,
            columns=self.keys,
            note=note,
        )
        weights = seen["pattern"][self.place][None]
        again = by_hand.softmax(masked)
        formula = "weightⱼ = exp(scoreⱼ) / Σ exp(score)"
        self.add("weights", formula, "weights", "1 S", weights, again=again, columns=self.keys, note="they sum to 1")
        self.pattern = weights

    def outputs(self, seen: dict[str, Tensor]) -> None:
        """The mixed values, and what the head writes into the stream."""
        z, result = seen["z"][self.place][None], seen["result"][self.place][None]  # [1 E], [1 D]
        again = (self.pattern.double() @ self.v.double()).to(z)
        self.add(
            "z", "z = Σⱼ weightⱼ vⱼ", "z", "1 E", z, again=again, product=Product("weights", "v", self.pattern, self.v)
        )
        w = self.weights.W_O[self.at]  # [E D]
        note = "the heads' results and b_O, added up, are what the attention adds to the stream"
        again = (z.double() @ w.double()).to(result)
        product = Product("z", "W_O", z, w)
        self.add("result", "result = z W_O", "result", "1 D", result, again=again, note=note, product=product)


def step_text(step: Step, most: int = 8) -> str:
    """A step on a terminal: its formula, its line, its first numbers."""
    values = step.value if len(step.value) <= most else step.value[:most]
    rows = [
        [fit(label, 20), *(cell(float(x)) for x in row[:most].tolist()), "…" * (len(row) > most)]
        for label, row in zip(step.row_labels, values, strict=False)
    ]
    header = [["", *(fit(label, 10) for label in step.column_labels[:most]), ""]] if step.column_labels else []
    width = len(rows[0])
    header = [[*line[: width - 1], *[""] * (width - len(line[: width - 1]))] for line in header]
    lines = aligned([*header, *rows], [False, *[True] * (width - 1)])
    rest = len(step.value) - most
    more = f"\n… and {rest} {'row' if rest == 1 else 'rows'} more" if rest > 0 else ""
    note = f"  ({step.note})" if step.note else ""
    return f"{step.formula}    {step.shape}{note}\n  {step.code}\n{lines}{more}"
