"""The settings' names, defaults, precedence; what is refused, and how it is said."""

import dataclasses
import math

import pytest
import torch
import transformers
from generation_draws import pair
from oracle import Case, checkpoint

import minitransformer as mt
from minitransformer.errors import ConfigError, InputError
from minitransformer.generation import GenerationConfig, generate
from minitransformer.generation.settings import NAMES, REFUSED, WITHOUT_EFFECT, from_config, settings

GPT2, T5, LLAMA = Case("gpt2", "causal-lm"), Case("t5", "seq2seq-lm"), Case("llama", "causal-lm")
IDS = torch.tensor([[5, 9, 3, 7], [4, 4, 8, 6]])
THEIR_FIELDS = set(vars(transformers.GenerationConfig())) - {"_original_object_hash", "_user_set_attributes"}
DEFAULTS = transformers.GenerationConfig._get_default_generation_params()
# A value of each refused field that would change what is written.
ACTIVE = {
    "assistant_early_exit": 2,
    "constraints": ["x"],
    "diversity_penalty": 0.5,
    "dola_layers": "high",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "exponential_decay_length_penalty": [3, 1.1],
    "force_words_ids": [[1]],
    "guidance_scale": 2.0,
    "max_time": 1.0,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "remove_invalid_values": True,
    "sequence_bias": [[[1], 2.0]],
    "token_healing": True,
    "top_h": 0.4,
    "typical_p": 0.5,
    "use_mtp": True,
    "watermarking_config": {"bias": 2.5},
}


def test_every_field_of_transformers_is_known():
    """A field that a new version brings is to be implemented, refused, or listed as without effect."""
    assert sorted(THEIR_FIELDS - set(NAMES) - set(REFUSED) - WITHOUT_EFFECT) == []
    assert not set(NAMES) & set(REFUSED) | set(NAMES) & WITHOUT_EFFECT | set(REFUSED) & WITHOUT_EFFECT


def test_every_name_is_transformers():
    """Besides one field of old configs, which transformers turns into another."""
    assert set(NAMES) <= THEIR_FIELDS
    assert REFUSED.keys() <= THEIR_FIELDS


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_transformers(name):
    got = getattr(GenerationConfig(), name)
    if name == "max_length":
        assert got is None  # 20 new tokens: test_same_tokens.py, test_without_a_length
        assert DEFAULTS[name] == 20
    else:
        expected = DEFAULTS.get(name, False if name == "renormalize_logits" else None)
        assert got == expected
        assert type(got) is type(expected)


def test_every_refused_field_has_an_active_value_here():
    assert ACTIVE.keys() == REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_is_refused(name):
    message = f"{name} is .*, which is not implemented; generate\\(..., {name}=.*\\) does without"
    with pytest.raises(InputError, match=f"^generate: {message}"):
        settings({}, {name: ACTIVE[name]})
    with pytest.raises(ConfigError, match=f"^generation_config.json: {message}"):
        settings({name: ACTIVE[name], "do_sample": True}, {})
    for harmless in REFUSED[name]:
        assert settings({name: ACTIVE[name]}, {name: harmless}) == GenerationConfig()  # the way out works
        assert settings({name: harmless}, {}) == GenerationConfig()
    if DEFAULTS.get(name) is not None:
        assert settings({name: DEFAULTS[name]}, {}) == GenerationConfig()


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_what_has_no_effect_has_none(name):
    assert settings({name: "anything"}, {}) == GenerationConfig()


def test_an_unknown_field():
    with pytest.raises(
        InputError, match="generate: 'max_new_token' is no setting; expected one such as max_new_tokens"
    ):
        settings({}, {"max_new_token": 3})
    with pytest.raises(ConfigError, match=r"generation_config\.json: brand_new is 3, which is not implemented"):
        settings({"brand_new": 3}, {})
    assert settings({"brand_new": None}, {}) == GenerationConfig()


def test_transformers_own_file(tmp_path):
    """What its save_pretrained writes is read, and says the same."""
    fields = {
        "max_new_tokens": 7,
        "num_beams": 3,
        "early_stopping": True,
        "eos_token_id": [2, 5],
        "bad_words_ids": [[3], [4, 5]],
        "forced_eos_token_id": 2,
        "suppress_tokens": [8],
        "length_penalty": 0.5,
    }
    transformers.GenerationConfig(**fields).save_pretrained(tmp_path)
    found = settings(mt.storage.read_json(tmp_path / "generation_config.json"), {})
    tuples = {
        "eos_token_id": (2, 5),
        "bad_words_ids": ((3,), (4, 5)),
        "forced_eos_token_id": (2,),
        "suppress_tokens": (8,),
    }
    assert found == GenerationConfig(**{**fields, **tuples})


def test_the_call_goes_before_the_file_before_the_default():
    files = {"num_beams": 4, "top_k": 7, "eos_token_id": 3, "max_length": 30, "temperature": 0.5, "do_sample": True}
    found = settings(files, {"num_beams": 2, "eos_token_id": None, "top_k": None, "min_p": 0.1})
    assert (found.num_beams, found.temperature, found.max_length, found.min_p) == (2, 0.5, 30, 0.1)
    assert found.eos_token_id is None  # said to be none
    assert found.top_k == 0  # None is transformers' word for: from all
    assert found.top_p == 1.0
    assert settings(files, {}).eos_token_id == (3,)
    assert settings({"num_beams": None}, {}).num_beams == 1


def test_a_number_of_new_tokens_goes_before_a_length():
    _, model = pair(GPT2)
    config = settings({"max_length": 6, "min_length": 9}, {"max_new_tokens": 7})
    assert generate(model, IDS, config=config).shape[1] == 11
    config = settings({"max_length": 6}, {})
    assert generate(model, IDS, config=config).shape[1] == 6


def test_what_an_old_config_json_says():
    raw = {"num_beams": 4, "vocab_size": 3, "typical_p": 1.0, "length_penalty": 2.0, "output_attentions": False}
    assert from_config(raw) == {"num_beams": 4, "typical_p": 1.0, "length_penalty": 2.0}


def test_lists_and_single_ids():
    one = settings({}, {"eos_token_id": 3, "stop_strings": "x", "suppress_tokens": [1], "bad_words_ids": [[1], [2, 3]]})
    assert (one.eos_token_id, one.stop_strings, one.suppress_tokens) == ((3,), ("x",), (1,))
    assert one.bad_words_ids == ((1,), (2, 3))
    assert hash(one) == hash(dataclasses.replace(one))


BAD = [
    *((name, value) for name in ("max_new_tokens", "max_length", "num_beams") for value in (0, -1, 2.5, "3", True)),
    *(("num_return_sequences", value) for value in (0, -3)),
    *((name, -1) for name in ("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size")),
    *((name, value) for name in ("temperature", "repetition_penalty") for value in (0, -1.0, math.nan, math.inf, "1")),
    *(("top_p", value) for value in (0, -0.1, 1.5, math.nan)),
    *(("min_p", value) for value in (-0.1, 1.5, math.nan)),
    *(("length_penalty", value) for value in (math.nan, math.inf, "1")),
    *(("early_stopping", value) for value in ("always", 1, 0)),
    *((name, 1) for name in ("do_sample", "renormalize_logits", "use_cache")),
    *((name, value) for name in ("eos_token_id", "pad_token_id", "forced_bos_token_id") for value in (-1, 1.5, "a")),
    ("suppress_tokens", [1, -2]),
    ("bad_words_ids", [[]]),
    ("bad_words_ids", [3]),
    ("bad_words_ids", [["a"]]),
    ("stop_strings", [""]),
    ("stop_strings", []),
    ("stop_strings", [3]),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_bad_values(name, value):
    """One line that names the setting, from the call and from a file."""
    for arguments in (({}, {name: value}), ({"do_sample": True, name: value}, {})):
        with pytest.raises(InputError, match=f"^{name}: got .*, expected ") as error:
            settings(*arguments)
        assert "\n" not in str(error.value)


def test_more_texts_than_there_are():
    with pytest.raises(InputError, match="num_return_sequences: got 3, expected at most num_beams=2"):
        settings({}, {"num_return_sequences": 3, "num_beams": 2})
    with pytest.raises(InputError, match=r"num_return_sequences: got 2, .*; with do_sample=True and num_beams=1"):
        settings({}, {"num_return_sequences": 2})
    assert settings({}, {"num_return_sequences": 2, "do_sample": True}).num_return_sequences == 2


def test_what_files_say_of_sampling_counts_only_there():
    file = {"temperature": 0.0, "top_p": 0.0, "typical_p": 0.5}
    assert settings(file, {}) == settings(file | {"do_sample": True}, {"do_sample": False}) == GenerationConfig()
    with pytest.raises(InputError, match="temperature: got 0"):
        settings({"temperature": 0.0, "do_sample": True}, {})


def test_the_first_barts_forced_token():
    assert from_config({"force_bos_token_to_be_generated": True, "bos_token_id": 3})["forced_bos_token_id"] == 3


def test_a_length_that_has_no_effect():
    with pytest.warns(UserWarning, match=r"max_length has no effect: generation_config\.json sets max_new_tokens"):
        assert settings({"max_new_tokens": 5}, {"max_length": 30}).max_new_tokens == 5
    assert settings({"max_new_tokens": 5}, {"max_length": 30, "max_new_tokens": None}).max_new_tokens is None


def test_made_by_hand():
    """GenerationConfig takes what the files take: one for several, lists for tuples."""
    config = GenerationConfig(eos_token_id=5, stop_strings="the", bad_words_ids=[[1, 2]], forced_eos_token_id=[3])
    assert config == settings(
        {}, {"eos_token_id": [5], "stop_strings": ["the"], "bad_words_ids": [[1, 2]], "forced_eos_token_id": 3}
    )
    assert (config.eos_token_id, config.stop_strings, config.bad_words_ids) == ((5,), ("the",), ((1, 2),))
    for name in ("pad_token_id", "forced_bos_token_id", "decoder_start_token_id"):
        with pytest.raises(InputError, match=f"{name}: got .*, expected a token id"):
            GenerationConfig(**{name: (5, 6)})


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_a_token_that_must_and_must_not_come(name):
    with pytest.raises(InputError, match=f"{name}: got .*, which suppress_tokens forbids"):
        settings({}, {name: 3, "suppress_tokens": [2, 3]})
    with pytest.raises(ValueError, match="is also in `suppress_tokens`"):
        transformers.GenerationConfig(**{name: 3, "suppress_tokens": [2, 3]})


def refuse(monkeypatch, model):
    """Nothing is to be computed from here on."""

    def computed(*_, **__):
        raise AssertionError("computed")

    for name in ("encode", "decode", "forward"):
        monkeypatch.setattr(model, name, computed)


ONES = torch.ones_like(IDS)
INPUTS = [
    (GPT2, {"input_ids": IDS[:, :0]}, r"input_ids: got shape \[2, 0\], expected \[batch, tokens\]"),
    (GPT2, {"input_ids": IDS[:0]}, r"input_ids: got shape \[0, 4\]"),
    (GPT2, {"input_ids": IDS[0]}, r"input_ids: got shape \[4\]"),
    (GPT2, {"input_ids": IDS.float()}, "input_ids: got torch.float32, expected int64"),
    (GPT2, {"input_ids": IDS + 40}, "input_ids: got 49 at row 0, position 1, expected 0 to 46"),
    (GPT2, {"attention_mask": ONES[:, :3]}, r"attention_mask: got shape \[2, 3\], expected \[2, 4\]"),
    (GPT2, {"attention_mask": ONES[:1]}, r"attention_mask: got shape \[1, 4\], expected \[2, 4\]"),
    (GPT2, {"attention_mask": ONES * torch.tensor([[1], [0]])}, "attention_mask: row 1 has no token"),
    (GPT2, {"decoder_input_ids": IDS}, "decoder_input_ids: this model has one stack"),
    (
        GPT2,
        {"input_ids": IDS.repeat(1, 5)},
        "prompt of 20 tokens, and the model has 17 positions in all; cut the prompt",
    ),
    (GPT2, {"max_new_tokens": 14}, "max_new_tokens: got 14 with a prompt of 4 tokens, but the model has 17 positions"),
    (GPT2, {"max_length": 18}, "max_length: got 18 with a prompt of 4 tokens, .* max_new_tokens of at most 13"),
    (GPT2, {"max_length": 4}, "max_length: got 4, but the prompt has 4 tokens already; try max_new_tokens"),
    (GPT2, {"stop_strings": ["x"]}, "stop_strings: got some, and no tokenizer"),
    (T5, {"decoder_start_token_id": 50}, "decoder_start_token_id: got 50"),
    (T5, {"decoder_input_ids": IDS[:1]}, "decoder_input_ids: got 1 texts, expected 2"),
    (T5, {"decoder_input_ids": IDS + 40}, "decoder_input_ids: got 45 at row 0"),
    (GPT2, {"pad_token_id": 47}, "pad_token_id: got 47, expected an id among the model's 47 tokens"),
    (GPT2, {"forced_bos_token_id": 47}, "forced_bos_token_id: got 47, expected an id among"),
    (GPT2, {"forced_eos_token_id": [3, 47]}, r"forced_eos_token_id: got \(3, 47\), expected an id among"),
]


@pytest.mark.parametrize(("case", "changes", "message"), INPUTS, ids=[message for _, _, message in INPUTS])
@pytest.mark.parametrize("beams", [1, 2])
def test_bad_inputs(case, changes, message, beams, monkeypatch):
    """One line, before anything is computed."""
    model = pair(case)[1]
    refuse(monkeypatch, model)
    tensors = {name: x for name, x in changes.items() if isinstance(x, torch.Tensor)}
    fields = {"num_beams": beams, **({"decoder_start_token_id": 2} if case is T5 else {})}
    fields |= {name: x for name, x in changes.items() if name not in tensors}
    with pytest.raises(InputError, match=message) as error:
        generate(model, **{"input_ids": IDS, **tensors}, config=settings({}, fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("beams", [1, 2])
def test_an_end_token_that_the_model_has_not(beams):
    """It never comes: no harm, as in transformers."""
    reference, model = pair(GPT2)
    fields = {"eos_token_id": [50256], "max_new_tokens": 5, "min_new_tokens": 2, "num_beams": beams}
    wanted = reference.generate(IDS, generation_config=transformers.GenerationConfig(**fields, pad_token_id=0))
    assert torch.equal(generate(model, IDS, config=settings({}, fields)), wanted)


def test_the_longest_that_fits():
    _, model = pair(GPT2)
    for fields in ({"max_new_tokens": 13}, {"max_length": 17}, {}):
        assert generate(model, IDS, config=settings({}, fields)).shape == (2, 17)


def test_models_that_cannot_write(monkeypatch):
    encoder = mt.load(checkpoint(Case("bert", "masked-lm"))).transformer
    headless = mt.load(checkpoint(GPT2), head="base").transformer
    classifier = mt.load(checkpoint(Case("bart", "sequence-classification"))).transformer
    for model, message in (
        (encoder, r"generate: got an encoder \(head: masked-lm\), .* expected a decoder"),
        (headless, r"generate: got a model with the head .*, expected causal-lm; load\(name, head='causal-lm'\)"),
        (classifier, "head sequence-classification, expected seq2seq-lm"),
    ):
        refuse(monkeypatch, model)
        with pytest.raises(InputError, match=message):
            generate(model, IDS, config=settings({}, {}))


def test_no_start_token():
    model = mt.build(mt.vaswani2017(vocab_size=11, layers=1, d_model=8, heads=2, d_ffn=8))
    with pytest.raises(InputError, match="decoder_start_token_id: got none, and no bos_token_id; try decoder_start"):
        generate(model, IDS, config=settings({}, {}))
    config = settings({}, {"bos_token_id": 3, "max_new_tokens": 2})
    assert generate(model, IDS, config=config)[:, 0].tolist() == [3, 3]


def test_at_least_more_than_at_most():
    _, model = pair(LLAMA)
    with pytest.warns(UserWarning, match="at least 12 tokens were asked for, but at most 7; there it ends"):
        out = generate(model, IDS, config=settings({}, {"min_new_tokens": 8, "max_new_tokens": 3, "eos_token_id": 5}))
    assert out.shape[1] == 7
