"""What looking costs: a forward pass, one with all attentions, one with everything, beside transformers' eager.

    python benchmarks/capture.py [--rounds 9] [--only GPT-2] [--sizes 1x128] [--device cuda]

All take turns in one process, on the same weights and inputs. "nothing named" is a pass inside `capture(model, [])`;
"all attentions" asks both libraries for `output_attentions` and `output_hidden_states`; "everything" is
`run_with_cache`, which keeps every point but the heads' results. transformers gives the same to `output_attentions`
only with its eager attention, for the whole model.
"""

import argparse
import tempfile
from collections.abc import Callable

import torch
import transformers
from models import MODELS, make_batch
from timing import interleaved, machine, table

import minitransformer as mt

SHOWN = ("MiniLM-L6 (bert)", "BERT-base", "GPT-2", "T5-small", "BART-base", "ViT-base")
INSIDES = {"output_attentions": True, "output_hidden_states": True}


def passes(folder: str, model_class: type, batch: dict[str, torch.Tensor]) -> dict[str, Callable[[], object]]:
    """The same pass, looked at in different ways."""
    device = next(iter(batch.values())).device
    eager = model_class.from_pretrained(folder, attn_implementation="eager").eval().to(device)
    ours = mt.load(folder, device=device)

    def nothing_named() -> object:
        with mt.capture(ours, []):
            return ours(**batch)

    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: ours(**batch),
        "nothing named": nothing_named,
        "all attentions": lambda: ours(**batch, **INSIDES),
        "everything": lambda: ours.run_with_cache(batch),
        "eager": lambda: eager(**batch),
        "eager, all attentions": lambda: eager(**batch, **INSIDES),
    }

    def waited(run: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            output = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return output

        return call

    return {name: waited(run) for name, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--sizes", nargs="+", default=["1x128"], help="texts x tokens")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(machine("torch", "transformers"), f"- {torch.get_num_threads()} threads, {options.device}\n")
    rows = []
    for name in SHOWN:
        if options.only.lower() not in name.lower():
            continue
        model_class, config = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            model_class(config).save_pretrained(folder)
            for size in options.sizes:
                texts, length = (int(number) for number in size.split("x"))
                batch = make_batch(config, texts, length, options.device)
                with torch.inference_mode():
                    seconds = interleaved(passes(folder, model_class, batch), rounds=options.rounds)
                what = f"{texts} images" if "pixel_values" in batch else f"{texts}×{length}"
                ratio = seconds["all attentions"] / seconds["eager, all attentions"]
                rows.append([name, what, *(f"{value * 1e3:.1f}" for value in seconds.values()), f"{ratio:.2f}"])
                print(rows[-1], flush=True)
    header = ["model", "batch", "forward, ms", "nothing named", "all attentions", "everything"]
    header += ["transformers eager, ms", "eager, all attentions", "ours / eager, all attentions"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
