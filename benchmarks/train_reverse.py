"""Train `builtin:reverse`, the tiny encoder-decoder that comes with minitransformer: it writes a text backwards.

python benchmarks/train_reverse.py --out FOLDER [--steps 2000] [--seed 0]

The Transformer of Vaswani et al. 2017 in small, in Marian's format: post-norm, sinusoids, relu, embeddings times √D,
one table of tokens for both stacks and the head. Its texts are random characters, never the same twice. Prints the
loss. Last comes what was measured of the model in FOLDER, for each length: the share of texts that it writes backwards
without a mistake; for each head of the cross-attention, how much of a query's attention falls on the character that it
is about to write, and how often that character gets the most.
"""

import argparse
import time
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, processors
from torch import Tensor

from minitransformer import Pretrained, Tokenizer, Transformer, build, load
from minitransformer.checkpoint import save_checkpoint
from minitransformer.families.marian import MARIAN
from minitransformer.finetune.folder import refuse_full_folder
from minitransformer.storage import atomic_folder, read_json
from minitransformer.storage.files import write_json

END, UNKNOWN, PAD = "</s>", "<unk>", "<pad>"
TOKENS = [END, UNKNOWN, *"abcdefghijklmnopqrstuvwxyz0123456789 ", PAD]  # as Marian's: padding last, a decoder's start
END_ID, FIRST, PAD_ID = 0, 2, len(TOKENS) - 1  # FIRST: of the characters
LONGEST = 12  # characters of a text in training
BATCH, RATE, WARM_UP = 64, 5e-3, 200
NUMBERS = {"eos_token_id": END_ID, "pad_token_id": PAD_ID, "decoder_start_token_id": PAD_ID}
CONFIG = {
    "model_type": "marian",
    "vocab_size": len(TOKENS),
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 128,  # sinusoids have no end; but the model has seen LONGEST only
    "activation_function": "relu",
    "scale_embedding": True,
    "dropout": 0.0,
    **NUMBERS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    refuse_full_folder(options.out)

    torch.manual_seed(options.seed)  # for the first weights and for the texts
    model = build(MARIAN.config(CONFIG, "seq2seq-lm"))
    print(f"{len(TOKENS)} tokens in the vocabulary, {sum(p.numel() for p in model.parameters()):,} parameters")
    fit(model, options.steps)
    write(options.out, model, make_tokenizer())
    report(load(options.out))


def draw(rows: int, shortest: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random texts and the same backwards: input_ids, attention_mask and labels [B T], each with its end token."""
    length = torch.randint(shortest, longest + 1, (rows, 1))
    places = torch.arange(int(length.max()) + 1)[None]  # [1 T]
    text = torch.randint(FIRST, PAD_ID, (rows, places.shape[1]))  # [B T]
    backwards = text.gather(1, (length - 1 - places).clamp(min=0))
    inside, end = places < length, places == length
    ids = torch.where(inside, text, torch.where(end, END_ID, PAD_ID))
    labels = torch.where(inside, backwards, torch.where(end, END_ID, -100))
    return ids, (inside | end).long(), labels


def fit(model: Transformer, steps: int) -> None:
    """A plain loop: fresh texts for each step, the rate up to its highest and down to 0 in straight lines."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    began = time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / WARM_UP) * (1 - step / (steps + 1))
        ids, mask, labels = draw(BATCH, 1, LONGEST)
        loss = model(ids, mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True)
    model.eval()


def accuracy(model: Pretrained, length: int, rows: int = 256) -> float:
    """The share of random texts of this length that the model writes backwards, its own words, without a mistake."""
    torch.manual_seed(length)
    ids, _, labels = draw(rows, length, length)
    texts, wanted = ([model.tokenizer.decode(row[:-1]) for row in rows.tolist()] for rows in (ids, labels))
    written = model.generate(texts)
    return sum(ours == right for ours, right in zip(written, wanted, strict=True)) / rows


def turned_round(model: Pretrained, length: int, rows: int = 256) -> tuple[Tensor, Tensor]:
    """For each head of the cross-attention, over random texts and the queries that write characters, not the end:

    the mean weight of the key that holds the character, and how often that key has the most. Both [layers H].
    """
    torch.manual_seed(length)
    ids, mask, labels = draw(rows, length, length)
    with torch.no_grad():
        seen = model(ids, mask, labels=labels, output_attentions=True).cross_attentions
    weights = torch.stack(seen)[..., :length, :]  # [L B H T S]
    keys = torch.arange(length).flip(0)  # [T]
    falls = weights[..., :length].flip(-1).diagonal(dim1=-2, dim2=-1)  # [L B H T]
    return falls.mean((1, 3)), (weights.argmax(-1) == keys).float().mean((1, 3))


def report(model: Pretrained) -> None:
    """Print how well the model does and where its heads look, for each length."""
    layers, heads = turned_round(model, 1)[0].shape
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    print("\nlength, all right" + "".join(f", {name} weight, {name} most" for name in names))
    for length in range(1, LONGEST + 1):
        pairs = zip(*(x.flatten().tolist() for x in turned_round(model, length)), strict=True)
        scores = "".join(f", {weight:.3f}, {most:.3f}" for weight, most in pairs)
        print(f"{length}, {accuracy(model, length):.3f}{scores}")


def make_tokenizer() -> Tokenizer:
    """A token for each character, in lower case, and an end after the text, as Marian's has it."""
    backend = tokenizers.Tokenizer(models.BPE({x: i for i, x in enumerate(TOKENS)}, [], unk_token=UNKNOWN))
    backend.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in (END, UNKNOWN, PAD)])
    backend.normalizer = normalizers.Lowercase()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, END_ID)]
    )
    backend.decoder = decoders.Fuse()
    special = {"eos_token": END, "unk_token": UNKNOWN, "pad_token": PAD}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    names = ("input_ids", "attention_mask")
    return Tokenizer(backend, special=special, config=config, model_max_length=128, model_input_names=names)


def write(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """The folder that `load` and transformers read: weights in float16, to be half as large, but used in float32."""
    with atomic_folder(folder) as staging:
        save_checkpoint(model.half(), MARIAN, CONFIG, staging)
        write_json({**read_json(staging / "config.json"), "dtype": "float32"}, staging / "config.json")
        write_json({**NUMBERS, "num_beams": 1, "max_new_tokens": 64}, staging / "generation_config.json")
        tokenizer.save(staging)


if __name__ == "__main__":
    main()
