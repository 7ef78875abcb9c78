"""First values for weights that no checkpoint gives."""

from torch import nn

from minitransformer.model.heads import LanguageModelProjection
from minitransformer.modules import LayerNorm, PatchEmbedding, RelativeBias, RMSNorm
from minitransformer.modules.embeddings import Patches, PatchPositions


def initialise(module: nn.Module) -> None:
    """Draw first values for all weights of `module`, from torch's global generator.

    Matrices: normal with variance 2 / (inputs + outputs), Glorot and Bengio 2010, eq. 12. Embeddings: normal with
    variance 1/D, so that the paper's factor √D brings them to 1. Biases 0, norms the identity.
    An image's patches and positions are no products of many terms: normal with deviation 0.02, as ViT's.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=part.embedding_dim**-0.5)
        elif isinstance(part, LayerNorm | RMSNorm):
            nn.init.ones_(part.weight)
            if isinstance(part, LayerNorm):
                nn.init.zeros_(part.bias)
        elif isinstance(part, RelativeBias):
            nn.init.zeros_(part.weight)
        elif isinstance(part, Patches | PatchEmbedding | PatchPositions):
            for weight in part.parameters(recurse=False):
                nn.init.normal_(weight, std=0.02)
        elif isinstance(part, LanguageModelProjection):
            if part.weight is not None:
                nn.init.normal_(part.weight, std=part.weight.shape[1] ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def redraw(module: nn.Module, std: float = 0.02) -> None:
    """Draw new first values as BERT's: matrices normal with this deviation, biases 0, norms the identity."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, LayerNorm | RMSNorm):
            nn.init.ones_(part.weight)
            if isinstance(part, LayerNorm):
                nn.init.zeros_(part.bias)
