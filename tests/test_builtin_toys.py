"""`builtin:induction` and `builtin:reverse`: complete, the same to transformers, and clean where lessons look.

The scores are computed here once more, from transformers' weights; only training anew is judged by the scripts' own.
"""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import transformers

import minitransformer as mt

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "minitransformer" / "assets"
NAMES = ["induction", "reverse"]
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONG = 25  # tokens that come twice


def script(name):
    """The script benchmarks/train_NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"train_{name}", ROOT / "benchmarks" / f"train_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def induction():
    return mt.load("builtin:induction")


@pytest.fixture(scope="module")
def reverse():
    return mt.load("builtin:reverse")


def theirs(name, **options):
    """The model as transformers reads it, every tensor accounted for."""
    kind = transformers.GPT2LMHeadModel if name == "induction" else transformers.MarianMTModel
    found, info = kind.from_pretrained(ASSETS / name, output_loading_info=True, **options)
    assert not any(info.values()), info
    return found.eval()


# ------------------------------------------------------------------------------------------------- files and tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_complete(name):
    folder = ASSETS / name
    assert {path.name for path in folder.iterdir()} == FILES


def test_both_together_are_small():
    assert sum(path.stat().st_size for name in NAMES for path in (ASSETS / name).iterdir()) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_float16_in_the_file_and_float32_in_use(name):
    model = mt.load(f"builtin:{name}")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.report.file_dtypes.keys() == {"F16"}
    assert not model.report.fresh
    assert not model.report.ignored


@pytest.mark.parametrize(
    ("name", "texts", "lost"),
    [
        ("induction", [LETTERS, "it's a well-known word, katrin.", "", "<|endoftext|>ab"], {"Ünö 7\n": " n    "}),
        ("reverse", [LETTERS, "stressed", "room 101", ""], {"Ünö": "<unk>n<unk>"}),
    ],
)
def test_the_tokenizer_is_the_one_transformers_reads(name, texts, lost):
    """Each character is a token. `lost`: what becomes of characters that have none."""
    model, other = mt.load(f"builtin:{name}"), transformers.AutoTokenizer.from_pretrained(ASSETS / name)
    end = "</s>" if name == "reverse" else ""
    assert len(other) == len(model.tokenizer) == model.raw_config["vocab_size"]
    for text, back in ({text: text for text in texts} | {"STRessED": "stressed"} | lost).items():
        ids = model.tokenizer.encode(text)
        assert ids == other.encode(text)
        assert model.tokenizer.decode(ids) == other.decode(ids) == back + end
    generation = transformers.GenerationConfig.from_pretrained(ASSETS / name)
    for role in ("eos_token_id", "pad_token_id"):
        number = getattr(model.tokenizer, role)
        assert number == getattr(other, role) == model.raw_config[role] == getattr(generation, role)
        assert isinstance(number, int)
    assert model.max_length == other.model_max_length == 128


@pytest.mark.parametrize("name", NAMES)
def test_transformers_finds_nothing_different(name):
    found = mt.parity(f"builtin:{name}")
    assert found.equal, found


# --------------------------------------------------------------------------------------------------------- induction


@pytest.fixture(scope="module")
def twice():
    """128 × 25 different tokens that come twice: int [B T]."""
    rows = [torch.randperm(31, generator=torch.Generator().manual_seed(100 + row))[:LONG] + 1 for row in range(128)]
    return torch.stack(rows).repeat(1, 2)


def continued(model, ids, heads=()):
    """How often the model is right about what comes after the first token of the second copy, up to the end."""
    with torch.no_grad(), model.muted(heads=heads):
        told = model(ids).logits.argmax(-1)
    return (told[:, LONG:-1] == ids[:, LONG + 1 :]).float().mean().item()


def tops(ids):
    """By transformers' weights: the previous token for layer 0, in the first copy, and induction for layer 1. [H]."""
    with torch.no_grad():
        first, second = theirs("induction", attn_implementation="eager")(ids, output_attentions=True).attentions
    return first.diagonal(-1, 2, 3)[..., : LONG - 1].mean((0, 2)), second.diagonal(1 - LONG, 2, 3)[..., 1:].mean((0, 2))


def test_the_feed_forward_parts_add_nothing(induction):
    weights = [p for name, p in induction.named_parameters() if ".ffn." in name]
    assert len(weights) == 8
    assert not any(p.any() for p in weights)


def test_one_head_finds_the_previous_token_and_two_what_followed_last_time(twice):
    previous, found = tops(twice)
    assert previous.max() > 0.95
    assert previous.min() < 0.3
    assert found.min() > 0.9


def test_a_score_is_not_a_cause(induction, twice):
    """All depends on the head that no answer is read from, and nothing on the one that points at the answer."""
    previous, found = tops(twice)
    assert continued(induction, twice) > 0.99
    assert continued(induction, twice, [(0, int(previous.argmax()))]) < 0.15
    assert continued(induction, twice, [(1, int(found.argmax()))]) > 0.98
    assert continued(induction, twice, [(1, 0), (1, 1)]) < 0.08


def test_the_scripts_scores_are_those_of_transformers_weights(induction):
    found = script("induction").measure(induction)
    once = torch.rand(128, 31, generator=torch.Generator().manual_seed(0)).argsort(-1)[:, :LONG] + 1
    ids = once.repeat(1, 2)
    previous, following = tops(ids)
    torch.testing.assert_close(torch.tensor(found.previous), previous, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(found.induction), following, atol=1e-4, rtol=0)
    assert found.accuracy == pytest.approx(continued(induction, ids), abs=1e-6)
    assert found.without_layer_1 == pytest.approx(continued(induction, ids, [(1, 0), (1, 1)]), abs=1e-6)


def test_the_scores_stated_are_those_of_what_ships(induction):
    found = script("induction").measure(induction)
    stated = (ASSETS / "README.md").read_text(encoding="utf-8").partition("## A decoder that continues")[2]
    rows = re.findall(r"^\| (?:previous|induction|accuracy).* \| ([\d., ]+) \|$", stated, flags=re.MULTILINE)
    told = [float(number) for row in rows for number in row.split(", ")]
    measured = [*found.previous, *found.induction, *found[2:]]
    assert told == pytest.approx(measured, abs=0.01)


def test_the_lens_names_the_heads(induction, twice):
    previous, _ = tops(twice)
    (group,) = mt.lens.head_types(induction).groups
    assert group.type_of(0, int(previous.argmax())) == "previous"
    assert [group.type_of(1, head) for head in range(2)] == ["induction"] * 2


@pytest.mark.parametrize(
    ("begun", "rest"),
    [("xqzfxq", "zf"), ("katrin kat", "rin"), ("i saw a wolf. wo", "lf")],
)
def test_it_continues_what_it_has_read(induction, begun, rest):
    assert induction.generate(begun, max_new_tokens=len(rest)) == begun + rest


def test_it_continues_anywhere_in_the_context(induction):
    """Copies of ten letters, from place 0 and from every tenth place on, as far as training went."""
    once = torch.stack([torch.randperm(31, generator=torch.Generator().manual_seed(row))[:10] + 1 for row in range(64)])
    ids = once.repeat(1, 2)
    for start in range(0, 81, 10):
        with torch.no_grad():
            told = induction(ids, position_ids=torch.arange(start, start + 20)[None]).logits.argmax(-1)
        assert (told[:, 10:-1] == ids[:, 11:]).float().mean() > 0.9, start


# ----------------------------------------------------------------------------------------------------------- reverse


def texts_of(length, count=64):
    draws = torch.randint(37, (count, length), generator=torch.Generator().manual_seed(500 + length))
    return ["".join((LETTERS + "0123456789 ")[i] for i in row) for row in draws.tolist()]


def test_the_table_stated_is_that_of_what_ships(reverse):
    module = script("reverse")
    stated = (ASSETS / "README.md").read_text(encoding="utf-8").partition("| length | all right |")[2]
    rows = re.findall(
        r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", stated, re.MULTILINE
    )
    assert len(rows) == 12
    for length, *told in rows[::4]:
        weight, most = (x[0].tolist() for x in module.turned_round(reverse, int(length)))
        measured = [module.accuracy(reverse, int(length)), weight[0], most[0], weight[1], most[1]]
        assert [float(number) for number in told] == pytest.approx(measured, abs=0.01)


def test_it_writes_words_backwards(reverse):
    assert reverse.generate("stressed") == "desserts"
    assert reverse.generate(["Drawer", "a", "room 101"]) == ["reward", "a", "101 moor"]


@pytest.mark.parametrize("length", range(1, 13))
def test_it_reverses_texts_of_every_length(reverse, length):
    texts = texts_of(length)
    written = reverse.generate(texts)
    wrong = [text for text, ours in zip(texts, written, strict=True) if ours != text[::-1]]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("length", [2, 5, 8, 12])
def test_each_query_looks_at_the_character_that_it_writes(length):
    """In transformers' weights, at the anti-diagonal of characters."""
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(ASSETS / "reverse"), theirs("reverse")
    model.set_attn_implementation("eager")
    texts = texts_of(length)
    ids = tokenizer(texts, return_tensors="pt").input_ids  # [B S], the last is the end
    labels = ids[:, :-1].flip(1)  # without the end
    with torch.no_grad():
        (weights,) = model(ids, labels=labels, output_attentions=True).cross_attentions  # [B H T S]
    falls = weights[..., :length].flip(-1).diagonal(dim1=-2, dim2=-1).mean((0, 2))  # [H]
    most = (weights.argmax(-1) == torch.arange(length).flip(0)).float().mean((0, 2))
    ours = script("reverse").turned_round(mt.load("builtin:reverse"), length)
    assert falls.max() > 0.9
    assert most.min() > 0.98
    torch.testing.assert_close(ours[0][0], falls, atol=0.03, rtol=0)  # other texts


# ---------------------------------------------------------------------------------------------------------- training


def trained(name, folder, monkeypatch, *options):
    module = script(name)
    monkeypatch.setattr("sys.argv", [f"train_{name}.py", "--out", str(folder), *map(str, options)])
    module.main()
    return module, mt.load(folder)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW)])
def test_the_recipe_of_induction_trains_one_like_it(seed, tmp_path, monkeypatch, capsys):
    """The scores that assets/README.md states, and what muting costs, in bands that leave room for other machines."""
    module, model = trained("induction", tmp_path / "out", monkeypatch, "--seed", seed)
    found = module.measure(model)
    assert found.accuracy > 0.99
    assert max(found.previous) > 0.9
    assert min(found.induction) > 0.9
    assert found.without_previous < 0.3
    assert found.without_induction > 0.9
    assert found.without_layer_1 < 0.08
    assert f"accuracy, {found.accuracy:.3f}" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    with pytest.raises(mt.MiniTransformerError, match="not empty"):
        module.main()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW)])
def test_the_recipe_of_reversing_trains_one_like_it(seed, tmp_path, monkeypatch, capsys):
    module, model = trained("reverse", tmp_path / "out", monkeypatch, "--seed", seed)
    assert min(module.accuracy(model, length) for length in range(1, 13)) > 0.95
    weight, most = module.turned_round(model, 10)
    assert weight.max() > 0.85
    assert most.max() > 0.97
    assert "\n12, " in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
