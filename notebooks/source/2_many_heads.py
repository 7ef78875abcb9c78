# %% [markdown]
# # 2. Many heads, and every shape
#
# A layer of a Transformer has several heads. They work side by side, each with its own queries, keys and values, and what
# they find is put together again. In this lesson you write the two steps that make many heads out of one: cutting and
# joining. You predict the shape of every tensor on the way. In the end your function computes a whole attention layer, and
# we compare it with one of a trained model.
#
# You need lesson 1. `mt.hint("2.1")` helps, and `mt.solution("2.1")` gives up.

# %%
import inspect
from dataclasses import replace

import torch

import minitransformer as mt
from minitransformer.lens import figures
from minitransformer.modules import MultiHeadAttention

torch.set_printoptions(precision=2, sci_mode=False, linewidth=100)

# %% [markdown]
# ## One layer, five heads
#
# The model of this lesson came with the library. It is small, and writes in the manner of Shakespeare. It has 4 layers
# of 5 heads each. Here is where they look, for one sentence. Choose a layer, and switch heads on and off.

# %%
model = mt.load("builtin:shakespeare")
text = "I will not go, and I will not stay."
attention = mt.lens.attention(model, text)
attention

# %% [markdown]
# The five heads of the first layer (layer 0), as matrices: rows are queries, columns are keys. Do they all look at the
# same things? (Ġ stands for the space before a word. Above the diagonal all is white: this model never looks ahead. That
# is the subject of lesson 3.)

# %%
attention.figure(layer=0)

# %% [markdown]
# They do not. Two of them are easy to read. The dark diagonal of head 4: a token looks at itself. The line below the
# diagonal in head 2: a token looks at the one before it. We measure both, as the mean over all queries.

# %%
patterns = attention.group().weights[0]  # [H T S] of layer 0
itself = patterns.diagonal(dim1=1, dim2=2).mean(-1)  # [H]
before = patterns.diagonal(-1, dim1=1, dim2=2).mean(-1)  # [H]
for head in range(5):
    print(f"head {head}: {itself[head]:.2f} on itself, {before[head]:.2f} on the token before")

assert itself.argmax() == 4
assert before.argmax() == 2
assert itself[4] > 0.55
assert before[2] > 0.4
assert itself[4] + before[2] > 1.1

# %% [markdown]
# Now it is clear why one head is not enough. A softmax gives away exactly 1. A head that gives 0.69 to the token itself
# cannot give 0.51 to the one before as well: together that is 1.20. **Each head has its own softmax**, so five heads have five
# times 1 to give.
#
# ## Cut: one product, then heads
#
# In lesson 1 a head had three matrices W_Q, W_K and W_V, each D × E. Five heads have five of each. All five W_Q stand side
# by side in one matrix of D × H·E, so that one product computes the queries of all heads:
#
# > The H matrices W_Qᵢ stand side by side in one matrix q — `MultiHeadAttention` in modules/attention.py
#
# Almost always H·E = D: here 5 · 32 = 160. What comes out is `[B T H·E]`. Each token has the vectors of all its heads in
# one long row, and now they must be cut apart:
#
# > [B T H·E] -> [B H T E]: head h owns columns h·E to (h+1)·E - 1. — `split_heads` in modules/attention.py
#
# Why H before T? A matrix product works on the last two dimensions and does the rest side by side. With `[T E]` last, q kᵀ
# is computed for all texts and all heads at once, by the same code as for one.
#
# A tensor whose numbers say where they belong: 213 is token 2, head 1, column 3.

# %%
T, H, E = 3, 2, 4
token, head, column = torch.arange(T), torch.arange(H), torch.arange(E)
numbers = 100 * token[:, None, None] + 10 * head[:, None] + column  # [T H E]
numbers = numbers.reshape(1, T, H * E)  # [B T H·E]
print(numbers[0])
print("head 1 must get:")
print(numbers[0, :, 4:8])

# %% [markdown]
# **Exercise 2.1.** Write `split_heads(x, heads)`: `[B T H·E]` -> `[B H T E]`. Two tools: `x.unflatten(-1, (a, b))` cuts
# the last dimension into two of sizes a and b (one of them may be -1: whatever is left), and `x.transpose(i, j)`
# exchanges two dimensions. Try it on `numbers`.


# %% tags=["exercise"]
def split_heads(x, heads):
    """Cut vectors into heads. [B T H·E] -> [B H T E]."""
    ...


# %% tags=["solution", "2.1"]
def split_heads(x, heads):
    """Cut vectors into heads. [B T H·E] -> [B H T E]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B T H E], then [B H T E]


# %%
mt.check("2.1", split_heads)

# %% [markdown]
# This step has a famous trap. `reshape` straight to `[B H T E]` gives the right shape, and no error:

# %%
trap = numbers.reshape(1, H, T, E)  # [B H T E], or so it seems
print("what head 1 gets of it:")
print(trap[0, 1])

right = numbers.unflatten(-1, (H, E)).transpose(1, 2)  # [B H T E]
assert trap.shape == right.shape
assert not torch.equal(trap, right)

# %% [markdown]
# Numbers of head 0 are in it, and token 0 is missing. `reshape` reads the numbers as they lie in memory, token by token,
# and does not know what they mean. **A right shape does not prove that the numbers are in their places**, and no
# error message will ever tell.
#
# ## Join
#
# After attention each head has its mix z, `[B H T E]`. For the way back, every token gets its heads side by side again.
#
# **Exercise 2.2.** Write `merge_heads(z)`: `[B H T E]` -> `[B T H·E]`. `x.flatten(-2)` makes one dimension of the last
# two. The order of the two steps matters.


# %% tags=["exercise"]
def merge_heads(z):
    """Put the heads side by side. [B H T E] -> [B T H·E]."""
    ...


# %% tags=["solution", "2.2"]
def merge_heads(z):
    """Put the heads side by side. [B H T E] -> [B T H·E]."""
    return z.transpose(1, 2).flatten(-2)  # [B T H E], then [B T H·E]


# %%
mt.check("2.2", merge_heads)

# %% [markdown]
# The library's two, and the test that matters: joined, what was cut is what it was.

# %%
print(inspect.getsource(MultiHeadAttention.split_heads))
print(inspect.getsource(MultiHeadAttention.merge_heads))

layer = model.transformer.decoder.layers[0].self_attn  # an attention of the library
x = torch.randn(2, 7, 160, generator=torch.Generator().manual_seed(0))  # [B T D]
assert torch.equal(layer.merge_heads(layer.split_heads(x)), x)

# %% [markdown]
# ## Every shape
#
# The whole way of a layer's attention: x `[B T D]` gives q, k and v, cut into heads; q kᵀ gives the scores; softmax gives
# the pattern (the weights); pattern · v gives z; z is merged, and goes through a last product, W_O, to the output, which
# is added to x.
#
# **Exercise 2.3.** Our model reads B = 2 texts of T = 7 tokens; D = 160, H = 5. Write down each shape before you run
# anything, as x would be `(2, 7, 160)`.

# %% tags=["exercise"]
shapes = {
    "q": ...,
    "scores": ...,
    "pattern": ...,
    "z": ...,
    "merged": ...,
    "output": ...,
}

# %% tags=["solution", "2.3"]
shapes = {
    "q": (2, 5, 7, 32),
    "scores": (2, 5, 7, 7),
    "pattern": (2, 5, 7, 7),
    "z": (2, 5, 7, 32),
    "merged": (2, 7, 160),
    "output": (2, 7, 160),
}

# %%
mt.check("2.3", shapes)

# %% [markdown]
# The table of the whole model. It is computed without running it. Find the parts of the attention. ("times 4": there are
# four layers. Parameters and FLOPs are those of all four, and so are the bytes in the last column, for which you may have
# to scroll to the right.)

# %%
costs = mt.lens.shapes(model, batch=2, tokens=7)
costs

# %% [markdown]
# (If you look inside a model with `run_with_cache`, q, k, v and z are `[B T H E]`: there the library follows a convention
# that papers use. Inside the layer they are `[B H T E]`.)
#
# ## What do many heads cost?
#
# First the parameters, the numbers that are learned. Q, K and V each have H matrices of D × E; W_O brings H·E numbers back
# to D. Each of the four products adds a bias.
#
# **Exercise 2.4.** Write `parameters(d_model, heads)`: how many numbers one attention layer has, biases included, where
# E = D / H. Before you check: how does it depend on the number of heads?


# %% tags=["exercise"]
def parameters(d_model, heads):
    """The numbers in W_Q, W_K, W_V, W_O and their biases."""
    ...


# %% tags=["solution", "2.4"]
def parameters(d_model, heads):
    """The numbers in W_Q, W_K, W_V, W_O and their biases."""
    return 4 * (d_model * d_model + d_model)  # H heads of width D / H are D wide together


# %%
mt.check("2.4", parameters)

# %% [markdown]
# Now the arithmetic. We build our model three times, with 1, 5 and 10 heads in each layer, and count the attention's
# parameters, its FLOPs (additions and multiplications of the matrix products) for 64 tokens, and the memory for its
# patterns. What do you expect?

# %%
counted = {}
for heads in (1, 5, 10):
    config = model.transformer.config
    config = replace(config, decoder=replace(config.decoder, heads=heads))
    result = mt.lens.shapes(mt.build(config), batch=1, tokens=64)
    parts = [part for part in result.parts if ".self_attn." in part.name]
    counted[heads] = sum(part.parameters for part in parts), sum(part.flops for part in parts), result.pattern_bytes
    print("H = {:2}: {:,} parameters, {:,} FLOPs, {:,} bytes of patterns".format(heads, *counted[heads]))

assert counted[1][:2] == counted[5][:2] == counted[10][:2]
assert counted[10][2] == 10 * counted[1][2]

# %% [markdown]
# The same. A head of width E needs E multiplications for a score, and there are H of them: H · E = D, however the width is
# cut. Many heads cost what one wide head costs; only the patterns are more. What is paid is something else: a
# narrow head compares queries and keys in 32 dimensions instead of 160.
#
# ## The whole layer
#
# > Concat(head₁ … head_H) W_O, where headᵢ = attention(x W_Qᵢ, y W_Kᵢ, y W_Vᵢ). — `MultiHeadAttention` in modules/attention.py
#
# (y is x here; in lesson 7 it is another text. Concat is your `merge_heads`.)
#
# **Exercise 2.5.** Write `multi_head(x, q, k, v, o, heads)`. q, k, v and o are the layer's four products with their
# biases, ready to be called: `q(x)` is `[B T H·E]`. Use your two functions. Between them, lesson 1's formula does all
# heads at once: scale by 1/√E, softmax over the keys; `k.mT` exchanges the last two dimensions of k.


# %% tags=["exercise"]
def multi_head(x, q, k, v, o, heads):
    """Attention with several heads. x [B T D] -> [B T D]."""
    ...


# %% tags=["solution", "2.5"]
def multi_head(x, q, k, v, o, heads):
    """Attention with several heads. x [B T D] -> [B T D]."""
    queries, keys, values = (split_heads(f(x), heads) for f in (q, k, v))  # [B H T E] each
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5  # [B H T S]
    z = torch.softmax(scores, -1) @ values  # [B H T E]
    return o(merge_heads(z))  # [B T D]


# %%
mt.check("2.5", multi_head)

# %% [markdown]
# The check ran it on a small random layer, and on the first layer of our model, and compared with `MultiHeadAttention`
# itself. Is that what happens inside the running model? Not for all tokens: there no token sees what comes after it. But
# the last token sees everything, so its row must agree.

# %%
_, cache = model.run_with_cache(text, names=["blocks.0.*"])
block = model.transformer.decoder.layers[0]
with torch.no_grad():
    normed = block.self_attn_norm(cache["resid_pre", 0])  # [B T D], what goes into the attention (lesson 4)
    unmasked = block.self_attn(normed)  # [B T D], every token sees every token

away = (unmasked - cache["attn_out", 0]).abs().amax(-1)[0]  # [T]
for word, distance in zip(model.tokenizer.tokens(text), away, strict=True):
    print(f"{word:>8} differs by {distance:.6f}")

assert away[-1] < 1e-4
assert away[:-1].min() > 0.01

# %% [markdown]
# ## Side by side, or added up?
#
# The heads stand side by side, and then comes W_O. Its rows can be cut like everything else: rows h·E to (h+1)·E - 1 meet
# the numbers of head h only. Call them W_O[h], `[E D]`. Then the product is a sum over the heads:
#
# merged · W_O = z₀ W_O[0] + z₁ W_O[1] + … + z₄ W_O[4]
#
# So each head has its own way out. It writes a vector of the model's full width, and **the layer's output is the sum of
# what its heads write**, and the bias. The library shows each term as `result`.

# %%
learned = model.weights()
z, result = cache["z", 0], cache["result", 0]  # [B T H E], [B T H D]
for head in range(5):
    torch.testing.assert_close(z[:, :, head] @ learned.W_O[0, head], result[:, :, head], atol=1e-4, rtol=1e-4)
total = result.sum(2) + learned.b_O[0]  # [B T D]
torch.testing.assert_close(total, cache["attn_out", 0], atol=1e-4, rtol=1e-4)
print("the five results and the bias add up to the layer's output")

# %% [markdown]
# That is why one can ask what a single head does, switch it off, or count what it contributed: all it does is add one
# vector for each token (lesson 6). How long these vectors are, for each token and head:

# %%
lengths = result[0].norm(dim=-1)  # [T H]
words = model.tokenizer.tokens(text)
assert lengths.mean(0).argmax() == 2
figures.heatmap(lengths, words, [f"head {head}" for head in range(5)], numbers=True)

# %% [markdown]
# Head 2, which looks at the token before, writes the longest vectors on the whole. That makes it loud, not yet important:
# to know what a head is good for takes an experiment (lesson 6).

# %% [markdown]
# ## Where it stands in the library
#
# `minitransformer/modules/attention.py` is this lesson. Its `forward` is yours, and has what later lessons add: a mask
# and positions (lesson 3), a second text (lesson 7), and a cache of keys and values for writing token by token. Keys and
# values may also have fewer heads than queries: then each serves a group of them, as in Llama.

# %%
print(inspect.getsource(MultiHeadAttention.forward))

# %% [markdown]
# ## What you have done

# %%
mt.progress(2)

# %% tags=["solution"]
assert mt.progress(2).complete

# %% [markdown]
# **To think about**
#
# - 160 heads of width 1 would cost the same. What could a head of width 1 look for?
# - What would a layer compute if all its heads had the same weights?
# - If k and v had one head for all five query heads, what would be saved, and what would be lost?
#
# Next: [who may look at whom: masks and positions](3_masks_and_positions.ipynb).
