"""Which score of an evaluation counts, and whether it is the best so far."""

import math
from collections.abc import Mapping

from minitransformer.errors import ConfigError
from minitransformer.finetune.checkpoints import State
from minitransformer.finetune.recipe import Recipe
from minitransformer.metrics import goodness
from minitransformer.tasks.task import Task


def metric_of(recipe: Recipe, task: Task) -> str:
    """The score that says which weights are the best."""
    return recipe.metric or task.kind.metric


def score_of(scores: Mapping[str, float], metric: str) -> float:
    """The score of that name; a ConfigError where there is none."""
    if metric not in scores:
        raise ConfigError(f"metric: got {metric!r}, expected one of {', '.join(scores)}")
    return scores[metric]


def note_score(state: State, scores: Mapping[str, float], recipe: Recipe, task: Task) -> bool:
    """Note in the state whether these scores are the best so far, and how many evaluations ago the best was."""
    metric = metric_of(recipe, task)
    value = score_of(scores, metric)
    better = math.isfinite(value) and (state.best is None or goodness(metric, value) > goodness(metric, state.best))
    if better:
        state.best, state.best_step, state.since_best = value, state.step, 0
    else:
        state.since_best += 1
    return better
