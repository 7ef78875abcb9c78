# %% [markdown]
# # 3. Who may look at whom: masks and positions
#
# The attention of lessons 1 and 2 has two gaps. Every token looks at every other, even at those that the model has yet to
# write. And it does not know in what order the tokens stand. This lesson closes both: masks say who may look at whom, and
# positions say where a token stands.
#
# You need lessons 1 and 2.

# %%
import inspect
import math
import textwrap
from dataclasses import replace

import torch

import minitransformer as mt
from minitransformer.lens import figures
from minitransformer.modules import masks
from minitransformer.ops import by_hand

torch.set_printoptions(precision=2, sci_mode=False, linewidth=100)


def draw(mask):
    """Draw a mask [T S]: rows are queries, columns are keys, x is allowed."""
    for row in mask:
        print("   ", *("x" if allowed else "." for allowed in row))


# %% [markdown]
# ## The future
#
# A model that writes guesses the next token. In training it reads a whole text and guesses at every place at once: at
# "I" it guesses "will", at "I will" it guesses "not". If "I" could look at the token after it, there would be nothing to
# guess. So each token may see itself and what came before, and no more. Such a model is called **causal**:
#
# > A query sees itself and what came before. — `causal_mask` in modules/masks.py
#
# A mask is a table of True and False. **True means: this query may attend to that key.** (Some libraries have it the other
# way round. It is worth a look each time.)
#
# **Exercise 3.1.** Write `causal(tokens)`: `tokens` is a number, the result is the mask for so many tokens, `[T T]`, rows
# are queries. `torch.ones(rows, columns, dtype=torch.bool)` is a matrix of True, and `tensor.tril()` keeps the lower left
# triangle of a matrix with its diagonal.


# %% tags=["exercise"]
def causal(tokens):
    """A query sees itself and what came before. -> bool [T T]."""
    ...


# %% tags=["solution", "3.1"]
def causal(tokens):
    """A query sees itself and what came before. -> bool [T T]."""
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()  # [T T]


# %%
mt.check("3.1", causal)

# %% [markdown]
# The library draws it from the number of queries and of keys, which need not be equal. When a model writes, it keeps the
# keys and values of what it has read (the *cache*), and only new tokens ask: then the last query stands at the last key.
# And some models, Mistral for one, let a query see only a *window* of so many keys.

# %%
cpu = torch.device("cpu")
print("4 queries, 4 keys")
draw(masks.causal_mask(4, 4, cpu)[0, 0])
print("2 queries after 2 cached keys")
draw(masks.causal_mask(2, 4, cpu)[0, 0])
print("a window of 2")
draw(masks.causal_mask(4, 4, cpu, window=2)[0, 0])

# %% [markdown]
# ## From mask to weights
#
# A forbidden key must get weight 0, and the others must share out the whole 1. How?
#
# > A forbidden key has score -∞ and therefore weight 0. — `attention_weights` in ops/by_hand.py
#
# For exp(-∞) = 0. The mask comes *before* the softmax: what is forbidden is then not counted in the sum.
#
# But what if a query may see nothing at all? That does happen, as we shall see. Three ways to forbid, for a row of three
# scores that are all forbidden:

# %%
scores = torch.tensor([[1.0, 2.0, 3.0]])  # [T S] = [1 3]
nothing = torch.zeros(1, 3, dtype=torch.bool)  # [1 3]
lowest = torch.finfo(torch.float32).min  # -3.4e38, the lowest float32

minus_infinity = torch.softmax(scores.masked_fill(~nothing, -math.inf), -1)  # [1 3]
very_low = torch.softmax(scores.masked_fill(~nothing, lowest), -1)  # [1 3]
library = by_hand.attention_weights(scores, nothing)  # [1 3]
print("-∞ and torch.softmax:          ", minus_infinity[0].tolist())
print("the lowest number, and softmax:", [round(weight, 2) for weight in very_low[0].tolist()])
print("the library:                   ", library[0].tolist())

assert minus_infinity.isnan().all()
torch.testing.assert_close(very_low, torch.full((1, 3), 1 / 3))
assert (library == 0).all()
assert math.isnan(0 * math.nan)

# %% [markdown]
# Each of the first two is in use, and each has its trap. With -∞ the row is 0 / 0: NaN, "not a number". And NaN
# spreads. In the next layer it is a value like others, and 0 · NaN is NaN: not even a weight of 0 keeps it out. With a
# very low number, all three scores are equal, and softmax divides evenly among keys that were forbidden. The library
# gives zeros: such a query takes nothing.
#
# **Exercise 3.2.** Write `masked_weights(scores, mask)`: softmax over the keys that the mask allows, and zeros for a query
# that may see nothing. `x.masked_fill(where, value)` puts a value wherever `where` is True, `~mask` exchanges True and
# False, and `math.inf` is ∞.


# %% tags=["exercise"]
def masked_weights(scores, mask):
    """Softmax over the allowed keys. scores [... T S], mask bool -> [... T S]."""
    ...


# %% tags=["solution", "3.2"]
def masked_weights(scores, mask):
    """Softmax over the allowed keys. scores [... T S], mask bool -> [... T S]."""
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), -1)  # [... T S], NaN where nothing is allowed
    return weights.masked_fill(~mask, 0)


# %%
mt.check("3.2", masked_weights)

# %% [markdown]
# ## Padding
#
# Texts in a batch have different lengths, and a tensor has straight edges. So short texts are filled up with *padding*.
# The tokenizer says in the `attention_mask` what is a token (1) and what is padding (0). Nobody may look at padding:
#
# > Every query sees every key that is not padding. — `padding_mask` in modules/masks.py

# %%
model = mt.load("builtin:shakespeare")
text = "I will not go, and I will not stay."
batch = model.tokenizer([text, "Good night."], padding_side="left")
print(batch["attention_mask"])  # [B T]

# %% [markdown]
# It is a matter of *keys*, so the mask is `[B 1 1 S]`: for each text, the same for all heads and for all queries. The causal
# mask, `[T S]`, is the same for all texts. Who must obey both may look only where both allow it.
#
# **Exercise 3.3.** Write `allowed(attention_mask)`: causal, and no padding. `attention_mask` is `[B T]` with numbers 1 and
# 0; the result is True and False, `[B 1 T T]`. With `keep = attention_mask != 0`, `keep[:, None, None, :]` makes
# `[B 1 1 T]` of `[B T]`. `&` is "and".


# %% tags=["exercise"]
def allowed(attention_mask):
    """Causal, and no padding. [B T] -> bool [B 1 T T]."""
    ...


# %% tags=["solution", "3.3"]
def allowed(attention_mask):
    """Causal, and no padding. [B T] -> bool [B 1 T T]."""
    keep = attention_mask != 0  # [B T]
    return keep[:, None, None, :] & causal(attention_mask.shape[1])  # [B 1 T T]


# %%
mt.check("3.3", allowed)

# %% [markdown]
# The second text, as the library masks it:

# %%
size = batch["attention_mask"].shape[1]
mask = masks.self_attention_mask(batch["attention_mask"], causal=True, queries=size, past=0, device=cpu)  # [B 1 T T]
draw(mask[1, 0])

assert not mask[1, 0, 0].any()

# %% [markdown]
# Here are the queries that may see nothing. They are the padding: before them there is only padding, and behind them is
# the future. What they compute is never used, but it must not be NaN.
#
# If masking is right, padding changes nothing. We compare "Good night." alone with the same beside a longer text (padded
# on the right now, so that its tokens keep their positions). To see the padding mask alone, we use a copy without the
# causal mask (otherwise padding on the right lies in the future, and is hidden anyway). The copy has the same weights. It
# never learned to work like that, and what it would write does not matter. The question is only who depends on whom.

# %%
config = model.transformer.config
unmasked = mt.build(replace(config, decoder=replace(config.decoder, causal=False))).eval()
unmasked.load_state_dict(model.transformer.state_dict())

both = model.tokenizer([text, "Good night."], padding_side="right")
alone = model.tokenizer("Good night.")
length = alone["input_ids"].shape[1]
with torch.no_grad():
    single = unmasked(**alone).logits[0]  # [T V]
    masked = unmasked(**both).logits[1, :length]  # [T V]
    seen = unmasked(both["input_ids"]).logits[1, :length]  # [T V], without attention_mask

hidden, visible = (float((logits - single).abs().max()) for logits in (masked, seen))
print(f"{size - length} tokens of padding change the logits")
print(f"with the padding mask by {hidden:.7f} at most, without it by {visible:.1f}")

assert hidden < 1e-4
assert visible > 1

# %% [markdown]
# ## A proof that nothing leaks
#
# A causal mask makes a promise: *what comes later cannot change what came before*. We can test that without looking
# inside. Take our text of 11 tokens, and replace one. The model computes logits for each place, its guess for the next
# token. Which of them change?
#
# **Exercise 3.4.** Token 6, the second " I" (counted from 0), becomes " you". Predict: the list of places whose logits
# change. (Ġ stands for the space before a word.)

# %%
words = model.tokenizer.tokens(text)
print(*(f"{place}:{word}" for place, word in enumerate(words)))

# %% tags=["exercise"]
changed = ...

# %% tags=["solution", "3.4"]
changed = [6, 7, 8, 9, 10]

# %%
mt.check("3.4", changed)

# %% [markdown]
# Now the experiment. To see that it is the mask and nothing else, we do it twice: with the model as it is, and with the
# copy that has the same weights and no causal mask.

# %%
ids = torch.tensor([model.tokenizer.encode(text)])  # [B T]
other = ids.clone()
other[0, 6] = model.tokenizer.encode(" you")[0]
with torch.no_grad():
    with_mask = (model(ids).logits - model(other).logits).abs().amax(-1)[0]  # [T]
    without = (unmasked(ids).logits - unmasked(other).logits).abs().amax(-1)[0]  # [T]

print("largest change of a logit")
print("                 causal   no mask")
for place, word in enumerate(words):
    print(f"{place:>4} {word:>8} {with_mask[place]:10.4f} {without[place]:9.4f}")

assert with_mask[:6].max() < 1e-4
assert with_mask[6:].min() > 0.1
assert without.min() > 0.1

# %% [markdown]
# With the mask the past does not change. Without it every place changes. Models that read (BERT and other *encoders*,
# lesson 5) have no causal mask, and want none: a word's meaning depends on what follows, too. The first Transformer had
# one stack of each kind (lesson 7).
#
# The pattern of one head, in the model and in the copy:

# %%
paper = mt.vaswani2017(vocab_size=1000)
assert not paper.encoder.causal
assert paper.decoder.causal

patterns = []
for each in (model.transformer, unmasked):
    with torch.no_grad(), mt.capture(each, "*.hook_pattern") as seen:
        each(ids)
    patterns.append(list(seen.values()))  # [1 H T S] for each layer
causal_ones, free_ones = patterns
assert all((weights.triu(1) == 0).all() for weights in causal_ones)

figures.heatmaps(torch.stack((causal_ones[0][0, 2], free_ones[0][0, 2])), words, words, ["causal", "no mask"])

# %% [markdown]
# All heads of the copy, as a page: lines go both ways. In the page of lesson 2 none went from a token to a later one.

# %%
mt.views.head_view(free_ones, words)

# %% [markdown]
# ## Order
#
# Now the second gap. A score is a dot product of two tokens' vectors, and the mix is a sum. Neither knows where a token
# stands. To see it, we take the copy without a mask, and take its positions away, too: we set the table that is added to
# the tokens to 0. Then we shuffle the text. What will happen?

# %%
placeless = mt.build(unmasked.config).eval()
placeless.load_state_dict(unmasked.state_dict())
placeless.embed.positions.weight.data.zero_()

order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))  # [T]
print("shuffled:", *(words[place] for place in order))
for name, each in (("with positions", unmasked), ("without", placeless)):
    with torch.no_grad():
        straight, shuffled = each(ids).logits[0], each(ids[:, order]).logits[0]  # [T V]
    away = float((straight[order] - shuffled).abs().max())
    print(f"{name:>15}: shuffling before or after the model differs by {away:.5f}")
    assert away < 1e-3 if name == "without" else away > 0.1

# %% [markdown]
# Without positions the result is only shuffled as well: each token gets exactly what it got before. For such a model a text
# is a bag of words. It cannot even tell apart the two " will" of our text:

# %%
with torch.no_grad():
    first, second = placeless(ids).logits[0, [1, 7]]  # [V] each
    here, there = model(ids).logits[0, [1, 7]]  # [V] each
assert words[1] == words[7]
torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)
assert (here - there).abs().max() > 1
print("without positions, both give the same logits; in the real model they differ")

# %% [markdown]
# So a model must be told where tokens stand. There are four ways in common use, and all are in the library:
#
# | positions | what is done | for example in | in the library |
# |---|---|---|---|
# | learned | a vector for each place is learned, and added to the token | BERT, GPT-2 | `embed.positions` |
# | sinusoidal | a vector for each place is computed, and added to the token | the first Transformer | `sinusoidal` |
# | rotary | queries and keys are turned, the further the later they stand | Llama, Mistral, Qwen | `rotary` |
# | relative | a number for each distance is learned, and added to the score | T5 | `RelativeBias` |
#
# ## Added to the token: learned, or sinusoidal
#
# Our model learned its vectors, one for each of 256 places. Nobody told it that place 5 is near place 6. Did it find out?
# We compare directions (the cosine of the angle: 1 if the same, 0 if unrelated).

# %%
table = model.transformer.embed.positions.weight.detach()[:64]  # [64 D]
table = table / table.norm(dim=-1, keepdim=True)
cosines = table @ table.T  # [64 64]
for distance in (1, 2, 4, 8, 16):
    print(f"{distance:2} apart: {cosines.diagonal(distance).mean():.2f}")

assert cosines.diagonal(1).mean() > cosines.diagonal(8).mean() + 0.1

# %% [markdown]
# In part, and from text alone: neighbours are more alike than places far apart. But such a table has an end:

# %%
try:
    model(torch.zeros(1, 257, dtype=torch.int64))  # 257 tokens
except mt.MiniTransformerError as refusal:
    print(textwrap.fill(str(refusal), 100))
else:
    raise AssertionError("257 tokens have no place")

# %% [markdown]
# The first Transformer computed its vectors instead. Each pair of columns is a clock hand that turns with the position p,
# the first pair fast, each next pair slower:
#
# > sin(p / 10000^(2i/D)) in column 2i, cos of the same angle in column 2i + 1. — `sinusoidal` in ops/by_hand.py
#
# **Exercise 3.5.** Write `sinusoidal(positions, d_model)`: positions `[T]` -> `[T D]`, D even. Take care: 2i is the
# number of an even column, 0, 2, 4, …, and sines and cosines stand in turns. `torch.stack((a, b), -1).flatten(-2)` puts
# the numbers of a and b in turns.


# %% tags=["exercise"]
def sinusoidal(positions, d_model):
    """The paper's vector of each position. [T] -> [T D]."""
    ...


# %% tags=["solution", "3.5"]
def sinusoidal(positions, d_model):
    """The paper's vector of each position. [T] -> [T D]."""
    columns = torch.arange(0, d_model, 2)  # [D/2]
    angles = positions[:, None] / 10000 ** (columns / d_model)  # [T D/2]
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)  # [T D]


# %%
mt.check("3.5", sinusoidal)

# %% [markdown]
# The table as a picture, 24 positions and 24 columns. On the left the hands turn fast, on the right they hardly move.

# %%
sines = by_hand.sinusoidal(torch.arange(24), 24)  # [T D]
numbers = [str(number) for number in range(24)]
figures.heatmap(sines, numbers, numbers, row_name="position", column_name="column", signed=True)

# %% [markdown]
# There is more order in it than one sees. The dot product of two such vectors depends only on how far apart they are, for
# sin a · sin b + cos a · cos b = cos(a - b):

# %%
products = sines @ sines.T  # [T T]
print(f"3 and 5: {products[3, 5]:.4f}, 20 and 22: {products[20, 22]:.4f}, 3 and 22: {products[3, 22]:.4f}")
for distance in range(24):
    diagonal = products.diagonal(distance)  # [24 - distance]
    torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))

# %% [markdown]
# ## Put into the score: rotary, or relative
#
# Often what matters is the distance: "the word before", wherever that is. Rotary positions build on that.
# They add nothing to the token. They turn each query and each key, pair of numbers by pair of numbers, by an angle that
# grows with the position.
#
# > The score of two turned vectors depends on how far apart they stand, not on where. — `rotary` in ops/by_hand.py
#
# One query and one key, the key two places before the query, near the beginning and far away:

# %%
q, k = torch.randn(2, 1, 1, 1, 32, generator=torch.Generator().manual_seed(0))  # [B H T E] each, 1 token


def turned(x, position):
    """The vector as it is at that position."""
    cos, sin = by_hand.rotary_table(torch.tensor([[position]]), 32, theta=10000.0)  # [B T E] each
    return by_hand.rotary(x, cos, sin)  # [B H T E]


fits = {}
for at_query, at_key in ((2, 0), (7, 5), (102, 100), (9, 5)):
    fits[at_query, at_key] = float((turned(q, at_query) * turned(k, at_key)).sum())
    print(f"query at {at_query:3}, key at {at_key:3}: score {fits[at_query, at_key]:.3f}")

assert abs(fits[2, 0] - fits[7, 5]) < 1e-3
assert abs(fits[2, 0] - fits[102, 100]) < 1e-3
assert abs(fits[2, 0] - fits[9, 5]) > 0.1

# %% [markdown]
# T5 says it more simply still: a table with a number for each distance and head, which is added to the score (the bias of
# lesson 1's formula). Far distances share a number. In T5's encoder 16 of the 32 buckets are for keys that came before, and
# 16 for those that come later; its decoder, which never looks ahead, uses all 32 for the past.
#
# > The bucket of each distance (key's place - query's): near ones by themselves, far ones by their logarithm. — `relative_buckets` in ops/by_hand.py

# %%
distances = torch.tensor([[0, -1, -2, -7, -8, -12, -20, -21, -60, -100, 1, 2, 100]])  # [1 13]
buckets = by_hand.relative_buckets(distances, 32, 128, bidirectional=True)  # [1 13], the encoder's
for distance, bucket in zip(distances[0].tolist(), buckets[0].tolist(), strict=True):
    print(f"distance {distance:4}: bucket {bucket}")

assert buckets[0, 0] != buckets[0, 1] != buckets[0, 2]
assert buckets[0, 6] == buckets[0, 7]

past = torch.arange(-200, 1)[None]  # [1 201]
for bidirectional, number in ((True, 16), (False, 32)):
    assert by_hand.relative_buckets(past, 32, 128, bidirectional=bidirectional).unique().numel() == number

# %% [markdown]
# ## Inside a real model
#
# All together: scores, mask and softmax of a layer, for two texts of different length, the shorter one padded on the left,
# and once more on the right.
#
# **Exercise 3.6.** Write `pattern(q, k, attention_mask)` for all heads of a causal layer. q and k are `[B H T E]`,
# `attention_mask` is `[B T]`, the result is `[B H T T]`. Use your functions. The check runs it with the queries and keys
# of layer 1 of our model, and compares with the pattern inside.


# %% tags=["exercise"]
def pattern(q, k, attention_mask):
    """The weights of a causal layer. q, k [B H T E], attention_mask [B T] -> [B H T T]."""
    ...


# %% tags=["solution", "3.6"]
def pattern(q, k, attention_mask):
    """The weights of a causal layer. q, k [B H T E], attention_mask [B T] -> [B H T T]."""
    scores = q @ k.mT / q.shape[-1] ** 0.5  # [B H T T]
    return masked_weights(scores, allowed(attention_mask))


# %%
mt.check("3.6", pattern)

# %% [markdown]
# ## Where it stands in the library
#
# `minitransformer/modules/masks.py` is the only place where masks are made, and has each of them drawn.
# `minitransformer/modules/positions.py` has the tables, `minitransformer/ops/by_hand.py` the formulas. This is what you
# wrote in 3.2:

# %%
print(inspect.getsource(by_hand.attention_weights))
print(inspect.getsource(by_hand.softmax))

# %% [markdown]
# ## What you have done

# %%
mt.progress(3)

# %% tags=["solution"]
assert mt.progress(3).complete

# %% [markdown]
# **To think about**
#
# - With a causal mask, but without positions: is a text still a bag of words? Think of the first token, which sees only
#   itself. Then try it.
# - Position 0 of a text that is padded on the left is padding. Which positions should its tokens have?
# - A window of 4 keys, and 10 layers: how far back can a token's vector know of?
#
# Next: [the block and the residual stream](4_the_block.ipynb).
