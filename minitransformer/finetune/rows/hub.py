"""Records from data sets on the hub, through the library `datasets`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from minitransformer.errors import DataError, DependencyError, HubError
from minitransformer.finetune.rows.columns import Wanted
from minitransformer.finetune.rows.parquet import class_names, with_names
from minitransformer.storage.hub import is_repo_id

PREFIX = "hub:"
FORM = re.compile(r"hub:(?P<name>[^:\[\]]+)(:(?P<config>[^:\[\]]+))?:(?P<split>\w[\w.]*(\[[\w:%-]*\])?)")


def hub(source: str, wanted: Wanted) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of "hub:NAME:SPLIT" or "hub:NAME:CONFIG:SPLIT", with the wanted columns.

    SPLIT may be a part of one: "hub:stanfordnlp/imdb:train[:1000]".
    """
    parts = FORM.fullmatch(source)
    if parts is None or not is_repo_id(parts["name"]):
        raise DataError(
            f"{source!r}: expected hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT, such as hub:stanfordnlp/imdb:train"
        )
    try:
        import datasets
    except ImportError:
        raise DependencyError(
            f"{source}: data sets on the hub need datasets; pip install 'minitransformer[data]'"
        ) from None
    try:
        rows = datasets.load_dataset(parts["name"], parts["config"], split=parts["split"])
    except Exception as error:  # the library's own, the hub's, those of the HTTP library, full disks
        raise HubError(f"{source}: {str(error).strip() or type(error).__name__}") from error
    classes = class_names(rows.features.to_dict(), wanted)
    rows = rows.select_columns(wanted.among(rows.column_names))
    for number, record in enumerate(rows, start=1):
        yield f"{source}, row {number}", with_names(record, classes)
