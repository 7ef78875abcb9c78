"""Tokens per second of greedy decoding, beside transformers' generate and CTranslate2, taking turns in one process.

    python benchmarks/generate.py [--rounds 5] [--new 64] [--only GPT-2] [--batch 1 8] [--threads 2] [--device cuda]
    python benchmarks/generate.py --positions [--plot positions.svg]

Random weights in published shapes, and the tiny model that comes with the package; float32, a prompt of 16 tokens, no
end token. The limit printed beside them is what reading each weight once for each token would take at the bandwidth
that a product of a large matrix and a vector reaches on this machine. CTranslate2 runs on the CPU only.
With --positions: milliseconds of each token of a long text, by its position, and the memory taken.
"""

import argparse
import gc
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from timing import interleaved, machine, table
from tokenizers import Tokenizer, models

import minitransformer as mt
from minitransformer.generation.generate import steps
from minitransformer.generation.prompt import Prompt

PROMPT = 16
MODELS: dict[str, Callable[[], Any]] = {
    "GPT-2, 124M": lambda: hf.GPT2LMHeadModel(hf.GPT2Config()),
    "T5-small, 60M": lambda: hf.T5ForConditionalGeneration(hf.T5Config(decoder_start_token_id=0)),
    "builtin:shakespeare": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**tiny_shape())),
}


def tiny_shape() -> dict[str, Any]:
    """The sizes of the tiny model that comes with the package."""
    raw = mt.load("builtin:shakespeare").raw_config
    names = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "bos_token_id", "eos_token_id")
    return {name: raw[name] for name in names}


def bandwidth() -> float:
    """Bytes per second that a matrix-vector product reads: the best of several, matrix 600 MB, either layout."""
    matrix, short, long = torch.randn(50_000, 3072), torch.randn(3072), torch.randn(50_000)
    best = 0.0
    for _ in range(5):
        for product in (lambda: matrix @ short, lambda: matrix.T @ long):
            began = time.perf_counter()
            product()
            best = max(best, matrix.nbytes / (time.perf_counter() - began))
    return best


def read_for_each_token(model: Any) -> int:
    """Bytes of the weights that a decoding step reads: not the encoder's, and of a table that is not tied one row."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    tied = id(model.get_output_embeddings().weight)
    parts = model.decoder if model.config.is_encoder_decoder else model
    weights = {id(p): p for p in (*parts.parameters(), model.get_output_embeddings().weight)}
    return sum(p.nbytes for key, p in weights.items() if key not in tables or key == tied)


def ctranslate2_run(model: Any, ids: torch.Tensor, threads: int, folder: Path) -> Callable[[int], object]:
    """The same weights in CTranslate2. Its tokens are words: t0, t1, …

    In a process of its own: two pools of threads in one process slow each other to half.
    """
    from ctranslate2.converters import TransformersConverter

    words = {f"t{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    special = {"pad_token": "t0", "eos_token": "t1", "bos_token": "t1", "unk_token": "t2"}
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    TransformersConverter(str(folder)).convert(str(folder / "ct2"), force=True)
    ours, theirs = multiprocessing.Pipe()
    prompts = [[f"t{i}" for i in row] for row in ids.tolist()]
    job = (str(folder / "ct2"), model.config.is_encoder_decoder, prompts, threads, theirs)
    multiprocessing.get_context("spawn").Process(target=ctranslate2_process, args=job, daemon=True).start()

    def run(new: int) -> object:
        ours.send(new)
        return ours.recv()

    return run


def ctranslate2_process(folder: str, two_stacks: bool, prompts: list[list[str]], threads: int, pipe: Any) -> None:
    """Write as many tokens as the pipe asks for, until it closes."""
    import ctranslate2

    options = {"device": "cpu", "compute_type": "float32", "intra_threads": threads}
    model = (ctranslate2.Translator if two_stacks else ctranslate2.Generator)(folder, **options)
    while True:
        try:
            new = pipe.recv()
        except EOFError:
            return
        if two_stacks:
            model.translate_batch(prompts, beam_size=1, max_decoding_length=new, min_decoding_length=new)
        else:
            lengths = {"max_length": new, "min_length": new, "include_prompt_in_result": False}
            model.generate_batch(prompts, sampling_topk=1, **lengths)
        pipe.send(new)


def runs(model: Any, batch: int, options: argparse.Namespace, folder: Path) -> dict[str, Callable[[int], object]]:
    """Name -> what writes so many tokens."""
    model.save_pretrained(folder)
    theirs = type(model).from_pretrained(folder).eval().to(options.device)
    ours = mt.load(folder, device=options.device).transformer
    ids = torch.randint(5, model.config.vocab_size - 5, (batch, PROMPT), device=options.device)
    mask = torch.ones_like(ids)

    def transformers_run(new: int) -> object:
        return theirs.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )

    def our_run(new: int) -> object:
        config = mt.GenerationConfig(max_new_tokens=new, pad_token_id=0, decoder_start_token_id=0)
        return mt.generate(ours, ids, config=config)

    found = {"transformers": transformers_run, "minitransformer": our_run}
    if options.device == "cpu":
        found["CTranslate2"] = ctranslate2_run(model, ids, options.threads, folder)
    return found


def compare(options: argparse.Namespace) -> None:
    """The table of tokens per second."""
    read = bandwidth() if options.device == "cpu" else 0.0
    if read:
        print(f"matrix-vector products read {read / 1e9:.1f} GB/s here\n")
    rows = []
    for name, make in MODELS.items():
        if options.only.lower() not in name.lower():
            continue
        model = make().eval()
        limit = f"{read / read_for_each_token(model):.0f}" if read else "-"
        for batch in options.batch:
            with tempfile.TemporaryDirectory() as folder:
                each = runs(model, batch, options, Path(folder))
                new = min(options.new, getattr(model.config, "n_positions", options.new) - PROMPT)
                whole = {kind: partial(run, new) for kind, run in each.items()}
                first = {kind: partial(run, 1) for kind, run in each.items()}
                seconds = interleaved(whole, rounds=options.rounds, warmup=1)
                to_first = interleaved(first, rounds=options.rounds, warmup=1)
            speed = {kind: batch * new / taken for kind, taken in seconds.items()}
            kinds = ("transformers", "CTranslate2", "minitransformer")
            rows.append(
                [
                    f"{name}, batch {batch}",
                    *(f"{speed[kind]:.1f}" if kind in speed else "-" for kind in kinds),
                    f"{speed['minitransformer'] / speed['transformers']:.2f}",
                    limit if batch == 1 else "-",
                    " / ".join(f"{to_first[kind] * 1e3:.1f}" if kind in to_first else "-" for kind in kinds),
                ]
            )
            print(rows[-1], flush=True)
    print(
        table(
            [
                "model",
                "transformers, tokens/s",
                "CTranslate2",
                "minitransformer",
                "ours / transformers",
                "limit, one text",
                "ms to the first token, in this order",
            ],
            rows,
        )
    )


def positions(options: argparse.Namespace) -> None:
    """Milliseconds of each token by its position, and what memory the cache and all else took."""
    with tempfile.TemporaryDirectory() as folder:
        MODELS["GPT-2, 124M"]().save_pretrained(folder)
        model = mt.load(folder).transformer
        ids = torch.randint(5, 50_000, (1, PROMPT))
        config = mt.GenerationConfig(max_new_tokens=1024 - PROMPT)
        times, resident = [], []
        gc.collect()
        began = time.perf_counter()
        for _ in steps(model, Prompt(ids), config=config, tokenizer=None, seed=None):
            now = time.perf_counter()
            times.append((now - began) * 1e3)
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)
            began = now
    cache = 2 * 12 * 768 * 4 / 2**20  # MiB a token: keys and values of 12 layers
    width = 72
    print(f"GPT-2, 124M, one text: median milliseconds of a token, by position (a row is {width} tokens)")
    for start in range(1, len(times), width):
        median = statistics.median(times[start : start + width])
        print(f"{start + PROMPT:5d}  {median:6.1f}  {'#' * round(median)}")
    grown = max(resident[width:]) - resident[width]
    held = (len(times) - width) * cache
    print(f"memory grew by {grown:.0f} MiB from token {width} to {len(times)}; keys and values did by {held:.0f} MiB")
    if options.plot:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 3))
        axes.plot(range(PROMPT + 1, PROMPT + len(times)), times[1:], linewidth=0.6)
        axes.set(xlabel="position", ylabel="ms per token", ylim=(0, 3 * statistics.median(times)))
        figure.tight_layout()
        figure.savefig(options.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--positions", action="store_true", help="time by position instead")
    parser.add_argument("--plot", default="", help="where to draw it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    packages = ("torch", "transformers", "ctranslate2") if options.device == "cpu" else ("torch", "transformers")
    print(machine(*packages), f"- {options.threads} threads, {options.device}\n")
    torch.manual_seed(0)
    positions(options) if options.positions else compare(options)


if __name__ == "__main__":
    main()
