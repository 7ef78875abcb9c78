"""`builtin:shakespeare`: the folder is complete and small, transformers reads the same model, and it has learned."""

import importlib.util
import math
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers

import minitransformer as mt

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "minitransformer" / "assets"
FOLDER = ASSETS / "shakespeare"
NAME = "builtin:shakespeare"
CONTEXT = 256

# From The Taming of the Shrew, in the tenth of the text that neither the tokenizer nor the model has seen.
UNSEEN = """GREMIO:
Good morrow, neighbour Baptista.

BAPTISTA:
Good morrow, neighbour Gremio.
God save you, gentlemen!

PETRUCHIO:
And you, good sir! Pray, have you not a daughter
Call'd Katharina, fair and virtuous?

BAPTISTA:
I have a daughter, sir, called Katharina.

GREMIO:
You are too blunt: go to it orderly.

PETRUCHIO:
You wrong me, Signior Gremio: give me leave.
I am a gentleman of Verona, sir,
That, hearing of her beauty and her wit,
Her affability and bashful modesty,
Her wondrous qualities and mild behavior,
Am bold to show myself a forward guest
Within your house, to make mine eye the witness
Of that report which I so oft have heard.
And, for an entrance to my entertainment,
I do present you with a man of mine,
Cunning in music and the mathematics,
To instruct her fully in those sciences,
Whereof I know she is not ignorant:
Accept of him, or else you do me wrong:
His name is Licio, born in Mantua.
"""
ELSEWHERE = ["ROMEO:\nO, speak again", " naïve façade — 東京\r\n\t", "", "<|endoftext|>First Citizen:\n\n"]


@pytest.fixture(scope="module")
def model():
    return mt.load(NAME)


@pytest.fixture(scope="module")
def theirs():
    found, info = transformers.GPT2LMHeadModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info.values()), info
    return found.eval()


def token_losses(logits, ids):
    """Nats of each token but the first: -log p. logits [T V], ids [T] -> [T - 1]."""
    return -logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None])[:, 0]


def held_out_loss(model, ids):
    """Nats per token of a long text, in windows that share one token."""
    with torch.no_grad():
        windows = [ids[start : start + CONTEXT] for start in range(0, len(ids) - 1, CONTEXT - 1)]
        return torch.cat([token_losses(model(window[None]).logits[0], window) for window in windows]).mean().item()


def test_the_folder_is_complete_and_small():
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in FOLDER.iterdir()} == names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4_000_000


def test_it_has_one_to_two_million_parameters_in_float32_and_each_tensor_is_accounted_for(model):
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 2_000_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.report.file_dtypes.keys() == {"F16"}
    assert not model.report.fresh
    assert not model.report.ignored
    assert model.max_length == CONTEXT


def test_the_tokenizer_is_the_one_transformers_reads(model):
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert len(theirs) == len(model.tokenizer) == model.raw_config["vocab_size"]
    for text in (UNSEEN, *ELSEWHERE):
        ids = model.tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert model.tokenizer.decode(ids) == theirs.decode(ids) == text
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        end = model.tokenizer.encode("<|endoftext|>")
        assert [getattr(model.tokenizer, role)] == [getattr(theirs, role)] == end
        assert [model.raw_config[role]] == end
        assert [getattr(transformers.GenerationConfig.from_pretrained(FOLDER), role)] == end


def test_transformers_gives_the_same_logits(model, theirs):
    batch = model.tokenizer([UNSEEN, *ELSEWHERE[:2]], truncation=True)
    with torch.no_grad():
        ours, expected = model(**batch).logits, theirs(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[real], expected[real], atol=1e-4, rtol=1e-5)


def test_it_has_learned(model):
    """It does better on an unseen text than any model could that knows how frequent its tokens are, and no context."""
    ids = torch.tensor(model.tokenizer.encode(UNSEEN))
    frequencies = [count / len(ids) for count in Counter(ids.tolist()).values()]
    best_without_context = -sum(p * math.log(p) for p in frequencies)
    assert len(ids) > 300
    assert held_out_loss(model, ids) < best_without_context - 0.5
    backwards = ids.flip(0)
    assert held_out_loss(model, backwards) > best_without_context + 1


def test_the_held_out_loss_is_the_one_stated(model):
    if "MINITRANSFORMER_DATA" not in os.environ:
        pytest.skip("MINITRANSFORMER_DATA is not set")
    stated = re.search(r"\| the model \| (\d\.\d+) \|", (ASSETS / "README.md").read_text())
    text = (Path(os.environ["MINITRANSFORMER_DATA"]) / "shakespeare" / "input.txt").read_text()
    ids = torch.tensor(model.tokenizer.encode(text[len(text) * 9 // 10 :]))
    assert held_out_loss(model, ids) == pytest.approx(float(stated[1]), abs=0.01)


@pytest.fixture
def recipe(monkeypatch):
    """The script benchmarks/train_shakespeare.py as a module."""
    spec = importlib.util.spec_from_file_location("train_shakespeare", ROOT / "benchmarks" / "train_shakespeare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["train_shakespeare.py", *map(str, arguments)])
        module.main()

    return run


def test_the_recipe_runs_from_a_text_to_a_model(recipe, tmp_path, capsys):
    """On 30 kB of the reviews. The best epoch is what is written; the losses told are those of the written model."""
    text = (ASSETS / "movie_reviews.tsv").read_text(encoding="utf-8")[:30_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    recipe("--data", tmp_path / "text.txt", "--out", tmp_path / "out", "--epochs", 3)
    told = capsys.readouterr().out
    epochs = [float(loss) for loss in re.findall(r"^epoch \d: .* held out (\d\.\d+)", told, flags=re.MULTILINE)]
    table = dict(re.findall(r"^([a-z ]+), (\d\.\d+), \d\.\d+$", told, flags=re.MULTILINE))
    model = mt.load(tmp_path / "out")
    ids = torch.tensor(model.tokenizer.encode(text[len(text) * 9 // 10 :]))
    assert len(epochs) == 3
    assert min(epochs) < math.log(len(model.tokenizer)) - 0.5, "it has not begun to learn"
    assert float(table["the model"]) == pytest.approx(min(epochs), abs=2e-3)
    assert float(table["the model"]) == pytest.approx(held_out_loss(model, ids), abs=1e-4)
    assert float(table["all tokens alike"]) == pytest.approx(math.log(len(model.tokenizer)), abs=1e-4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in FOLDER.iterdir()}

    with pytest.raises(mt.MiniTransformerError, match="not empty"):
        recipe("--data", tmp_path / "text.txt", "--out", tmp_path / "out")
