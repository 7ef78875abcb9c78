"""What heads are judged on: texts, texts with labels, or a batch, as examples of one row; and by which number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.interventions import Batch, real_tokens, without_padding
from minitransformer.lens.metric import Metric, distance, loss
from minitransformer.model.heads import IGNORED
from minitransformer.model.points import stacks
from minitransformer.model.transformer import TARGETS
from minitransformer.pretrained import Pretrained
from minitransformer.tasks.inference import inference
from minitransformer.tasks.task import Row

HIDDEN = 7  # every seventh token at a time: the 15 % of BERT's training
SORTING = ("sequence-classification", "image-classification", "token-classification", "multiple-choice")


@dataclass(frozen=True, eq=False)
class Example:
    """A batch of one row, and what its output is measured by."""

    batch: Batch
    metric: Metric


def examples(model: Pretrained, data: Any, metric: Metric | None = None) -> tuple[str, list[Example]]:
    """The examples of some data, and the name of what they are measured by.

    data: a text or an image; (text, label); a dict of the columns that the model's task reads; a list of those; or a
    batch, with labels or without. Without a metric it is the loss: of the labels; of a language model's next tokens,
    or of its text's tokens, hidden by turns; of a classifier's own answer. Where there is none of them it is the
    distance from the unchanged last hidden states.
    """
    batches = [row for given in _several(data) for row in _rows(model, given)]
    if not batches:
        raise InputError("data: got nothing, expected a text, a list of texts or of (text, label), or a batch")
    if metric is not None:
        return "metric", [Example(batch, metric) for batch in batches]
    with inference(model.transformer):
        batches = [row for batch in batches for row in _with_targets(model, batch)]
        if all(any(name in batch for name in TARGETS) for batch in batches):
            return "loss", [Example(batch, loss) for batch in batches]
        return "distance", [Example(batch, _distance(model, batch)) for batch in batches]


def _several(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


def _rows(model: Pretrained, given: Any) -> list[Batch]:
    """What the model reads of one element of the data: batches of one row."""
    if isinstance(given, Mapping) and given and all(isinstance(x, Tensor) for x in given.values()):
        count = len(next(iter(given.values())))
        return [{name: x[i : i + 1].to(model.device) for name, x in given.items()} for i in range(count)]
    if isinstance(given, Mapping):
        return _of_task(model, Row(given, where=f"{given!r:.60}"))
    if isinstance(given, tuple):
        if len(given) != 2:
            raise InputError(f"data: got a tuple of {len(given)}, expected (text, label)")
        if model.transformer.head is None and model.transformer.decoder is not None:
            return [model.read(given[0], target=given[1]).batch]
        kind = model.task().kind
        if len(kind.inputs) != 1 or len(kind.targets) != 1:
            columns = ", ".join((*kind.inputs, *kind.targets))
            raise InputError(f"data: got a pair, and this model's rows are {columns}; give a dict of these")
        return _of_task(model, Row({kind.inputs[0]: given[0], kind.targets[0]: given[1]}, where=f"{given!r:.60}"))
    return [model.read(given).batch]


def _of_task(model: Pretrained, row: Row) -> list[Batch]:
    """A row with its labels, as the model's task makes batches of it."""
    task = model.task()
    encoded = task.encode([row], targets=all(name in row for name in task.kind.targets))
    if any(example.lost for example in encoded):
        raise InputError(f"data: {row.where} is longer than the model reads; shorten the text")
    batches = [task.collate([example]) for example in encoded]
    return [{name: x.to(model.device) for name, x in batch.items()} for batch in batches]


def _with_targets(model: Pretrained, batch: Batch) -> Sequence[Batch]:
    """The batch with what its output is judged by, where that is in the text or in the model's own answer."""
    task, config = model.transformer.config.task, model.transformer.config
    if any(name in batch for name in TARGETS):
        return [batch]
    if task == "causal-lm":
        labels = without_padding(batch["input_ids"], batch)
        return [_judged_by(batch, labels, labels[:, 1:])]
    if task == "masked-lm":
        return hidden_by_turns(model, batch)
    if task == "seq2seq-lm":
        end = torch.full_like(batch["decoder_input_ids"][:, :1], IGNORED)
        labels = torch.cat((batch["decoder_input_ids"][:, 1:], end), 1)
        return [_judged_by(batch, labels, labels)]
    if task in SORTING and getattr(config.head, "num_labels", 1) > 1:
        return [_own_answer(model, batch)]
    return [batch]


def _judged_by(batch: Batch, labels: Tensor, judged: Tensor) -> Batch:
    """The batch with its labels. An InputError where none of them is judged: the loss would be no number."""
    if not (judged != IGNORED).any():
        raise InputError("data: there is no next token to judge in a text of one; give a longer text, or labels")
    return {**batch, "labels": labels}


def _own_answer(model: Pretrained, batch: Batch) -> Batch:
    """The batch, with the most probable label of each text or token."""
    logits = model(**batch).logits
    assert logits is not None
    labels = logits.argmax(-1)  # [B] or [B T]
    if labels.ndim == 2:
        labels = labels.masked_fill(~real_tokens(batch, labels, of_decoder=False), IGNORED)
    return {**batch, "labels": labels}


def hidden_by_turns(model: Pretrained, batch: Batch) -> list[Batch]:
    """One text several times, other tokens hidden each time: every seventh, from the first, the second, …

    So each token is guessed once, and the numbers are the same each time.
    """
    tokenizer, ids = model.tokenizer, batch["input_ids"]
    special = {tokenizer.backend.token_to_id(token) for token in tokenizer.special.values()} - {tokenizer.unk_token_id}
    of_text = ~torch.isin(ids, torch.tensor(sorted(n for n in special if n is not None), device=ids.device))
    if tokenizer.mask_token_id is None or not of_text.any():
        raise InputError("data: there is no token to hide; give a text with a word in it, or a batch with labels")
    turn = torch.where(of_text, (of_text.cumsum(1) - 1) % HIDDEN, -1)  # [1 T]
    return [
        {
            **batch,
            "input_ids": ids.masked_fill(turn == i, tokenizer.mask_token_id),
            "labels": ids.masked_fill(turn != i, IGNORED),
        }
        for i in range(int(turn.max()) + 1)
    ]


def _distance(model: Pretrained, batch: Batch) -> Metric:
    unchanged = model(**batch)
    assert unchanged.last_hidden_state is not None
    behind = len(stacks(model.transformer)) == 2
    return distance(unchanged, real_tokens(batch, unchanged.last_hidden_state, of_decoder=behind))
