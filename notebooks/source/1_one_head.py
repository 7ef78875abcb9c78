# %% [markdown]
# # 1. One head, by hand
#
# Attention is five lines of arithmetic. In this lesson you write them, one at a time, with numbers small enough to
# follow; then you put them together and run them on the weights of a trained model. In the end your function gives the
# same numbers as the library's.
#
# You need a little Python, and to know that `@` multiplies matrices. Run the cells from top to bottom. Where a cell says
# `...`, it is your turn; the cell below it checks your answer. `mt.hint("1.1")` helps, and `mt.solution("1.1")` gives up.

# %%
import inspect

import torch

import minitransformer as mt
from minitransformer.ops import by_hand

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## Four tokens
#
# A model reads tokens, here four words. Each token has three vectors of width E, here 4:
#
# - a **query** q: what this token looks for,
# - a **key** k: what it has to offer to those who look,
# - a **value** v: what it hands over when it is found.
#
# In a real model all three are computed from the token's own vector, by weights that were learned. For now we choose
# them ourselves. Say the four columns stand for *thing*, *action*, *place*, and *nothing much*.

# %%
tokens = ["the", "cat", "sat", "down"]

q = torch.tensor(
    [
        [2.0, 0.0, 0.0, 0.0],  # "the" looks for a thing
        [0.0, 2.0, 0.0, 0.0],  # "cat" looks for an action
        [2.0, 0.0, 1.0, 0.0],  # "sat" looks for a thing, and for a place
        [0.0, 3.0, 0.0, 0.0],  # "down" looks for an action
    ]
)  # [T E]
k = torch.tensor(
    [
        [0.0, 0.0, 0.0, 1.0],  # "the" is nothing much
        [3.0, 0.0, 0.0, 0.0],  # "cat" is a thing
        [0.0, 3.0, 0.0, 0.0],  # "sat" is an action
        [0.0, 1.0, 2.0, 0.0],  # "down" is a place, and a little of an action
    ]
)  # [S E]
v = torch.tensor(
    [
        [0.0, 0.0, 0.0, 1.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
    ]
)  # [S E]

# %% [markdown]
# **Letters, in all lessons and in all files of the library:** B texts in a batch, T queries, S keys, D the model's
# width, H heads, E the width of one head. A comment such as `# [T S]` gives the shape of the line's result. In
# self-attention the queries and the keys belong to the same tokens, so T = S; in lesson 7 they do not.
#
# ## Scores: how well does a key fit a query?
#
# The dot product of two vectors is large where they agree. "sat" looks for `[2, 0, 1, 0]`; "cat" offers `[3, 0, 0, 0]`:
# 2·3 + 0·0 + 1·0 + 0·0 = 6.

# %%
print("sat looks at cat: ", q[2] @ k[1])
print("sat looks at down:", q[2] @ k[3])

# %% [markdown]
# All dot products at once are one matrix product, with the keys turned on their side. The library's formula, from its
# docstring:
#
# > q kᵀ · scale + bias — `attention_scores` in ops/by_hand.py
#
# The scale is 1/√E: that is, we divide by the square root of the head's width. Why will be clear soon. The bias comes in
# lesson 3; here there is none.
#
# **Exercise 1.1.** Write `scores(q, k)`: every query's scaled score with every key. q is `[T E]`, k is `[S E]`, the
# result is `[T S]`. `q.shape[-1]` is E.


# %% tags=["exercise"]
def scores(q, k):
    """q kᵀ / √E. [T E], [S E] -> [T S]."""
    ...


# %% tags=["solution", "1.1"]
def scores(q, k):
    """q kᵀ / √E. [T E], [S E] -> [T S]."""
    return q @ k.T / q.shape[-1] ** 0.5  # [T S]


# %%
mt.check("1.1", scores)

# %% [markdown]
# ## Weights: scores become shares
#
# A query has one unit of attention to give. *Softmax* divides it up: it makes every score positive by exp, then divides
# by the sum, so that each row sums to 1.
#
# > exp(xᵢ) / Σⱼ exp(xⱼ) along the last dimension — `softmax` in ops/by_hand.py
#
# **Exercise 1.2.** Write `weights(scores)` without `torch.softmax`. Each *query* shares out its attention over the keys:
# which dimension must sum to 1? And take care: exp(1000) is infinite. Subtracting the largest score of each row first
# changes nothing in the quotient, and keeps it finite. One tool: `e.sum(-1, keepdim=True)` leaves each row's sum as a
# column, so that it meets the numbers of its own row; `scores.amax(-1, keepdim=True)` does so with the largest.


# %% tags=["exercise"]
def weights(scores):
    """Softmax over the keys. [T S] -> [T S], every row sums to 1."""
    ...


# %% tags=["solution", "1.2"]
def weights(scores):
    """Softmax over the keys. [T S] -> [T S], every row sums to 1."""
    e = (scores - scores.amax(-1, keepdim=True)).exp()  # [T S]
    return e / e.sum(-1, keepdim=True)


# %%
mt.check("1.2", weights)

# %% [markdown]
# What becomes of our four tokens? Rows are queries, columns are keys. (So that you can read on at any time, the text
# uses the library's functions, never yours.)

# %%
shares = by_hand.attention_weights(by_hand.attention_scores(q, k, scale=4**-0.5))  # [T S]
print("       ", *(f"{token:>6}" for token in tokens))
for token, row in zip(tokens, shares, strict=True):
    print(f"{token:>7}", *(f"{share:6.2f}" for share in row))

assert shares[2].argmax() == 1  # "sat" attends most to "cat"
torch.testing.assert_close(shares.sum(-1), torch.ones(4))

# %% [markdown]
# The same as a page. Click a token on the left to see whom it attends to. All lines of one token together weigh 1.

# %%
mt.views.head_view([shares[None, None]], tokens)

# %% [markdown]
# ## The mix
#
# What a token takes away is the mean of all values, each with its share: z = weights · v. That is all.
#
# > softmax(q kᵀ · scale + bias) v — `attention` in ops/by_hand.py
#
# **Exercise 1.3.** Write `attention(q, k, v)`. You may use your two functions, or write it in one line with
# `torch.softmax(…, -1)`.


# %% tags=["exercise"]
def attention(q, k, v):
    """softmax(q kᵀ / √E) v. [T E], [S E], [S E] -> [T E]."""
    ...


# %% tags=["solution", "1.3"]
def attention(q, k, v):
    """softmax(q kᵀ / √E) v. [T E], [S E], [S E] -> [T E]."""
    return weights(scores(q, k)) @ v  # [T E]


# %%
mt.check("1.3", attention)

# %% [markdown]
# Our values were chosen so that the mix can be read: row "sat" says how much of *thing*, *action*, *place*, *nothing
# much* it has collected.

# %%
z = by_hand.attention(q[None, None], k[None, None], v[None, None], scale=4**-0.5)[0, 0]  # [T E]
print(z)

# %% [markdown]
# ## Why divide by √E?
#
# Softmax has a weakness: when one score is far above the others, it gives everything to that one, and learning stops
# (changing the scores a little changes nothing any more). How far apart are scores? Let us draw random queries and keys
# whose numbers have mean 0 and variance 1, and look at the standard deviation of their products.

# %%
generator = torch.Generator().manual_seed(0)
for width in (4, 16, 64, 256):
    a, b = torch.randn(2, 10_000, width, generator=generator)
    products = (a * b).sum(-1)  # [10 000] dot products
    print(f"E = {width:3}: q·k spreads by {products.std():5.2f}, divided by √E by {products.std() / width**0.5:.2f}")
    assert abs(products.std() / width**0.5 - 1) < 0.05

# %% [markdown]
# **Exercise 1.4.** A sum of E independent products, each of variance 1, has variance E. So what is the standard deviation
# of q·k in a head of width E = 1024, without scaling? Replace the dots by a number.

# %% tags=["exercise"]
spread = ...

# %% tags=["solution", "1.4"]
spread = 1024**0.5

# %%
mt.check("1.4", spread)

# %% [markdown]
# How sharp is a distribution? Its **entropy** says it: −Σ p · log₂ p, in bits. 0 bits: all attention on one key. 2 bits:
# as uncertain as an even choice among 2² = 4 keys.
#
# **Exercise 1.5.** Write `entropy(weights)`, one number for each row. A share of 0 counts as 0 (though log₂ 0 is −∞).


# %% tags=["exercise"]
def entropy(weights):
    """−Σ p · log₂ p of each row, in bits. [T S] -> [T]."""
    ...


# %% tags=["solution", "1.5"]
def entropy(weights):
    """−Σ p · log₂ p of each row, in bits. [T S] -> [T]."""
    logarithms = torch.where(weights > 0, weights, 1).log2()  # log₂ 1 = 0 stands in for log₂ 0
    return -(weights * logarithms).sum(-1)  # [T]


# %%
mt.check("1.5", entropy)

# %% [markdown]
# Now the experiment: 64 random keys, an even choice among which would be 6 bits. With the scale, the wide head is as
# undecided as the narrow one. Without it, the wider the head, the more it stares at a single key.

# %%
bits = {}
for width in (4, 16, 64, 256):
    many_q, many_k = torch.randn(2, 64, width, generator=generator)  # [64 E] each
    for name, scale in (("scaled", width**-0.5), ("not scaled", 1.0)):
        rows = by_hand.attention_weights(by_hand.attention_scores(many_q, many_k, scale=scale))  # [64 64]
        bits[width, name] = float((torch.special.entr(rows) / torch.tensor(2.0).log()).sum(-1).mean())
    print(f"E = {width:3}: scaled {bits[width, 'scaled']:.1f} bits, not scaled {bits[width, 'not scaled']:.1f} bits")

assert abs(bits[4, "scaled"] - bits[256, "scaled"]) < 0.5
assert bits[256, "not scaled"] < 1

# %% [markdown]
# ## One real head
#
# Where do q, k and v come from? From the token's vector x `[T D]`, by three learned matrices and biases:
# q = x W_Q + b_Q, and likewise k and v. A head is these three products and your attention.
#
# The model below has learned to write strings backwards; it came with the library. One part of it reads, its encoder,
# and another writes. We take the first head of the encoder, and what goes into it for "drawer": 7 tokens (six letters
# and `</s>`, the end).

# %%
model = mt.load("builtin:reverse")
text = "drawer"
output, cache = model.run_with_cache(text, names=["encoder.0.*"])
x = cache.encoder["resid_pre", 0][0]  # [T D], what goes into the first layer
learned = model.weights("encoder")
head = [matrix[0, 0] for matrix in (learned.W_Q, learned.b_Q, learned.W_K, learned.b_K, learned.W_V, learned.b_V)]
print("x", list(x.shape), " W_Q", list(head[0].shape), " b_Q", list(head[1].shape))
assert len(x) == len(text) + 1

# %% [markdown]
# **Exercise 1.6.** Write `one_head(x, W_Q, b_Q, W_K, b_K, W_V, b_V)`. The check runs it on this very head and compares it
# with what the model computed inside.


# %% tags=["exercise"]
def one_head(x, W_Q, b_Q, W_K, b_K, W_V, b_V):
    """One head's z for the tokens x. x [T D], W [D E], b [E] -> [T E]."""
    ...


# %% tags=["solution", "1.6"]
def one_head(x, W_Q, b_Q, W_K, b_K, W_V, b_V):
    """One head's z for the tokens x. x [T D], W [D E], b [E] -> [T E]."""
    return attention(x @ W_Q + b_Q, x @ W_K + b_K, x @ W_V + b_V)  # [T E]


# %%
mt.check("1.6", one_head)

# %% [markdown]
# If that is right, you have computed what a trained Transformer computes, to the rounding of float32.
#
# Did you forget b_K? The check cannot tell, and it need not: b_K adds the same number, q · b_K, to all scores of a row,
# and softmax ignores what a whole row has in common. Without b_Q the result is another one.

# %%
W_Q, b_Q, W_K, b_K, W_V, b_V = head
with_all = by_hand.attention_weights((x @ W_Q + b_Q) @ (x @ W_K + b_K).T * 32**-0.5)  # [T S]
without_b_K = by_hand.attention_weights((x @ W_Q + b_Q) @ (x @ W_K).T * 32**-0.5)  # [T S]
without_b_Q = by_hand.attention_weights((x @ W_Q) @ (x @ W_K + b_K).T * 32**-0.5)  # [T S]
print(f"without b_K the weights differ by {(without_b_K - with_all).abs().max():.6f}")
print(f"without b_Q the weights differ by {(without_b_Q - with_all).abs().max():.6f}")

assert (without_b_K - with_all).abs().max() < 1e-5
assert (without_b_Q - with_all).abs().max() > 1e-3

# %% [markdown]
# Here is the same head, step by step, with its real numbers: each row has the formula, the line of code, the shape, the
# values. Steps 2 and 7 belong to later lessons, as does the line of code in step 1; here they change nothing.

# %%
mt.lens.explain(model, text, layer=0, head=0, query=0, attention="encoder")

# %% [markdown]
# ## Where it stands in the library
#
# `minitransformer/ops/by_hand.py` has every formula of every model, in plain tensor code. Its `attention` is yours, with
# a mask and a bias (lesson 3) and dropout (lesson 8):

# %%
print(inspect.getsource(by_hand.attention))

# %% [markdown]
# ## What you have done

# %%
mt.progress(1)

# %% tags=["solution"]
assert mt.progress(1).complete

# %% [markdown]
# **To think about**
#
# - Swap two of the four tokens (rows of q, k and v alike). What happens to the rows of the result? (Lesson 3.)
# - A head must give away exactly 1. What can a head do that finds nothing of interest? (Lesson 6.)
# - What if all keys are equal?
#
# Next: [many heads, and every shape](2_many_heads.ipynb).
