"""What a task is: how its rows become a batch, what its logits mean, how it is scored. One file for each task."""

from typing import Any

from minitransformer.tasks.choice import Choice
from minitransformer.tasks.classify import Classify, Prediction
from minitransformer.tasks.classify_images import ClassifyImages
from minitransformer.tasks.dialogue import Dialogue
from minitransformer.tasks.language import CausalLM, MaskedLM
from minitransformer.tasks.multilabel import Multilabel
from minitransformer.tasks.regress import Regress
from minitransformer.tasks.relation import Relation
from minitransformer.tasks.seq2seq import Summarize, Translate
from minitransformer.tasks.span import Span
from minitransformer.tasks.tag import Tag
from minitransformer.tasks.task import Row

__all__ = ["TASKS", "Prediction", "Row"]

TASKS: dict[str, Any] = {
    "classify": Classify,
    "regress": Regress,
    "multilabel": Multilabel,
    "tag": Tag,
    "relation": Relation,
    "span": Span,
    "choice": Choice,
    "lm": CausalLM,
    "mlm": MaskedLM,
    "translate": Translate,
    "summarize": Summarize,
    "dialogue": Dialogue,
    "image": ClassifyImages,
}
