"""model.chat: turns and what becomes of them, against transformers' chat template and generate."""

import pytest
import small_writers
import torch
from small_writers import CHATML, gpt2, theirs
from transformers import AutoTokenizer

import minitransformer as mt
from minitransformer.errors import InputError, TokenizerError

PLACES, NEW = 120, 12
QUESTIONS = ["What a film was it?", "Why 😀?", "It was the worst of all films, and then some.", "I", "naïve or not"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 that ends its answers now and then, and a template with a mark for each message."""
    tokenizer = small_writers.gpt2_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    tokenizer.chat_template = CHATML
    return gpt2(tmp_path_factory.mktemp("talker"), tokenizer=tokenizer, n_positions=PLACES)


@pytest.fixture(scope="module")
def model(folder):
    return mt.load(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return theirs(folder)


def their_prompt(tokenizer, messages):
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def their_answer(reference, messages):
    model, tokenizer = reference
    batch = their_prompt(tokenizer, messages)
    ids = model.generate(**batch, max_new_tokens=NEW)[0, batch["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("system", [None, "You are brief."])
def test_turns_accumulate_and_the_oldest_are_left_out(model, reference, system):
    """In pairs of a question and its answer; each answer is transformers' to what there is room for."""
    chat = model.chat(system, max_new_tokens=NEW)
    said = [] if system is None else [{"role": "system", "content": system}]
    first, cuts = len(said), []
    assert chat.messages == said
    for question in QUESTIONS:
        said.append({"role": "user", "content": question})
        lengths = {
            start: their_prompt(reference[1], said[:first] + said[first + start :])["input_ids"].shape[1]
            for start in range(0, len(said) - first, 2)
        }
        cut = min(start for start, length in lengths.items() if length <= PLACES - NEW)
        expected = their_answer(reference, said[:first] + said[first + cut :])
        assert "".join(chat.say(question)) == expected
        assert chat.left_out == cut
        said.append({"role": "assistant", "content": expected})
        assert chat.messages == said  # all of them, also those that were left out
        cuts.append(cut)
    assert cuts[0] == 0
    assert len(set(cuts)) > 2


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hello"}],
        [{"role": "system", "content": ""}, {"role": "user", "content": "<|end|> naïve 😀\n"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": " c "}],
    ],
)
def test_the_prompt_is_transformers(model, reference, messages):
    expected = their_prompt(reference[1], messages)["input_ids"]
    assert model.chat().prompt(messages).equal(expected)
    assert expected[0, 0] == reference[1].convert_tokens_to_ids("<|start|>")  # no further start token


def test_another_template(folder, model, reference):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}A:"
    messages = [{"role": "user", "content": "Hello"}]
    expected = reference[1].apply_chat_template(messages, chat_template=template, return_dict=False)
    assert model.chat(chat_template=template).prompt(messages).tolist() == [expected]
    other = AutoTokenizer.from_pretrained(folder)
    assert other.chat_template == CHATML


def test_settings_hold_for_each_answer(model):
    """Those of the checkpoint's files as well, where the call does not say otherwise."""
    chat = model.chat(max_new_tokens=4)
    pieces = list(chat.say("Hello"))
    assert len(pieces) <= 5
    free = "".join(model.chat(max_new_tokens=NEW).say("Hello"))
    assert free.startswith("".join(pieces).rstrip("\ufffd"))
    draws = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 8}
    torch.manual_seed(1)
    one, other = ("".join(model.chat(**draws).say("Hello")) for _ in range(2))
    assert one != other
    torch.manual_seed(1)
    assert "".join(model.chat(**draws).say("Hello")) == one


def test_a_message_that_is_too_long_is_not_said(model):
    chat = model.chat("You are brief.", max_new_tokens=NEW)
    list(chat.say("Hello"))
    before, left_out = [dict(message) for message in chat.messages], chat.left_out
    with pytest.raises(InputError, match=rf"the message has \d+ tokens, expected at most {PLACES - NEW}; shorten it"):
        chat.say("word " * 100)
    assert (chat.messages, chat.left_out) == (before, left_out)
    assert "".join(chat.say("Hello"))
    assert len(chat.messages) == len(before) + 2


def test_an_interrupted_answer_is_kept_as_far_as_it_came(model, reference):
    chat = model.chat(max_new_tokens=NEW)
    answer = chat.say(QUESTIONS[0])
    came = next(answer) + next(answer) + next(answer)
    answer.close()
    said = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": came}]
    assert came
    assert chat.messages == said
    said.append({"role": "user", "content": QUESTIONS[1]})
    assert "".join(chat.say(QUESTIONS[1])) == their_answer(reference, said)


def test_a_history_that_was_taken_away(model, reference):
    """`messages` is the user's to change: after messages.clear() a conversation begins anew."""
    chat = model.chat(max_new_tokens=NEW)
    for question in QUESTIONS:
        list(chat.say(question))
    assert chat.left_out > 0
    chat.messages.clear()
    assert "".join(chat.say("Hello")) == their_answer(reference, [{"role": "user", "content": "Hello"}])
    assert chat.left_out == 0


def test_an_answer_that_nobody_reads(model, reference):
    """The question was said; it keeps its place before an empty answer, so that turns stay pairs."""
    chat = model.chat(max_new_tokens=NEW)
    chat.say("never read")
    said = [{"role": "user", "content": "never read"}, {"role": "assistant", "content": ""}]
    assert chat.messages == said
    said.append({"role": "user", "content": "Hello"})
    assert "".join(chat.say("Hello")) == their_answer(reference, said)


def test_what_is_wrong_is_said_at_once_and_leaves_the_history(folder, tmp_path):
    """Also where only the checkpoint's files are wrong, or the template refuses a message."""
    picky = (
        "{% for m in messages %}{{ m.content }}{% if 'bad' in m.content %}{{ nothing.at.all }}{% endif %}{% endfor %}"
    )
    chat = mt.load(folder).chat(chat_template=picky, max_new_tokens=4)
    list(chat.say("good"))
    before = [dict(message) for message in chat.messages]
    with pytest.raises(TokenizerError, match="chat template"):
        chat.say("bad")
    assert chat.messages == before
    chat = mt.load(folder).chat(max_length=30)
    with pytest.raises(InputError, match="expected at most 29"):
        chat.say("word " * 20)
    assert chat.messages == []
    several = mt.load(folder).chat(do_sample=True, num_return_sequences=2)
    with pytest.raises(InputError, match="stream: got 2 texts"):
        several.say("Hello")
    assert several.messages == []


def test_models_that_cannot_converse(folder, tmp_path):
    plain = mt.load(gpt2(tmp_path / "plain"))
    with pytest.raises(TokenizerError, match="this tokenizer has no chat template; take a checkpoint that was tuned"):
        plain.chat()
    assert "".join(plain.chat(chat_template=CHATML, max_new_tokens=5).say("Hello"))
    with pytest.raises(TokenizerError, match="the chat template, line 1"):
        plain.chat(chat_template="{% for %}")
    with pytest.raises(InputError, match="chat: got an encoder and a decoder"):
        mt.load(small_writers.t5(tmp_path / "t5")).chat(chat_template=CHATML)
    with pytest.raises(InputError, match="head base, expected causal-lm"):
        mt.load(folder, head="base").chat()
    with pytest.raises(InputError, match="'temprature' is no setting"):
        mt.load(folder).chat(temprature=1.0)
    with pytest.raises(InputError, match=r"answers of up to 120 tokens \(max_new_tokens\), expected fewer than 120"):
        mt.load(folder).chat(max_new_tokens=120)
    no_system = "{% for m in messages %}{% if m.role == 'system' %}{{ nothing.at.all }}{% endif %}{% endfor %}x"
    with pytest.raises(TokenizerError, match="chat template"):
        mt.load(folder).chat("You are brief.", chat_template=no_system)


def test_the_template_is_saved(folder, model, tmp_path):
    model.save(tmp_path / "saved")
    messages = [{"role": "user", "content": "Hello"}]
    expected = their_prompt(theirs(tmp_path / "saved")[1], messages)["input_ids"]
    assert mt.load(tmp_path / "saved").chat().prompt(messages).equal(expected)
    assert model.chat().prompt(messages).equal(expected)


def test_an_end_token_that_only_the_files_name(folder, tmp_path):
    """Tuned models end their turns with a token of their own, which generation_config.json names."""
    model = mt.load(folder)
    prompt = model.chat().prompt([{"role": "user", "content": "Hello"}])
    ids = model.generate(prompt, max_new_tokens=NEW)[0, prompt.shape[1] :].tolist()
    model.generation_config["eos_token_id"] = [1, ids[4]]
    pieces = list(model.chat(max_new_tokens=NEW).say("Hello"))
    assert len(pieces) == ids.index(ids[4]) + 2  # one for each token, and what is left
