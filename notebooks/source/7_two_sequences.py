# %% [markdown]
# # 7. Two sequences: cross-attention and generating
#
# So far, a text looked at itself. A translator reads one text and writes another. In this lesson you write the
# attention between the two, read from it which letter is made of which, and then write texts token by token: the most
# probable each time, or drawn by chance.

# %%
import inspect

import torch

import minitransformer as mt
from minitransformer.generation import processors
from minitransformer.modules import KVCache
from minitransformer.ops import by_hand

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## A model that writes backwards
#
# `builtin:reverse` is the Transformer of the paper of 2017, very small: an **encoder** that reads, a **decoder** that
# writes. It has learned to write strings of letters backwards.

# %%
model = mt.load("builtin:reverse")
for word in ("stressed", "drawer", "lamp"):
    print(word, "→", model.generate(word))
    assert model.generate(word) == word[::-1]

# %% [markdown]
# There are three kinds of attention in it. Look at all three on the page: *encoder*, *decoder*, *cross*.
#
# - In the encoder, letters of the source look at each other, in both directions.
# - In the decoder, the letters that are written look at those before them (lesson 3's causal mask).
# - In **cross-attention**, the letters that are written look at the source.

# %%
word = "stressed"
seen = mt.lens.attention(model, word, target=word[::-1])
seen

# %% [markdown]
# ## Cross-attention
#
# > headᵢ = attention(x W_Qᵢ, y W_Kᵢ, y W_Vᵢ) — `MultiHeadAttention` in modules/attention.py
#
# In self-attention y is x. In cross-attention x belongs to the decoder and y, the **memory**, is the encoder's output.
# That is the only difference. The decoder asks; the source answers. There are T queries and S keys, and the pattern is
# `[T S]`. No *causal* mask is needed: the whole source is there before the first letter is written.
#
# **Exercise 7.1.** Write `cross_attention(x, memory, W_Q, b_Q, W_K, b_K, W_V, b_V)`, one head's z. Lesson 1's
# `one_head`, for two texts. The check runs it on a real head of this model, too.


# %% tags=["exercise"]
def cross_attention(x, memory, W_Q, b_Q, W_K, b_K, W_V, b_V):
    """One head's z. x [T D], memory [S D], W [D E], b [E] -> [T E]."""
    ...


# %% tags=["solution", "7.1"]
def cross_attention(x, memory, W_Q, b_Q, W_K, b_K, W_V, b_V):
    """One head's z. x [T D], memory [S D], W [D E], b [E] -> [T E]."""
    q = x @ W_Q + b_Q  # [T E]
    k, v = memory @ W_K + b_K, memory @ W_V + b_V  # [S E]
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v  # [T E]


# %%
mt.check("7.1", cross_attention)

# %% [markdown]
# That was the inside of a real decoder layer. Here it is with the library's functions: what goes in, what the model
# itself computed, and how far apart they are.

# %%
output, cache = model.run_with_cache(word, target=word[::-1], names=["decoder.*"])
block = model.transformer.decoder.blocks[-1]
x = block.self_attn_norm(cache.decoder["resid_mid", -1])[0]  # [T D], the decoder's stream behind its self-attention
memory = output.encoder_last_hidden_state[0]  # [S D]
weights = model.weights("cross")

q = x @ weights.W_Q[-1, 0] + weights.b_Q[-1, 0]  # [T E]
k = memory @ weights.W_K[-1, 0] + weights.b_K[-1, 0]  # [S E]
v = memory @ weights.W_V[-1, 0] + weights.b_V[-1, 0]  # [S E]
z = by_hand.attention(q[None, None], k[None, None], v[None, None], scale=q.shape[-1] ** -0.5)[0, 0]  # [T E]
inside = cache.decoder["z", -1, "cross_attn"][0, :, 0]  # [T E]

print("x", list(x.shape), " memory", list(memory.shape), " z", list(z.shape))
print(f"largest difference: {(z - inside).abs().max():.1e}")
torch.testing.assert_close(z, inside, atol=1e-5, rtol=1e-5)

# %% [markdown]
# ## Which letter is read from where?
#
# In the next picture each row is a letter that the decoder has read, each column one of the source. Before you look:
# where do you expect the dark cells of a model that writes backwards?

# %%
seen.figure(layer=-1, group="cross")

# %% [markdown]
# A line the wrong way round, from the last letter of the source at the top down to its first, and one cell by itself in
# the corner, at the end token `</s>`. Mind the rows: the first one is the start token, for which this model takes
# `<pad>`. A query stands *one token before the one that it writes*. At the start token the model writes the first letter,
# and for that it looks at the last one of the source. In the last row it writes the end token, and looks at the source's.
#
# **Exercise 7.2.** Write `alignment(pattern, n)`: for each of the n letters that are written, in order, the place in the
# source that its query attends to most. The pattern is `[T S]`; T may be larger than n.


# %% tags=["exercise"]
def alignment(pattern, n):
    """The place in the source that each of n letters is read from. [T S] -> int [n]."""
    ...


# %% tags=["solution", "7.2"]
def alignment(pattern, n):
    """The place in the source that each of n letters is read from. [T S] -> int [n]."""
    return pattern[:n].argmax(-1)


# %%
mt.check("7.2", alignment)

# %% [markdown]
# Letter i of what is written comes from place n − 1 − i. Is it so for all letters, and for other words? Here is the mean
# of both heads.

# %%
for each in ("stressed", "drawer", "lamp", "abcdefghij"):
    n = len(each)
    pattern = mt.lens.attention(model, each, target=each[::-1]).group("cross").weights[-1].mean(0)  # [T S]
    places = pattern[:n].max(-1).indices.tolist()
    share = float(pattern[range(n), places].mean())
    print(f"{each:>10} → {each[::-1]:<10} read from {' '.join(map(str, places)):<19} with weights of {share:.2f}")
    assert places == [n - 1 - i for i in range(n)]
    assert share > 0.85
    assert int(pattern[n].argmax()) == n  # the end

# %% [markdown]
# In a translator the line bends and jumps where two languages order their words differently. It was to see such
# alignments that attention was first drawn, in 2014.
#
# ## Token by token
#
# A decoder writes one token at a time. It reads the start token, and gives logits for the first letter; this letter is
# put behind the start token; it reads both, and so on, until the most probable token is the end token. To take the most
# probable each time is called *greedy*.
#
# **Exercise 7.3.** Write `greedy(model, source, start, end, most)`: a list of ids, from the start token to the end
# token, of at most `most`. `model(source, decoder_input_ids=ids).logits` is `[1 T V]`, for ids of shape `[1 T]`. Read
# all that is written at each step.


# %% tags=["exercise"]
def greedy(model, source, start, end, most):
    """What the model writes: ids, the start and the end token among them. source int [1 S]."""
    ...


# %% tags=["solution", "7.3"]
def greedy(model, source, start, end, most):
    """What the model writes: ids, the start and the end token among them. source int [1 S]."""
    written = [start]
    while written[-1] != end and len(written) < most:
        logits = model(source, decoder_input_ids=torch.tensor([written])).logits  # [1 T V]
        written.append(int(logits[0, -1].argmax()))
    return written


# %%
mt.check("7.3", greedy)

# %% [markdown]
# What it sees at each step, and how sure it is:

# %%
source = model.tokenizer(word)["input_ids"]  # [1 S]
written = model.generate(source)  # [1 T]
names = model.tokenizer.convert_ids_to_tokens(written[0].tolist())
with torch.no_grad():
    shares = model(source, decoder_input_ids=written).logits[0].softmax(-1)  # [T V]
for place in range(len(names) - 1):
    chosen = shares[place, written[0, place + 1]]
    print(f"{' '.join(names[: place + 1]):<24} → {names[place + 1]:<5} {chosen:.3f}")
    assert chosen > 0.99

# %% [markdown]
# ## Why there is a cache
#
# Your loop reads all that is written again at each step: 1 + 2 + 3 + … tokens. But the keys and values of old tokens do
# not change: with a causal mask, what comes later has no effect on them (lesson 3). So keep them, and at each step read
# the new token only. The source's keys and values are computed once. That is all a **KV cache** is.

# %%
transformer = model.transformer
kept = KVCache.empty(layers=len(transformer.decoder.blocks))
ids = written[:, :1]  # [1 1], the start token
reads = 0
with torch.no_grad():
    memory = transformer.encode(source)  # [1 S D], once
    while ids.shape[1] < written.shape[1]:
        new = ids[:, kept.length :]  # [1 1], what the cache does not have
        reads += new.shape[1]
        logits = transformer.token_logits(transformer.decode(new, memory=memory, cache=kept))  # [1 1 V]
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)  # [1 T]

steps = ids.shape[1] - 1
print(f"{steps} steps: {reads} tokens read with the cache, {steps * (steps + 1) // 2} without")
print("keys kept in layer 0:", list(kept.self_attn[0].k.shape), "of the source:", list(kept.cross_attn[0].k.shape))

assert torch.equal(ids, written)
assert torch.equal(model.generate(source, use_cache=False), model.generate(source, use_cache=True))
assert reads == steps

# %% [markdown]
# The same tokens, with less work. `model.generate` does so unless it is told not to.
#
# ## Drawing by chance
#
# Where there is one right answer, greedy is good. A story has none. `builtin:shakespeare` is a small GPT-2, a decoder
# without an encoder: it goes on with what it has read. Greedily, it soon goes round in circles:

# %%
poet = mt.load("builtin:shakespeare")
greedily = poet.generate("ROMEO:\n", max_new_tokens=60)
print(greedily)

assert greedily.count("so I had been a man,") == 3

# %% [markdown]
# So we draw the next token instead, each with its probability. But then every so often comes one that is very
# improbable: each such token is rare, but there are many of them. Three settings say what is drawn from:
#
# - The **temperature** divides the logits. Below 1, what is probable becomes more so; above 1, less.
# - **top_k** keeps the k most probable tokens.
# - **top_p** keeps the fewest tokens whose probabilities sum to p or more: few where the model is sure, many where it
#   is not.
#
# They are applied in this order. What is left is made to sum to 1 again.

# %%
prompt = poet.tokenizer("ROMEO:\nMy")["input_ids"]  # [1 T]
logits = poet(prompt).logits[0, -1].detach()  # [V]
print("temperature   most probable   tokens that make up 0.9")
needed = []
for temperature in (0.5, 1.0, 2.0):
    shares = by_hand.softmax(logits / temperature)  # [V]
    needed.append(int((shares.sort(descending=True)[0].cumsum(-1) < 0.9).sum()) + 1)
    print(f"{temperature:11}   {shares.max():13.3f}   {needed[-1]:23}")

assert needed[0] < needed[1] < needed[2]
assert needed[1] < 0.1 * len(logits)

# %% [markdown]
# At a temperature of 1, less than a tenth of the vocabulary makes up 0.9. So one draw in ten comes from all the rest.
#
# **Exercise 7.4.** Write `sample_filter(logits, temperature, top_k, top_p)`: the probabilities that are drawn from.
# The logits are `[V]`. Two traps: the token with which the sum reaches p is kept; and top_p looks at what top_k has left,
# with its sum made 1 again.


# %% tags=["exercise"]
def sample_filter(logits, temperature, top_k, top_p):
    """What is drawn from. [V] -> [V], sums to 1."""
    ...


# %% tags=["solution", "7.4"]
def sample_filter(logits, temperature, top_k, top_p):
    """What is drawn from. [V] -> [V], sums to 1."""
    shares = torch.softmax(logits / temperature, -1)  # [V]
    least = shares.topk(min(top_k, len(shares)))[0][-1]
    shares = torch.where(shares >= least, shares, 0)
    shares = shares / shares.sum()
    order = shares.argsort(descending=True)  # the most probable first
    before = shares[order].cumsum(0) - shares[order]  # what those before it sum to
    shares[order[before >= top_p]] = 0
    return shares / shares.sum()


# %%
mt.check("7.4", sample_filter)

# %% [markdown]
# The library draws, and keeps for each step what it drew from. `kept` is how many tokens were left, `left out` how
# probable those are that were cut off, all together: the tail. (Ġ is how GPT-2's tokens write a space.)

# %%
drawn = mt.lens.generate(poet, "ROMEO:\n", max_new_tokens=13, temperature=0.9, top_p=0.7, seed=1)
print(drawn)

assert drawn.kept.min() <= 5  # where it is sure
assert drawn.kept.max() >= 50  # where it is not
assert (drawn.left_out <= 0.3 + 1e-6).all()  # never more than 1 - p
assert drawn.tokens[0] == "Thou"

# %% [markdown]
# Here is the step behind *Thou*. Where there is no second bar, the token was cut off. What was kept has grown: it sums
# to 1 again.

# %%
drawn.figure(step=1)

# %% [markdown]
# ## A text of your own
#
# **Exercise 7.5.** Write `sample(model, ids, steps, seed, temperature, top_k, top_p)`. In each of so many steps: the
# logits of the last place, your filter, one draw. `torch.multinomial(shares, 1, generator=generator)` draws one place
# with these probabilities; with `generator = torch.Generator().manual_seed(seed)` it draws the same each time you run
# it. If all is right, you get the library's text, token for token.


# %% tags=["exercise"]
def sample(model, ids, steps, seed, temperature, top_k, top_p):
    """Go on with a text. int [1 T] -> a list of T + steps ids."""
    ...


# %% tags=["solution", "7.5"]
def sample(model, ids, steps, seed, temperature, top_k, top_p):
    """Go on with a text. int [1 T] -> a list of T + steps ids."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        shares = sample_filter(model(ids).logits[0, -1].detach(), temperature, top_k, top_p)  # [V]
        drawn = torch.multinomial(shares, 1, generator=generator)  # [1]
        ids = torch.cat([ids, drawn[None]], dim=1)  # [1 T]
    return ids[0].tolist()


# %%
mt.check("7.5", sample)

# %% [markdown]
# Too cold, too hot, and in between. The seed is the same. `top_k=0` switches top_k off; if it is not given, `generate`
# keeps the 50 most probable tokens.

# %%
assert mt.GenerationConfig().top_k == 50
for settings in ({"temperature": 0.3}, {"temperature": 1.5}, {"temperature": 0.9, "top_p": 0.9}):
    print(settings)
    print(poet.generate("ROMEO:\n", max_new_tokens=40, do_sample=True, seed=2, top_k=0, **settings), "\n")

# %% [markdown]
# ## Where it stands in the library
#
# `minitransformer/modules/attention.py` has one class for both kinds of attention: with a `memory` it is
# cross-attention. `minitransformer/generation/sample.py` is your loop, for many texts at once, with a cache.
# `minitransformer/generation/processors.py` has the three settings, and others:

# %%
print(inspect.getsource(processors.divide_by))
print(inspect.getsource(processors.keep_top_k))
print(inspect.getsource(processors.keep_top_p))

# %% [markdown]
# They work on scores instead of probabilities: what is cut gets −∞, and one softmax at the end makes the rest sum to 1.
#
# ## What you have done

# %%
mt.progress(7)

# %% tags=["solution"]
assert mt.progress(7).complete

# %% [markdown]
# **To think about**
#
# - The decoder is trained with the right letters before each place, not with its own. What happens when it has once
#   written a wrong one?
# - In training it read strings of up to 12 letters. Give it one of 20, and look at the cross-attention again. What has
#   it not learned?
# - Words differ in length. How can the start token's query find the last letter? What could the encoder have written
#   into the keys?
# - Greedy takes the most probable token each time. Is the text it gives the most probable text?
# - What does the cache cost? How many numbers does it hold for a model of 32 layers, width 4096, and 8000 tokens?
#
# Next: [fine-tune a model, and ask whether attention explains it](8_fine_tuning.ipynb).
