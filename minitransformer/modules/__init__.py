"""The boxes of the paper's figure 1: attention, feed-forward, add & norm, embeddings, positions, masks, cache."""

from minitransformer.modules.attention import MultiHeadAttention
from minitransformer.modules.cache import KVCache
from minitransformer.modules.embeddings import PatchEmbedding, TokenEmbedding
from minitransformer.modules.feedforward import FeedForward
from minitransformer.modules.norm import NORMS, AddNorm, LayerNorm, Norm, RMSNorm
from minitransformer.modules.positions import RelativeBias

__all__ = [
    "NORMS",
    "AddNorm",
    "FeedForward",
    "KVCache",
    "LayerNorm",
    "MultiHeadAttention",
    "Norm",
    "PatchEmbedding",
    "RMSNorm",
    "RelativeBias",
    "TokenEmbedding",
]
