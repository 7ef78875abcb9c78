"""What a task is: how its rows become a batch, what its logits mean, how it is scored. One file for each task."""

from minitransformer.tasks.classify import Prediction, Row

__all__ = ["Prediction", "Row"]
