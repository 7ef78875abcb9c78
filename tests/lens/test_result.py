"""What every lens returns: its table, its figures, its files. Words from outside are never anything but words."""

import csv
import io
import json
import sys
import zlib
from dataclasses import dataclass

import matplotlib
import pytest
import torch

from minitransformer.errors import DependencyError, InputError, MiniTransformerError, NotFoundError, StorageError
from minitransformer.lens import Result, Table, figures
from minitransformer.lens.tabs import GridTab
from minitransformer.lens.words import bar, columns, fit, visible

WORDS = (
    "$\\frac",
    "a$b$c",
    "\\$",
    "\x1b[2J",
    "new\nline",
    "<script>",
    "東京",
    "Ġcat",
    "\u202eabc",
    "x" * 300,
    "{_^}",
    "",
)


@dataclass(frozen=True, eq=False)
class Scores(Result):
    values: torch.Tensor
    words: tuple = WORDS

    @property
    def title(self):
        return "Scores of $x$ & <b>"

    @property
    def notes(self):
        return ("Not the truth.",)

    def facts(self):
        return {"largest": self.values.max().item(), "unknown": float("nan")}

    def table(self):
        return Table(("word", "score"), tuple(zip(self.words, self.values[0].tolist(), strict=True)))

    def figure(self):
        return figures.heatmap(self.values, self.words, self.words, title=self.title)

    def tabs(self):
        return (GridTab("scores", self.values, self.words, self.words, "word", "word"),)


@pytest.fixture
def scores():
    values = torch.rand(len(WORDS), len(WORDS))
    values[0, 0] = torch.nan
    return Scores(values)


def test_the_text_is_lines_of_plain_text(scores):
    lines = str(scores).split("\n")
    assert lines[0] == scores.title
    assert lines[-1] == "Not the truth."
    assert len(lines) == 2 + 1 + len(WORDS) + 2
    assert all(line.isprintable() for line in lines)


def test_a_table_stands_in_columns():
    table = Table(("token", "n", "share", "sure"), (("東京", 12345, 0.25, True), ("a", None, 1e-9, False)))
    assert str(table).split("\n") == [
        "token       n     share  sure",
        "東京   12,345     0.250  yes",
        "a              1.00e-09  no",
    ]
    assert str(Table(("a", "b"), ())) == "a  b"


def test_words():
    assert visible("a\n\x1b\u202e\ud800é東") == "a\\n\\x1b\\u202e\\ud800é東"
    assert columns("東京") == 4
    for word in WORDS:
        assert columns(fit(word, 8)) <= 8
    assert fit("abcdefgh", 8) == "abcdefgh"
    assert fit("abcdefghi", 8) == "abcdefg…"
    assert bar(1, 1, 4) == "████"
    assert bar(0.5, 1, 4) == "██"
    assert bar(3 / 32, 1, 4) == "▍"
    assert bar(9, 1, 4) == "████"
    assert [bar(float("nan"), 1), bar(-1, 1), bar(1, 0)] == ["", "", ""]


def test_numbers_in_files_are_whole(scores, tmp_path):
    path = scores.save(tmp_path / "a.json")
    read = json.loads(path.read_text())
    assert read["title"] == scores.title
    assert read["rows"][0] == {"word": "$\\frac", "score": None}  # nan is no JSON
    assert [row["score"] for row in read["rows"][1:]] == scores.values[0, 1:].tolist()
    assert [row["word"] for row in read["rows"]] == list(WORDS)
    assert read["largest"] is None
    rows = list(csv.reader(io.StringIO(scores.save(tmp_path / "a.csv").read_text(), newline="")))
    assert rows[0] == ["word", "score"]
    assert [row[0] for row in rows[1:]] == list(WORDS)
    assert float(rows[2][1]) == scores.values[0, 1].item()
    assert scores.save(tmp_path / "a.TXT").read_text() == f"{scores}\n"


def test_texts_in_a_vector_figure_are_texts(scores, tmp_path):
    svg = scores.save(tmp_path / "a.svg").read_text()
    for word in ("$\\frac", "a$b$c", "\\$", "\\x1b[2J", "new\\nline", "&lt;script&gt;", "Ġcat", "\\u202eabc", "{_^}"):
        assert f">{word}</text>" in svg, word
    assert "<script" not in svg
    assert "xxxxxxxxxxxxxxx…" in svg  # cut
    pdf = scores.save(tmp_path / "a.pdf").read_bytes()
    assert b"/Type /Font" in pdf
    assert b"/Subtype /Type0" in pdf or b"/Subtype /TrueType" in pdf  # type 3 would be outlines
    assert zlib.crc32(pdf) == zlib.crc32(scores.save(tmp_path / "b.pdf").read_bytes())
    assert scores.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_drawing_changes_no_setting(scores, tmp_path):
    before = dict(matplotlib.rcParams)
    scores.save(tmp_path / "a.pdf")
    assert dict(matplotlib.rcParams) == before


def test_no_word_is_handed_to_tex(scores):
    with matplotlib.rc_context({"text.usetex": True}):  # as a user may have set it
        figure = scores.figure()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() in ("$\\frac", scores.title)]
    assert len(texts) >= 3  # a row, a column, the title
    assert not any(text.get_usetex() or text.get_parse_math() for text in texts)


def test_a_character_without_a_font_is_its_code():
    assert figures.drawable("a\U000e0001b") == "a\\U000e0001b"  # cannot be seen
    assert figures.drawable("ab\uf8ffc") in ("ab\\uf8ffc", "ab\uf8ffc")
    assert figures.drawable("▁caté") == "▁caté"


@pytest.mark.parametrize("draw", ["heatmap", "heatmaps", "bars"])
@pytest.mark.parametrize("size", [1, 66])
def test_every_figure_draws_every_size(draw, size):
    words = [f"{WORDS[i % len(WORDS)]}{i}" for i in range(size)]
    figure = {
        "heatmap": lambda: figures.heatmap(torch.randn(size, size), words, words, title=WORDS[1], signed=True),
        "heatmaps": lambda: figures.heatmaps(torch.rand(min(size, 7), size, 3), words, words[:3], words[:7], title="x"),
        "bars": lambda: figures.bars(words, [0.5] * size, value_name="score"),
    }[draw]
    assert figures.drawn(figure(), "png").startswith(b"\x89PNG")


def test_a_long_title_stands_on_several_lines():
    figure = figures.bars("ab", [1, 2], title="a title of words " * 20)
    assert 2 < figure.get_suptitle().count("\n") < 8
    figures.drawn(figure, "png")
    box = figure.findobj(lambda each: getattr(each, "get_text", str)() == figure.get_suptitle())[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_values_that_are_all_nan_or_zero_are_drawn():
    for values in (torch.full((2, 2), torch.nan), torch.zeros(2, 2)):
        assert figures.drawn(figures.heatmap(values, "ab", "cd", numbers=True), "svg")


@pytest.mark.parametrize("name", ["a.gif", "a", ".json", "a.json.zip", ""])
def test_an_unknown_suffix_says_which_there_are(scores, tmp_path, name):
    with pytest.raises(InputError, match=r"\.html, \.svg, \.pdf, \.png, \.json, \.csv, \.txt"):
        scores.save(name and tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(scores, tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        scores.save(tmp_path / "folder.json")
    with pytest.raises(NotFoundError, match="create it first"):
        scores.save(tmp_path / "nowhere" / "a.json")
    with pytest.raises(InputError, match="zero byte"):
        scores.save(f"{tmp_path}/a\0.json")
    with pytest.raises((StorageError, NotFoundError)):
        scores.save(tmp_path / f"{'x' * 300}.json")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_a_file_is_replaced_only_when_the_new_one_is_whole(scores, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left"):
        scores.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_saving_through_a_link_keeps_the_link(scores, tmp_path):
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    (tmp_path / "real.txt").write_text("old")
    scores.save(tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == f"{scores}\n"


def test_without_matplotlib_the_error_names_the_extra(scores, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"pip install 'minitransformer\[plot\]'"):
        scores.save(tmp_path / "a.svg")
    assert issubclass(DependencyError, MiniTransformerError)
    assert scores.save(tmp_path / "a.txt").exists()
