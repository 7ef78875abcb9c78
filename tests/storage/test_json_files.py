"""read_json: what a config file can do to its reader."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minitransformer.errors import ConfigError, NotFoundError
from minitransformer.storage import read_json


def write(folder, data):
    path = folder / "config.json"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_reads_an_object(tmp_path):
    assert read_json(write(tmp_path, '{"a": 1, "b": [1.5, "é", null], "c": "\\ud83d\\ude00"}')) == {
        "a": 1,
        "b": [1.5, "é", None],
        "c": "😀",
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"a": 1,\n "b": }', "line 2, column 7"),
        ("", "line 1, column 1"),
        ("[1, 2]", "got list"),
        ("3", "got int"),
        ('{"a": NaN}', "'NaN' is not a finite number"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' is given twice"),
        ('{"x": {"a": 1, "a": 2}}', "'a' is given twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "4300"),
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": "\\ud800"}', "UTF-8"),
        ("\ufeff{}", "BOM"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 570\n", "git lfs pull"),
    ],
)
def test_refuses_with_file_and_reason(tmp_path, data, words):
    path = write(tmp_path, data)
    with pytest.raises(ConfigError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_size_is_limited(tmp_path):
    with pytest.raises(ConfigError, match="more than 33554432 bytes"):
        read_json(write(tmp_path, b"{" + b" " * 2**25 + b"}"))


def test_a_missing_file_names_what_is_there_instead(tmp_path):
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(NotFoundError, match=r"no config\.json in .* which holds tokenizer\.json"):
        read_json(tmp_path / "config.json")
    with pytest.raises(NotFoundError, match="expected a folder"):
        read_json(tmp_path / "nowhere" / "config.json")


def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it for reading would wait for a writer
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(NotFoundError, match="a file is expected"):
            read_json(tmp_path / name)
    with pytest.raises(NotFoundError):
        read_json(str(tmp_path / "zero\0byte"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:01e.-\\ud8 aNI', max_size=40).map(str.encode))
def test_any_bytes_end_in_a_dict_or_a_config_error(tmp_path, data):
    try:
        value = read_json(write(tmp_path, data))
    except ConfigError:
        return
    assert value == json.loads(data)
