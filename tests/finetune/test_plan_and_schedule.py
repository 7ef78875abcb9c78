"""Which rows make up which step, and at which rate: functions of the recipe and the step alone."""

import itertools

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.errors import ConfigError
from minitransformer.finetune.plan import Plan, batches
from minitransformer.finetune.recipe import Recipe, schedule

THEIRS = {
    "linear": lambda optimizer, warmup, steps: transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps),
    "cosine": lambda optimizer, warmup, steps: transformers.get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    "constant": lambda optimizer, warmup, steps: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
    "polynomial": lambda optimizer, warmup, steps: transformers.get_polynomial_decay_schedule_with_warmup(
        optimizer, warmup, steps, lr_end=0.0, power=2.0
    ),
}
lengths_of_rows = st.lists(st.integers(1, 60), min_size=1, max_size=200)


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.0), (10, 0.3), (100, 0.1), (7, 0.9), (50, 5)])
@pytest.mark.parametrize("name", THEIRS)
def test_schedules_are_those_of_transformers(name, steps, warmup):
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    rising = round(steps * warmup) if warmup < 1 else warmup
    # transformers starts its warm-up at a rate of 0, a step that does nothing; ours starts one step up.
    theirs_schedule = THEIRS[name](optimizer, rising, steps)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs_schedule.step()
    recipe = Recipe(schedule=name, warmup=warmup)
    ours = [schedule(recipe, step, steps) for step in range(steps)]
    assert ours[rising:] == pytest.approx(theirs[rising:])
    assert ours[: max(0, rising - 1)] == pytest.approx(theirs[1:rising])
    assert max(ours) == pytest.approx(1)
    assert min(ours) > 0


def test_the_papers_own_schedule():
    """lrate = d_model**-0.5 · min(step**-0.5, step · warmup**-1.5): Vaswani et al. 2017, eq. 3. Our peak is 1."""
    ours = [schedule(Recipe(schedule="inverse_sqrt", warmup=40), step, 400) for step in range(400)]
    paper = [min(step**-0.5, step * 40**-1.5) * 40**0.5 for step in range(1, 401)]
    assert ours == pytest.approx(paper)


@given(lengths=lengths_of_rows, batch_size=st.integers(1, 17), epoch=st.integers(0, 3))
def test_each_row_is_in_one_batch(lengths, batch_size, epoch):
    found = batches(lengths, batch_size, seed=7, epoch=epoch)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in found)
    assert len(found) == -(-len(lengths) // batch_size)
    assert found == batches(lengths, batch_size, seed=7, epoch=epoch)


@given(lengths=lengths_of_rows, tokens=st.integers(1, 300), epoch=st.integers(0, 3))
def test_batches_by_tokens_hold_no_more_of_them(lengths, tokens, epoch):
    found = batches(lengths, 32, tokens=tokens, seed=7, epoch=epoch)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens for batch in found)


def test_texts_of_like_length_share_a_batch_and_epochs_differ():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 60, (1000,), generator=generator).tolist()

    def padding(found):
        return sum(max(lengths[i] for i in batch) * len(batch) for batch in found) / sum(lengths)

    bucketed = batches(lengths, 16, seed=0, epoch=0)
    plain = [list(range(i, min(i + 16, 1000))) for i in range(0, 1000, 16)]
    assert padding(bucketed) < 1.06 < 1.5 < padding(plain)
    assert padding(batches(lengths, 1, tokens=500, seed=0, epoch=0)) < 1.06
    assert bucketed != batches(lengths, 16, seed=0, epoch=1)
    first = [max(lengths[i] for i in batch) for batch in bucketed[:10]]
    assert first != sorted(first), "batches go from short to long"


@given(
    lengths=lengths_of_rows,
    recipe=st.builds(
        Recipe,
        epochs=st.floats(0.1, 4),
        steps=st.none() | st.integers(1, 50),
        batch_size=st.integers(1, 20),
        batch_tokens=st.none() | st.integers(10, 200),
        evaluate_every=st.floats(0.2, 3),
    ),
)
def test_a_plan_can_begin_anywhere(lengths, recipe):
    plan, backwards = Plan(lengths, recipe), Plan(lengths, recipe)
    steps = range(plan.steps)
    assert [plan.rows(step) for step in steps] == [backwards.rows(step) for step in reversed(steps)][::-1]
    assert all(plan.rows(step) for step in steps)
    if recipe.steps is not None:
        assert plan.steps == recipe.steps
    elif recipe.batch_tokens is None:
        per_epoch = -(-len(lengths) // recipe.batch_size)
        assert abs(plan.steps - recipe.epochs * per_epoch) <= 1
    progress = [plan.epochs_before(step) for step in range(plan.steps + 1)]
    assert progress == sorted(progress)
    assert plan.evaluates_after(plan.steps - 1)
    evaluations = sum(plan.evaluates_after(step) for step in steps)
    assert evaluations <= progress[-1] / recipe.evaluate_every + 1


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"warmup": -1},
     {"weight_decay": -1}, {"max_length": 2}, {"max_grad_norm": 0}, {"optimizer": "adam"}, {"dtype": "int8"},
     {"label_smoothing": 1.0}, {"steps": 0}, {"steps": 10**12}, {"epochs": 1e12}, {"keep": 0}, {"schedule": "linaer"}],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recipe(**wrong)
