"""Conversations: which tokens are answers, as transformers marks them; losses, and a chat that is learned."""

import pytest
import torch
import transformers
from small_task_models import mean_and_parts, overfit, their_loss
from small_writers import CHATML, END, LINES, gpt2, gpt2_tokenizer

import minitransformer as mt
from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.generation import Chat, GenerationConfig
from minitransformer.tasks import Row
from minitransformer.tasks.dialogue import Dialogue
from minitransformer.tasks.inference import predict
from minitransformer.text import chat

MARKED = (  # CHATML, with what the assistant writes marked
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>\n' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
)
SPACED = (  # no special tokens, and a space before each text
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
FORGETFUL = (  # of all answers but the last, nothing stays
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}{{ m['role'] + ':' + m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
STRICT = "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('not that') }}{% endif %}" + CHATML


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 that converses."""
    tokenizer = gpt2_tokenizer(chat_template=CHATML)
    return gpt2(
        tmp_path_factory.mktemp("gpt"), tokenizer=tokenizer, initializer_range=0.1, n_positions=200, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(folder):
    return mt.load(folder)


@pytest.fixture
def tokenizer(model):
    return model.tokenizer


def conversation(*contents, system=None):
    """Messages of the user and the assistant in turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant") * len(contents)
    return messages + [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


def row(*contents, system=None):
    return Row(messages=conversation(*contents, system=system), where="talk.jsonl, line 4")


ROWS = [
    row("What a film!", "Yes, it was."),
    row("Hello", "Hello!", "Was it good?", "Not very", system="You are brief."),
    row("a", "b", "c", "\n d\n", "e", "f", "g"),
    row("Hi", "Ça alors: 🤗 naïve", "naïve?", "   "),
]


def answered(tokenizer, example):
    """The text of what is learned, each run of tokens on its own."""
    runs, before = [], False
    for number, label in zip(example.inputs["input_ids"], example.target, strict=True):
        assert label in (-100, number)
        if label != -100:
            runs = runs if before else [*runs, []]
            runs[-1].append(number)
        before = label != -100
    return [tokenizer.decode(run) for run in runs]


def test_answers_are_marked_as_transformers_marks_them(tokenizer, folder):
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    examples = Dialogue(tokenizer, (), None).encode(ROWS[:3])
    for example, given in zip(examples, ROWS, strict=False):
        messages = given["messages"] if given["messages"][-1]["role"] == "assistant" else given["messages"][:-1]
        right = oracle.apply_chat_template(
            messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
        )
        assert list(example.inputs["input_ids"]) == right["input_ids"]
        assert [int(label != -100) for label in example.target] == right["assistant_masks"]
        assert 0 < sum(right["assistant_masks"]) < len(right["input_ids"])


def test_answers_are_learned_whole_with_their_end(tokenizer):
    for example, given in zip(Dialogue(tokenizer, (), None).encode(ROWS), ROWS, strict=True):
        texts = [m["content"] for m in given["messages"] if m["role"] == "assistant"]
        assert answered(tokenizer, example) == [f"{text}{END}\n" for text in texts]
        assert example.lost == 0


def test_the_prompt_of_an_answer_is_the_one_a_chat_gives(model):
    config = GenerationConfig(max_new_tokens=5)
    for given in ROWS[:2]:
        (example,) = Dialogue(model.tokenizer, (), None).encode([given])
        prompt = Chat(model.transformer, model.tokenizer, config).prompt(given["messages"][:-1])[0].tolist()
        assert list(example.inputs["input_ids"][: len(prompt)]) == prompt
        assert set(example.target[len(prompt) :]) == set(example.inputs["input_ids"][len(prompt) :])
        assert example.target[len(prompt) - 1] == -100


def test_a_token_of_prompt_and_answer_is_the_answers(tokenizer):
    task = Dialogue(tokenizer, (), None, chat_template=SPACED)
    (example,) = task.encode([row("What was it?", "the film", "Yes?", "  ")])
    assert tokenizer.tokens("assistant: the film", add_special_tokens=False)[-3:-1] != ["Ġ", "the"]
    assert answered(tokenizer, example) == [" the film\n", "   \n"]


def test_an_opening_by_the_assistant_and_what_follows_the_last_answer_are_not_learned(tokenizer):
    opening = {"role": "assistant", "content": "Welcome!"}
    given = Row(messages=[opening, *conversation("Hi", "Hello", "Bye")])
    (example,) = Dialogue(tokenizer, (), None).encode([given])
    assert answered(tokenizer, example) == [f"Hello{END}\n"]
    text = tokenizer.decode(example.inputs["input_ids"])
    assert "Welcome!" in text
    assert "Bye" not in text


def test_of_long_conversations_the_oldest_turns_are_left_out(tokenizer):
    messages = conversation(*LINES[:8], system="You are brief.")
    kept = [messages[:1] + messages[1 + 2 * turns :] for turns in range(4)]
    whole, _, two_left, one_left = Dialogue(tokenizer, (), None).encode([Row(messages=part) for part in kept])
    (found,) = Dialogue(tokenizer, (), len(two_left)).encode([Row(messages=messages)])
    assert (found.inputs, found.target) == (two_left.inputs, two_left.target)
    assert found.lost == len(whole) - len(two_left)
    # One token less, and another turn has to go. Of the last turn, the end goes.
    for limit in (len(two_left) - 1, len(one_left) - 2):
        (found,) = Dialogue(tokenizer, (), limit).encode([Row(messages=messages)])
        assert list(found.inputs["input_ids"]) == list(one_left.inputs["input_ids"])[:limit]
        assert list(found.target) == list(one_left.target)[:limit]
        assert found.lost == len(whole) - len(found)


def test_a_row_without_room_for_an_answer_is_refused(tokenizer):
    given = row(LINES[0], "Yes")
    (whole,) = Dialogue(tokenizer, (), None).encode([given])
    prompt = list(whole.target).count(-100)
    assert Dialogue(tokenizer, (), prompt + 1).encode([given])[0].target[-1] != -100
    with pytest.raises(DataError, match=f"line 4: no token of an answer is among the first {prompt}; raise max_length"):
        Dialogue(tokenizer, (), prompt).encode([given])


def test_two_processes_render_all_rows(tokenizer, monkeypatch):
    calls = []
    run = chat.run
    monkeypatch.setattr(chat, "run", lambda question: calls.append(1) or run(question))
    assert len(Dialogue(tokenizer, (), None).encode(ROWS * 30)) == 120
    assert len(calls) == 2


def test_more_rows_than_one_process_may_render(tokenizer, monkeypatch):
    right = Dialogue(tokenizer, (), None).encode(ROWS[1:2])
    monkeypatch.setitem(chat.LIMITS, "characters", 200)
    assert Dialogue(tokenizer, (), None).encode(ROWS[1:2]) == right


def test_the_loss_is_transformers(folder, tmp_path):
    model = mt.load(folder, dtype=torch.float64).eval()
    task = Dialogue(model.tokenizer, (), None)
    examples = task.encode(ROWS)
    batch = task.collate(examples)
    right = their_loss(transformers.GPT2LMHeadModel, model, batch, tmp_path / "ours")
    whole, parts = mean_and_parts(task, model.transformer, batch)
    assert whole == pytest.approx(right, rel=1e-7)  # transformers computes it in float32
    assert parts == pytest.approx(whole, rel=1e-12)
    answers = task.answers(ROWS, examples, task.decode(model.transformer, batch))
    assert [a.tokens for a in answers] == [sum(label != -100 for label in e.target) for e in examples]
    assert task.score(answers, ROWS)["loss"] == pytest.approx(whole, rel=1e-12)


def test_a_chat_is_learned_and_ends_its_answers(folder):
    model = mt.load(folder)
    rows = [row(f"{chr(65 + i)}?", LINES[i][:9].strip()) for i in range(16)]
    task = Dialogue(model.tokenizer, (), 60)
    assert overfit(task, model.transformer, rows, steps=90, rate=1e-2) < 1e-2
    config = GenerationConfig(max_new_tokens=30, eos_token_id=model.tokenizer.eos_token_id)
    for given in rows[:3]:
        question, answer = (message["content"] for message in given["messages"])
        found = "".join(Chat(model.transformer, model.tokenizer, config).say(question))
        assert found.removesuffix(END) == answer


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "'messages' is None, expected a list of messages"),
        ([], r"'messages' is \[\], expected a list"),
        ("Hello", "'messages' is 'Hello', expected a list"),
        (["Hello"], "message 0 is 'Hello', expected"),
        ([{"role": "user"}], "message 0 is {'role': 'user'}, expected"),
        ([{"role": "user", "content": ["a"]}], "message 0 is .*a text"),
        (conversation("Hi"), "no message of the 'assistant' that answers another"),
        (conversation("Hi", "a")[1:], "no message of the 'assistant' that answers another"),
        (conversation("bad", "a"), "the chat template refuses these messages: not that"),
    ],
)
def test_rows_that_are_refused(tokenizer, messages, message):
    rows = [*ROWS, Row(messages=messages, where="talk.jsonl, line 9"), ROWS[0]]
    with pytest.raises(DataError, match=f"^talk.jsonl, line 9: {message}"):
        Dialogue(tokenizer, (), None, chat_template=STRICT).encode(rows)


def test_a_template_that_changes_what_was_said_is_refused(tokenizer):
    task = Dialogue(tokenizer, (), None, chat_template=FORGETFUL)
    assert answered(tokenizer, task.encode([row("a", "b")])[0]) == ["b"]
    with pytest.raises(DataError, match="line 4: the chat template changes what was said before"):
        task.encode([row("a", "b", "c", "d")])


def test_a_tokenizer_without_a_template_needs_one(tmp_path):
    plain = mt.load(gpt2(tmp_path)).tokenizer
    with pytest.raises(TokenizerError, match="give a template as chat_template"):
        Dialogue(plain, (), None)
    assert Dialogue(plain, (), None, chat_template=CHATML).encode(ROWS)


def test_predict_says_to_chat(model):
    task = Dialogue(model.tokenizer, (), None)
    assert task.row("Hi")["messages"] == task.row(conversation("Hi"))["messages"] == conversation("Hi")
    with pytest.raises(InputError, match=r"model\.chat"):
        predict(model.transformer, task, [task.row("Hi")], batch_size=1)
    with pytest.raises(InputError, match="expected messages"):
        task.row(3)
