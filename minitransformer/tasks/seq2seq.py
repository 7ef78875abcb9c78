"""A text for a text: translations and summaries. Sutskever et al. 2014; Vaswani et al. 2017."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.generation import GenerationConfig, generate
from minitransformer.metrics import bleu, chrf, rouge
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.task import Criterion, Example, Kind, Row, columns_row, pad, token_labels
from minitransformer.text import Batch, Tokenizer, with_text


@dataclass(frozen=True)
class Written:
    """A text, and what a model writes for it."""

    source: str
    text: str

    def __str__(self) -> str:
        return self.text


class Seq2Seq:
    """Rows: source and target, a text and what is to be written for it. `Translate` and `Summarize` say how to score.

    prefix: put before each source; a T5 is told so what to do: "translate English to German: ". A source is cut to
    `max_length` tokens, a target to `max_target_length`. generation: how to write, but for the end and the length.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
        *,
        prefix: str = "",
        max_target_length: int = 128,
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008, likewise
    ) -> None:
        if tokenizer.target.eos_token_id is None:
            raise TokenizerError("this tokenizer has no end token, and a model could not learn where to stop; add one")
        if max_target_length < 2:
            raise InputError(f"max_target_length: got {max_target_length}, expected 2 or more: a token, and the end")
        if max(generation.min_length - 1, generation.min_new_tokens or 0) >= max_target_length:
            raise InputError(
                f"max_target_length: got {max_target_length}, but the model is to write more (min_length or "
                f"min_new_tokens, in generation_config.json); raise it, or say generation='min_length=0'"
            )
        self.tokenizer, self.max_length, self.criterion = tokenizer, max_length, criterion
        self.prefix, self.max_target_length, self.generation = prefix, max_target_length, generation
        self.end = tokenizer.target.eos_token_id

    def row(self, given: Any) -> Row:
        """A row of a source, or of columns."""
        if isinstance(given, str):
            return Row(source=given, where="a text")
        return columns_row(given, "a text")

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is the token ids of what is to be written, the end token included."""
        if not rows:
            return []
        sources = self.tokenizer.encodings([self.prefix + row.text("source") for row in rows])
        wanted = [self.written(row) if targets else None for row in rows]
        examples: list[Example] = []
        for place, (source, target) in enumerate(zip(sources, wanted, strict=True)):
            if not source.ids:
                raise DataError(f"{rows[place].where}: the tokenizer finds no token in {rows[place]['source']!r:.60}")
            inputs = self.tokenizer.cut(source, self.max_length)
            lost = len(source.ids) - len(inputs["input_ids"])
            if target is not None and len(target) > self.max_target_length:
                lost += len(target) - self.max_target_length
                target = [*target[: self.max_target_length - 1], self.end]
            examples.append(Example(place, inputs, target, lost, written=len(target or ())))
        return examples

    def written(self, row: Row) -> list[int]:
        """The token ids of a row's target in full, with an end token."""
        ids = self.tokenizer.target.encode(row.text("target"))
        return ids if ids[-1:] == [self.end] else [*ids, self.end]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B S]; labels int [B T], from which the model makes what its decoder reads."""
        batch = pad(self.tokenizer, examples)
        if examples[0].target is not None:
            batch["labels"] = token_labels(examples, max(len(example.target) for example in examples))
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of target tokens."""
        return self.criterion.count(batch["labels"])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy of the target's tokens, each given those before it."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[str]:
        """The text that the model writes for each source."""
        config, target = self.writing(model), self.tokenizer.target
        ids = generate(model, batch["input_ids"], batch.get("attention_mask"), config=config, tokenizer=target)
        return [target.decode(with_text(target, row), skip_special_tokens=True) for row in ids.tolist()]

    def writing(self, model: Transformer) -> GenerationConfig:
        """How to write: one text for each source, the same each time, as long as targets are.

        Padding is never written: Marian's has the logit 0, which is more than most others have.
        """
        embed = (model.target_embed or model.embed).config
        positions = embed.max_length if isinstance(embed, TokenEmbeddingConfig) else None
        room = self.max_target_length if positions is None else positions - 1  # the first is the start token's
        padding = self.tokenizer.target.pad_token_id
        start = self.generation.decoder_start_token_id
        plain = GenerationConfig()
        search = self.generation if self.generation.num_beams > 1 else plain
        never = {*(self.generation.suppress_tokens or ()), *(() if padding in (None, self.end) else (padding,))}
        return replace(
            self.generation,
            do_sample=False,
            **{name: getattr(plain, name) for name in ("temperature", "top_k", "top_p", "min_p", "stop_strings")},
            **{name: getattr(search, name) for name in ("early_stopping", "length_penalty")},
            num_return_sequences=1,
            decoder_start_token_id=model.config.decoder_start_id if start is None else start,
            max_length=None,
            max_new_tokens=min(room, self.max_target_length),
            eos_token_id=(self.end,),
            pad_token_id=padding,
            suppress_tokens=tuple(sorted(never)) or None,
        )

    def answers(self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[str]) -> list[Written]:
        """What the model writes for each row."""
        return [Written(row["source"], text) for row, text in zip(rows, decoded, strict=True)]


class Translate(Seq2Seq):
    """Rows: source, and target, the same in another language."""

    kind: ClassVar = Kind(
        head="seq2seq-lm",
        metric="bleu",
        row_metric="chrf",
        inputs=("source",),
        targets=("target",),
        options=("label_smoothing", "prefix", "max_target_length", "generation"),
        learned="target tokens",
        pipeline="translation",
        example='model.predict(["It is late."])',
    )

    def score(self, answers: Sequence[Written], rows: Sequence[Row]) -> dict[str, float]:
        """BLEU and chrF."""
        found, right = [answer.text for answer in answers], [row.text("target") for row in rows]
        return {**bleu(found, right), **chrf(found, right)}


class Summarize(Seq2Seq):
    """Rows: source, and target, the same in fewer words."""

    kind: ClassVar = replace(
        Translate.kind,
        metric="rougeL",
        row_metric="rougeL",
        pipeline="summarization",
        example='model.predict(["A long text, which ends at last."])',
    )

    def score(self, answers: Sequence[Written], rows: Sequence[Row]) -> dict[str, float]:
        """ROUGE."""
        return rouge([answer.text for answer in answers], [row.text("target") for row in rows])
