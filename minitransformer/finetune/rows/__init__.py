"""Rows from the files people have, and their division into rows to train on and rows to judge by."""

from minitransformer.finetune.rows.read import read_rows
from minitransformer.finetune.rows.split import content_hash, fingerprint, split_rows

__all__ = ["content_hash", "fingerprint", "read_rows", "split_rows"]
