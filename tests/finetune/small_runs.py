"""What tests of the loop share: a run over a small model, up to the weights."""

import torch

from minitransformer.finetune.loop import train
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.start import make_task, start


def begin(folder, rows, task="classify", **recipe):
    """A model for a task, the task, the examples and the recipe."""
    model, complete = start(str(folder), task, rows, Recipe(**{"learning_rate": 1e-3, **recipe}))
    the_task = make_task(task, model, complete, rows)
    return model.transformer, the_task, the_task.encode(rows), complete


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained(folder, rows, task="classify", *, checkpoint=None, evaluate=None, save=None, **recipe):
    """The weights after a run, and the losses of its steps."""
    model, the_task, examples, complete = begin(folder, rows, task, **recipe)
    events = list(train(model, the_task, examples, complete, checkpoint=checkpoint, evaluate=evaluate, save=save))
    return weights(model), [event["loss"] for event in events if event["event"] == "step"]


def same(one, other):
    """Whether two runs have the same weights, to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
