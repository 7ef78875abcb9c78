"""How one number of the output changes when a single token, or patch, is replaced with what stands for nothing."""

import torch
from torch import Tensor

from minitransformer.lens.gradients import Rows, Score, readings_at_once


def occlusion(score: Score, rows: Rows, baseline: Rows) -> Rows:
    """F(x) - F(x with one row of x' in place of its own): [T] for each stack.

    x' is the baseline. Each token takes a reading of its own, and several go in one pass. Zeiler and Fergus 2014,
    "Visualizing and Understanding Convolutional Networks", sec. 4.2, where a square of an image is covered; of words:
    Li, Monroe, Jurafsky 2016, "Understanding Neural Networks through Representation Erasure".
    """
    with torch.no_grad():
        whole = score(rows).double()  # [1]
        found = {}
        for name, x in rows.items():
            places = torch.arange(x.shape[1], device=x.device).split(readings_at_once(rows))
            found[name] = torch.cat([whole - _without(score, rows, name, baseline[name], some) for some in places])
    return found


def _without(score: Score, rows: Rows, name: str, baseline: Tensor, places: Tensor) -> Tensor:
    """The number of each reading in which one of these places has the baseline's row: float64 [places]."""
    readings = {each: x.expand(len(places), *x.shape[1:]) for each, x in rows.items()}
    replaced = readings[name].clone()
    replaced[torch.arange(len(places), device=places.device), places] = baseline[0, places]
    return score({**readings, name: replaced}).double()
