"""Rows from Parquet files and from data sets on the hub, with the libraries that write them."""

import json
import sys

import pytest

from minitransformer.errors import DataError, DependencyError, HubError
from minitransformer.finetune.rows import read_rows


def test_without_the_libraries_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    for source in (tmp_path / "a.parquet", "hub:imdb:train"):
        with pytest.raises(DependencyError, match=r"pip install 'minitransformer\[data\]'"):
            read_rows(source, "classify")


@pytest.mark.parametrize(
    "source", ["hub:imdb", "hub::train", "hub:../x:train", "hub:a/b/c:train", "hub:imdb:train[", "hub:"]
)
def test_a_name_on_the_hub_that_cannot_be(source):
    with pytest.raises(DataError, match="expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT"):
        read_rows(source, "classify")


@pytest.fixture
def pyarrow():
    pytest.importorskip("pyarrow", reason="needs the extra data")
    import pyarrow.parquet

    return pyarrow


def test_parquet(tmp_path, pyarrow):
    path = tmp_path / "a.parquet"
    rows = [{"words": ["a", str(i)], "tags": ["O", "B-x"], "other": "x" * 10} for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=700)
    found = read_rows(path, "tag")
    assert found == [{"words": row["words"], "tags": row["tags"]} for row in rows]
    assert found[1000].where == f"{path}, row 1001"
    assert read_rows(path, "lm", columns={"text": "other"})[7] == {"text": "x" * 10}
    with pytest.raises(DataError, match=r"row 1: no column 'text' among words, tags, other"):
        read_rows(path, "lm")


def test_parquet_with_answers_messages_and_paths_are_checked_too(tmp_path, pyarrow):
    path = tmp_path / "a.parquet"
    row = {"id": "1", "question": "q", "context": "In Rome", "answers": {"text": ["Rome"], "answer_start": [3]}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert read_rows(path, "span") == [{**row, "answers": [{"text": "Rome", "answer_start": 3}]}]
    row = {"conversations": [{"from": "human", "value": "Hi"}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert read_rows(path, "dialogue") == [{"messages": [{"role": "user", "content": "Hi"}]}]


def test_columns_in_columns(tmp_path, pyarrow):
    """As data sets of translations are."""
    path = tmp_path / "a.parquet"
    rows = [{"translation": {"en": f"film {i}", "de": f"Film {i}"}, "id": i} for i in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    columns = {"source": "translation.en", "target": "translation.de"}
    assert read_rows(path, "translate", columns=columns)[2] == {"source": "film 2", "target": "Film 2"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = read_rows(tmp_path / "a.jsonl", "translate", columns=columns)
    assert again == read_rows(path, "translate", columns=columns)
    for wrong in ("translation.fr", "id.de", "translation.de.x", "."):
        with pytest.raises(DataError, match=r"row 1: no column .* among"):
            read_rows(path, "translate", columns={**columns, "target": wrong})


def test_images_in_a_table(tmp_path, pyarrow):
    """As the library datasets writes them: the bytes of their files."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra image")
    image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    data, path = (tmp_path / "a.png").read_bytes(), tmp_path / "a.parquet"
    rows = [{"image": {"bytes": data, "path": "a.png"}, "label": "red"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read_rows(path, "image", columns={"path": "image"}) == [{"path": data, "label": "red"}]
    for wrong in ({"bytes": None, "path": "a.png"}, 3, ["a.png"]):
        (tmp_path / "a.jsonl").write_text(json.dumps({"path": wrong, "label": "red"}))
        with pytest.raises(DataError, match="'path' is"):
            read_rows(tmp_path / "a.jsonl", "image")


@pytest.mark.parametrize("damage", ["cut", "no end", "noise", "empty", "not utf-8"])
def test_a_damaged_parquet_file(tmp_path, pyarrow, damage):
    path = tmp_path / "a.parquet"
    column = pyarrow.array([b"f\xfcnf"] * 5).view(pyarrow.utf8()) if damage == "not utf-8" else ["a"] * 5
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    data = path.read_bytes()
    damaged = {"cut": data[: len(data) // 2], "no end": data[:-4], "noise": b"x" * 100, "empty": b""}
    path.write_bytes(damaged.get(damage, data))
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file that can be read"):
        read_rows(path, "lm")


def hugging_face(pyarrow, features):
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def test_classes_by_number_get_the_names_that_the_file_has_for_them(tmp_path, pyarrow):
    path = tmp_path / "a.parquet"
    classes = {"_type": "ClassLabel", "names": ["O", "B-x"]}
    for feature in ({"feature": classes, "_type": "List"}, {"feature": classes, "_type": "Sequence"}):
        table = pyarrow.table({"words": [["a", "b"]], "tags": [[0, 1]]})
        pyarrow.parquet.write_table(table.replace_schema_metadata(hugging_face(pyarrow, {"tags": feature})), path)
        assert read_rows(path, "tag") == [{"words": ["a", "b"], "tags": ["O", "B-x"]}]
    table = pyarrow.table({"text": ["a", "b"], "label": [1, -1]})
    pyarrow.parquet.write_table(table.replace_schema_metadata(hugging_face(pyarrow, {"label": classes})), path)
    assert read_rows(path, "classify") == [{"text": "a", "label": "B-x"}, {"text": "b", "label": None}]
    for nonsense in (b"{", b"[]", b'{"info": {"features": 7}}', b'{"info": {"features": {"label": 7}}}', b"[" * 100000):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": nonsense}), path)
        assert read_rows(path, "classify")[0] == {"text": "a", "label": 1}


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A folder that the library takes for a data set of that name, and no network."""
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some" / "reviews"
    folder.mkdir(parents=True)
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "id": datasets.Value("int64"),
        }
    )
    rows = {"text": [f"text {i}" for i in range(20)], "label": [0, 1] * 10, "id": range(20)}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return datasets


def test_a_data_set_on_the_hub(local_hub):
    rows = read_rows("hub:some/reviews:train", "classify")
    assert rows == [{"text": f"text {i}", "label": ("bad", "good")[i % 2]} for i in range(20)]
    assert rows[3].where == "hub:some/reviews:train, row 4"
    assert read_rows("hub:some/reviews:default:train[5:8]", "classify") == rows[5:8]
    assert read_rows("hub:some/reviews:train[:10%]", "lm", columns={"text": "text"})[1] == {"text": "text 1"}
    with pytest.raises(DataError, match="no column 'review' among text, label, id"):
        read_rows("hub:some/reviews:train", "lm", columns={"text": "review"})


@pytest.mark.parametrize("source", ["hub:some/reviews:test", "hub:some/reviews:other:train", "hub:no/such:train"])
def test_what_the_hub_does_not_have(local_hub, source):
    with pytest.raises(HubError, match=source):
        read_rows(source, "classify")
