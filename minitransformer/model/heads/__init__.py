"""What a Transformer's output is read for: one small class for each head.

A head turns `States` into named logits, and knows its loss as (sum, count): the sum over everything that was judged,
and how much that was. The mean is sum / count; only so do micro-batches of unequal size add up to the whole batch.
"""

from minitransformer.config import (
    ClassificationConfig,
    DistilledClassificationConfig,
    DoubleHeadsConfig,
    HeadConfig,
    LanguageModelConfig,
    PretrainingConfig,
    QuestionAnsweringConfig,
    ReplacedTokensConfig,
    TokenClassificationConfig,
    TransformerConfig,
)
from minitransformer.model.heads.classifiers import (
    Classification,
    DistilledClassification,
    QuestionAnswering,
    ReplacedTokens,
    TokenClassification,
)
from minitransformer.model.heads.language import DoubleHeads, LanguageModel, LanguageModelProjection, Pretraining
from minitransformer.model.heads.states import IGNORED, CrossEntropy, Logits, States, SumAndCount

__all__ = ["IGNORED", "CrossEntropy", "Head", "LanguageModelProjection", "Logits", "States", "SumAndCount", "head"]

Head = (
    LanguageModel
    | Pretraining
    | ReplacedTokens
    | Classification
    | DoubleHeads
    | DistilledClassification
    | TokenClassification
    | QuestionAnswering
)


def head(config: HeadConfig, model: TransformerConfig) -> Head:
    """The module for a head's config."""
    match config:
        case LanguageModelConfig():
            return LanguageModel(config, model)
        case PretrainingConfig():
            return Pretraining(config, model)
        case ReplacedTokensConfig():
            return ReplacedTokens(config, model)
        case ClassificationConfig():
            return Classification(config, model)
        case DoubleHeadsConfig():
            return DoubleHeads(config, model)
        case DistilledClassificationConfig():
            return DistilledClassification(config, model)
        case TokenClassificationConfig():
            return TokenClassification(config, model)
        case QuestionAnsweringConfig():
            return QuestionAnswering(config, model)
