"""The loop: a pure function of weights, rows, recipe and step; beside a plain loop over transformers' model; faults."""

import functools
import math

import pytest
import torch
import transformers
from small_runs import begin, same, trained, weights

import minitransformer as mt
from minitransformer.errors import MiniTransformerError, NotFiniteError
from minitransformer.finetune.distributed import World
from minitransformer.finetune.forward import recomputing
from minitransformer.finetune.job import judge
from minitransformer.finetune.loop import train
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.start import make_task, start
from minitransformer.tasks.inference import predict, read, scores

LABELS = ("negative", "positive")


def test_evaluating_logging_and_saving_change_no_weight(small_bert, rows):
    """However often, and though both draw random numbers and switch dropout off."""

    def disturbed(every, save_every):
        model, task, examples, recipe = begin(
            small_bert, rows, epochs=2, batch_size=16, evaluate_every=every, save_every=save_every
        )

        def evaluate():
            torch.rand(7)
            return scores(task, rows, examples, read(model, task, examples, batch_size=9))[1]

        seen = set()
        for event in train(model, task, examples, recipe, evaluate=evaluate, save=lambda *state: torch.rand(3)):
            seen.add(event["event"])
            predict(model, task, rows[:3], batch_size=2)
        assert seen == {"step", "evaluation", "saved"}
        return weights(model)

    plain, _ = trained(small_bert, rows, epochs=2, batch_size=16)
    assert same(plain, disturbed(0.1, 1))
    assert same(plain, disturbed(0.5, 7))
    other, _ = trained(small_bert, rows, epochs=2, batch_size=16, seed=1)
    assert not same(plain, other)


def test_the_loop_leaves_the_callers_generators_as_they_are(small_bert, rows):
    import random

    import numpy as np

    def drawn():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = drawn()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    trained(small_bert, rows, epochs=1)
    assert drawn() == expected


def test_the_loop_equals_a_plain_loop_over_transformers_model(small_bert, rows, tmp_path):
    """Without dropout, in float64, step by step: losses, and the weights but for key biases (their gradient is 0)."""
    config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(5)
    ours = mt.load(small_bert, head="sequence-classification", labels=LABELS, config=config, dtype=torch.float64)
    ours.save(tmp_path / "start")
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "start", dtype=torch.float64).train()
    recipe = Recipe(
        epochs=2, batch_size=16, micro_batch_size=5, learning_rate=1e-3, max_length=6, weight_decay=0.1,
        max_grad_norm=0.5, label_smoothing=0.1, class_weights="negative=2,positive=0.5",
    )  # fmt: skip

    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}])
    criterion = torch.nn.CrossEntropyLoss(torch.tensor([2, 0.5], dtype=torch.float64), label_smoothing=0.1)
    task = make_task("classify", ours, recipe, rows)
    examples = task.encode(rows)
    plan = Plan([len(example) for example in examples], recipe)
    for step, event in enumerate(train(ours.transformer, task, examples, recipe)):
        places = plan.rows(step)
        for group in optimizer.param_groups:
            group["lr"] = event["learning_rate"]
        batch = ours.tokenizer([rows[i]["text"] for i in places], truncation=True, max_length=6)
        loss = criterion(theirs(**batch).logits, torch.tensor([LABELS.index(rows[i]["label"]) for i in places]))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert event["loss"] == pytest.approx(loss.item(), rel=1e-9)
        assert event["gradient_norm"] == pytest.approx(norm.item(), rel=1e-9)
    assert step == 15
    ours.save(tmp_path / "end")
    end = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "end", dtype=torch.float64).state_dict()
    for name, expected in theirs.state_dict().items():
        if "key.bias" not in name:
            torch.testing.assert_close(end[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def test_it_learns(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, epochs=8, batch_size=8, learning_rate=2e-3)
    steps = list(train(model, task, examples, recipe))
    assert len(steps) == steps[-1]["steps"] == 8 * 15
    assert steps[-1]["loss"] < 0.3 < steps[0]["loss"]
    _, found = scores(task, rows, examples, read(model, task, examples, batch_size=32))
    assert found["accuracy"] > 0.98
    assert not model.training


@pytest.mark.parametrize(("name", "expected"), [("sgd", torch.optim.SGD), ("adafactor", torch.optim.Adafactor)])
def test_other_optimizers_step_as_torchs_own(calm_bert, rows, name, expected):
    """Two steps beside torch's optimizer over the same gradients."""
    recipe = {"epochs": 2, "batch_size": 120, "learning_rate": 0.01, "optimizer": name, "schedule": "constant"}
    ours, _ = trained(calm_bert, rows, **recipe, warmup=0.0, weight_decay=0.0)
    model, task, examples, complete = begin(calm_bert, rows, **recipe)
    optimizer = expected(model.parameters(), lr=0.01, **({"momentum": 0.9} if name == "sgd" else {}))
    batch = task.collate(examples)
    for _ in range(2):
        optimizer.zero_grad()
        (task.loss(model, batch)[0] / len(examples)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), complete.max_grad_norm)
        optimizer.step()
    for name, x in weights(model).items():
        if not name.endswith(".k.bias"):
            torch.testing.assert_close(ours[name], x, rtol=1e-4, atol=1e-5, msg=name)


class LittleMemory:
    """A task for which there is no memory where a part has more than three rows."""

    def __init__(self, task):
        self.task, self.sizes = task, []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loss(self, model, batch):
        self.sizes.append(len(batch["input_ids"]))
        if self.sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.task.loss(model, batch)


def test_memory_that_runs_out_halves_the_parts_and_redoes_the_step(calm_bert, rows):
    plain, losses = trained(calm_bert, rows, epochs=1, batch_size=16, optimizer="sgd")
    model, task, examples, recipe = begin(calm_bert, rows, epochs=1, batch_size=16, optimizer="sgd")
    little = LittleMemory(task)
    events = list(train(model, little, examples, recipe))
    assert little.sizes[:4] == [16, 8, 4, 2]  # and then the first step, and all that follow, in parts of 2
    assert set(little.sizes[3:]) <= {1, 2}
    assert {event["micro_batch_size"] for event in events} == {2}
    assert [event["loss"] for event in events] == pytest.approx(losses, rel=1e-5)
    assert all(torch.allclose(x, plain[name], atol=1e-6) for name, x in weights(model).items())


@pytest.mark.parametrize("name", ["classify", "mlm"])
def test_memory_that_runs_out_while_judging_halves_the_parts(small_bert, rows, name):
    """Also where the batch is random: the masks of mlm stay where they were."""
    recipe = Recipe(batch_size=16)
    model, _ = start(str(small_bert), name, rows, recipe)
    task = make_task(name, model, recipe)
    examples = task.encode(rows)
    _, expected = judge(model, task, rows, examples, recipe, World())
    little = LittleMemory(task)
    _, found = judge(model, little, rows, examples, recipe, World())
    assert little.sizes[:4] == [16, 8, 4, 2]
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_memory_for_the_optimizer_is_an_error(small_bert, rows, monkeypatch):
    model, task, examples, recipe = begin(small_bert, rows, epochs=1, batch_size=2)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(MiniTransformerError, match="step 1: out of memory for what the optimizer keeps; try"):
        list(train(model, task, examples, recipe))


def test_no_memory_for_one_row_is_an_error(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, epochs=1, batch_size=2)
    little = LittleMemory(task)
    little.loss = lambda model, batch: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(MiniTransformerError, match="step 1: out of memory with 1 rows"):
        list(train(model, little, examples, recipe))


def test_activations_computed_twice_give_the_same_gradient(small_bert, rows):
    """With dropout, too: it falls on the same places the second time."""
    plain, _ = trained(small_bert, rows, epochs=1, batch_size=16)
    model, task, examples, recipe = begin(small_bert, rows, epochs=1, batch_size=16, recompute=True)
    with recomputing(model, recipe):
        list(train(model, task, examples, recipe))
    assert same(plain, weights(model))
    assert "forward" not in vars(model.encoder.layers[0])


def test_bfloat16_learns_as_well(small_bert, rows):
    _, losses = trained(small_bert, rows, epochs=8, batch_size=8, learning_rate=2e-3, dtype="bfloat16")
    _, exact = trained(small_bert, rows, epochs=8, batch_size=8, learning_rate=2e-3)
    assert losses[:5] == pytest.approx(exact[:5], rel=0.05)
    assert losses[:5] != exact[:5]
    assert losses[-1] < 0.3


def test_float16_leaves_out_steps_whose_gradient_overflows(small_bert, rows, monkeypatch):
    high = functools.partial(torch.amp.GradScaler, init_scale=2.0**26)
    monkeypatch.setattr(torch.amp, "GradScaler", high)
    model, task, examples, recipe = begin(small_bert, rows, epochs=2, batch_size=10, dtype="float16")
    before, finite = weights(model), []
    for event in train(model, task, examples, recipe):
        finite.append(math.isfinite(event["gradient_norm"]))
        assert same(weights(model), before) != any(finite)  # nothing is learned until the scale has come down
        assert math.isfinite(event["loss"])
    assert not finite[0]
    assert sum(finite) > 5


def test_a_loss_that_is_no_number_stops_the_run_and_is_named(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, epochs=1, batch_size=16)
    before = weights(model)
    with torch.no_grad():
        model.encoder.layers[1].ffn.up.bias[3] = float("nan")
    with pytest.raises(
        NotFiniteError, match=r"step 1 of 8: the loss is nan.*encoder\.layers\.1\.ffn\.up\.bias"
    ) as told:
        list(train(model, task, examples, recipe))
    assert sorted(told.value.rows) == sorted(Plan([len(e) for e in examples], recipe).rows(0))
    after = weights(model)
    assert all(torch.equal(after[name], before[name]) for name in before if name != "encoder.layers.1.ffn.up.bias")


def test_an_activation_that_overflows_is_named(small_bert, rows):
    """No weight is infinite, but what a block makes of them is."""
    model, task, examples, recipe = begin(small_bert, rows, epochs=1)
    with torch.no_grad():
        model.encoder.layers[0].ffn.down.weight.fill_(3e38)
    with pytest.raises(NotFiniteError, match=r"blocks\.(0\.hook_resid_post|1\.hook_resid_pre)"):
        list(train(model, task, examples, recipe))


def test_a_metric_that_there_is_not_is_named(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, epochs=1, metric="f2")
    with pytest.raises(MiniTransformerError, match="'f2', expected one of loss, accuracy"):
        list(train(model, task, examples, recipe, evaluate=lambda: {"loss": 1.0, "accuracy": 0.5}))


def test_patience_stops_and_the_best_is_told(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, epochs=20, batch_size=60, evaluate_every=0.5, patience=3)
    values = iter([0.1, 0.4, 0.4, float("nan"), 0.2, 0.9])
    events = list(train(model, task, examples, recipe, evaluate=lambda: {"accuracy": next(values)}))
    judged = [event for event in events if event["event"] == "evaluation"]
    assert [event["best"] for event in judged] == [True, True, False, False, False]
    assert events[-1]["step"] == 5


def test_lower_is_better_for_a_loss(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, epochs=3, batch_size=120, metric="loss")
    values = iter([0.5, 0.6, 0.4])
    events = train(model, task, examples, recipe, evaluate=lambda: {"loss": next(values)})
    assert [event["best"] for event in events if event["event"] == "evaluation"] == [True, False, True]
