"""The one entry: rows for a task from any file that people have."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

from minitransformer.errors import DataError
from minitransformer.finetune.rows import cells, conll, dialogues, images, squad, texts
from minitransformer.finetune.rows.columns import Wanted, wanted_columns
from minitransformer.finetune.rows.hub import PREFIX, hub
from minitransformer.finetune.rows.parquet import parquet
from minitransformer.finetune.rows.tables import Records, json_file, json_lines, table
from minitransformer.storage.files import open_regular
from minitransformer.tasks import Row

Source = str | PathLike[str]

TABLES: Mapping[str, Callable[[Path, Wanted], Records]] = {
    ".csv": lambda path, wanted: table(path, wanted.given),
    ".tsv": lambda path, wanted: table(path, wanted.given),
    ".jsonl": lambda path, _: json_lines(path),
    ".ndjson": lambda path, _: json_lines(path),
    ".json": lambda path, _: json_file(path),
    ".parquet": parquet,
}

EXPECTED = {  # what else a task's rows may come from, to be read after "expected .csv, .tsv, ..."
    "tag": f", {', '.join(conll.SUFFIXES)}",
    "lm": ", .txt",
    "mlm": ", .txt",
    "translate": ", or two text files whose lines belong together, as train.en and train.de",
    "summarize": ", or two text files whose lines belong together",
    "image": ", or a folder with a folder of images for each class",
}


def read_rows(
    source: Source | Sequence[Source], task: str, *, columns: Mapping[str, str] | None = None, targets: bool = True
) -> list[Row]:
    """The rows for `task` in a file, or in several files one after another.

    `columns`: what the columns of the task (see its `Kind`) are called in the file, where they are called otherwise:
    {"text": "review"}, or {"text": "1"} for the first column of a file without names. Without `targets`, the columns
    that are to be learned need not be there. A DataError names the file, the line and the way out.

    - csv, tsv, jsonl, json, parquet, "hub:NAME:SPLIT" or "hub:NAME:CONFIG:SPLIT": one row each; lists in a cell of a
      csv or tsv are JSON, or "sad|angry" (labels, choices), or "New York ." (words, tags)
    - txt: a document for lm and mlm, else one text on each line
    - translate, summarize: also two text files, train.en and train.de, whose lines belong together
    - tag: also conll, bio, iob, iob2, tsv and txt, a word and its tag on each line
    - span: also SQuAD's json; dialogue: also ShareGPT's and Alpaca's layout
    - image: also a folder with one folder for each class
    """
    wanted = wanted_columns(task, columns or {}, targets=targets)
    sources = [fspath(source)] if isinstance(source, str | PathLike) else [fspath(one) for one in source]
    if not sources:
        raise DataError("rows: got no file to read them from, expected at least one")
    if _is_parallel(sources, wanted):
        return _all(texts.parallel(Path(sources[0]), Path(sources[1])), " and ".join(sources))
    return [row for one in sources for row in _all(_rows(one, wanted), one)]


def _is_parallel(sources: Sequence[str], wanted: Wanted) -> bool:
    """Whether these are two text files whose lines belong together."""
    plain = not any(one.startswith(PREFIX) or Path(one).suffix.lower() in TABLES for one in sources)
    return len(sources) == 2 and {"source", "target"} <= set(wanted.needed) and plain


def _all(rows: Iterator[Row], source: str) -> list[Row]:
    found = list(rows)
    if not found:
        raise DataError(f"{source}: no rows in it")
    return found


def _rows(source: str, wanted: Wanted) -> Iterator[Row]:
    """The rows of one source. The task decides first, then the kind of file."""
    path = Path(source)
    suffix = path.suffix.lower()
    if source.startswith(PREFIX):
        return _shaped(hub(source, wanted), wanted, path.parent)
    if wanted.task == "image" and path.is_dir():
        return images.image_folder(path, targets=wanted.targets)
    if wanted.task == "tag" and suffix in conll.SUFFIXES and (wanted.targets or suffix != ".txt"):
        return conll.sentences(path, wanted)
    if suffix in TABLES:
        return _shaped(TABLES[suffix](path, wanted), wanted, path.parent)
    return _plain(path, wanted)


def _shaped(records: Records, wanted: Wanted, folder: Path) -> Iterator[Row]:
    """The rows of these records, each value in the shape that the task expects. Paths are those in `folder`."""
    for where, record in records:
        if wanted.task == "dialogue":
            record = dialogues.with_messages(record, wanted.names["messages"], where)
        row = wanted.row(record, where)
        cells.read_lists(row)
        if "answers" in row:
            squad.shape_answers(row)
        if "messages" in row:
            dialogues.shape_messages(row)
        if "path" in row:
            images.shape_image(row, folder)
        yield row


def _plain(path: Path, wanted: Wanted) -> Iterator[Row]:
    """The rows of a file of plain text, for the tasks that need nothing besides."""
    txt = path.suffix.lower() == ".txt"
    if txt and wanted.task in ("lm", "mlm"):
        return texts.document(path)
    if txt and wanted.needed == ("words",):
        return texts.word_lines(path)
    if (txt and wanted.needed == ("text",)) or wanted.needed == ("source",):
        return texts.text_lines(path, wanted.needed[0])
    with open_regular(path):  # a file that is not there is the first thing to say
        needed = " and ".join(map(repr, wanted.needed))
        also = EXPECTED.get(wanted.task, "")
        raise DataError(
            f"{path}: the task {wanted.task} needs {needed}, and this is no kind of file that has them; "
            f"expected {', '.join(TABLES)}{also}"
        )
