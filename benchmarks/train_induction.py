"""Train `builtin:induction`, the tiny decoder that comes with minitransformer: it continues what it has read before.

python benchmarks/train_induction.py --out FOLDER [--steps 2400] [--seed 0]

Two layers of attention in GPT-2's format, whose feed-forward parts are switched off: one inner number, weights all 0
and never trained. Its texts are random characters, never the same twice. Prints the loss. Last comes what was measured
of the model in FOLDER, on texts of 25 different characters that come twice: how much each head of the first layer
attends to the previous token, how much each head of the second to what followed last time (Olsson et al. 2022), how
often the second copy is continued rightly, and how often with heads muted.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from torch import Tensor, nn

from minitransformer import Pretrained, Tokenizer, Transformer, build, load
from minitransformer.checkpoint import save_checkpoint
from minitransformer.families.gpt2 import GPT2
from minitransformer.finetune.folder import refuse_full_folder
from minitransformer.lens.patterns import scores, self_targets
from minitransformer.storage import atomic_folder, read_json
from minitransformer.storage.files import write_json

END = "<|endoftext|>"
TOKENS = [END, *"abcdefghijklmnopqrstuvwxyz .,'-"]
CONTEXT = 128
LENGTH = 62  # of a text in training: all ordinary tokens, twice
SHORTEST = 10  # tokens that come again
BATCH, RATE, WARM_UP = 32, 3e-3, 100
MOVES = (400, 1300)  # the steps from which on, and up to which, texts begin further and further from place 0
LONG = 25  # tokens that come twice where the model is measured
NUMBERS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": len(TOKENS),
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 64,
    "n_inner": 1,  # the format has no 0
    "n_positions": CONTEXT,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "tie_word_embeddings": False,
    **NUMBERS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    refuse_full_folder(options.out)

    torch.manual_seed(options.seed)  # for the first weights and for the texts
    model = begin()
    print(f"{len(TOKENS)} tokens in the vocabulary, {sum(p.numel() for p in model.parameters()):,} parameters")
    fit(model, options.steps)
    write(options.out, model, make_tokenizer())
    report(load(options.out))


def begin() -> Transformer:
    """The untrained model, its matrices half as large as GPT-2's at the start, without its feed-forward parts.

    From small matrices one head comes to do what from larger ones several share; from smaller ones still, none begins.
    """
    model = build(GPT2.config(CONFIG, "causal-lm"))
    for weight in model.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.01)
    for block in model.decoder.layers:
        block.ffn.requires_grad_(False)
        block.ffn_norm.requires_grad_(False)
        for weight in block.ffn.parameters():
            nn.init.zeros_(weight)
    return model


def draw(rows: int) -> tuple[Tensor, Tensor]:
    """Random texts [B T], and the token to be told after each, -100 where it cannot be known [B T].

    10 to 31 different tokens, then the same again, but now and then going on from another place. In plain copies the
    next token is also the one that has not come for longest, and a model may find that rule in place of induction.
    """
    length = torch.randint(SHORTEST, len(TOKENS), (rows, 1))
    times = torch.arange(LENGTH)[None]  # [1 T]
    jumps = (torch.rand(rows, LENGTH) < 0.1) & (times >= length)
    latest = torch.where(jumps, times, 0).cummax(1)[0]  # when it jumped last; 0 is the beginning
    landing = (torch.rand(rows, LENGTH) * length).long() * jumps
    place = (landing.gather(1, latest) + times - latest) % length  # in the first copy
    ids = (1 + torch.rand(rows, len(TOKENS) - 1).argsort(-1)).gather(1, place)
    known = (times > length) & ~jumps & (place > 0)
    return ids, torch.where(known, ids, -100).roll(-1, 1)


def begins(rows: int, step: int) -> Tensor:
    """The place of each text's first token [B 1]: 0 in early steps, later anywhere in the context.

    A sixth always begins at 0, as texts do, and a sixth as late as it can: at the ends there are the fewest others.
    """
    first, last = MOVES
    room = (CONTEXT - LENGTH) * min(1, max(0, (step - first) / (last - first)))
    return ((1.5 * torch.rand(rows, 1) - 0.25) * room).clamp(0, room).long()


def fit(model: Transformer, steps: int) -> None:
    """A plain loop: fresh texts for each step; the rate rises for a while, then falls to 0 in half a cosine."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=0.01)
    began = time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
        ids, labels = draw(BATCH)
        logits = model(ids, position_ids=begins(BATCH, step) + torch.arange(LENGTH)).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True)
    model.eval()


class Scores(NamedTuple):
    """What `measure` finds. The heads' scores are lists, one for each head of a layer."""

    previous: list[float]  # of layer 0, in the first copy: what is read there is looked for in the second
    induction: list[float]  # of layer 1
    accuracy: float
    without_previous: float  # accuracy with the highest previous-token head muted
    without_induction: float  # with the highest induction head muted
    without_layer_1: float  # with all heads of layer 1 muted


def measure(model: Pretrained, rows: int = 128) -> Scores:
    """The scores on texts of 25 different characters that come twice, always the same texts."""
    once = 1 + torch.rand(rows, len(TOKENS) - 1, generator=torch.Generator().manual_seed(0)).argsort(-1)[:, :LONG]
    ids = torch.cat((once, once), 1)  # [B T]
    with torch.no_grad():
        weights = torch.stack(model(ids, output_attentions=True).attentions)  # [L B H T T]
    previous = mean_score("previous", weights[..., :LONG, :LONG], ids[:, :LONG])  # [L H]
    induction = mean_score("induction", weights, ids)
    top_previous, top_induction = (0, int(previous[0].argmax())), (1, int(induction[1].argmax()))
    every = [(1, head) for head in range(induction.shape[1])]
    muted = [accuracy(model, ids, heads) for heads in ([], [top_previous], [top_induction], every)]
    return Scores(previous[0].tolist(), induction[1].tolist(), *muted)


def mean_score(name: str, weights: Tensor, ids: Tensor) -> Tensor:
    """A type's score for each head, the mean over texts. weights [L B H T T], ids [B T] -> [L H]."""
    size = ids.shape[1]
    allowed, special = torch.ones(size, size).tril().bool(), torch.zeros(size, dtype=torch.bool)
    found = [
        scores(of_row, {name: self_targets(row, special)[name]}, allowed)[name]
        for of_row, row in zip(weights.unbind(1), ids, strict=True)
    ]
    return sum(tally.mass for tally in found) / sum(tally.queries for tally in found)


def accuracy(model: Pretrained, ids: Tensor, muted: list[tuple[int, int]]) -> float:
    """How often the most probable token is right, for the second to last tokens of the second copy."""
    with torch.no_grad(), model.muted(heads=muted):
        told = model(ids).logits.argmax(-1)  # [B T]
    return (told[:, LONG:-1] == ids[:, LONG + 1 :]).float().mean().item()


def report(model: Pretrained) -> None:
    """Print the scores."""
    found = measure(model)
    print("\nmeasured, score")
    for name, heads in {"previous token, head 0": found.previous, "induction, head 1": found.induction}.items():
        for head, score in enumerate(heads):
            print(f"{name}.{head}, {score:.3f}")
    print(f"accuracy, {found.accuracy:.3f}")
    print(f"accuracy without the highest previous-token head, {found.without_previous:.3f}")
    print(f"accuracy without the highest induction head, {found.without_induction:.3f}")
    print(f"accuracy without layer 1, {found.without_layer_1:.3f}")


def make_tokenizer() -> Tokenizer:
    """A token for each character, in lower case. Any other character is read as a space."""
    backend = tokenizers.Tokenizer(models.BPE({x: i for i, x in enumerate(TOKENS)}, []))
    backend.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    others = normalizers.Replace(Regex("[^a-z .,'-]"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), others])
    backend.decoder = decoders.Fuse()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    names = ("input_ids", "attention_mask")
    return Tokenizer(backend, special=special, config=config, model_max_length=CONTEXT, model_input_names=names)


def write(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """The folder that `load` and transformers read: weights in float16, to be half as large, but used in float32."""
    with atomic_folder(folder) as staging:
        save_checkpoint(model.half(), GPT2, CONFIG, staging)
        write_json({**read_json(staging / "config.json"), "dtype": "float32"}, staging / "config.json")
        write_json({**NUMBERS, "max_new_tokens": 20}, staging / "generation_config.json")
        tokenizer.save(staging)


if __name__ == "__main__":
    main()
