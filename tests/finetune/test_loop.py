"""The loop: schedule, batches, reproducibility, and the first steps beside a plain loop over transformers' model."""

import itertools

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import minitransformer as mt
from minitransformer.errors import DataError, MiniTransformerError
from minitransformer.finetune.batches import batches
from minitransformer.finetune.loop import parameter_groups, train
from minitransformer.finetune.recipe import Recipe, learning_rate
from minitransformer.finetune.run import encode
from minitransformer.tasks import classify

LABELS = ("negative", "positive")


def classifier(folder, **changes):
    torch.manual_seed(5)
    return mt.load(folder, head="sequence-classification", labels=LABELS, **changes)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.0), (10, 0.3), (100, 0.1), (7, 1.0)])
def test_the_schedule_is_transformers_linear_one(steps, warmup):
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    # transformers starts its warm-up at a rate of 0, a step that does nothing; ours starts one step up.
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(steps * warmup), steps)
    recipe = Recipe(learning_rate=2.0, warmup=warmup)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [learning_rate(recipe, step, steps) for step in range(steps)]
    rising = round(steps * warmup)
    assert ours[rising:] == pytest.approx(theirs[rising:])
    assert ours[: max(0, rising - 1)] == pytest.approx(theirs[1:rising])
    assert max(ours) == pytest.approx(2.0)
    assert min(ours) > 0


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=300),
    batch_size=st.integers(1, 17),
    epoch=st.integers(0, 3),
)
def test_each_row_is_in_one_batch(lengths, batch_size, epoch):
    found = batches(lengths, batch_size, seed=7, epoch=epoch)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in found)
    assert len(found) == -(-len(lengths) // batch_size)
    assert found == batches(lengths, batch_size, seed=7, epoch=epoch)


def test_texts_of_like_length_share_a_batch_and_epochs_differ():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 60, (1000,), generator=generator).tolist()

    def padding(found):
        return sum(max(lengths[i] for i in batch) * len(batch) for batch in found) / sum(lengths)

    bucketed = batches(lengths, 16, seed=0, epoch=0)
    plain = [list(range(i, min(i + 16, 1000))) for i in range(0, 1000, 16)]
    assert padding(bucketed) < 1.06 < 1.5 < padding(plain)
    assert bucketed != batches(lengths, 16, seed=0, epoch=1)
    first = [max(lengths[i] for i in batch) for batch in bucketed[:10]]
    assert first != sorted(first), "batches go from short to long"


def test_biases_and_norms_do_not_decay(small_bert):
    model = classifier(small_bert).transformer
    decaying, others = parameter_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert decaying["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert {names[id(p)] for p in others["params"]} == {
        name for name in names.values() if name.endswith("bias") or "norm" in name
    }
    assert len(decaying["params"]) + len(others["params"]) == len(names)


def test_a_run_is_a_function_of_its_recipe(small_bert, rows):
    def run(seed, look=False):
        model = classifier(small_bert)
        recipe = Recipe(epochs=1, batch_size=16, learning_rate=1e-3, seed=seed)
        for step in train(model.transformer, *encode(model, rows, recipe), recipe):
            if look and step["step"] % 2:  # looking on draws random numbers and switches modes
                model.predict([row.text for row in rows[:5]])
                torch.rand(3)
        return weights(model)

    first, again, looked, other = run(0), run(0), run(0, look=True), run(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], looked[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_loop_equals_a_plain_loop_over_transformers_model(small_bert, rows, tmp_path):
    """Without dropout, in float64, step by step: losses, and the weights but for key biases (their gradient is 0)."""
    config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ours = classifier(small_bert, config=config, dtype=torch.float64)
    ours.save(tmp_path / "start")
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "start", dtype=torch.float64).train()
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=1e-3, max_length=6, weight_decay=0.1, max_grad_norm=0.5)

    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}])
    texts = [row.text for row in rows]
    lengths = classify.lengths(ours.tokenizer, texts)
    order = [batch for epoch in range(2) for batch in batches(lengths, 16, seed=0, epoch=epoch)]
    targets = classify.encode_labels(rows, LABELS)
    for step, places in zip(train(ours.transformer, *encode(ours, rows, recipe), recipe), order, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = step["learning_rate"]
        batch = ours.tokenizer([texts[i] for i in places], truncation=True, max_length=6)
        loss = theirs(**batch, labels=targets[places]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert step["loss"] == pytest.approx(loss.item(), rel=1e-9)
    ours.save(tmp_path / "end")
    end = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "end", dtype=torch.float64).state_dict()
    for name, expected in theirs.state_dict().items():
        if "key.bias" not in name:
            torch.testing.assert_close(end[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def test_it_learns(small_bert, rows):
    model = classifier(small_bert)
    recipe = Recipe(epochs=8, batch_size=8, learning_rate=2e-3)
    steps = list(train(model.transformer, *encode(model, rows, recipe), recipe))
    assert len(steps) == steps[-1]["steps"] == 8 * 15
    assert steps[-1]["loss"] < 0.2 < steps[0]["loss"]
    predictions = model.predict([row.text for row in rows])
    assert classify.accuracy(predictions, rows) > 0.98
    assert not model.transformer.training


def test_a_loss_that_is_no_number_stops_the_run(small_bert, rows):
    model = classifier(small_bert)
    with torch.no_grad():
        model.transformer.head.cls.bias.fill_(float("nan"))
    with pytest.raises(MiniTransformerError, match="loss is nan at step 1 of"):
        list(train(model.transformer, *encode(model, rows, Recipe()), Recipe()))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"warmup": 1.5},
     {"weight_decay": -1}, {"max_length": 2}, {"max_grad_norm": 0}],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        Recipe(**wrong)
