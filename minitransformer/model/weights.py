"""The weights, head by head, and the two matrices that a head is: QK says where it looks, OV what it moves.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model.points import heads_of
from minitransformer.model.transformer import Transformer
from minitransformer.modules import TokenEmbedding
from minitransformer.modules.adapters import AdapterLinear, effective_weight


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """A product A B that is never multiplied out: [... L R] and [... R N], whose rank R is small."""

    A: Tensor
    B: Tensor

    @property
    def AB(self) -> Tensor:
        """The product: [... L N]."""
        return self.A @ self.B

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U [... L R], S [... R], Vh [... R N] with A B = U diag(S) Vh: of the two small factors, after QR of each."""
        (qa, ra), (qb, rb) = torch.linalg.qr(self.A), torch.linalg.qr(self.B.mT)
        u, s, vh = torch.linalg.svd(ra @ rb.mT, full_matrices=False)
        return qa @ u, s, vh @ qb.mT

    @property
    def U(self) -> Tensor:
        """Left singular vectors, [... L R]."""
        return self.svd()[0]

    @property
    def S(self) -> Tensor:
        """Singular values, [... R], largest first."""
        return self.svd()[1]

    @property
    def Vh(self) -> Tensor:
        """Right singular vectors, [... R N]."""
        return self.svd()[2]

    @property
    def eigenvalues(self) -> Tensor:
        """Those of A B that may differ from 0, complex [... R]: A B and B A have the same."""
        return torch.linalg.eigvals(self.B @ self.A)

    def norm(self) -> Tensor:
        """The root of the sum of all squares, [...]: that of the singular values."""
        return torch.linalg.vector_norm(self.S, dim=-1)

    def __getitem__(self, index: object) -> "FactoredMatrix":
        """Of some layers or heads: OV[3, 7]."""
        return FactoredMatrix(self.A[index], self.B[index])  # type: ignore[index]


@dataclass(frozen=True, eq=False)
class Weights:
    """The matrices of one kind of attention in all blocks, by layer and head, and those of the tokens.

    L layers, H heads, D width, E head width, V vocabulary. A vector is a row, as in the paper: q = x W_Q + b_Q. They
    are stacked for you, with gradients: to change them changes no model. Keys and values that serve several heads are
    repeated, a bias that is not there is 0, and LoRA counts, as the model computes with it.
    """

    W_Q: Tensor  # [L H D E]
    W_K: Tensor  # [L H D E]
    W_V: Tensor  # [L H D E]
    W_O: Tensor  # [L H E D]
    b_Q: Tensor  # [L H E]
    b_K: Tensor  # [L H E]
    b_V: Tensor  # [L H E]
    b_O: Tensor  # [L D]
    W_E: Tensor | None  # [V D'], the table of tokens that the stack reads; None for images
    W_U: Tensor | None  # [D' V], unembed.hook_in W_U + b_U are the logits; None without a language model
    b_U: Tensor | None  # [V]

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_Kᵀ, [L H D D]: how well a query at one vector fits a key at another."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O, [L H D D]: what a head adds where it looks at a vector."""
        return FactoredMatrix(self.W_V, self.W_O)


def weights(model: Transformer, attention: str | None = None) -> Weights:
    """The weights of that kind of attention: "encoder", "decoder" or "cross", where the model has several."""
    heads = heads_of(model, attention)
    count = heads.stack.config.heads
    modules = [heads.module(layer) for layer in range(heads.layers)]
    if any(isinstance(attn.o, AdapterLinear) for attn in modules):
        raise InputError("weights: behind these heads stand adapters, which are no matrix; there is no W_O of a head")
    of_q, of_k, of_v = ([_of_heads(getattr(attn, name), attn.d_head, count) for attn in modules] for name in "qkv")
    outputs = [effective_weight(attn.o).T.unflatten(0, (count, attn.d_head)) for attn in modules]  # [H E D] each
    embed = model.embed if attention in (None, "encoder") or model.target_embed is None else model.target_embed
    projection = getattr(model.head, "lm", None)
    table = None if projection is None else model.table() if projection.weight is None else projection.weight
    bias = None if table is None or projection is None else projection.bias
    return Weights(
        **{
            f"W_{name}": torch.stack([w for w, _ in found])
            for name, found in zip("QKV", (of_q, of_k, of_v), strict=True)
        },
        **{
            f"b_{name}": torch.stack([b for _, b in found])
            for name, found in zip("QKV", (of_q, of_k, of_v), strict=True)
        },
        W_O=torch.stack(outputs),
        b_O=torch.stack([_bias(attn.o) for attn in modules]),
        W_E=embed.tokens.weight if isinstance(embed, TokenEmbedding) else None,
        W_U=None if table is None or projection is None else table.T * projection.scale,
        b_U=table.new_zeros(len(table)) if bias is None and table is not None else bias,
    )


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _of_heads(linear: nn.Linear, d_head: int, heads: int) -> tuple[Tensor, Tensor]:
    """A projection's matrix and bias, one for each head of queries: [H D E] and [H E]."""
    w = effective_weight(linear).T.unflatten(1, (-1, d_head)).transpose(0, 1)  # [G D E]
    b = _bias(linear).unflatten(0, (-1, d_head))  # [G E]
    group = heads // len(w)
    return w.repeat_interleave(group, dim=0), b.repeat_interleave(group, dim=0)
