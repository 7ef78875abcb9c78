"""What save() writes: read again by us, and by transformers, it is the same tokenizer."""

import copy
import json
import pickle
import shutil

import pytest
from text_samples import LINES, ODD
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from minitransformer.errors import TokenizerError
from minitransformer.text import load_tokenizer

TEXTS, PAIRS = ODD + LINES[:100], (ODD + LINES[:100])[::-1]


def ids(tokenizer):
    return [encoding.ids for encoding in tokenizer.encodings(TEXTS, PAIRS)]


def saved(tokenizer, source, target):
    tokenizer.save(target)
    shutil.copy(source / "config.json", target)
    return AutoTokenizer.from_pretrained(target)


def test_same_ids(folder, tmp_path):
    ours = load_tokenizer(folder)
    theirs = saved(ours, folder, tmp_path / "saved")
    assert theirs(TEXTS, PAIRS)["input_ids"] == ids(ours)
    again = load_tokenizer(tmp_path / "saved")
    assert ids(again) == ids(ours)
    assert (again.special, again.model_max_length, again.notes) == (ours.special, ours.model_max_length, ())
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_token_id")
    assert theirs.model_input_names == ours.model_input_names


def test_sides_and_length(folder, tmp_path):
    ours = load_tokenizer(folder)
    ours.padding_side, ours.truncation_side, ours.model_max_length = "left", "left", 33
    theirs = saved(ours, folder, tmp_path / "saved")
    assert (theirs.padding_side, theirs.truncation_side, theirs.model_max_length) == ("left", "left", 33)
    again = load_tokenizer(tmp_path / "saved")
    assert (again.padding_side, again.truncation_side, again.model_max_length) == ("left", "left", 33)


def test_settings_are_kept(make, tmp_path):
    kept = {"tokenizer_class": "BertTokenizer", "never_split": None, "chat": {"a": [1]}, "model_max_length": 1e30}
    folder = make("cased", **kept)
    load_tokenizer(folder).save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert kept.items() <= config.items()
    assert config["do_lower_case"] is False


@pytest.mark.parametrize("settings", [{"do_lower_case": True}, {"strip_accents": True}])
def test_after_a_contradiction_the_files_say_what_is_used(make, tmp_path, settings):
    folder = make("cased", tokenizer_class="BertTokenizer", **settings)
    with pytest.warns(UserWarning, match="believed"):
        ours = load_tokenizer(folder)
    theirs = saved(ours, folder, tmp_path / "saved")
    assert type(theirs).__name__ == "BertTokenizer"
    assert theirs(TEXTS, PAIRS)["input_ids"] == ids(ours)
    assert load_tokenizer(tmp_path / "saved").notes == ()


def test_pipeline_that_no_class_can_build(make, tmp_path):
    folder = make("uncased", tokenizer_class="BertTokenizer")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    ours = load_tokenizer(folder)
    assert saved(ours, folder, tmp_path / "saved")(TEXTS, PAIRS)["input_ids"] == ids(ours)


def test_added_tokens(make, size, tmp_path):
    decoder = {str(size["uncased"]): {"content": "<speaker>", "special": True, "normalized": False, "lstrip": True}}
    folder = make("uncased", whole=False, added_tokens_decoder=decoder, additional_special_tokens=["<speaker>"])
    ours = load_tokenizer(folder)
    theirs = saved(ours, folder, tmp_path / "saved")
    text = "so   <speaker> said"
    assert theirs(text)["input_ids"] == ours.encode(text) == load_tokenizer(tmp_path / "saved").encode(text)
    assert size["uncased"] in ours.encode(text)


def test_added_tokens_that_only_tokenizer_json_knows(make, tmp_path):
    decoder = {"1": {"content": "[UNK]", "special": True, "normalized": False}}
    folder = make("uncased", tokenizer_class="BertTokenizer", added_tokens_decoder=decoder)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(["<speaker>"])
    backend.save(str(folder / "tokenizer.json"))
    ours = load_tokenizer(folder)
    assert saved(ours, folder, tmp_path / "saved")("a <speaker>")["input_ids"] == ours.encode("a <speaker>")


def test_no_file_but_the_two(make, tmp_path):
    load_tokenizer(make("bytes", whole=False)).save(tmp_path / "new/folder")
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies(folder, copied):
    ours = load_tokenizer(folder)
    ours.padding_side = "left"
    twin = copied(ours)
    batch, other = (t(ODD, ODD[::-1], truncation=True, max_length=20) for t in (ours, twin))
    assert all(batch[name].equal(other[name]) for name in batch)
    assert (twin.special, twin.model_input_names, twin.padding_side) == (ours.special, ours.model_input_names, "left")
    assert (batch.truncated, len(batch)) == (other.truncated, len(other))


def test_failure_to_write_leaves_no_foreign_error(make, tmp_path):
    tokenizer = load_tokenizer(make("bytes"))
    (tmp_path / "file").write_text("")
    with pytest.raises((OSError, TokenizerError)):
        tokenizer.save(tmp_path / "file")
