"""A look at rows before training: what of them would be lost, what is wrong with them, what a run would cost."""

from minitransformer.finetune.check.inspect import inspect_rows

__all__ = ["inspect_rows"]
