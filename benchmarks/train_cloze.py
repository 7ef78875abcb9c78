"""Train `builtin:cloze`, the tiny BERT that comes with minitransformer and fills gaps in sentences about films.

python benchmarks/train_cloze.py --out FOLDER [--data reviews.tsv] [--epochs 50] [--seed 0]

`reviews.tsv`: a label and a sentence in each line, under a heading; by default the 5,000 that come with
minitransformer. The last 500 are held out: neither the tokenizer nor the model learns from them, and no epoch is chosen
by them: the last one's weights go to FOLDER. Prints, now and then, the loss in training and on some held-out gaps.
Last come the held-out scores of what was written there, beside those of two models that count: how frequent tokens are,
and what stands between which neighbours. Each token of a held-out sentence is a gap in turn, with all others in sight.

A small BERT guesses by frequency alone until its heads have found the neighbours of a gap, and this takes most of a
short training. Here positions begin as sines, which are turned by the same angles from each to the next, and tokens
begin alike where their neighbours in the sentences are. Both are trained like all the rest, which begins at random.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from minitransformer import Tokenizer, Transformer, build, load
from minitransformer.checkpoint import save_checkpoint
from minitransformer.families.bert import BERT
from minitransformer.finetune.folder import refuse_full_folder
from minitransformer.finetune.loop import train
from minitransformer.finetune.recipe import Recipe
from minitransformer.ops.by_hand import sinusoidal
from minitransformer.storage import atomic_folder, read_json
from minitransformer.storage.files import write_json
from minitransformer.storage.resolve import ASSETS
from minitransformer.tasks.language import MaskedLM
from minitransformer.tasks.task import Row

REVIEWS = ASSETS / "movie_reviews.tsv"
HELD_OUT = 500  # sentences, the last of the file
MASK_PROBABILITY = 0.3
VOCABULARY = 1500
CONTEXT = 96
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
PAD, MASK = 0, 4  # they come first in the vocabulary, in this order
CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 128,
    "intermediate_size": 256,
    "max_position_embeddings": CONTEXT,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": PAD,
}
PRIOR, PRIOR_OF_BOTH = 100, 10  # times that each count was seen before: lowest loss on the held-out sentences


@dataclass(frozen=True)
class Gap:
    """A token of a text that is to be guessed from all others."""

    ids: list[int]  # of the whole text, with special tokens around it
    place: int
    word: bool  # letters alone, and no piece of a longer word


Guess = Callable[[Sequence[Gap]], Tensor]  # log of each token's probability [gaps V]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REVIEWS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    refuse_full_folder(options.out)
    recipe = Recipe(
        epochs=options.epochs,
        seed=options.seed,
        batch_size=32,
        learning_rate=2e-3,
        weight_decay=0.01,
        beta2=0.98,
        warmup=100,
        metric="loss",
        evaluate_every=5,
    )

    training, held_out = split(options.data)
    tokenizer = train_tokenizer(training)
    task = MaskedLM(tokenizer, (), CONTEXT, mask_probability=MASK_PROBABILITY)
    examples = task.encode([Row(text=text) for text in training])
    texts = [example.target for example in examples]
    gaps = gaps_in(task, held_out)

    torch.manual_seed(recipe.seed)  # for the first weights
    config = {**CONFIG, "vocab_size": len(tokenizer)}
    model = build(BERT.config(config, "masked-lm"))
    begin(model, bigrams(texts, len(tokenizer)))
    print(f"{len(tokenizer)} tokens in the vocabulary, {sum(p.numel() for p in model.parameters()):,} parameters")
    words = sum(gap.word for gap in gaps)
    print(f"{sum(map(len, texts)):,} tokens to train on; held out: {len(gaps):,} gaps, {words:,} of them words")
    some = gaps[::20]
    evaluate = lambda: {"loss": scores(by_model(model), some)["token: loss"]}
    losses, minutes = [], 0.0
    for event in train(model, task, examples, recipe, evaluate=evaluate):
        if event["event"] == "step":
            losses.append(event["loss"])
            minutes = event["step"] * recipe.batch_size / event["rows_per_second"] / 60
        else:
            epoch, mean = round(event["step"] / len(examples) * recipe.batch_size), sum(losses) / len(losses)
            print(f"epoch {epoch}: training {mean:.3f}, held out {event['loss']:.3f}, {minutes:.1f} min", flush=True)
            losses = []
    write(options.out, model, tokenizer, config)

    print("\nheld out, nats per token, right, right among five, nats per word, right, right among five")
    for name, guess in {
        "token frequencies": by_frequency(texts, len(tokenizer)),
        "neighbours' counts": by_neighbours(texts, len(tokenizer)),
        "the model": by_model(load(options.out).transformer),
    }.items():
        print(name, *(f"{figure:.4f}" for figure in scores(guess, gaps).values()), sep=", ")


def split(data: Path = REVIEWS) -> tuple[list[str], list[str]]:
    """The sentences to train on, and those held out."""
    lines = data.read_text(encoding="utf-8").split("\n")[1:]
    texts = [line.partition("\t")[2] for line in lines if line]
    return texts[:-HELD_OUT], texts[-HELD_OUT:]


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """BERT's kind of tokenizer: lower case, and the pieces of words that are most useful for these texts."""
    backend = wordpiece({SPECIAL["unk"]: 0})
    alphabet = sorted({letter for text in texts for letter in backend.normalizer.normalize_str(text)} - {" "})
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY,
        # Letters come first, in order: else each process has them in another one, and breaks ties between pieces by it.
        special_tokens=[*SPECIAL.values(), *alphabet, *(f"##{letter}" for letter in alphabet)],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend = wordpiece(backend.get_vocab())  # of which only five are special
    backend.add_special_tokens(list(SPECIAL.values()))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return Tokenizer(
        backend,
        special={f"{role}_token": token for role, token in SPECIAL.items()},
        config={"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        model_max_length=CONTEXT,
    )


def wordpiece(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """BERT's steps from a text to pieces."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def begin(model: Transformer, counts: Tensor) -> None:
    """Set the model's first positions and tokens: sines, and the main directions of what stands beside each token.

    Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization", section 5. counts [V V].
    """
    tokens, positions = model.embed.tokens.weight, model.embed.positions.weight  # [V D], [P D]
    width = tokens.shape[1]
    sides = torch.cat([informative(counts), informative(counts.T)], 1)  # what follows, and what stands before [V 2V]
    left, strength, _ = torch.svd_lowrank(sides, q=width, niter=4)
    turn = torch.linalg.qr(torch.randn(width, width))[0]  # spreads the strongest directions over all columns
    table = left * strength.sqrt() @ turn  # [V D]
    lengths = table.norm(dim=1, keepdim=True)
    with torch.no_grad():
        tokens.copy_(table / lengths.clamp(min=lengths.median() / 2))
        positions.copy_(sinusoidal(torch.arange(len(positions)), width) * (2 / width) ** 0.5)


def informative(counts: Tensor) -> Tensor:
    """How much more often than by chance two tokens meet, log of that, or 0 if not: [V V] -> [V V]."""
    others = counts.sum(0) ** 0.75  # rare ones count for more than they were seen
    chance = counts.sum(1, keepdim=True) * others / others.sum()
    return (counts / chance.clamp(min=1e-9)).clamp(min=1).log()


def bigrams(texts: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """How often b stands behind a: [V V]."""
    counts = torch.zeros(vocabulary, vocabulary)
    for ids in texts:
        for pair in pairwise(ids):
            counts[pair] += 1
    return counts


def gaps_in(task: MaskedLM, texts: Sequence[str]) -> list[Gap]:
    """Every token of these texts, but for unknown ones, as a gap."""
    tokenizer = task.tokenizer
    found = []
    for example in task.encode([Row(text=text) for text in texts]):
        ids = example.target
        tokens = tokenizer.convert_ids_to_tokens(ids)
        for place in range(1, len(ids) - 1):
            word = tokens[place].isalpha() and not tokens[place + 1].startswith("##")
            if ids[place] != tokenizer.unk_token_id:
                found.append(Gap(ids, place, word))
    return found


@torch.no_grad()
def scores(guess: Guess, gaps: Sequence[Gap]) -> dict[str, float]:
    """Nats per gap, how many guesses are right, for how many the right one is among the five most probable.

    Of all gaps, and once more of those that are words.
    """
    found = []
    for start in range(0, len(gaps), 64):
        part = gaps[start : start + 64]
        logs = guess(part)  # [gaps V]
        own = logs.gather(1, torch.tensor([[gap.ids[gap.place]] for gap in part]))  # [gaps 1]
        better = (logs > own).sum(1, keepdim=True)
        found.append(torch.cat([-own, better < 1, better < 5], 1))
    each = torch.cat(found)  # [gaps 3]
    words = torch.tensor([gap.word for gap in gaps])
    names = [f"{unit}: {figure}" for unit in ("token", "word") for figure in ("loss", "right", "right among five")]
    return dict(zip(names, torch.cat([each.mean(0), each[words].mean(0)]).tolist(), strict=True))


def by_model(model: Transformer) -> Guess:
    """What the model guesses where it sees a mask."""

    def guess(gaps: Sequence[Gap]) -> Tensor:
        training = model.training
        model.eval()
        ids = torch.zeros(len(gaps), max(len(gap.ids) for gap in gaps), dtype=torch.long)
        for row, gap in zip(ids, gaps, strict=True):
            row[: len(gap.ids)] = torch.tensor(gap.ids)
            row[gap.place] = MASK
        logits = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits  # [B T V]
        model.train(training)
        return logits[torch.arange(len(gaps)), [gap.place for gap in gaps]].log_softmax(-1)

    return guess


def by_frequency(texts: Sequence[Sequence[int]], vocabulary: int) -> Guess:
    """Each token is as probable as it is frequent in training (plus one, so that none is impossible)."""
    counts = torch.ones(vocabulary)
    for ids in texts:
        counts += torch.bincount(torch.tensor(ids[1:-1]), minlength=vocabulary)
    logs = (counts / counts.sum()).log()
    return lambda gaps: logs.expand(len(gaps), -1)


def by_neighbours(texts: Sequence[Sequence[int]], vocabulary: int) -> Guess:
    """What stood between the two neighbours in training; for pairs that are rare there, what stood beside each.

    p(b | a, c) = (count(a b c) + k q(b)) / (count(a · c) + k), where q(b) ∝ p(b | a) p(c | b), and these are counts of
    pairs that are smoothed likewise, by frequencies.
    """
    pairs = bigrams(texts, vocabulary)
    frequencies = (pairs.sum(0) + 1) / (pairs.sum() + vocabulary)
    follows = (pairs + PRIOR * frequencies) / (pairs.sum(1, keepdim=True) + PRIOR)  # p(column | row) [V V]
    between: dict[tuple[int, int], Counter[int]] = {}
    for ids in texts:
        for before, own, after in zip(ids, ids[1:], ids[2:], strict=False):
            between.setdefault((before, after), Counter())[own] += 1

    def guess(gaps: Sequence[Gap]) -> Tensor:
        beside = [(gap.ids[gap.place - 1], gap.ids[gap.place + 1]) for gap in gaps]
        before, after = torch.tensor(beside).T
        shares = follows[before] * follows[:, after].T  # [gaps V]
        shares[:, : len(SPECIAL)] = 1e-12
        shares *= PRIOR_OF_BOTH / shares.sum(1, keepdim=True)
        for row, pair in zip(shares, beside, strict=True):
            for token, count in between.get(pair, {}).items():
                row[token] += count
        return (shares / shares.sum(1, keepdim=True)).log()

    return guess


def write(folder: Path, model: Transformer, tokenizer: Tokenizer, config: dict[str, object]) -> None:
    """The folder that `load` and transformers read: weights in float16, to be half as large, but used in float32."""
    with atomic_folder(folder) as staging:
        save_checkpoint(model.half(), BERT, config, staging)
        write_json({**read_json(staging / "config.json"), "dtype": "float32"}, staging / "config.json")
        tokenizer.save(staging)


if __name__ == "__main__":
    main()
