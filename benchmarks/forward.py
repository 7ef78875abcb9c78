"""Seconds of a forward pass, beside transformers' on the same weights and inputs, taking turns in one process.

    python benchmarks/forward.py [--rounds 20] [--threads 2] [--device cuda]

Random weights in the shapes of MiniLM-L6, BERT-base and GPT-2: what is in them does not change the time.
"""

import argparse
import tempfile
from collections.abc import Callable

import torch
import transformers
from timing import interleaved, machine, table
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

import minitransformer as mt

MODELS = {
    "MiniLM-L6": (BertModel, BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)),
    "BERT-base": (BertModel, BertConfig()),
    "GPT-2": (GPT2Model, GPT2Config()),
}
SIZES = ((1, 16), (1, 128), (8, 128))


def forwards(folder: str, model_class: type, batch: dict[str, torch.Tensor]) -> dict[str, Callable[[], object]]:
    """The same pass by four implementations."""
    device = batch["input_ids"].device
    eager = model_class.from_pretrained(folder, attn_implementation="eager").eval().to(device)
    sdpa = model_class.from_pretrained(folder, attn_implementation="sdpa").eval().to(device)
    fused, by_hand = mt.load(folder, device=device), mt.load(folder, device=device).use("by_hand")

    def run(model: Callable[..., object]) -> Callable[[], object]:
        def forward() -> object:
            output = model(**batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return output

        return forward

    return {"eager": run(eager), "sdpa": run(sdpa), "fused": run(fused), "by hand": run(by_hand)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(machine("torch", "transformers"), f"- {options.threads} threads, {options.device}\n")
    rows = []
    for name, (model_class, config) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            model_class(config).save_pretrained(folder)
            for batch_size, length in SIZES:
                ids = torch.randint(config.vocab_size, (batch_size, length), device=options.device)
                batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                with torch.inference_mode():
                    seconds = interleaved(forwards(folder, model_class, batch), rounds=options.rounds)
                shown = [f"{seconds[each] * 1e3:.1f}" for each in ("eager", "sdpa", "fused", "by hand")]
                rows.append([name, f"{batch_size}×{length}", *shown, f"{seconds['fused'] / seconds['sdpa']:.2f}"])
    header = ["model", "batch", "transformers eager, ms", "sdpa, ms", "ours fused, ms", "by hand, ms", "fused / sdpa"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
