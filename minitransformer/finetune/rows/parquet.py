"""Records from Parquet files, which Arrow reads, and the names of the classes that such a file knows by number."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError, DependencyError
from minitransformer.finetune.rows.columns import Wanted
from minitransformer.storage.files import open_regular

BATCH = 1000  # rows that are in memory at once, besides what is kept of them


def parquet(path: Path, wanted: Wanted) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of a Parquet file, with the wanted columns."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DependencyError(f"{path}: reading Parquet needs pyarrow; pip install 'minitransformer[data]'") from None
    with open_regular(path) as file:
        try:
            table = ParquetFile(file)
            classes = class_names(_features(table.schema_arrow.metadata), wanted)
            columns = wanted.among(table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(batch_size=BATCH, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", with_names(record, classes)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """What the library `datasets` notes in a Parquet file about its columns; nothing where it did not write it."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(features: Mapping[str, Any], wanted: Wanted) -> dict[str, list[str]]:
    """For each column whose values are numbers of classes, or lists of them: the names of these classes.

    The label of a choice stays a number: it is the place of the right one.
    """
    found = {}
    for column, feature in features.items():
        kind = feature.get("feature", feature) if isinstance(feature, dict) else feature
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list):
            found[column] = [str(name) for name in kind["names"]]
    return {} if wanted.task == "choice" else found


def with_names(record: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """A record with the names of classes in place of their numbers; -1, no class, becomes None."""
    named = dict(record)
    for column in classes.keys() & record.keys():
        value, names = record[column], classes[column]
        named[column] = [_name(one, names) for one in value] if isinstance(value, list) else _name(value, names)
    return named


def _name(number: Any, names: list[str]) -> str | None:
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None
