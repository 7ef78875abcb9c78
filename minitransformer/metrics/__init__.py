"""How good answers are: each function takes what was predicted and what is right, and gives names and numbers.

Classes, numbers and spans need no library; entities (seqeval) and texts (sacrebleu, rouge-score) the extra "metrics".
All are shares from 0 to 1, correlations or errors, but for BLEU and chrF, which go from 0 to 100 as everywhere.
"""

from minitransformer.metrics.classes import classification, confusion_matrix, multilabel, per_class, per_label
from minitransformer.metrics.comparison import LOWER_IS_BETTER, goodness, paired_bootstrap
from minitransformer.metrics.entities import entities, per_type
from minitransformer.metrics.numbers import perplexity, regression
from minitransformer.metrics.spans import normalised, spans
from minitransformer.metrics.text import bleu, bleu_signature, chrf, rouge

__all__ = [
    "LOWER_IS_BETTER",
    "bleu",
    "bleu_signature",
    "chrf",
    "classification",
    "confusion_matrix",
    "entities",
    "goodness",
    "multilabel",
    "normalised",
    "paired_bootstrap",
    "per_class",
    "per_label",
    "per_type",
    "perplexity",
    "regression",
    "rouge",
    "spans",
]
