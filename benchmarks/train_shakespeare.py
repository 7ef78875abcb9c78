"""Train `builtin:shakespeare`, the tiny GPT-2 that comes with minitransformer, from random weights.

python benchmarks/train_shakespeare.py --data input.txt --out FOLDER [--epochs 12] [--seed 0]

`input.txt`: Shakespeare's plays, 1.1 MB. The last tenth is held out: neither the tokenizer nor the model learns from
it. Prints, for each epoch, the loss in training and on the held-out text; the weights of the epoch with the lowest go
to FOLDER. Last comes the held-out loss of what was written there: in nats per token, beside that of two models that
look at no context (all tokens alike; as frequent as in training), and in bits per character, which models with other
tokens can be compared by.
"""

import argparse
import math
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from minitransformer import Tokenizer, Transformer, build, load
from minitransformer.checkpoint import save_checkpoint
from minitransformer.families.gpt2 import GPT2
from minitransformer.finetune.folder import refuse_full_folder
from minitransformer.finetune.loop import train
from minitransformer.finetune.recipe import Recipe
from minitransformer.generation.perplexity import perplexity
from minitransformer.storage import atomic_folder, read_json
from minitransformer.storage.files import write_json
from minitransformer.tasks.language import CausalLM
from minitransformer.tasks.task import Row

VOCABULARY = 2000
CONTEXT = 256
WINDOWS = {"window": CONTEXT, "stride": CONTEXT - 1}  # each begins with the last token of the one before
END = "<|endoftext|>"  # token 0: stands before a text, and would stand after it
NUMBERS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIG = {
    "model_type": "gpt2",
    "n_layer": 4,
    "n_head": 5,
    "n_embd": 160,
    "n_positions": CONTEXT,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.0,  # with it, a CPU takes half as long again
    **NUMBERS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    refuse_full_folder(options.out)
    recipe = Recipe(
        epochs=options.epochs, seed=options.seed, batch_size=8, learning_rate=4e-3, weight_decay=0.1, metric="loss"
    )

    text = options.data.read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    tokenizer = train_tokenizer(text[:cut])
    training = torch.tensor(tokenizer.encode(END + text[:cut]))  # [T]
    held_out = torch.tensor(tokenizer.encode(text[cut:]))  # [T]

    torch.manual_seed(recipe.seed)  # for the first weights
    config = {**CONFIG, "vocab_size": len(tokenizer)}
    model = build(GPT2.config(config, "causal-lm"))
    print(f"{len(tokenizer)} tokens in the vocabulary, {sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"{len(training):,} tokens to train on, {len(held_out):,} held out")
    fit(model, tokenizer, text[:cut], held_out, recipe)
    write(options.out, model, tokenizer, config)

    predicted = len(held_out) - 1
    characters = len(tokenizer.decode(held_out[1:]))
    print("\nheld out, nats per token, bits per character")
    for name, loss in {
        "all tokens alike": math.log(len(tokenizer)),
        "token frequencies": unigram_loss(training, held_out, len(tokenizer)),
        "the model": perplexity(load(options.out).transformer, held_out, **WINDOWS).loss,
    }.items():
        print(f"{name}, {loss:.4f}, {loss / math.log(2) * predicted / characters:.4f}")


def train_tokenizer(text: str) -> Tokenizer:
    """GPT-2's kind of tokenizer: bytes, and then the pairs of tokens that are most frequent in the text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes: any text can be read
        show_progress=False,
    )
    backend.train_from_iterator([text], trainer)
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
    return Tokenizer(backend, special=special, config={"tokenizer_class": "GPT2Tokenizer"}, model_max_length=CONTEXT)


def fit(model: Transformer, tokenizer: Tokenizer, text: str, held_out: Tensor, recipe: Recipe) -> None:
    """Train on windows of the text, and leave in the model the weights of the epoch with the lowest held-out loss."""
    task = CausalLM(tokenizer, (), CONTEXT)
    examples = task.encode([Row(text=text)])  # windows that share one token: as WINDOWS
    evaluate = lambda: {"loss": perplexity(model, held_out, **WINDOWS).loss}
    losses, minutes, kept = [], 0.0, {}
    for event in train(model, task, examples, recipe, evaluate=evaluate):
        if event["event"] == "step":
            losses.append(event["loss"])
            minutes = event["step"] * recipe.batch_size / event["rows_per_second"] / 60
        else:
            epoch, mean = round(event["step"] / len(examples) * recipe.batch_size), sum(losses) / len(losses)
            print(f"epoch {epoch}: training {mean:.3f}, held out {event['loss']:.3f}, {minutes:.1f} min", flush=True)
            losses = []
            if event["best"]:
                kept = {name: x.clone() for name, x in model.state_dict().items()}
    model.load_state_dict(kept)


def unigram_loss(training: Tensor, ids: Tensor, vocabulary: int) -> float:
    """Nats per token if each is as probable as it is frequent in training (plus one, so that none is impossible)."""
    counts = torch.bincount(training, minlength=vocabulary) + 1.0  # [V]
    return -(counts / counts.sum()).log()[ids[1:]].mean().item()


def write(folder: Path, model: Transformer, tokenizer: Tokenizer, config: dict[str, object]) -> None:
    """The folder that `load` and transformers read: weights in float16, to be half as large, but used in float32."""
    with atomic_folder(folder) as staging:
        save_checkpoint(model.half(), GPT2, config, staging)
        write_json({**read_json(staging / "config.json"), "dtype": "float32"}, staging / "config.json")
        write_json(NUMBERS, staging / "generation_config.json")
        tokenizer.save(staging)


if __name__ == "__main__":
    main()
