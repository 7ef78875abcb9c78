"""model.generate and model.stream from text to text, against transformers' generate and batch_decode."""

import json
import re

import pytest
import small_writers
import torch
import transformers
from small_writers import edit, gpt2, reciter, theirs

import minitransformer as mt
from minitransformer.errors import ConfigError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")  # transformers says so

NAMES = ["gpt2", "t5", "bart", "marian"]
TEXTS = ["What a film", "It was the worst of all films, and then", "I", "naïve 😀"]
SETTINGS = {
    "greedy": {},
    "rules": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "repetition_penalty": 1.3},
}
ODD = "Once 👩‍👩‍👧 and e\u0301 or é, 日本語 a\u0308\u0323 🇩🇪👍🏽 of 😀. The end"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("writers")
    return {name: getattr(small_writers, name)(root / name) for name in (*NAMES, "bert")}


@pytest.fixture(scope="module")
def models(folders):
    """Name -> our model, and transformers' with its tokenizer. For tests that change none."""
    return {name: (mt.load(folders[name]), *theirs(folders[name])) for name in NAMES}


@pytest.fixture(scope="module")
def recited(tmp_path_factory):
    return mt.load(reciter(tmp_path_factory.mktemp("reciter"), ODD))


def their_ids(model, tokenizer, texts, **settings):
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    reader = {"tokenizer": tokenizer} if "stop_strings" in settings else {}
    return model.generate(**batch, **settings, **reader)


def their_texts(model, tokenizer, texts, **settings):
    return tokenizer.batch_decode(their_ids(model, tokenizer, texts, **settings), skip_special_tokens=True)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_texts_give_transformers_texts(models, name, settings):
    """A list gives a list; of prompts of many lengths, each is what it is alone; one text gives one text."""
    ours, model, tokenizer = models[name]
    expected = their_texts(model, tokenizer, TEXTS, max_new_tokens=12, **settings)
    assert len(set(expected)) >= 4
    assert ours.generate(TEXTS, max_new_tokens=12, **settings) == expected
    assert ours.generate(tuple(TEXTS), max_new_tokens=12, **settings) == expected
    copies = settings.get("num_return_sequences", 1)
    for place, text in enumerate(TEXTS):
        alone = expected[place * copies : (place + 1) * copies]
        assert ours.generate(text, max_new_tokens=12, **settings) == (alone if copies > 1 else alone[0])


@pytest.mark.parametrize("name", NAMES)
def test_ids_give_transformers_ids(models, name):
    ours, model, tokenizer = models[name]
    batch = dict(tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))
    expected = model.generate(**batch, max_new_tokens=9)
    found = ours.generate(**batch, max_new_tokens=9)
    assert found.equal(expected)
    assert not found.is_inference()
    text = TEXTS[:1]
    single = ours.generate(ours.tokenizer(text)["input_ids"], max_new_tokens=9)  # as `inputs`
    assert single.equal(their_ids(model, tokenizer, text, max_new_tokens=9))


def test_ids_of_prompts_padded_on_the_right(models):
    """transformers goes on behind the padding; ours goes on with the text, and says so."""
    ours, model, tokenizer = models["gpt2"]
    batch = ours.tokenizer(TEXTS, padding_side="right")
    with pytest.warns(UserWarning, match="padded on the right"):
        found = ours.generate(**batch, max_new_tokens=9)
    assert found.equal(their_ids(model, tokenizer, TEXTS, max_new_tokens=9))


def test_a_decoders_first_tokens(models):
    ours, model, tokenizer = models["t5"]
    first = torch.tensor([[0, 17, 4], [0, 9, 30]])
    batch = tokenizer(TEXTS[:2], return_tensors="pt", padding=True, return_token_type_ids=False)
    expected = model.generate(**batch, decoder_input_ids=first, max_new_tokens=6)
    assert ours.generate(**batch, decoder_input_ids=first, max_new_tokens=6).equal(expected)
    found = ours.generate(TEXTS[:2], decoder_input_ids=first, max_new_tokens=6)
    assert found == tokenizer.batch_decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_drawn_with_torchs_generator_they_are_transformers(models, name):
    ours, model, tokenizer = models[name]
    settings = {"do_sample": True, "temperature": 8.0, "top_k": 30, "top_p": 0.9, "num_return_sequences": 3}
    torch.manual_seed(5)
    expected = their_texts(model, tokenizer, TEXTS[:2], max_new_tokens=8, **settings)
    torch.manual_seed(5)
    assert ours.generate(TEXTS[:2], max_new_tokens=8, **settings) == expected
    assert len(set(expected)) > 4


def test_a_seed_draws_the_same_texts_whatever_was_drawn_before(models):
    ours, *_ = models["gpt2"]
    draw = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 8}
    state = torch.get_rng_state()
    one = ours.generate("I", seed=3, **draw)
    assert torch.get_rng_state().equal(state)
    torch.rand(7)
    assert ours.generate("I", seed=3, **draw) == one
    assert "I" + "".join(ours.stream("I", seed=3, **draw)) == one
    assert ours.generate("I", seed=4, **draw) != one


def test_an_empty_prompt_is_the_start_token(models):
    ours, model, tokenizer = models["gpt2"]
    start = torch.tensor([[tokenizer.bos_token_id]])
    mask = torch.ones_like(start)
    expected = model.generate(start, attention_mask=mask, max_new_tokens=9)
    (expected,) = tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert ours.generate("", max_new_tokens=9) == expected
    several = ours.generate(["", TEXTS[1]], max_new_tokens=9)
    assert several == [expected, *their_texts(model, tokenizer, TEXTS[1:2], max_new_tokens=9)]
    assert "".join(ours.stream("", max_new_tokens=9)) == expected


def test_an_empty_source_is_its_end_token(models):
    ours, model, tokenizer = models["t5"]
    assert ours.generate("", max_new_tokens=9) == their_texts(model, tokenizer, [""], max_new_tokens=9)[0]


def test_an_empty_prompt_without_a_start_token(tmp_path):
    folder = edit(gpt2(tmp_path), "generation_config.json", remove=["bos_token_id"])
    with pytest.raises(InputError, match=r"text 1 has no token, and the model has no start token; give it a word"):
        mt.load(folder).generate(["a", ""])


@pytest.mark.parametrize("stop", [["語"], [" or", "end"], ["d e"], ["nowhere"]])
def test_stop_strings(recited, tmp_path, stop):
    folder = reciter(tmp_path, ODD)
    model, tokenizer = theirs(folder)
    (expected,) = their_texts(model, tokenizer, ["Once"], max_new_tokens=90, stop_strings=stop)
    found = recited.generate("Once", max_new_tokens=90, stop_strings=stop)
    assert found == expected
    assert found == ODD[: min((ODD.find(word) + len(word) for word in stop if word in ODD), default=None)]
    assert recited.generate("Once", max_new_tokens=90, stop_strings=stop[0]) == expected or len(stop) > 1


def test_a_special_token_as_a_stop_string(models):
    ours, model, tokenizer = models["gpt2"]
    token = ours.tokenizer.special["eos_token"]
    others = [i for i in range(len(ours.tokenizer)) if i != ours.tokenizer.eos_token_id]
    options = {"max_new_tokens": 6, "stop_strings": [token], "eos_token_id": None, "suppress_tokens": others}
    ids = ours.tokenizer(TEXTS[:1])["input_ids"]
    expected = model.generate(ids, tokenizer=tokenizer, pad_token_id=0, **options)
    assert ours.generate(ids, **options).tolist() == expected.tolist()
    assert expected.shape[1] == ids.shape[1] + 1


def test_stop_strings_end_each_text_for_itself(models):
    ours, model, tokenizer = models["gpt2"]
    free = [text[len(prompt) :] for text, prompt in zip(ours.generate(TEXTS, max_new_tokens=12), TEXTS, strict=True)]
    stop = [re.search("[ a-z]{2}", text)[0] for text in (free[0], free[2])]
    expected = their_texts(model, tokenizer, TEXTS, max_new_tokens=12, stop_strings=stop)
    assert ours.generate(TEXTS, max_new_tokens=12, stop_strings=stop) == expected
    assert len({len(text) - len(prompt) for text, prompt in zip(expected, TEXTS, strict=True)}) > 2


SUMMARY = {"max_length": 9, "min_length": 4, "num_beams": 2, "no_repeat_ngram_size": 2, "early_stopping": True}
TASKS = {"summarization": {"prefix": "summarize: ", "length_penalty": 2.0, **SUMMARY}, "plain": {"max_length": 5}}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A T5 whose config.json names tasks, and whose generation_config.json says something else."""
    folder = small_writers.t5(tmp_path_factory.mktemp("tasks"))
    edit(folder, "config.json", task_specific_params=TASKS)
    edit(folder, "generation_config.json", num_beams=3, max_length=14, repetition_penalty=1.4)
    return mt.load(folder), *theirs(folder)


def test_a_task_has_a_prefix_and_settings(tasks):
    """The call's settings go before the task's, those before generation_config.json's, which hold for the rest."""
    ours, model, tokenizer = tasks
    said = {name: value for name, value in TASKS["summarization"].items() if name != "prefix"}
    prefixed = ["summarize: " + text for text in TEXTS]
    expected = their_texts(model, tokenizer, prefixed, **said)
    assert ours.generate(TEXTS, task="summarization") == expected
    assert ours.generate(TEXTS[1], task="summarization") == expected[1]
    assert "".join(ours.stream(TEXTS[1], task="summarization")) == expected[1]
    changed = said | {"max_length": 7, "num_beams": 1, "early_stopping": False, "length_penalty": 1.0}
    assert ours.generate(TEXTS, task="summarization", max_length=7, num_beams=1) == their_texts(
        model, tokenizer, prefixed, **changed
    )
    assert ours.generate(TEXTS, task="plain") == their_texts(model, tokenizer, TEXTS, max_length=5)
    free = their_texts(model, tokenizer, TEXTS)
    assert ours.generate(TEXTS) == free != expected


def test_an_unknown_task(tasks, models):
    with pytest.raises(InputError, match=r"task: got 'sumarize', expected one that .* names: plain, summarization"):
        tasks[0].generate("x", task="sumarize")
    with pytest.raises(InputError, match="names: none"):
        models["gpt2"][0].stream("x", task="summarization")


@pytest.mark.parametrize("params", [["a"], {"t": 5}, "x"])
def test_a_damaged_table_of_tasks(folders, params):
    model = mt.load(folders["gpt2"], config={"task_specific_params": params})
    with pytest.raises(InputError, match="task: got 't'"):
        model.generate("x", task="t")


def test_generation_config_is_read_and_saved(tmp_path):
    """`save` keeps it, and transformers reads the same."""
    folder = gpt2(tmp_path / "a")
    edit(folder, "generation_config.json", max_new_tokens=7, num_beams=2, repetition_penalty=1.3, made_up=None)
    ours = mt.load(folder)
    expected = their_texts(*theirs(folder), TEXTS)
    assert ours.generate(TEXTS) == expected
    ours.save(tmp_path / "b")
    files = [json.loads((tmp_path / name / "generation_config.json").read_text()) for name in "ab"]
    assert files[0] == files[1]
    read = [transformers.GenerationConfig.from_pretrained(tmp_path / name).to_dict() for name in "ab"]
    assert read[0] == read[1]
    assert read[1]["repetition_penalty"] == 1.3
    assert their_texts(*theirs(tmp_path / "b"), TEXTS) == mt.load(tmp_path / "b").generate(TEXTS) == expected


@pytest.mark.parametrize(
    ("file", "call"),
    [
        ({"max_new_tokens": 7}, {"max_new_tokens": 3}),
        ({"max_length": 18}, {}),
        ({"max_length": 18}, {"max_new_tokens": 4}),
        ({"max_length": 18}, {"max_length": 19}),
        ({"max_length": 20}, {}),
        ({"max_new_tokens": 5}, {"max_length": 30}),
        ({}, {"max_length": 20}),
        ({"repetition_penalty": 1.8, "no_repeat_ngram_size": 1, "max_new_tokens": 9}, {"repetition_penalty": 1.0}),
        ({"num_beams": 3, "max_new_tokens": 9, "length_penalty": 0.3}, {"num_beams": 1, "length_penalty": 1.0}),
        ({"do_sample": True, "temperature": 9.0, "top_k": 7}, {"do_sample": False}),
        ({"eos_token_id": [1, 40, 50]}, {}),
        ({"eos_token_id": 1}, {"eos_token_id": [60, 61, 62, 63, 64, 65]}),
        ({"min_length": 30, "max_length": 40, "eos_token_id": list(range(200))}, {"min_new_tokens": 2}),
        ({"output_scores": True, "return_dict_in_generate": False, "transformers_version": "4.1"}, {}),
    ],
)
@pytest.mark.filterwarnings("ignore:max_length has no effect")
def test_a_call_goes_before_generation_config(tmp_path, file, call):
    """Text by text, as a length counts its padding."""
    folder = edit(gpt2(tmp_path), "generation_config.json", **file)
    ours, (model, tokenizer) = mt.load(folder), theirs(folder)
    for text in TEXTS:
        assert [ours.generate(text, **call)] == their_texts(model, tokenizer, [text], **call)


def old_folder(name, folder, **fields):
    """As before there was generation_config.json: config.json says how to decode."""
    getattr(small_writers, name)(folder)
    (folder / "generation_config.json").unlink()
    return edit(folder, "config.json", **fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bart", {"num_beams": 3, "max_length": 11, "forced_eos_token_id": 2, "no_repeat_ngram_size": 3}),
        ("bart", {"max_length": 13, "min_length": 6, "forced_bos_token_id": 9, "early_stopping": True, "num_beams": 2}),
        ("t5", {"num_beams": 2, "max_length": 8, "repetition_penalty": 1.5}),
        ("marian", {"num_beams": 2, "max_length": 9, "bad_words_ids": [[17], [31], [299]]}),
        ("gpt2", {"do_sample": False, "max_length": 25, "eos_token_id": 1}),
    ],
)
def test_an_old_config_says_how_to_decode(tmp_path, name, fields):
    folder = old_folder(name, tmp_path / "old", **fields)
    ours, (model, tokenizer) = mt.load(folder), theirs(folder)
    expected = their_texts(model, tokenizer, TEXTS)
    assert ours.generate(TEXTS) == expected
    assert ours.generate(TEXTS, num_beams=1, max_new_tokens=7) == their_texts(
        model, tokenizer, TEXTS, num_beams=1, max_new_tokens=7, early_stopping=False
    )
    ours.save(tmp_path / "new")
    assert their_texts(*theirs(tmp_path / "new"), TEXTS) == mt.load(tmp_path / "new").generate(TEXTS) == expected


def test_generation_config_replaces_an_old_config(tmp_path):
    """Where there is one, config.json says nothing about decoding."""
    folder = gpt2(tmp_path)
    edit(folder, "config.json", max_length=9, repetition_penalty=1.9)
    edit(folder, "generation_config.json", max_new_tokens=11)
    assert mt.load(folder).generate(TEXTS) == their_texts(*theirs(folder), TEXTS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("penalty_alpha", 0.6), ("num_beam_groups", 2), ("typical_p", 0.9), ("sequence_bias", [[[5], 2.0]]),
     ("encoder_no_repeat_ngram_size", 3), ("watermarking_config", {"bias": 2.5}), ("guidance_scale", 1.5)],
)  # fmt: skip
def test_what_is_not_implemented_is_refused_by_name(folders, name, value):
    """In a call, and in the checkpoint's file, where a call can do without."""
    ours = mt.load(folders["gpt2"])
    with pytest.raises(InputError, match=f"generate: {name} is .*, which is not implemented"):
        ours.generate("x", **{name: value})
    with pytest.raises(InputError, match=name):
        ours.stream("x", **{name: value})
    ours.generation_config |= {name: value, "do_sample": True}
    with pytest.raises(ConfigError, match=rf"generation_config.json: {name} is .* generate\(\.\.\., {name}=") as told:
        ours.generate("x")
    way_out = {"None": None, "0": 0, "1": 1}[str(told.value).split(f"{name}=")[1].split(")")[0]]
    plain = mt.load(folders["gpt2"]).generate("x", max_new_tokens=4)
    assert ours.generate("x", max_new_tokens=4, do_sample=False, **{name: way_out}) == plain


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temprature": 0.5}, "'temprature' is no setting; expected one such as temperature"),
        ({"max_tokens": 5}, "expected one such as .*max_new_tokens"),
        ({"temperature": 0}, "temperature: got 0, expected a number above 0; for the most probable token, do_sample=F"),
        ({"top_p": 1.5}, "top_p: got 1.5"),
        ({"num_beams": 0}, "num_beams: got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"max_new_tokens": 5.0}, "max_new_tokens: got 5.0"),
        ({"max_length": 2}, "max_length: got 2, but the prompt has"),
        ({"max_new_tokens": 200}, "max_new_tokens: got 200 .* the model has 96 positions"),
        ({"num_return_sequences": 2}, "num_return_sequences: got 2, expected at most num_beams=1"),
        ({"stop_strings": ""}, "stop_strings"),
        ({"stop_strings": [5]}, "stop_strings"),
        ({"eos_token_id": -1}, "eos_token_id: got"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask: got one with a text"),
        ({"input_ids": torch.tensor([[1]])}, "one of them"),
        ({"task": "x"}, "task: got 'x'"),
        ({"task": ["x"]}, r"task: got \['x'\]"),
        ({"seed": 10**30}, "seed: got 10"),
        ({"seed": "one"}, "seed: got 'one'"),
    ],
)
def test_wrong_settings_are_said_at_once(models, wrong, told):
    """Also by `stream`, before its first piece is asked for."""
    ours, *_ = models["gpt2"]
    for verb in (ours.generate, ours.stream):
        with pytest.raises(InputError, match=told):
            verb("What a film", **wrong)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (5, "got a int, expected a text, texts"),
        (None, "one of them"),
        ([], "got none"),
        (["a", 3], "got a int among them"),
        ([[1, 2], [3]], "got a list among them"),
        (b"bytes", "got a bytes"),
        ("word " * 300, "the model has 96 positions in all; cut the prompt"),
        (torch.tensor([[3, 999]]), "999"),
        (torch.tensor([[0.5]]), "input_ids"),
        (torch.tensor([3, 4]), "input_ids"),
        (torch.zeros(1, 0, dtype=torch.int64), "input_ids"),
    ],
)
def test_wrong_inputs_are_said_at_once(models, inputs, told):
    ours, *_ = models["gpt2"]
    for verb in (ours.generate, ours.stream):
        with pytest.raises(InputError, match=told):
            verb(inputs)


def test_models_that_cannot_write(folders):
    encoder = mt.load(folders["bert"])
    for verb in (encoder.generate, encoder.stream):
        with pytest.raises(InputError, match=r"got an encoder .* which reads texts and cannot continue them"):
            verb("x")
    headless = mt.load(folders["gpt2"], head="base")
    with pytest.raises(InputError, match="got a model with the head base, expected causal-lm; load"):
        headless.generate("x")
    with pytest.raises(InputError, match="head base, expected seq2seq-lm"):
        mt.load(folders["t5"], head="base").stream("x")


def test_without_a_tokenizer_ids_still_work(folders, tmp_path):
    folder = gpt2(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    ours = mt.load(folder)
    ids = torch.tensor([[5, 6, 7]])
    assert ours.generate(ids, max_new_tokens=5).equal(
        transformers.AutoModelForCausalLM.from_pretrained(folder).generate(ids, max_new_tokens=5)
    )
    for call in (lambda: ours.generate("x"), lambda: ours.stream(ids), ours.chat, lambda: ours.perplexity("x")):
        with pytest.raises(InputError, match="this model has no tokenizer"):
            call()
    with pytest.raises(InputError, match="stop_strings"):
        ours.generate(ids, stop_strings=["a"])


def test_two_texts_at_once_cannot_be_streamed(models):
    ours, *_ = models["gpt2"]
    with pytest.raises(InputError, match="stream: got 2 texts to write at once, expected one; try generate"):
        ours.stream(["a", "b"])
    with pytest.raises(InputError, match="stream: got 3 texts"):
        ours.stream("a", do_sample=True, num_return_sequences=3)


@pytest.mark.parametrize("settings", [{}, SETTINGS["rules"], {"do_sample": True, "temperature": 2.0, "seed": 1}])
@pytest.mark.parametrize("name", NAMES)
def test_all_pieces_are_the_new_text(models, name, settings):
    ours, *_ = models[name]
    for text in TEXTS:
        pieces = list(ours.stream(text, max_new_tokens=12, **settings))
        written = ours.generate(text, max_new_tokens=12, **settings)
        assert (text if name == "gpt2" else "") + "".join(pieces) == written
        assert len(pieces) <= 13
    assert sum(map(bool, pieces)) > 3


def test_a_beam_search_is_one_piece(models):
    ours, *_ = models["gpt2"]
    pieces = list(ours.stream(TEXTS[0], max_new_tokens=9, num_beams=3))
    assert TEXTS[0] + "".join(pieces) == ours.generate(TEXTS[0], max_new_tokens=9, num_beams=3)
    assert sum(map(bool, pieces[:-1])) == 1  # but for half a character, which comes last


@pytest.mark.parametrize("prompt", ["Once", "Once 👩‍👩‍👧", "Once 👩", "Once 👩‍👩‍👧 and e", "Once 👩‍👩‍👧 and e\u0301"])
def test_whole_characters_come_as_they_were_written(recited, prompt):
    """Emoji of several signs and accents that combine; no half of a character, none given and taken back."""
    pieces = list(recited.stream(prompt, max_new_tokens=90))
    assert prompt + "".join(pieces) == ODD == recited.generate(prompt, max_new_tokens=90)
    assert not any("\ufffd" in piece for piece in pieces)
    assert all(len(piece) < 12 for piece in pieces)


def test_a_piece_comes_before_the_next_token_is_computed(recited):
    """Streaming is streaming: a token's text is there after one step of the model."""
    steps = []
    hook = recited.transformer.head.lm.register_forward_pre_hook(lambda *_: steps.append(1))
    try:
        stream = recited.stream("Once", max_new_tokens=30)
        assert steps == []
        for count, _ in zip(range(1, 6), stream, strict=False):
            assert len(steps) == count
    finally:
        hook.remove()


@pytest.mark.parametrize("training", [True, False])
def test_an_interrupted_stream_leaves_the_model_as_it_was(folders, training):
    model = mt.load(folders["gpt2"]).train(training)
    ids = torch.tensor([[5, 6, 7, 8]])
    model(ids, labels=ids).loss.backward()
    before = {name: (weight.clone(), weight.grad.clone()) for name, weight in model.named_parameters()}

    def as_it_was():
        assert model.transformer.training is training
        assert all(part.training is training for part in model.transformer.modules())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        for name, weight in model.named_parameters():
            assert weight.requires_grad
            assert weight.equal(before[name][0])
            assert weight.grad.equal(before[name][1])
        assert model(ids, labels=ids).loss.requires_grad

    closed = model.stream("What", max_new_tokens=20)
    next(closed)
    assert torch.is_grad_enabled()  # the caller's own code is not touched between two pieces
    assert not torch.is_inference_mode_enabled()
    closed.close()
    as_it_was()
    with pytest.raises(ZeroDivisionError):
        _ = [1 // 0 for _ in model.stream("What", max_new_tokens=20)]
    as_it_was()
    never_begun = model.stream("What")
    as_it_was()
    del never_begun
    for settings in ({}, {"num_beams": 2}, {"output_scores": True, "output_attentions": True}):
        model.generate("What", max_new_tokens=4, **settings)
        as_it_was()
    model.perplexity("What a film")
    as_it_was()


def test_no_dropout_while_training(tmp_path):
    """What a model in training writes is what it writes otherwise."""
    model = mt.load(gpt2(tmp_path, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5))
    calm = model.generate(TEXTS, max_new_tokens=12)
    assert model.train().generate(TEXTS, max_new_tokens=12) == calm
    assert TEXTS[1] + "".join(model.stream(TEXTS[1], max_new_tokens=12)) == calm[1]
    state = torch.get_rng_state()
    model.generate(TEXTS, max_new_tokens=4, num_beams=2, output_scores=True)
    assert torch.get_rng_state().equal(state)
    assert model.transformer.training
