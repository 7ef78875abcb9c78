"""Looking inside a loaded model: each function returns a small frozen result to read, draw, show and save.

In two lines:

    from minitransformer import lens
    lens.attention(model, "The cat sat.").save("heads.html")
"""

from minitransformer.lens.ablate import ablate
from minitransformer.lens.attention import Attention, attention
from minitransformer.lens.compare import Comparison, compare
from minitransformer.lens.explain import Explanation, explain
from minitransformer.lens.generate import NextTokens, generate
from minitransformer.lens.head_scores import HeadScores
from minitransformer.lens.head_types import HeadTypes, head_types
from minitransformer.lens.importance import head_importance
from minitransformer.lens.logit_attribution import LogitAttribution, logit_attribution
from minitransformer.lens.logit_lens import LogitLens, logit_lens
from minitransformer.lens.patch import PatchGrid, patch
from minitransformer.lens.result import Result
from minitransformer.lens.rollout import Rollout, rollout
from minitransformer.lens.saliency import Saliency, saliency
from minitransformer.lens.shapes import Shapes, shapes
from minitransformer.lens.table import Table
from minitransformer.lens.together import Page, look, together

__all__ = [
    "Attention",
    "Comparison",
    "Explanation",
    "HeadScores",
    "HeadTypes",
    "LogitAttribution",
    "LogitLens",
    "NextTokens",
    "Page",
    "PatchGrid",
    "Result",
    "Rollout",
    "Saliency",
    "Shapes",
    "Table",
    "ablate",
    "attention",
    "compare",
    "explain",
    "generate",
    "head_importance",
    "head_types",
    "logit_attribution",
    "logit_lens",
    "look",
    "patch",
    "rollout",
    "saliency",
    "shapes",
    "together",
]
