"""The boxes of the paper's figure 1: attention, feed-forward, add & norm, embeddings, positions, masks, cache."""

from minitransformer.modules.attention import MultiHeadAttention
from minitransformer.modules.cache import KVCache
from minitransformer.modules.embeddings import TokenEmbedding
from minitransformer.modules.feedforward import FeedForward
from minitransformer.modules.norm import AddNorm, LayerNorm

__all__ = ["AddNorm", "FeedForward", "KVCache", "LayerNorm", "MultiHeadAttention", "TokenEmbedding"]
