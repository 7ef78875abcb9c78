"""Seconds of a forward pass, beside transformers' on the same weights and inputs, taking turns in one process.

    python benchmarks/forward.py [--rounds 9] [--only BERT] [--sizes 1x16 8x128] [--threads 2] [--device cuda]

Random weights in published shapes (`models.py`), one row for each family. An image counts as one text of any length.
The last column compares with transformers' eager attention where it has no other.
"""

import argparse
import tempfile
from collections.abc import Callable

import torch
import transformers
from models import MODELS, make_batch
from timing import interleaved, machine, table

import minitransformer as mt


def forwards(folder: str, model_class: type, batch: dict[str, torch.Tensor]) -> dict[str, Callable[[], object]]:
    """The same pass by four implementations."""
    device = next(iter(batch.values())).device
    theirs = {
        kind: model_class.from_pretrained(folder, attn_implementation=kind).eval().to(device)
        for kind in ("eager", "sdpa")
        if kind == "eager" or model_class._supports_sdpa
    }
    fused, by_hand = mt.load(folder, device=device), mt.load(folder, device=device).use("by_hand")

    def run(model: Callable[..., object]) -> Callable[[], object]:
        def forward() -> object:
            output = model(**batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return output

        return forward

    return {name: run(model) for name, model in {**theirs, "fused": fused, "by hand": by_hand}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--sizes", nargs="+", default=["4x64"], help="texts x tokens")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(machine("torch", "transformers"), f"- {options.threads} threads, {options.device}\n")
    rows = []
    for name, (model_class, config) in MODELS.items():
        if options.only.lower() not in name.lower():
            continue
        with tempfile.TemporaryDirectory() as folder:
            model_class(config).save_pretrained(folder)
            for size in options.sizes:
                texts, length = (int(number) for number in size.split("x"))
                batch = make_batch(config, texts, length, options.device)
                with torch.inference_mode():
                    seconds = interleaved(forwards(folder, model_class, batch), rounds=options.rounds)
                columns = ("eager", "sdpa", "fused", "by hand")
                shown = [f"{seconds[each] * 1e3:.1f}" if each in seconds else "none" for each in columns]
                what = f"{texts} images" if "pixel_values" in batch else f"{texts}×{length}"
                rows.append([name, what, *shown, f"{seconds['fused'] / seconds.get('sdpa', seconds['eager']):.2f}"])
                print(rows[-1], flush=True)
    header = ["model", "batch", "transformers eager, ms", "sdpa, ms", "ours fused, ms", "by hand, ms", "fused / sdpa"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
