"""What a run begins with: the model with the head that its task needs, what of it trains, and the task itself."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from minitransformer.checkpoint import adapter_base, is_adapter
from minitransformer.errors import ConfigError, DataError
from minitransformer.families import family_of, head_of
from minitransformer.finetune.randomness import seeded
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.what_trains import prepare
from minitransformer.generation import GenerationConfig
from minitransformer.generation.settings import SAMPLING, settings
from minitransformer.loading import load, read_raw_config
from minitransformer.pretrained import Pretrained
from minitransformer.storage import read_json, resolve
from minitransformer.storage.files import open_regular
from minitransformer.tasks import TASKS
from minitransformer.tasks.labels import label_names
from minitransformer.tasks.task import Criterion, Row, Task, label_number

MOST_OF_A_TEMPLATE = 1 << 20  # bytes
SETTLED = SAMPLING | {"do_sample", "num_return_sequences", "max_length", "max_new_tokens"}
SETTLED |= {"eos_token_id", "pad_token_id", "stop_strings", "use_cache"}
OF_ADAPTERS = {"lora": ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"), "adapter": ("adapter_size",)}


def start(name: str, task: str, labelled: Sequence[Row], recipe: Recipe) -> tuple[Pretrained, Recipe]:
    """The model, with new weights where the recipe wants them, drawn from its seed; and the recipe, complete.

    `labelled`: rows that say which labels there are.
    """
    kind = TASKS[task].kind
    labels: Any = kind.outputs if kind.labels_of is None else kind.labels_of(labelled)
    raw = raw_config_of(name)
    if isinstance(labels, tuple) and set(label_names(raw)) == set(labels):
        labels = label_names(raw)  # in the order of the head that the model has for them
    with seeded(recipe.seed):
        new_head = needs_new_head(raw, kind.head, labels)
        model = load(name, head=kind.head, labels=labels, new_head=new_head, config=dict(kind.config))
        check_reads_one_way(model, kind.head)
        if kind.added_tokens and recipe.train == "adapter":
            raise ConfigError(f"train: got 'adapter', but {task} adds tokens, which an adapter does not hold; try lora")
        if kind.added_tokens:
            model.add_tokens(kind.added_tokens)
        if recipe.chat_template is not None:
            recipe = replace(recipe, chat_template=template(recipe.chat_template))
            model.tokenizer.chat_template = recipe.chat_template  # it is saved with the model
        if model.raw_config.get("finetuning_task") not in (None, task):
            model.raw_config.pop("prefix", None)  # that of another task
        model.raw_config["finetuning_task"] = task  # a head alone does not always say which
        if recipe.prefix:
            model.raw_config["prefix"] = recipe.prefix  # so that whoever loads the model puts it there, too
        for field in ("max_length", "stride"):  # likewise; what an earlier run has kept is over
            model.raw_config.pop(f"finetuning_{field}", None)
            if getattr(recipe, field) is not None:
                model.raw_config[f"finetuning_{field}"] = getattr(recipe, field)
        if "generation" in kind.options:
            model.generation_config = how_to_write(model, task, recipe)  # likewise
        if task == "span":  # likewise: whether the model has learned to say that there is no answer
            model.raw_config["answers_may_be_empty"] = any(row.get("answers") == [] for row in labelled)
        if recipe.learning_rate is None:
            recipe = replace(recipe, learning_rate=usual_rate(model, recipe.train))
        prepare(model.transformer, recipe)
    return model, recipe


def raw_config_of(name: str) -> dict[str, Any]:
    """The config.json of a model; of an adapter, that of its base with what it says otherwise."""
    folder = resolve(name)
    if not is_adapter(folder):
        return read_raw_config(folder)
    own = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return {**read_raw_config(resolve(adapter_base(folder))), **own}  # the head is the adapter's


def needs_new_head(raw: Mapping[str, Any], head: str, labels: Sequence[str] | int | None) -> bool:
    """Whether the checkpoint's head, if it has one, is of another kind, or for other labels than these."""
    if head == "multiple-choice":
        return head_of(raw, family_of(raw)) != head
    if labels is None:
        return False
    known = label_names(raw)
    return len(known) != labels if isinstance(labels, int) else known != tuple(labels)


def check_reads_one_way(model: Pretrained, head: str) -> None:
    """Raise a ConfigError for a language model that would see the very tokens it is to predict."""
    stack = model.transformer.decoder or model.transformer.encoder
    if head == "causal-lm" and (stack is None or not stack.config.causal):
        raise ConfigError(f"{model.base}: it reads both ways, and cannot learn to write the next token; try mlm")


def template(given: str) -> str:
    """A chat template, or what is in the file of that name."""
    if "{" in given:
        return given
    with open_regular(Path(given)) as file:
        try:
            return file.read(MOST_OF_A_TEMPLATE).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"chat_template: {given}: not UTF-8 at byte {error.start}") from None


def how_to_write(model: Pretrained, task: str, recipe: Recipe) -> dict[str, Any]:
    """A generation_config.json by which transformers writes as the task does: the model's own, and the recipe's."""
    given = generation_fields(recipe.generation)
    model.generation_config = {**model.generation_fields, **given, "max_new_tokens": recipe.max_target_length}
    writer: Any = make_task(task, model, recipe)
    fields = asdict(writer.writing(model.transformer))
    return {name: x for name, x in fields.items() if x != getattr(GenerationConfig(), name)}


def generation_fields(text: str) -> dict[str, Any]:
    """The fields of `GenerationConfig` in "num_beams=4,early_stopping=true", or in JSON."""
    try:
        if text.startswith("{"):
            given = json.loads(text)
        else:
            pairs = [part.split("=") for part in text.split(",") if text]
            given = {name.strip(): json.loads(value.lower()) for name, value in pairs}
        settings({}, given)
    except (ValueError, RecursionError) as error:
        expected = "fields of GenerationConfig, such as num_beams=4,min_length=0"
        raise ConfigError(f"generation: got {text!r:.200}, expected {expected}; {error}") from None
    settled = sorted(given.keys() & SETTLED)
    if settled:
        raise ConfigError(
            f"generation: got {settled[0]}, but a run writes one text for each source, the same each time, up to the "
            f"tokenizer's end token or max_target_length; leave it out"
        )
    return given


def usual_rate(model: Pretrained, train: str) -> float:
    """The learning rate that is usual for what trains: much more where it is little."""
    if train == "lora":
        return 2e-4
    if train in ("head", "bias", "adapter"):
        return 1e-3
    return model.family.learning_rate


def make_task(name: str, model: Pretrained, recipe: Recipe, training: Sequence[Row] = ()) -> Task:
    """The task, as this model and this recipe want it.

    `training`: the rows to learn from; without them the task is to judge by, and no class counts more than another.
    """
    criterion = Criterion()
    if training:
        criterion = Criterion(class_weights(name, model, training, recipe), recipe.label_smoothing)
    return model.task(
        name,
        criterion=criterion,
        stride=recipe.stride,
        flip=recipe.flip,
        **({"prefix": recipe.prefix} if recipe.prefix else {}),
        **({"max_length": min(recipe.max_length, model.max_length or recipe.max_length)} if recipe.max_length else {}),
    )


def class_weights(name: str, model: Pretrained, training: Sequence[Row], recipe: Recipe) -> torch.Tensor | None:
    """How much each class counts in the loss: float [labels], or None where all count 1.

    "auto": rows / (classes · rows of the class), so that rare classes count as much as frequent ones.
    """
    if recipe.class_weights is None:
        return None
    if recipe.class_weights == "auto":
        labels_in = TASKS[name].kind.labels_in
        counts = Counter(label for row in training for label in labels_in(row))
        total = sum(counts.values())
        return torch.tensor([total / (len(model.labels) * max(1, counts[label])) for label in model.labels])
    weights, numbers = torch.ones(len(model.labels)), {label: i for i, label in enumerate(model.labels)}
    for part in recipe.class_weights.split(","):
        label, _, weight = part.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            raise DataError(f"class_weights: got {part!r}, expected label=number, or 'auto'") from None
        weights[label_number(numbers, label.strip(), "class_weights")] = value
    if not (torch.isfinite(weights) & (weights > 0)).all():
        raise DataError(f"class_weights: got {recipe.class_weights!r}, expected numbers above 0")
    return weights


def check_task(task: str, recipe: Recipe) -> None:
    """Raise a ConfigError for a task that there is not, or for what the recipe says and the task has no use for."""
    if task not in TASKS:
        raise ConfigError(f"task: got {task!r}, expected one of {', '.join(TASKS)}")
    of_tasks = {option for each in TASKS.values() for option in each.kind.options}
    useless = dict.fromkeys(sorted(of_tasks - set(TASKS[task].kind.options)), task)
    useless |= dict.fromkeys(("batch_tokens", "max_length"), task) if task == "image" else {}
    refuse_useless(recipe, useless)


def check_recipe(task: str, recipe: Recipe) -> None:
    """The same; and for what it says of an adapter where none trains. (A search may say it of some of its runs.)"""
    check_task(task, recipe)
    for train, fields in OF_ADAPTERS.items():
        if recipe.train != train:
            refuse_useless(recipe, dict.fromkeys(fields, f"train={recipe.train!r}"))


def refuse_useless(recipe: Recipe, useless: Mapping[str, str]) -> None:
    """Raise a ConfigError for a field that the recipe gives, and that is nothing to what it stands beside here."""
    for field, what in useless.items():
        if getattr(recipe, field) != getattr(Recipe(), field):
            raise ConfigError(f"{field}: got {getattr(recipe, field)!r}, but {what} has no use for it; leave it out")
