"""`builtin:cloze`: the folder is complete and small, transformers reads the same model, and it fills gaps sensibly."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import transformers

import minitransformer as mt

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "minitransformer" / "assets"
FOLDER = ASSETS / "cloze"
NAME = "builtin:cloze"
CONTEXT = 96
TEXTS = [
    "A funny and moving film.",
    "the [MASK] was great",
    " Naïve façade — 東京?\n\t",
    "",
    "One of the [MASK] films [UNK]!",
]

spec = importlib.util.spec_from_file_location("train_cloze", ROOT / "benchmarks" / "train_cloze.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def model():
    return mt.load(NAME)


@pytest.fixture(scope="module")
def theirs():
    found, info = transformers.BertForMaskedLM.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info.values()), info
    return found.eval()


@pytest.fixture(scope="module")
def gaps(model):
    """Every token of the sentences that neither the tokenizer nor the model has seen."""
    return script.gaps_in(script.MaskedLM(model.tokenizer, (), CONTEXT), script.split()[1])


def stated(name):
    """The six figures of a row of the table in the README."""
    row = re.search(rf"\| {name} \|(( \d\.\d+ \|){{6}})", (ASSETS / "README.md").read_text())
    return [float(figure) for figure in row[1].strip(" |").split("|")]


def told(out):
    """The table that the script prints: a name and six figures a row."""
    rows = re.findall(r"^([a-z' ]+)((?:, \d+\.\d+){6})$", out, flags=re.MULTILINE)
    return {name: [float(figure) for figure in figures.split(", ")[1:]] for name, figures in rows}


def test_the_folder_is_complete_and_small():
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in FOLDER.iterdir()} == names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_300_000


def test_it_is_small_and_in_float32_and_each_tensor_is_accounted_for(model):
    assert 200_000 < sum(p.numel() for p in model.parameters()) < 700_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.report.file_dtypes.keys() == {"F16"}
    assert not model.report.fresh
    assert not model.report.ignored
    assert model.max_length == CONTEXT


def test_the_tokenizer_is_the_one_transformers_reads(model):
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert len(theirs) == len(model.tokenizer) == model.raw_config["vocab_size"]
    assert theirs.model_max_length == CONTEXT
    for text in (*TEXTS, *script.split()[1]):
        ids = model.tokenizer.encode(text)
        assert ids == theirs.encode(text)
        assert model.tokenizer.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    ours = model.tokenizer(TEXTS[:2], TEXTS[1:3])
    expected = theirs(TEXTS[:2], TEXTS[1:3], padding=True, return_tensors="pt")
    assert ours.keys() == expected.keys()
    assert all((ours[name] == expected[name]).all() for name in ours)
    for role in ("pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        assert getattr(model.tokenizer, role) == getattr(theirs, role) is not None
    assert model.raw_config["pad_token_id"] == theirs.pad_token_id


def test_transformers_gives_the_same_logits(model, theirs):
    batch = model.tokenizer([*script.split()[1][:8], *TEXTS], truncation=True)
    with torch.no_grad():
        ours, expected = model(**batch).logits, theirs(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[real], expected[real], atol=1e-4, rtol=1e-5)


def test_the_stated_figures_are_those_of_the_unseen_sentences(model, gaps):
    found = script.scores(script.by_model(model.transformer), gaps)
    assert list(found.values()) == pytest.approx(stated("the model"), abs=2e-3)


def test_what_the_script_measures_is_what_transformers_gives(model, theirs, gaps):
    """Gap by gap, without padding."""
    found = []
    for gap in gaps[::150]:
        ids = torch.tensor(gap.ids)
        ids[gap.place] = model.tokenizer.mask_token_id
        with torch.no_grad():
            logs = theirs(input_ids=ids[None]).logits[0, gap.place].log_softmax(-1)
        best = logs.topk(5).indices.tolist()
        right = gap.ids[gap.place]
        found.append((-float(logs[right]), right == best[0], right in best, gap.word))
    assert 20 < sum(word for *_, word in found) < len(found)
    means = [sum(each) / len(found) for each in list(zip(*found, strict=True))[:3]]
    ours = script.scores(script.by_model(model.transformer), gaps[::150])
    assert list(ours.values())[:3] == pytest.approx(means, abs=1e-4)
    words = [figures for *figures, word in found if word]
    assert list(ours.values())[3:] == pytest.approx([sum(x) / len(words) for x in zip(*words, strict=True)], abs=1e-4)


def test_the_stated_baselines_are_those_of_the_sentences_it_was_trained_on(model, gaps):
    task = script.MaskedLM(model.tokenizer, (), CONTEXT)
    texts = [example.target for example in task.encode([script.Row(text=text) for text in script.split()[0]])]
    vocabulary = len(model.tokenizer)
    found = script.scores(script.by_frequency(texts, vocabulary), gaps)
    assert list(found.values()) == pytest.approx(stated("token frequencies"), abs=2e-4)
    found = script.scores(script.by_neighbours(texts, vocabulary), gaps)
    assert list(found.values()) == pytest.approx(stated("neighbours' counts"), abs=2e-4)


def test_counts_are_probabilities_and_counted_right():
    """Three tokens, 5 to 7, between [CLS] and [SEP]: 5 6 7 twice, 7 6 5 once."""
    texts = [[2, 5, 6, 7, 3], [2, 5, 6, 7, 3], [2, 7, 6, 5, 3]]
    gap = script.Gap([2, 5, 6, 7, 3], 2, True)
    frequent, beside = (make(texts, 8)([gap])[0].exp() for make in (script.by_frequency, script.by_neighbours))
    assert float(frequent.sum()) == pytest.approx(1)
    assert float(beside.sum()) == pytest.approx(1)
    assert frequent.tolist() == pytest.approx([1 / 17] * 5 + [4 / 17] * 3)
    assert int(beside.argmax()) == 6
    assert (beside[:5] < 1e-9).all()
    follows = script.bigrams(texts, 8) + 100 * (script.bigrams(texts, 8).sum(0) + 1) / 20
    follows /= follows.sum(1, keepdim=True)
    product = follows[5, 5:] * follows[5:, 7]
    expected = (10 * product / product.sum() + torch.tensor([0, 2, 0])) / 12
    torch.testing.assert_close(beside[5:], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A [MASK] film.", {"compelling", "good", "great", "solid", "fun"}),
        ("One of the [MASK] films of the year.", {"best", "worst"}),
        ("the [MASK] was great", {"movie", "film", "story"}),
        ("[MASK] is a good movie.", {"this"}),
        ("A movie that [MASK] you laugh.", {"makes"}),
    ],
)
def test_it_fills_a_gap_with_a_word_that_fits(model, text, words):
    (filled,) = model.predict([text])
    assert filled.places[0][0][0] in words


def test_a_head_of_its_looks_back_and_one_ahead(model):
    types = mt.lens.head_types(model).table()
    found = {row[types.columns.index("type")] for row in types.rows}
    assert {"previous", "next"} <= found


def test_the_logit_lens_shows_a_guess_becoming_surer(model):
    lens = mt.lens.logit_lens(model, "the [MASK] was great")
    assert lens.masked == (2,)
    shares = lens.final_probabilities[:, 2]
    assert len(shares) == 3
    assert shares[0] < 0.1 < shares[1] < shares[2]


def test_the_tokenizer_comes_out_the_same_again(model):
    """The library's trainer breaks ties by the order of its letters: if it may, another one in each process."""
    again = script.train_tokenizer(script.split()[0])
    assert again.backend.to_str() == model.tokenizer.backend.to_str()


def retrained(monkeypatch, folder, capsys, **options):
    """Run the script. Returns its table: name -> six figures."""
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["train_cloze.py", "--out", str(folder), *arguments])
    script.main()
    rows = re.findall(r"^([a-z' ]+)((?:, \d+\.\d+){6})$", capsys.readouterr().out, flags=re.MULTILINE)
    return {name: [float(figure) for figure in figures.split(", ")[1:]] for name, figures in rows}


def test_the_recipe_runs_from_sentences_to_a_model(monkeypatch, tmp_path, capsys):
    """On short sentences, for seconds: it beats frequencies, and the figures told are those of what is written."""
    heading, *lines = script.REVIEWS.read_text(encoding="utf-8").split("\n")
    short = [line for line in lines if 0 < len(line) < 75][:900]
    data = tmp_path / "reviews.tsv"
    data.write_text("\n".join([heading, *short]) + "\n", encoding="utf-8")
    monkeypatch.setattr(script, "HELD_OUT", 100)
    table = retrained(monkeypatch, tmp_path / "out", capsys, data=data, epochs=15)
    assert table["the model"][0] < table["token frequencies"][0] - 0.15
    assert table["the model"][1] > table["token frequencies"][1] + 0.02
    written = mt.load(tmp_path / "out")
    unseen = script.gaps_in(script.MaskedLM(written.tokenizer, (), CONTEXT), script.split(data)[1])
    found = script.scores(script.by_model(written.transformer), unseen)
    assert list(found.values()) == pytest.approx(table["the model"], abs=1e-3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in FOLDER.iterdir()}

    with pytest.raises(mt.MiniTransformerError, match="not empty"):
        retrained(monkeypatch, tmp_path / "out", capsys, data=data)


@pytest.mark.slow
def test_another_seed_learns_as_much(monkeypatch, tmp_path, capsys):
    """The whole recipe once more, for eight minutes or more: from other first weights, in another order."""
    table = retrained(monkeypatch, tmp_path / "out", capsys, seed=1)
    losses, shares = [0, 3], [1, 2, 4, 5]
    for places, band in ((losses, 0.05), (shares, 0.015)):
        expected = [stated("the model")[place] for place in places]
        assert [table["the model"][place] for place in places] == pytest.approx(expected, abs=band)
