"""Train the paper's own model (Vaswani et al. 2017), small, from random weights: English to German on Multi30k.

python benchmarks/translate.py --data FOLDER --out FOLDER [--minutes 60] [--epochs 20] [--layers 3] [--d-model 256]

The data folder has train.en, train.de, val.en, val.de: captions, tokenised, in lower case, line by line. One table of
8,000 pieces (BPE, learned from the training text) serves source, target and output. The recipe is the paper's, section
5: Adam with beta2 0.98, the rate up and then down with the square root of the step, labels smoothed by 0.1; dropout is
0.2, for the data are few. BLEU and chrF are sacrebleu's, on val: greedy after each epoch, and with a beam of 4 at last,
by the weights with the best greedy BLEU. --minutes ends the training early, at the end of an epoch, whatever the
schedule wanted.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from timing import machine
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from minitransformer import GenerationConfig, Tokenizer, Transformer, build, vaswani2017
from minitransformer.finetune.folder import refuse_full_folder
from minitransformer.finetune.loop import train
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.report.pictures import loss_curve
from minitransformer.finetune.rows import read_rows
from minitransformer.metrics import bleu_signature
from minitransformer.tasks.inference import read, scores
from minitransformer.tasks.seq2seq import Translate
from minitransformer.tasks.task import Criterion

PIECES, LONGEST = 8000, 64
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # 0 to 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    refuse_full_folder(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        epochs=options.epochs, batch_tokens=4096, learning_rate=2e-3, schedule="inverse_sqrt", warmup=800, beta2=0.98,
        eps=1e-9, weight_decay=0.0, label_smoothing=0.1, max_target_length=LONGEST, seed=options.seed,
    )  # fmt: skip

    rows = read_rows([str(options.data / f"train.{language}") for language in ("en", "de")], "translate")
    judged = read_rows([str(options.data / f"val.{language}") for language in ("en", "de")], "translate")
    tokenizer = train_tokenizer([row[side] for row in rows for side in ("source", "target")])
    model = paper(tokenizer, options.layers, options.d_model, options.seed).to(options.device)
    task = Translate(tokenizer, (), LONGEST, Criterion(label_smoothing=0.1), max_target_length=LONGEST)
    examples, to_judge = task.encode(rows), task.encode(judged)
    print(machine("torch", "minitransformer"))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(rows):,} rows to train on")

    def evaluate() -> dict[str, float]:
        return scores(task, judged, to_judge, read(model, task, to_judge, batch_size=64))[1]

    began, events = time.perf_counter(), []
    with (options.out / "log.jsonl").open("w", buffering=1) as log:
        for event in train(model, task, examples, recipe, evaluate=evaluate):
            events.append(event)
            print(json.dumps(event), file=log)
            if event["event"] == "evaluation":
                step = events[-2]
                print(
                    f"epoch {step['epoch']:4.1f}, {(time.perf_counter() - began) / 60:5.1f} min, "
                    f"{step['tokens_per_second']:,.0f} tokens/s: training {step['loss']:.3f}, val {event['loss']:.3f}, "
                    f"BLEU {event['bleu']:.2f}, chrF {event['chrf']:.2f}",
                    flush=True,
                )
                if event["best"]:
                    save_file(dict(model.named_parameters()), options.out / "best.safetensors")
                if time.perf_counter() - began > options.minutes * 60:
                    break
    of_kind = lambda kind: [event for event in events if event["event"] == kind]
    (options.out / "curves.svg").write_text(loss_curve(of_kind("step"), of_kind("evaluation"), "bleu"))
    judge_best(model, tokenizer, judged, options.out)


def judge_best(model: Transformer, tokenizer: Tokenizer, judged: list, out: Path) -> None:
    """BLEU of the best weights, with a beam; and some translations."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(out / "best.safetensors"), strict=False)
    task = Translate(tokenizer, (), LONGEST, max_target_length=LONGEST, generation=GenerationConfig(num_beams=4))
    examples = task.encode(judged)
    answers, found = scores(task, judged, examples, read(model, task, examples, batch_size=64))
    print(f"beam of 4: BLEU {found['bleu']:.2f}, chrF {found['chrf']:.2f}")
    print(bleu_signature([row["target"] for row in judged]))
    for answer, row in list(zip(answers, judged, strict=True))[:3]:
        print(f"  {answer.source}\n  {answer.text}\n  ({row['target']})")


def paper(tokenizer: Tokenizer, layers: int, d_model: int, seed: int) -> Transformer:
    """The paper's model, small."""
    config = vaswani2017(
        vocab_size=len(tokenizer), layers=layers, d_model=d_model, heads=d_model // 64, d_ffn=4 * d_model, dropout=0.2
    )
    torch.manual_seed(seed)
    return build(dataclasses.replace(config, decoder_start_id=1, pad_id=0))


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """BPE inside words, as the data are words already."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=list(SPECIAL), end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return Tokenizer(backend, special=names, config={}, model_max_length=None)


if __name__ == "__main__":
    main()
