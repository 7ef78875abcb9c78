"""Sixteen rows are learned by heart, by each family with its main heads, in the real loop.

A mask that hides too much, a label one place off, a weight that gets no gradient: and they would not be.
"""

import pytest
from small_runs import begin
from small_tasks import rows_of

from minitransformer.families import DECODERS, ENCODERS, VISION
from minitransformer.finetune.loop import train

BOTH_STACKS = {"t5": ("translate",), "bart": ("translate", "classify"), "marian": ("translate",)}
TASKS = {family.model_type: ("classify", "tag", "mlm") for family in ENCODERS}
TASKS |= {family.model_type: ("lm", "classify") for family in DECODERS}
TASKS |= BOTH_STACKS | {family.model_type: ("image",) for family in VISION}
OTHERS = ("pair", "regress", "multilabel", "relation", "span", "choice")
CASES = [(family, task) for family, tasks in TASKS.items() for task in tasks]
CASES += [("bert", task) for task in OTHERS] + [("gpt2", "dialogue")]
OFTEN = {  # what each run of the tests tries: each kind of attention, position and head
    ("bert", "tag"), ("roberta", "classify"), ("distilbert", "mlm"), ("electra", "tag"), ("gpt2", "classify"),
    ("qwen2", "lm"), ("bart", "translate"), ("bart", "classify"), ("llama", "classify"), ("vit", "image"),
}  # fmt: skip


class SameMasks:
    """A task whose first batch is its only one: so the hidden tokens are always the same."""

    def __init__(self, task):
        self.count, self.loss, self._collate, self.batch = task.count, task.loss, task.collate, None

    def collate(self, examples):
        self.batch = self.batch or self._collate(examples)
        return self.batch


@pytest.mark.parametrize(
    ("family", "name"),
    [pytest.param(*case, marks=() if case in OFTEN else pytest.mark.slow) for case in CASES],
)
def test_sixteen_rows_are_learned_by_heart(family, name, model_folder, tmp_path):
    rows = rows_of(name, tmp_path)
    rate = 3e-3 if family == "marian" else 1e-2
    recipe = {"steps": 800, "batch_size": 99, "learning_rate": rate, "warmup": 8, "weight_decay": 0.0}
    model, task, examples, recipe = begin(
        model_folder(family), rows, "classify" if name == "pair" else name, schedule="constant", **recipe
    )
    task = SameMasks(task) if name == "mlm" else task
    losses = []
    for event in train(model, task, examples, recipe):
        losses.append(event["loss"])
        if losses[-1] < 1e-2:
            break
    assert losses[-1] < 1e-2 < 0.1 < losses[0], losses
