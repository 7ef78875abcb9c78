"""The range test: rates that grow evenly, the loop's own losses, and a model that is as it was before."""

import pytest
import torch
from small_runs import begin, same, trained, weights

from minitransformer.errors import ConfigError, DataError, NotFiniteError
from minitransformer.finetune.many.find_rate import find_rate, range_test, suggestion
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.recipe import Recipe


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_before_to_the_last_bit(small_bert, rows, training):
    model, task, examples, recipe = begin(small_bert, rows, batch_size=8)
    model.train(training)
    before = weights(model)
    generator = torch.random.get_rng_state()
    range_test(model, task, examples, recipe)
    assert same(before, weights(model))
    assert all(p.grad is None for p in model.parameters())
    assert model.training is training
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_the_model_is_as_before_after_an_error_too(small_bert, rows, monkeypatch):
    model, task, examples, recipe = begin(small_bert, rows, batch_size=8)
    before, real, calls = weights(model), task.loss, []

    def loss(*arguments):
        calls.append(1)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(task, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        range_test(model, task, examples, recipe)
    assert same(before, weights(model))
    assert all(p.grad is None for p in model.parameters())


def test_rates_grow_evenly_and_the_loss_ends_it_when_it_is_four_times_its_lowest(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, batch_size=8, max_grad_norm=100.0, optimizer="sgd")
    found = range_test(model, task, examples, recipe)
    assert found.rates[0] == pytest.approx(1e-7)
    assert len(found.rates) == len(found.losses)
    factors = [after / before for before, after in zip(found.rates, found.rates[1:], strict=False)]
    assert factors == pytest.approx([10 ** (7 / 99)] * len(factors))
    limits = [4 * min(found.losses[: i + 1]) for i in range(len(found.losses))]
    assert all(loss <= limit for loss, limit in zip(found.losses[:-1], limits, strict=False))
    if found.ended_early:
        assert found.losses[-1] > 4 * min(found.losses[:-1])
    else:
        assert found.rates[-1] == pytest.approx(1.0)


def test_a_loss_that_explodes_ends_the_test(small_bert, rows):
    model, task, examples, recipe = begin(small_bert, rows, batch_size=8)
    found = range_test(model, task, examples, recipe)
    assert found.ended_early
    assert len(found.losses) < 100
    assert found.losses[-1] > 4 * min(found.losses[:-1])


def test_the_losses_are_those_of_plain_training(calm_bert, rows):
    """The same by hand: torch's SGD at the same rates, over the batches of the plan, the losses smoothed."""
    model, task, examples, recipe = begin(calm_bert, rows, batch_size=8, optimizer="sgd", beta1=0.0, weight_decay=0.0)
    found = range_test(model, task, examples, recipe)
    optimizer = torch.optim.SGD(model.parameters())
    plan = Plan([len(each) for each in examples], Recipe(steps=100, batch_size=8))
    losses, expected = [], []
    for step in range(len(found.losses)):
        optimizer.param_groups[0]["lr"] = 10 ** (-7 + 7 * step / 99)
        total, count = task.loss(model, task.collate([examples[i] for i in plan.rows(step)]))
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        kept = [0.9 ** (step - i) for i in range(step + 1)]  # a weighted mean, the newest counting most
        expected.append(sum(k * x for k, x in zip(kept, losses, strict=True)) / sum(kept))
    assert found.losses == pytest.approx(expected, rel=1e-3)
    assert max(losses) - min(losses) > 0.1


def test_rates_that_differ_by_layer_keep_their_proportions(calm_bert, rows):
    """A head far above the rest trains as if it were alone; one far below does not train as the rest does."""
    options = {"batch_size": 8, "optimizer": "sgd", "max_grad_norm": 1e6}
    both = range_test(*begin(calm_bert, rows, **options))
    slow = range_test(*begin(calm_bert, rows, **options, head_learning_rate=1e-12))
    fast = range_test(*begin(calm_bert, rows, **options, head_learning_rate=1e6))
    alone = range_test(*begin(calm_bert, rows, **options, train="head"))
    shared = min(map(len, (both.losses, slow.losses, fast.losses, alone.losses)))
    assert fast.losses[:shared] == pytest.approx(alone.losses[:shared], rel=1e-3)
    assert slow.losses[shared - 1] != pytest.approx(both.losses[shared - 1], rel=1e-2)


def test_the_suggestion_is_a_tenth_of_where_the_loss_is_lowest():
    rates = [10 ** (-7 + step / 10) for step in range(60)]
    valley = [1 + abs(step - 40) / 10 for step in range(60)]
    assert suggestion(rates, valley) == pytest.approx(10 ** (-7 + 4 - 1), rel=0.01)
    assert suggestion(rates, [0.1, *valley[1:]]) == suggestion(rates, valley)  # one easy batch at the start
    assert suggestion(rates, [1 + step for step in range(60)]) is None


def test_a_run_at_the_suggested_rate_learns(small_bert, rows):
    found = find_rate(small_bert, "classify", rows, recipe=Recipe(batch_size=8))
    assert 1e-5 < found.suggested < 0.1
    options = {"batch_size": 8, "epochs": 4}
    _, losses = trained(small_bert, rows, learning_rate=found.suggested, **options)
    _, slow = trained(small_bert, rows, learning_rate=found.suggested / 1000, **options)
    assert sum(losses[-5:]) < 0.8 * sum(slow[-5:])


def test_what_is_wrong_is_said(small_bert, rows, monkeypatch):
    with pytest.raises(ConfigError, match="task: got 'clasify'"):
        find_rate(small_bert, "clasify", rows)
    model, task, examples, recipe = begin(small_bert, rows)
    with pytest.raises(DataError, match="rows: got none"):
        range_test(model, task, [], recipe)
    with torch.no_grad():
        model.head.cls.weight.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="the loss of the first step is no finite number"):
        range_test(model, task, examples, recipe)
