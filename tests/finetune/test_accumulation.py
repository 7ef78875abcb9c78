"""The gradient of a batch is the same however many of its rows are computed at once: of each task, in float64."""

import pytest
import torch
from small_runs import begin
from small_tasks import READERS, InDouble, rows_of

from minitransformer.finetune.checkpoints import State
from minitransformer.finetune.forward import loss_sum
from minitransformer.finetune.loop import gradient
from minitransformer.finetune.plan import Plan

SOFT = {"label_smoothing": 0.1}
CASES = {  # what is tested -> (task, family or None: the task's usual one, fields of the recipe)
    "classify": ("classify", None, {}),
    "classify, weights and smoothing": ("classify", None, {"class_weights": "a=3,c=0.2", **SOFT}),
    "classify, last token": ("classify", "gpt2", {}),
    "classify, end token of a decoder": ("classify", "bart", SOFT),
    "pair": ("pair", None, {}),
    "regress": ("regress", "roberta", {}),
    "multilabel": ("multilabel", None, {}),
    "tag": ("tag", None, {}),
    "tag, windows and weights": ("tag", "albert", {"max_length": 9, "stride": 3, "class_weights": "auto", **SOFT}),
    "relation": ("relation", None, {"class_weights": "auto"}),
    "span": ("span", None, {}),
    "span, windows": ("span", "t5", {"max_length": 30, "stride": 7}),
    "choice": ("choice", None, SOFT),
    "lm": ("lm", None, {}),
    "lm, blocks": ("lm", "llama", {"max_length": 8, **SOFT}),
    "mlm": ("mlm", None, SOFT),
    "translate": ("translate", None, SOFT),
    "translate, two vocabularies": ("translate", "marian", {"max_target_length": 7}),
    "dialogue": ("dialogue", None, {}),
    "image": ("image", None, {"class_weights": "b=2", "flip": True}),
    "lora": ("tag", None, {"train": "lora"}),
}
ROWS_AT_ONCE = (1, 2, 3, 8)


def gradients(model, task, examples, recipe, step, rows_at_once):
    """The gradient of these examples as the loop computes it, each parameter's by name; and the loss."""
    for parameter in model.parameters():
        parameter.grad = None
    forward, state = loss_sum(model, task, recipe), State(step=step, micro_batch_size=rows_at_once)
    loss = gradient(forward, task, examples, recipe, state, torch.amp.GradScaler("cpu", enabled=False))
    return loss, {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("case", CASES)
def test_however_many_rows_at_once(case, model_folder, tmp_path):
    """Over an epoch of eleven examples: a batch of eight (3 + 3 + 2) and the last one, of three."""
    name, family, fields = CASES[case]
    rows = rows_of(name, tmp_path)
    family = family or READERS.get(name, "bert")
    task_name = "classify" if name == "pair" else name
    model, task, examples, recipe = begin(model_folder(family), rows, task_name, batch_size=8, epochs=1, **fields)
    model, task = model.double().train(), InDouble(task)
    plan = Plan([len(example) for example in examples[:11]], recipe)
    assert sorted(len(plan.rows(step)) for step in range(plan.steps)) == [3, 8]
    for step in range(plan.steps):
        batch = [examples[place] for place in plan.rows(step)]
        loss, expected = gradients(model, task, batch, recipe, step, 8)
        largest = max(x.abs().max() for x in expected.values())
        assert largest > 1e-4
        for rows_at_once in ROWS_AT_ONCE[:-1]:
            found, ours = gradients(model, task, batch, recipe, step, rows_at_once)
            assert found == pytest.approx(loss, rel=1e-12)
            assert ours.keys() == expected.keys()
            for parameter, x in ours.items():
                torch.testing.assert_close(x, expected[parameter], rtol=1e-12, atol=1e-12 * largest, msg=parameter)
