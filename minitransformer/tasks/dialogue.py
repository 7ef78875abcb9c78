"""Conversations: what the assistant says to what was said before. Only its answers are learned, not the questions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tokenizers import Encoding
from torch import Tensor

from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.model import Transformer
from minitransformer.model.heads import IGNORED, SumAndCount
from minitransformer.tasks.language import TokenLoss, of_rows, scores, token_losses
from minitransformer.tasks.task import Criterion, Example, Kind, Row, columns_row, pad, token_labels
from minitransformer.text import Batch, Tokenizer
from minitransformer.text.chat import choose

Messages = list[dict[str, Any]]


class Rendered(NamedTuple):
    """A conversation as text, and where in it, in characters, each answer begins and ends."""

    text: str
    answers: list[tuple[int, int]]


class Dialogue:
    """Rows: messages, a list of {"role": "system" | "user" | "assistant", "content": ...}.

    The tokenizer's chat template, or the one given, makes a text of them. An answer is what the template adds to the
    prompt that `model.chat` would give the model, up to and with the end by which the model says that it is done.
    Of a conversation that is too long the oldest turns are left out; of one turn that is too long, the end.
    """

    kind: ClassVar = Kind(
        head="causal-lm",
        metric="perplexity",
        row_metric="loss",
        inputs=("messages",),
        options=("label_smoothing", "chat_template"),
        learned="answers' tokens",
        pipeline="text-generation",
        example='"".join(model.chat().say("Hello!"))',
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
        *,
        chat_template: str | None = None,
    ) -> None:
        self.tokenizer, self.max_length, self.criterion = tokenizer, max_length, criterion
        self.template = choose(tokenizer.chat_template, chat_template)

    def row(self, given: Any) -> Row:
        """A row of messages, of what the user says, or of columns."""
        if isinstance(given, str):
            return Row(messages=[{"role": "user", "content": given}], where="a text")
        if isinstance(given, list):
            return Row(messages=given, where="a conversation")
        return columns_row(given, "messages, a text")

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is a label for each token, -100 where no answer stands."""
        if not targets:
            raise InputError("predict: a model answers, one message at a time; try chat: model.chat().say(text)")
        found: dict[int, Example] = {}
        sizes: dict[int, int] = {}  # each row's tokens in full
        waiting = {place: up_to_last_answer(row) for place, row in enumerate(rows)}
        while waiting:
            rendered = self.render([rows[place] for place in waiting], list(waiting.values()))
            encodings = self.tokenizer.encodings([text for text, _ in rendered], add_special_tokens=False)
            shorter = {}
            for place, (_, answers), encoding in zip(waiting, rendered, encodings, strict=True):
                sizes.setdefault(place, len(encoding.ids))
                surplus = self.surplus(encoding, answers)
                if surplus:
                    shorter[place] = without_oldest(waiting[place], surplus)
                else:
                    found[place] = self.example(place, rows[place].where, encoding, answers, sizes[place])
            waiting = shorter
        return [found[place] for place in range(len(rows))]

    def surplus(self, encoding: Encoding, answers: Sequence[tuple[int, int]]) -> int:
        """How many of the oldest turns to leave out, for the others to fit; the last one stays."""
        size = len(encoding.ids)
        if self.max_length is None or size <= self.max_length:
            return 0
        read = [
            sum(end <= last for _, end in encoding.offsets) for _, last in answers
        ]  # tokens up to each answer's end
        enough = (turns for turns, tokens in enumerate(read, 1) if size - tokens <= self.max_length)
        return min(next(enough), len(answers) - 1)

    def example(
        self, place: int, where: str, encoding: Encoding, answers: Sequence[tuple[int, int]], size: int
    ) -> Example:
        """A conversation as it is read, cut at the end if need be. size: how many tokens it had in full."""
        ids = encoding.ids[: self.max_length]
        labels = answer_labels(ids, encoding.offsets, answers)
        if set(labels[1:]) <= {IGNORED}:  # the first token is never predicted
            raise DataError(
                f"{where}: no token of an answer is among the first {len(ids)}; raise max_length, or leave the row out"
            )
        return Example(place, {"input_ids": ids}, labels, size - len(ids))

    def render(self, rows: Sequence[Row], conversations: Sequence[Messages]) -> list[Rendered]:
        """The text of each conversation, whose last message is an answer, in two calls for all of them."""
        places = [(which, at) for which, messages in enumerate(conversations) for at in answered(messages)]
        wheres = [rows[which].where for which, _ in places]
        prompts = self.texts([conversations[which][:at] for which, at in places], wheres, prompt=True)
        wholes = self.texts([conversations[which][: at + 1] for which, at in places], wheres, prompt=False)
        found = [Rendered("", [])] * len(conversations)
        for (which, _), prompt, whole, where in zip(places, prompts, wholes, wheres, strict=True):
            before = found[which]
            if not whole.startswith(prompt) or not whole.startswith(before.text):
                raise DataError(
                    f"{where}: the chat template changes what was said before when a message is added, so an answer "
                    f"cannot be told from its prompt; give another chat_template, or rows with one answer each"
                )
            found[which] = Rendered(whole, [*before.answers, (len(prompt), len(whole))])
        return found

    def texts(self, conversations: Sequence[Messages], wheres: Sequence[str], *, prompt: bool) -> list[str]:
        """Each conversation as a text; a DataError names the row that the template refuses.

        Where a call fails, its halves are tried: there may be too many conversations for one, or one that is wrong.
        """
        try:
            return self.tokenizer.apply_chat_template(
                conversations, add_generation_prompt=prompt, chat_template=self.template
            )
        except TokenizerError as error:
            if len(conversations) == 1:
                raise DataError(f"{wheres[0]}: {error}") from None
        half = len(conversations) // 2
        first = self.texts(conversations[:half], wheres[:half], prompt=prompt)
        return first + self.texts(conversations[half:], wheres[half:], prompt=prompt)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and labels int [B T], -100 where no answer stands."""
        batch = pad(self.tokenizer, examples)
        batch["labels"] = token_labels(examples, batch["input_ids"].shape[1])
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of answers' tokens."""
        return self.criterion.count(batch["labels"][:, 1:])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy of the answers' tokens, each given all tokens before it."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[TokenLoss]:
        """How well each conversation's answers are predicted."""
        return token_losses(model, batch)

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[TokenLoss]
    ) -> list[TokenLoss]:
        """How well each row's answers are predicted."""
        return of_rows(rows, examples, decoded)

    def score(self, answers: Sequence[TokenLoss], rows: Sequence[Row]) -> dict[str, float]:
        """Loss and perplexity of the answers."""
        return scores(answers)


def up_to_last_answer(row: Row) -> Messages:
    """A row's messages, checked, up to the last that answers another."""
    messages = row.get("messages")
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"{row.where}: 'messages' is {messages!r:.60}, expected a list of messages")
    for number, message in enumerate(messages):
        texts = isinstance(message, dict) and [message.get("role"), message.get("content")]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f'{row.where}: message {number} is {message!r:.60}, expected {{"role": ..., "content": a text}}, or '
                f'{{"from": "human" | "gpt" | "system", "value": a text}}'
            )
    places = answered(messages)
    if not places:
        raise DataError(f"{row.where}: no message of the 'assistant' that answers another; there is nothing to learn")
    return list(messages[: places[-1] + 1])


def answered(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the answers: the assistant's messages, but for one that opens the conversation."""
    return [place for place, message in enumerate(messages) if place and message["role"] == "assistant"]


def without_oldest(messages: Messages, turns: int) -> Messages:
    """The messages after so many answers, and the system's from before."""
    last = answered(messages)[turns - 1]
    return [message for message in messages[:last] if message["role"] == "system"] + messages[last + 1 :]


def answer_labels(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], answers: Sequence[tuple[int, int]]
) -> list[int]:
    """The ids where an answer stands, -100 elsewhere; `offsets` and `answers` are in characters of the text.

    A token that begins in the prompt and ends in the answer is the answer's: the model has to write it.
    """
    labels, reached = [], 0
    for number, (begin, end) in zip(ids, offsets, strict=False):
        begin = min(begin, reached)  # some tokenizers leave spaces out of their offsets
        inside = any(begin < last and end > first for first, last in answers)
        labels.append(number if inside else IGNORED)
        reached = max(reached, end)
    return labels
