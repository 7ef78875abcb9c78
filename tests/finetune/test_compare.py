"""Two runs side by side, judged by the same rows or not at all."""

import shutil

import pytest

import minitransformer as mt
from minitransformer.errors import DataError, MiniTransformerError, NotFoundError
from minitransformer.finetune.many.compare import compare, sparkline
from minitransformer.finetune.rows import read_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def runs(small_bert, table, tmp_path_factory):
    """A run that learned, one that did not, both over the same rows, and one with another split."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"dev": 0.3, "batch_size": 8}
    for name, more in {
        "good": {"learning_rate": 3e-3, "steps": 40},
        "poor": {"learning_rate": 1e-7, "steps": 2},
        "other": {"learning_rate": 1e-7, "steps": 2, "seed": 5},
    }.items():
        mt.finetune(small_bert, "classify", table, out=folder / name, **options, **more)
    return folder


def test_a_difference_that_is_no_luck(runs):
    found = compare(runs / "good", runs / "poor")
    assert set(found.differences) == {"learning_rate", "steps"}
    assert found.differences["steps"] == (40, 2)
    assert found.rows == 36
    good, poor = (metrics["dev"]["accuracy"] for metrics in found.metrics)
    assert [scores["accuracy"] for scores in found.scores] == pytest.approx([good, poor])  # the very same rows
    assert found.bootstrap["difference"] == pytest.approx(good - poor)
    assert found.verdict().startswith("A is better than B by ")
    assert "hardly luck" in found.verdict()
    other_way = compare(runs / "poor", runs / "good")
    assert other_way.verdict().startswith("B is better than A by ")
    assert other_way.bootstrap["low"] < 0
    assert f"{-other_way.bootstrap['high']:.4g} to {-other_way.bootstrap['low']:.4g}" in other_way.verdict()
    assert [len(curve) for curve in found.curves["loss"]] == [40, 2]
    assert found.curves["dev accuracy"][0][-1] <= max(found.curves["dev accuracy"][0]) == pytest.approx(good)


def test_a_run_is_as_good_as_itself(runs):
    found = compare(runs / "good", runs / "good")
    assert found.differences == {}
    assert found.verdict() == "A and B are equally good on these 36 rows."


def test_a_difference_on_few_rows_could_be_luck(runs, rows):
    wrong = {"negative": "positive", "positive": "negative"}
    poor = mt.load(runs / "poor").predict([row["text"] for row in rows])
    beaten = [{**row} for row, answer in zip(rows, poor, strict=True) if answer.label != row["label"]]
    as_good = [{**row} for row, answer in zip(rows, poor, strict=True) if answer.label == row["label"]]
    few = [*beaten[:2], *as_good[:9], {**as_good[9], "label": wrong[as_good[9]["label"]]}]
    found = compare(runs / "good", runs / "poor", data=few)
    assert found.judged_by == "the rows given"
    assert found.rows == 12
    assert 0 < found.bootstrap["difference"] < 0.3
    assert "could be luck" in found.verdict()


def test_other_rows_need_data(runs, table, small_bert, rows, tmp_path):
    with pytest.raises(DataError, match="other rows, or split them otherwise; give --data FILE"):
        compare(runs / "good", runs / "other")
    assert compare(runs / "good", runs / "other", data=table).rows == 120
    assert "sha256" in compare(runs / "good", runs / "other", data=table).differences
    for name in ("a", "b"):
        mt.finetune(small_bert, "classify", rows[:40], out=tmp_path / name, steps=1)
    with pytest.raises(DataError, match="its rows were no files; give --data"):
        compare(tmp_path / "a", tmp_path / "b")


def test_runs_whose_columns_have_other_names(small_bert, rows, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("review,stars\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows[:40]))
    columns = {"text": "review", "label": "stars"}
    run = mt.finetune(small_bert, "classify", table, out=tmp_path / "a", steps=1, columns=columns)
    assert compare(run.folder, run.folder).rows == 4
    found = mt.evaluate(run.folder, read_rows(table, "classify", columns=columns)).metrics
    assert found == mt.evaluate(run.folder, table).metrics
    theirs = [{"review": row["text"], "stars": row["label"]} for row in rows[:40]]
    assert found == mt.evaluate(run.folder, theirs).metrics


def test_rows_that_have_changed_since(small_bert, tmp_path, table):
    mine = tmp_path / "mine.csv"
    shutil.copy(table, mine)
    mt.finetune(small_bert, "classify", mine, out=tmp_path / "a", steps=1)
    mine.write_text(mine.read_text() + "good film,positive\n")
    with pytest.raises(DataError, match="its rows have changed since; give --data"):
        compare(tmp_path / "a", tmp_path / "a")


def test_only_runs_that_are_done(runs, tmp_path):
    with pytest.raises(NotFoundError, match=r"no recipe\.json there"):
        compare(runs / "good", tmp_path)
    shutil.copytree(runs / "poor", tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    with pytest.raises(MiniTransformerError, match="not finished; go on with it: --resume"):
        compare(runs / "good", tmp_path / "cut")


def test_bars():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.0] * 50 + [1.0] * 50, 0, 1, width=4) == "▁▁██"
    assert sparkline([3, float("nan"), 3], 3, 3) == "▁▁"
    assert sparkline([], 0, 1) == ""
