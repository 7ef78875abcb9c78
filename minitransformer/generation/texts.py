"""Texts in, texts out: what stands between a tokenizer and `generate`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.generate import go_on, steps
from minitransformer.generation.prompt import check_model, lengths_of, prepare
from minitransformer.generation.settings import GenerationConfig
from minitransformer.model import Transformer
from minitransformer.text import TextStream, Tokenizer, with_text


def encode(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], config: GenerationConfig
) -> dict[str, Tensor]:
    """The input_ids and attention_mask of prompts, on the model's device.

    A decoder goes on at the right end of a prompt: it is padded on the left. An empty prompt is the start token.
    """
    check_model(model)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong or not texts:
        got = f"a {type(wrong[0]).__name__} among them" if wrong else "none"
        raise InputError(f"generate: got {got}, expected one text, texts, or a tensor of token ids [batch, tokens]")
    rows = [list(encoding.ids) for encoding in tokenizer.encodings(list(texts))]
    if [] in rows:
        if config.bos_token_id is None:
            raise InputError(
                f"generate: text {rows.index([])} has no token, and the model has no start token; "
                "give it a word to begin with"
            )
        rows = [row or [config.bos_token_id] for row in rows]
    width, fill = max(map(len, rows)), _first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    left = model.encoder is None
    ids, mask = torch.full((len(rows), width), fill), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def decode(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], attention_mask: Tensor, sequences: Tensor
) -> list[str]:
    """The text of each row of generated ids, the prompt's first where a decoder goes on with it.

    sequences int [B · n, T'], n rows for each of `texts`; attention_mask [B T] is that of the prompts.
    """
    copies, width = len(sequences) // len(texts), attention_mask.shape[1]
    rows = sequences.tolist()
    if model.encoder is not None:
        return [tokenizer.decode(with_text(tokenizer, row), skip_special_tokens=True) for row in rows]
    found = []
    for i, row in enumerate(rows):
        padding = width - int(attention_mask[i // copies].sum())
        stream = TextStream(tokenizer, row[padding:width])
        new = stream.add(with_text(tokenizer, row[width:]))
        found.append(texts[i // copies] + new + stream.end())
    return found


def pieces(
    model: Transformer,
    tokenizer: Tokenizer,
    batch: Mapping[str, Tensor],
    *,
    config: GenerationConfig,
    seed: int | None = None,
) -> Iterator[str]:
    """The new text of one prompt, piece by piece, as soon as it is certain: one for each token, and what is left.

    Some are empty. A beam search knows its text only at the end; then the first piece is all of it.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    prompt = prepare(model, ids, mask, config=config)
    lengths_of(model, config, prompt)  # what is wrong with a length is said now, not at the first piece
    if (texts := len(ids) * config.num_return_sequences) != 1:
        raise InputError(f"stream: got {texts} texts to write at once, expected one; try generate")

    def new_tokens() -> Iterator[list[int]]:
        if config.num_beams == 1:
            for token in steps(model, prompt, config=config, tokenizer=tokenizer, seed=seed):
                yield token[0].tolist()
        else:
            found = go_on(model, prompt, config=config, tokenizer=tokenizer, seed=seed)
            tokens = found[0, prompt.ids.shape[1] :].tolist()
            yield tokens
            yield from ([] for _ in tokens[1:])  # whoever counts the pieces counts the tokens

    def new_text() -> Iterator[str]:
        stream = TextStream(tokenizer, prompt.ids[0].tolist() if model.encoder is None else ())
        for token in new_tokens():
            yield stream.add(with_text(tokenizer, token))
        yield stream.end()

    return new_text()


def task_fields(raw_config: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """What config.json's task_specific_params say of a task: its prefix, its settings."""
    if task is None:
        return {}
    tasks = raw_config.get("task_specific_params") or {}
    fields = tasks.get(task) if isinstance(tasks, Mapping) and isinstance(task, str) else None
    if not isinstance(fields, Mapping):
        known = ", ".join(sorted(tasks)) if isinstance(tasks, Mapping) and tasks else "none"
        raise InputError(f"task: got {task!r}, expected one that the checkpoint's config.json names: {known}")
    return dict(fields)


def _first(*choices: int | None) -> int:
    return next(choice for choice in choices if choice is not None)
