"""`minitransformer generate`, `chat` and `score` as a user meets them."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from small_writers import CHATML, bert, gpt2, gpt2_tokenizer, reciter, t5

import minitransformer as mt
from minitransformer.cli import main

TEXT = "Once 👩‍👩‍👧 and é, 日本語 of 😀.\nThe end"
COMMAND = [sys.executable, "-m", "minitransformer"]
ENVIRONMENT = {**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
RATE = r"\(\d+ tokens, \d+\.\d tokens/s\)\n"


def run(*arguments, **options):
    """Run `minitransformer ARGUMENTS` in a new process."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, **options)


def begin(*arguments):
    """Begin `minitransformer ARGUMENTS` in a new process, for a `with`."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([*COMMAND, *map(str, arguments)], env=ENVIRONMENT, **pipes)


@pytest.fixture
def here(monkeypatch, capsys):
    """here("generate", ..., input=...): the same without a new process -> exit code, output, errors."""

    def run_here(*arguments, input=""):
        monkeypatch.setattr(sys, "argv", ["minitransformer", *map(str, arguments)])
        piped = input if isinstance(input, bytes) else input.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        with pytest.raises(SystemExit) as exit:
            main()
        told = capsys.readouterr()
        return exit.value.code or 0, told.out, told.err

    return run_here


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("commands")
    tokenizer = gpt2_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    tokenizer.chat_template = CHATML
    endless = {"n_layer": 1, "n_embd": 8, "n_head": 1, "eos_token_id": None}
    return {
        "reciter": reciter(root / "reciter", TEXT),
        "t5": t5(root / "t5"),
        "bert": bert(root / "bert"),
        "talker": gpt2(root / "talker", tokenizer=tokenizer, n_positions=90),
        "endless": gpt2(root / "endless", tokenizer=tokenizer, n_positions=60000, **endless),
    }


def test_generate_goes_on_with_an_argument(folders):
    """The text on standard output, how fast it came on standard error."""
    done = run("generate", folders["reciter"], "Once", "--max-new-tokens", 90)
    assert done.returncode == 0, done.stderr
    assert done.stdout == TEXT + "\n"
    assert re.fullmatch(RATE, done.stderr)
    count = int(done.stderr[1:].split()[0])
    assert count == len(mt.load(folders["reciter"]).tokenizer.encode(TEXT[4:])) + 1  # and the end token


def test_generate_goes_on_with_what_is_piped(folders, here):
    options = ("--max-new-tokens", 90, "--stop", "語", "--stop", "é")
    code, out, error = here("generate", folders["reciter"], *options, input="Once 👩\n")
    assert (code, out) == (0, TEXT[: TEXT.index("é") + 1] + "\n")
    assert re.fullmatch(RATE, error)


def test_options_are_those_of_generate(folders, here):
    model = mt.load(folders["talker"])
    options = {
        "max_new_tokens": 9, "min_new_tokens": 8, "temperature": 1.5, "top_k": 40, "top_p": 0.95, "min_p": 0.001,
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "seed": 4,
    }  # fmt: skip
    given = [str(part) for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]
    code, out, _ = here("generate", folders["talker"], "What", *given, "--sample")
    assert (code, out) == (0, model.generate("What", do_sample=True, **options) + "\n")
    code, out, _ = here("generate", folders["talker"], "What", "--no-sample", "--beams", 3, "--max-new-tokens", 6)
    assert (code, out) == (0, model.generate("What", num_beams=3, max_new_tokens=6) + "\n")


def test_of_two_stacks_the_source_is_not_repeated(folders, here):
    code, out, _ = here("generate", folders["t5"], input="What a film\n")
    assert (code, out) == (0, mt.load(folders["t5"]).generate("What a film") + "\n")
    code, out, error = here("generate", folders["t5"], "x", "--task", "summarization")
    assert (code, out) == (2, "")
    assert error == "minitransformer: task: got 'summarization', expected one that the checkpoint's config.json " \
        "names: none\n"  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("generate", "/nowhere", "x"), "no such folder"),
        (("generate", "builtin:nonsense", "x"), "nonsense"),
        (("generate", "{talker}", "x", "--temperature", 0), "temperature: got 0.0, expected a number above 0"),
        (("generate", "{talker}", "x", "--max-new-tokens", 500), "max_new_tokens: got 500 with a prompt of 1 tokens"),
        (("generate", "{talker}", "x", "--beams", 0), "num_beams: got 0"),
        (("generate", "{talker}", "word " * 100), "cut the prompt"),
        (("generate", "{bert}", "x"), "got an encoder (head: base), which reads texts and cannot"),
        (("score", "{talker}", "/nowhere.txt"), "/nowhere.txt"),
        (("score", "{t5}"), "perplexity: got an encoder and a decoder"),
        (("score", "{talker}", "--stride", 0), "a stride of 0"),
        (("score", "{bert}"), "got an encoder (head: base)"),
        (("chat", "{reciter}"), "this tokenizer has no chat template"),
        (("chat", "{t5}"), "chat: got an encoder and a decoder"),
        (("chat", "{talker}"), "chat: got answers of up to 256 tokens (max_new_tokens), expected fewer than 90"),
        (("chat", "{talker}", "--chat-template", "/nowhere.jinja"), "/nowhere.jinja"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(folders, here, arguments, told):
    code, out, error = here(*(str(word).format(**folders) for word in arguments), input="What a film was it\n")
    assert code == 2
    assert out == ""
    assert error.startswith("minitransformer: ")
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("generate",), ("generate", "x", "y", "z"), ("generate", "x", "--temprature", 1),
     ("generate", "x", "--top-k", "a"), ("score",), ("score", "x", "--window", 1.5),
     ("chat",), ("chat", "x", "--max-new-tokens", 0)],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(here, arguments):
    code, out, error = here(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["generate", "score", "chat"])
def test_what_is_piped_may_be_no_text(folders, here, command):
    """Bytes that are not UTF-8: one line, as for a file."""
    options = ["--max-new-tokens", "9"] if command == "chat" else []
    code, out, error = here(command, folders["talker"], *options, input=b"caf\xe9 noir\n")
    assert (code, out) == (2, "")
    assert "standard input" in error
    assert "UTF-8" in error
    assert error.count("\n") == 1


def test_score(folders, here, tmp_path):
    (tmp_path / "text.txt").write_text("What a film, it was the worst of all films.", encoding="utf-8")
    expected = mt.load(folders["talker"]).perplexity((tmp_path / "text.txt").read_text())
    code, out, error = here("score", folders["talker"], tmp_path / "text.txt")
    assert (code, error) == (0, "")
    first, second = out.splitlines()
    assert float(first.split()[1].rstrip(",")) == pytest.approx(expected.perplexity, rel=1e-3)
    assert f"over {expected.tokens} tokens" in first
    assert second == f"read in windows of {expected.window} tokens, {expected.stride} apart"
    code, out, _ = here("score", folders["talker"], "--json", "--window", 8, "--stride", 2, input="What a film was it")
    found = mt.load(folders["talker"]).perplexity("What a film was it", window=8, stride=2)
    assert json.loads(out) == pytest.approx(vars(found))
    assert out.count("\n") == 1


def test_chat_with_piped_lines(folders, here):
    """A line is a question; what is left out for want of room is told on standard error; an empty line ends it."""
    questions = ["What a film was it?", "  Why 😀?  ", "It was the worst of all", "And?", "", "never asked"]
    options = ("--max-new-tokens", 9, "--system", "You are brief.")
    code, out, error = here("chat", folders["talker"], *options, input="\n".join(questions))
    assert code == 0
    chat = mt.load(folders["talker"]).chat("You are brief.", max_new_tokens=9)
    answers, notes = [], []
    for question in questions[:4]:
        answers.append("".join(chat.say(question.strip())) + "\n")
        notes.append(chat.left_out)
    assert out == "".join(answers)
    assert len(re.findall(RATE, error)) == 4
    told = [int(number) for number in re.findall(r"\(the first (\d+) messages are left out: ", error)]
    assert told == sorted(set(notes) - {0})
    assert told
    assert error.count("\n") == 4 + len(told)


def test_chat_with_a_template_from_a_file(folders, here, tmp_path):
    (tmp_path / "template.jinja").write_text(CHATML)
    options = ("--max-new-tokens", 5, "--chat-template", tmp_path / "template.jinja")
    code, out, _ = here("chat", folders["reciter"], *options, input="Hi\n")
    expected = "".join(mt.load(folders["reciter"]).chat(chat_template=CHATML, max_new_tokens=5).say("Hi"))
    assert (code, out) == (0, expected + "\n")


def test_ctrl_c_ends_a_text(folders):
    """What came stays, and the line ends; exit code 130."""
    with begin("generate", folders["endless"], "What", "--max-new-tokens", 50000) as process:
        first = process.stdout.read(200)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    out = (first + rest).decode("utf-8")
    written = mt.load(folders["endless"]).generate("What", max_new_tokens=50)
    assert out.startswith(written.rstrip("\ufffd"))
    assert out.endswith("\n")
    assert re.match(RATE, errors.decode())
    assert b"Traceback" not in errors


def test_ctrl_c_ends_an_answer_and_not_the_chat(folders):
    with begin("chat", folders["endless"], "--max-new-tokens", 50000) as process:
        process.stdin.write(b"What\nHello\n")
        process.stdin.close()
        answers = process.stdout.read(200)
        process.send_signal(signal.SIGINT)
        errors = b""
        while b"(interrupted)" not in errors and process.poll() is None:
            errors += process.stderr.read1()
        os.set_blocking(process.stdout.fileno(), False)
        answers += process.stdout.read() or b""  # the end of the first answer
        os.set_blocking(process.stdout.fileno(), True)
        answers += process.stdout.read(1)  # the second one has begun
        process.send_signal(signal.SIGINT)
        answers, errors = answers + process.stdout.read(), errors + process.stderr.read()
    assert process.returncode == 0
    assert errors.count(b"(interrupted)\n") == 2
    assert b"Traceback" not in errors
    first = "".join(mt.load(folders["endless"]).chat(max_new_tokens=50).say("What"))
    assert answers.decode("utf-8").startswith(first.rstrip("\ufffd"))
    assert answers.endswith(b"\n")


def test_a_reader_that_goes_away(folders):
    """`minitransformer generate … | head -c 200`: it ends, without a traceback."""
    with begin("generate", folders["endless"], "What", "--max-new-tokens", 50000) as process:
        process.stdout.read(200)
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode != 0
    assert b"Traceback" not in errors
    assert b"Error" not in errors


@pytest.mark.parametrize("seed", [10**30, -(10**30)])
def test_a_seed_too_large_for_torch(folders, here, seed):
    code, out, error = here("generate", folders["talker"], "x", "--sample", "--seed", seed)
    assert (code, out) == (2, "")
    assert "seed: got" in error


def test_a_beam_search_has_as_many_tokens(folders, here):
    _, _, error = here(
        "generate", folders["talker"], "What", "--beams", 3, "--max-new-tokens", 7, "--min-new-tokens", 7
    )
    assert error.startswith("(7 tokens, ")
