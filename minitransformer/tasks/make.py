"""From a task's name to the task, and from a model's head to the name."""

from collections.abc import Mapping, Sequence
from typing import Any

from minitransformer.config import TransformerConfig
from minitransformer.errors import InputError
from minitransformer.generation import GenerationConfig
from minitransformer.tasks import TASKS
from minitransformer.tasks.relation import Relation
from minitransformer.tasks.task import Criterion, Kind, Task
from minitransformer.text import Tokenizer

OF_HEAD = {
    "image-classification": "image",
    "image-classification-with-teacher": "image",
    "token-classification": "tag",
    "question-answering": "span",
    "multiple-choice": "choice",
    "masked-lm": "mlm",
    "causal-lm": "lm",
    "seq2seq-lm": "translate",
}


def make_task(
    name: str,
    reader: Any,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
    *,
    stride: int | None = None,
    prefix: str = "",
    max_target_length: int = 128,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008, likewise
    flip: bool = False,
    may_be_empty: bool = True,
) -> Task:
    """The task of that name. `reader`: the tokenizer or, for images, the image processor. The rest where it applies.

    `stride`: tokens that the windows of a long text share. `prefix`: put before each source text. `generation`: how to
    write. `flip`: show half of the images mirrored, in training. `may_be_empty`: a question may have no answer.
    """
    if name not in TASKS:
        raise InputError(f"task: got {name!r}, expected one of {', '.join(TASKS)}")
    kind = TASKS[name]
    windows = {} if stride is None else {"stride": stride}
    match name:
        case "regress":
            return kind(reader, max_length)
        case "multilabel":
            return kind(reader, labels, max_length)
        case "choice":
            return kind(reader, max_length, label_smoothing=criterion.label_smoothing)
        case "span":
            limit = {} if max_length is None else {"max_length": max_length}
            return kind(reader, **limit, **windows, may_be_empty=may_be_empty)
        case "tag":
            return kind(reader, labels, max_length, criterion, **windows)
        case "translate" | "summarize":
            writes = {"max_target_length": max_target_length, "generation": generation}
            return kind(reader, (), max_length, criterion, prefix=prefix, **writes)
        case "image":
            return kind(reader, labels, criterion, flip=flip)
        case _:
            return kind(reader, labels, max_length, criterion)


def task_of_head(
    config: TransformerConfig, raw: Mapping[str, Any], tokenizer: Tokenizer | None, labels: Sequence[str]
) -> str:
    """The name of the task that a model's head is made for. An InputError where there is none."""
    found, trained = usual_task(config, raw, tokenizer, labels), raw.get("finetuning_task")
    if isinstance(trained, str) and trained in TASKS and alike(TASKS[trained].kind, TASKS[found].kind):
        return trained
    return found


def alike(one: Kind, other: Kind) -> bool:
    """Whether two tasks have the same head, so that a model does not show which it has learned."""
    return (one.head, one.config) == (other.head, other.config)


def usual_task(
    config: TransformerConfig, raw: Mapping[str, Any], tokenizer: Tokenizer | None, labels: Sequence[str]
) -> str:
    """The task that a head of this kind mostly is for."""
    task = config.task
    if task in OF_HEAD:
        return OF_HEAD[task]
    if task != "sequence-classification":
        raise InputError(
            f"predict: got a model with the head {task}, expected sequence-classification or another that answers; "
            f"fine-tune one, or load(name, head='sequence-classification')"
        )
    problem = raw.get("problem_type")
    if problem == "regression" or len(labels) == 1:
        return "regress"
    if problem == "multi_label_classification":
        return "multilabel"
    return "relation" if tokenizer is not None and knows_markers(tokenizer) else "classify"


def knows_markers(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has the tokens that mark two entities."""
    return all(tokenizer.backend.token_to_id(token) is not None for token in Relation.kind.added_tokens)
