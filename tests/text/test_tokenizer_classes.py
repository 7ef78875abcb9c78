"""How the tokenizer class of a folder is found, and what follows from it."""

import json
import shutil

import pytest
from piece_samples import CLASSES, FOLDERS, REVIEWS, write_folder
from text_samples import both
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from transformers import AutoTokenizer

from minitransformer.errors import NotFoundError, TokenizerError
from minitransformer.text import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Recommended")
TYPED = ["input_ids", "token_type_ids", "attention_mask"]
UNTYPED = ["input_ids", "attention_mask"]


def say(folder, name, **settings):
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))


@pytest.fixture(scope="module")
def masters(tmp_path_factory):
    """The folders that were written so far, and where."""
    return tmp_path_factory.mktemp("masters")


@pytest.fixture
def write(masters, tmp_path):
    """write("t5"): a folder of that name, to be changed."""

    def write(name):
        if not (masters / name).exists():
            write_folder(masters, name)
        return shutil.copytree(masters / name, tmp_path / name)

    return write


@pytest.fixture
def spiece(write):
    """A folder with spiece.model, and nothing that tells whose it is."""
    folder = write("t5")
    (folder / "config.json").write_text("{}")
    return folder


def test_order_of_those_who_name_the_class(spiece):
    end = {"T5Tokenizer": "</s>", "AlbertTokenizer": "<unk>"}  # of the ids: how T5 ends a text, how ALBERT cannot
    with pytest.raises(TokenizerError, match=r"spiece.model does not tell whose it is.*T5Tokenizer.*AlbertTokenizer"):
        load_tokenizer(spiece)
    assert load_tokenizer(spiece, tokenizer_class="T5Tokenizer").tokens("a")[-1] == end["T5Tokenizer"]
    say(spiece, "config.json", tokenizer_class="T5TokenizerFast")
    assert load_tokenizer(spiece, tokenizer_class="AlbertTokenizer").tokens("a")[-1] == end["T5Tokenizer"]
    say(spiece, "tokenizer_config.json", tokenizer_class="AlbertTokenizer")
    with pytest.raises(TokenizerError, match=r"the cls_token '\[CLS\]' is not in the vocabulary"):
        load_tokenizer(spiece, tokenizer_class="T5Tokenizer")
    say(spiece, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")  # names none
    assert load_tokenizer(spiece).tokens("a")[-1] == end["T5Tokenizer"]


@pytest.mark.parametrize("name", ["xlm-r", "llama", "marian"])
def test_files_that_tell_whose_they_are(write, name):
    folder = write(name)
    named = load_tokenizer(folder, tokenizer_class=CLASSES[FOLDERS[name][0]])
    (folder / "config.json").unlink()
    say(folder, "tokenizer_config.json", tokenizer_class=None)
    unnamed = load_tokenizer(folder)
    assert [unnamed.encode(text) for text in REVIEWS[:20]] == [named.encode(text) for text in REVIEWS[:20]]
    assert unnamed.model_input_names == named.model_input_names == UNTYPED


@pytest.mark.parametrize("name", [5, ["T5Tokenizer"]])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_class_that_is_no_name(spiece, file, name):
    say(spiece, file, tokenizer_class=name)
    with pytest.raises(TokenizerError, match=r"tokenizer_class is .*, expected the name of a class"):
        load_tokenizer(spiece)


def test_class_whose_files_are_missing(spiece):
    with pytest.raises(NotFoundError, match=r"looked for tokenizer.json, source.spm with target.spm with vocab.json;"):
        load_tokenizer(spiece, tokenizer_class="MarianTokenizer")
    with pytest.raises(TokenizerError, match=r"tokenizer_class is XLNetTokenizer, without a tokenizer.json"):
        load_tokenizer(spiece, tokenizer_class="XLNetTokenizer")


@pytest.mark.parametrize(
    ("name", "names"),
    [("BertTokenizer", TYPED), ("ElectraTokenizer", TYPED), ("DistilBertTokenizerFast", UNTYPED), (None, TYPED)],
)
@pytest.mark.parametrize("whole", [True, False])
def test_tensors_that_a_class_gives(make, whole, name, names):
    folder = make("uncased", whole=whole, tokenizer_class=name)
    assert load_tokenizer(folder).model_input_names == names
    assert list(load_tokenizer(folder)("a", "b")) == names


@pytest.mark.parametrize("whole", [True, False])
def test_class_that_the_caller_names(make, whole):
    folder = make("uncased", whole=whole)
    assert load_tokenizer(folder, tokenizer_class="DistilBertTokenizer").model_input_names == UNTYPED
    say(folder, "tokenizer_config.json", model_input_names=TYPED)  # the file knows better
    assert load_tokenizer(folder, tokenizer_class="DistilBertTokenizer").model_input_names == TYPED


def test_sentinels(spiece):
    ours = load_tokenizer(spiece, tokenizer_class="T5Tokenizer")
    assert ours.encode("<extra_id_0><extra_id_99>", add_special_tokens=False) == [len(ours) - 1, len(ours) - 100]


@pytest.mark.parametrize("number", [-1, True, "5", 10**9])
def test_number_of_sentinels_that_is_none(spiece, number):
    say(spiece, "tokenizer_config.json", extra_ids=number)
    with pytest.raises(TokenizerError, match=r"extra_ids is .*, expected a number from 0 to 100000"):
        load_tokenizer(spiece, tokenizer_class="T5Tokenizer")


def test_token_type_ids_of_albert(write):
    ours, theirs = both(write("albert"), "AlbertTokenizer")
    batch = ours("a text", "and its pair")
    assert batch["token_type_ids"].tolist() == [
        theirs("a text", "and its pair", return_token_type_ids=True)["token_type_ids"]
    ]
    assert batch["token_type_ids"].max() == 1


def test_xlm_roberta_from_another_model(write):
    folder = write("xlm-r")
    shutil.copy(write("llama") / "tokenizer.model", folder / "sentencepiece.bpe.model")
    with pytest.raises(TokenizerError, match="the model type is BPE"):
        load_tokenizer(folder)


def test_saved_class_does_not_put_back_what_tokenizer_json_leaves_out(write, tmp_path):
    folder = write("roberta")
    load_tokenizer(folder, tokenizer_class="RobertaTokenizer").save(tmp_path / "whole")
    backend = Backend.from_file(str(tmp_path / "whole/tokenizer.json"))
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.save(str(folder / "tokenizer.json"))
    say(folder, "tokenizer_config.json", tokenizer_class="RobertaTokenizer", mask_token="<mask>")
    ours = load_tokenizer(folder)
    ours.save(tmp_path / "saved")
    shutil.copy(folder / "config.json", tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("a film")["input_ids"] == ours.encode("a film") == ours.encode("a film", add_special_tokens=False)


def test_labels_without_a_target_for_each_text(spiece):
    tokenizer = load_tokenizer(spiece, tokenizer_class="T5Tokenizer")
    with pytest.raises(TokenizerError, match="got 2 texts and 1 targets, expected a target for each text"):
        tokenizer(["a", "b"], text_target=["c"])
    assert tokenizer.target is tokenizer
    assert "labels" not in tokenizer("a")


@pytest.fixture
def marian(write):
    return write("marian")


def test_targets_are_encoded_by_rules_of_their_own(marian):
    ours = load_tokenizer(marian)
    texts = REVIEWS[:30]
    assert any(ours.encode(text) != ours.target.encode(text) for text in texts)
    batch = ours(texts, text_target=texts)
    width = batch["labels"].shape[1]
    assert batch["labels"].tolist() == [
        [*ids, *[ours.pad_token_id] * (width - len(ids))] for ids in (ours.target.encode(text) for text in texts)
    ]


def test_language_code(marian):
    ours = load_tokenizer(marian)
    assert ours.tokens(">>de<<Ein Satz")[0] == ">>de<<"
    assert ours.encode(">>de<<Ein Satz") == [ours.backend.ids[">>de<<"], *ours.encode("Ein Satz")]
    assert ours.encode(">>xx<< Ein")[0] == ours.unk_token_id


@pytest.fixture
def whole(write, tmp_path):
    """The tokenizer.json of another tokenizer."""
    load_tokenizer(write("gpt1")).save(tmp_path / "whole")
    return tmp_path / "whole/tokenizer.json"


def test_marian_files_come_before_a_tokenizer_json(marian, whole):
    before = load_tokenizer(marian).encode("a film")
    shutil.copy(whole, marian)
    assert load_tokenizer(marian, tokenizer_class="MarianTokenizer").encode("a film") == before


def test_marian_class_with_a_tokenizer_json_alone(whole):
    assert load_tokenizer(whole.parent, tokenizer_class="MarianTokenizer").encode("a film")


def test_special_token_that_begins_another(marian):
    vocab = json.loads((marian / "vocab.json").read_text("utf-8"))
    vocab |= {"<a>": len(vocab), "<a>b": len(vocab) + 1}
    (marian / "vocab.json").write_text(json.dumps(vocab))
    say(marian, "tokenizer_config.json", extra_special_tokens=["<a>", "<a>b"])
    ours, theirs = both(marian)
    text = "one <a>b two <a> three <a>c"
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert vocab["<a>b"] in ours.encode(text)


def test_saved_marian_files_are_the_same_bytes(marian, tmp_path):
    load_tokenizer(marian).save(tmp_path / "saved")
    for name in ("source.spm", "target.spm", "vocab.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (marian / name).read_bytes()
    assert not (tmp_path / "saved/tokenizer.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vocab: vocab.pop("<pad>"), "the pad_token '<pad>' is not in the vocabulary"),
        (lambda vocab: vocab.update(a=0, b=0), "several pieces have the same id"),
        (lambda vocab: vocab.update({"▁": "5"}), "has the id '5', expected a number"),
    ],
)
def test_marian_vocabulary_that_cannot_be(marian, change, message):
    vocab = json.loads((marian / "vocab.json").read_text("utf-8"))
    change(vocab)
    (marian / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(marian)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"additional_special_tokens": ["<new>"]}, "the special token '<new>' is not in the vocabulary"),
        ({"eos_token": {"content": "</s>", "lstrip": True}}, "'</s>' has lstrip, rstrip or single_word"),
        ({"added_tokens_decoder": {"7": {"content": "</s>"}}}, "'</s>' should have id 7, it has another"),
        ({"separate_vocabs": True}, "target_vocab.json: "),
    ],
)
def test_marian_settings_that_cannot_be(marian, settings, message):
    say(marian, "tokenizer_config.json", **settings)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(marian)
