"""Every formula of the model, in plain tensor code, on one page.

Read this file first. Nothing here calls a fused kernel: each line is a line of the paper it names. `ops/fused.py` has
the same functions by name and signature, and the tests hold the two equal, forward and gradient.

Letters, here and everywhere: B batch, T queries, S keys, D model width, H heads, G heads of keys and values (H, or a
divisor of it), E head width, F inner width, V vocabulary, N patches of an image. A comment at the end of a line gives
the shape of its result.
"""

import math

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------------------- attention


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q kᵀ · scale + bias) v over the keys that `mask` allows.

    q [B H T E], k and v [B G S E], mask bool [B|1 1|H T|1 S] (True: may attend), bias [1 H T S]. Returns [B H T E].
    Vaswani et al. 2017, eq. 1, where scale = 1/√E.
    """
    k, v = (for_each_query_head(x, q.shape[1]) for x in (k, v))  # [B H S E]
    weights = attention_weights(attention_scores(q, k, scale=scale, bias=bias), mask)  # [B H T S]
    return drop(weights, dropout) @ v  # [B H T E]


def attention_scores(q: Tensor, k: Tensor, *, scale: float, bias: Tensor | None = None) -> Tensor:
    """q kᵀ · scale + bias: how well each query fits each key. q [B H T E], k [B H S E] -> [B H T S]."""
    scores = q @ k.transpose(-2, -1) * scale  # [B H T S]
    return scores if bias is None else scores + bias


def for_each_query_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values that serve groups of query heads, repeated for each of them. [B G S E] -> [B H S E].

    Head h of the queries reads head h // (H/G). Ainslie et al. 2023, "GQA", section 2.2.
    """
    group = heads // x.shape[1]
    return x if group == 1 else x.repeat_interleave(group, dim=1)  # a group of one needs no copy


def attention_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax of the scores over the keys that `mask` allows. [B H T S] -> [B H T S], every row sums to 1.

    A forbidden key has score -∞ and therefore weight 0. A query that may attend to nothing gets weights of 0, not NaN.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return softmax(scores)


def softmax(x: Tensor) -> Tensor:
    """exp(xᵢ) / Σⱼ exp(xⱼ) along the last dimension; zeros where every xⱼ is -∞.

    Subtracting the largest x first changes nothing in the quotient, and keeps exp from overflowing.
    """
    largest = x.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).min)  # finite for a row of -∞, too
    e = (x - largest).exp()
    return e / e.sum(-1, keepdim=True).clamp(min=1)  # the largest alone gives 1; only a row of -∞ sums to less


# ------------------------------------------------------------------------------------------------------ normalisation


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / √(variance + eps) · weight + bias over the last dimension. [... D] -> [... D].

    The variance divides by D, not by D - 1. Ba, Kiros, Hinton 2016, eq. 4.
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean of x² + eps) · weight over the last dimension. [... D] -> [... D]. Zhang, Sennrich 2019, eq. 4.

    The mean is taken in float32 at least: the squares of half-precision numbers overflow.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()).to(x.dtype) * weight


# -------------------------------------------------------------------------------------------------------- activations


def relu(x: Tensor) -> Tensor:
    """max(0, x): the activation of Vaswani et al. 2017, eq. 2."""
    return torch.where(x > 0, x, 0)


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), with Φ the normal distribution function. Hendrycks, Gimpel 2016, section 2. BERT's "gelu"."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³))): the same paper's approximation of `gelu`. GPT-2's "gelu_new".

    Up to 4.7e-4 away from `gelu`: a checkpoint trained with one does not give the same numbers with the other.
    """
    return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    """x σ(x), also called swish. Elfwing, Uchibe, Doya 2018, eq. 8."""
    return x * torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """(eˣ - e⁻ˣ) / (eˣ + e⁻ˣ), written so that nothing overflows."""
    return 2 * torch.sigmoid(2 * x) - 1


# ---------------------------------------------------------------------------------------------------------- positions


def sinusoidal(positions: Tensor, d_model: int) -> Tensor:
    """sin(p / 10000^(2i/D)) in column 2i, cos of the same angle in column 2i + 1. [... T] -> [... T D] float64.

    Vaswani et al. 2017, section 3.5. Angles are taken in float64: in float32 position 1000 is off by 6e-5.
    """
    columns = torch.arange(0, d_model, 2, device=positions.device, dtype=torch.float64)
    angles = positions.to(torch.float64)[..., None] / 10000 ** (columns / d_model)  # [... T D/2]
    interleaved = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # [... T D]
    return interleaved[..., :d_model]  # an odd D has no cosine for its last sine


def sinusoidal_halves(positions: Tensor, d_model: int) -> Tensor:
    """The numbers of `sinusoidal`, first all the sines, then all the cosines. [... T] -> [... T D] float64.

    The order of the paper's own program, and of Marian, which are equal to `sinusoidal` up to a permutation of columns.
    """
    table = sinusoidal(positions, d_model)
    return torch.cat((table[..., 0::2], table[..., 1::2]), dim=-1)


def rotary_table(positions: Tensor, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of p · theta^(-2j/E), for j = 0 … E/2 - 1, twice side by side. [B T] -> 2 × [B T E] float32.

    Su et al. 2021, "RoFormer", section 3.2.2. In float32, as checkpoints were trained: far out, angles are coarse.
    """
    columns = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.float32)
    frequencies = 1 / theta ** (columns / d_head)  # [E/2], rounded before they meet p: so trained, too
    angles = positions.to(torch.float32)[..., None] * frequencies  # [B T E/2]
    angles = torch.cat((angles, angles), dim=-1)  # [B T E]
    return angles.cos(), angles.sin()


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (xⱼ, xⱼ₊ₑ/₂) by its position's angle j. x [B H T E], cos and sin [B|1 T E] -> [B H T E].

    The score of two turned vectors depends on how far apart they stand, not on where. RoFormer pairs neighbours
    (eq. 34); checkpoints of Llama's kind pair the halves, with their matrices' rows in that order.
    """
    first, second = x.chunk(2, dim=-1)  # [B H T E/2]
    quarter_turn = torch.cat((-second, first), dim=-1)  # [B H T E]
    return x * cos[:, None] + quarter_turn * sin[:, None]


def relative_buckets(distances: Tensor, buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """The bucket of each distance (key's place - query's): near ones by themselves, far ones by their logarithm.

    int [T S] -> int64 [T S], 0 to buckets - 1. Bidirectional: the upper half of the buckets is for keys that come
    later; otherwise those share bucket 0. Raffel et al. 2019, "T5", section 2.1.
    """
    later = torch.zeros_like(distances)
    if bidirectional:
        buckets = buckets // 2
        later, distances = (distances > 0) * buckets, distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    near = buckets // 2
    logarithms = torch.log(distances.clamp(min=1).to(torch.float32) / near)
    share = logarithms / math.log(max_distance / near)  # 0: `near`, 1: `max_distance`
    far = (near + (share * (buckets - near)).to(torch.int64)).clamp(max=buckets - 1)
    return later + torch.where(distances < near, distances, far)


# ------------------------------------------------------------------------------------------------------------- images


def patches(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cut images into patches of P × Q pixels, row by row, and project each. [B C height width] -> [B N D].

    weight [D C P Q], bias [D]. What is left over at the right and below is not read.
    Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", eq. 1.
    """
    height, width = weight.shape[2:]
    cut = images.unfold(2, height, height).unfold(3, width, width)  # [B C rows columns P Q]
    flat = cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # [B N C·P·Q]
    return flat @ weight.flatten(1).T + bias  # [B N D]


# ----------------------------------------------------------------------------------------------------------- training


def drop(x: Tensor, p: float) -> Tensor:
    """Dropout: zero each number with probability p, and divide the others by 1 - p to keep the mean.

    Srivastava et al. 2014, section 10 (the "inverted" form). p = 0, as in evaluation, returns x itself.
    """
    if p == 0:
        return x
    if p == 1:
        return torch.zeros_like(x)
    return x * (torch.rand_like(x, dtype=torch.float32) >= p) / (1 - p)  # bfloat16 is too coarse to draw from


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = -100,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Sum of -log softmax(logits)[label] over the labels that count, and how many count.

    logits [N V], labels int [N]. A sum and a count, not a mean: only so do micro-batches add up to the whole batch.
    `weights` [V]: how much each class counts; the count is then the sum of the labels' weights.
    `label_smoothing` ε: the label is right with 1 - ε, and each of the V classes with ε / V besides.
    Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """
    counts = labels != ignore_index  # [N]
    logits, labels = logits[counts], labels[counts]
    losses = logits.logsumexp(-1, keepdim=True) - logits  # [N V], -log softmax
    if weights is not None:
        losses = losses * weights
    total = losses.gather(-1, labels[:, None]).sum()
    if label_smoothing:
        total = (1 - label_smoothing) * total + label_smoothing * losses.mean(-1).sum()
    return total, counts.sum() if weights is None else weights[labels].sum()
