"""Chat templates: the text that transformers makes, where they are read and written, and what they cannot do."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import SecurityError
from piece_samples import write_folder
from text_samples import both
from transformers import AutoTokenizer

from minitransformer.errors import TokenizerError
from minitransformer.text import chat, load_tokenizer, render_template

resource = pytest.importorskip("resource") if sys.platform != "win32" else None

ROLES = "{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}"
STYLES = {
    "chatml": """
{%- for message in messages %}
    {%- if loop.first and message.role != "system" %}
        {{- '<|im_start|>system\\nBe of help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "qwen": """{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = messages|length - 1 - loop.index0 %}
    {%- if not ns.found and message.role == "user" %}
        {%- set ns.found = true %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set thought = '' %}
    {%- if '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if thought and loop.index0 > ns.last %}{{- '<think>\\n' ~ thought.strip() ~ '\\n</think>\\n\\n' }}{%- endif %}
    {{- content ~ '<|im_end|>\\n' }}
    {%- if message.tool_calls %}{{- message.tool_calls | tojson(indent=2) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ROLES + "{% endif %}"
        "{% if loop.index0 == 0 and system != false %}"
        "{% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set text = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3": """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%Y") %}{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.role == "tool" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
Today: {{ date_string }}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        """
    + ROLES
    + """
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles") }}
    {%- endif %}
{%- endfor %}
{{- user_messages | map(attribute="content") | join("/") | length }}
""",
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ROLES + "{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
    ),
    "macros": """{% macro show(value, depth=0) -%}
{% if value is mapping %}{% for k, v in value.items()|sort %}{{ '  ' * depth }}{{ k }}: {{ show(v, depth + 1) }}
{% endfor %}{% elif value is string %}{{ value | replace('\n', ' ') | title }}{% else %}{{ value | tojson }}{% endif %}
{%- endmacro %}
{% set all %}
{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }} {{ show(m) }}{% endfor %}
{% endset %}
{{ all | trim }}
{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ [m.role, loop.index] }}{% endfor %}
{{ dict(a=1) }}{{ messages|map(attribute='role')|unique|join(', ') }}
{{ x|default('no x') }} {{ pad_token }}{{ tools }}""",
    "formats": """{{ '%s|%5.1f|%-4d|' % (messages[0].role, 2.25, messages|length) }}{{ '{:>9}{a}'.format('x', a=1) }}
  {% if true %}  indented{% endif %}

{% for m in messages %}{{ '%-12s: %s' | format(m.role, m.content) | center(60) }}
{{ m.items() | list | batch(2) | list }}{{ m | xmlattr }}{{ m.content | wordwrap(10) | e }}
{% endfor %}{{ strftime_now('%Y')|int > 2000 }} {{ namespace(a=2).a ** 3 }} {{ dict([('k', 1)], b=2) | tojson }}
{% set turn = cycler('odd', 'even') %}{% for m in messages %}{{ turn.next() }}{{ m.role.encode('utf-8') }}{% endfor %}
{{ messages|groupby('role')|map('first')|join(',') }} {{ '\\u00e9' }}{{ 'a\\tb' | tojson }}""",
}
TALK = [
    {"role": "user", "content": "  What is <b>attention</b>? ☃ "},
    {"role": "assistant", "content": '<think>\nhm\n</think>\n\nA weighted "mean".\n'},
    {"role": "user", "content": "Of what?\nSay."},
]
TALKS = {
    "one": TALK[:1],
    "three": TALK,
    "system": [{"role": "system", "content": "Be brief."}, *TALK],
    "answered": [*TALK, {"role": "assistant", "content": "Of <think>x</think> values.", "name": None}],
    "wrong order": [TALK[0], TALK[0], TALK[1]],
    "starts with the model": TALK[1:],
    "unknown role": [TALK[0], {"role": "tool", "content": {"x": [1, None, "ü"]}}],
    "calls": [TALK[0], {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}],
}


@pytest.fixture
def folder(make):
    """A folder of a byte-level tokenizer with the tokens that templates ask for."""
    return make("bytes", bos_token="<|first|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def accepted(theirs, talk, prompt):
    """The text that transformers makes, or None where there is an error."""
    try:
        return theirs.apply_chat_template(talk, add_generation_prompt=prompt, tokenize=False)
    except (ValueError, TypeError, AttributeError, TemplateError):
        return None


@pytest.mark.parametrize("style", STYLES)
def test_the_text_of_transformers(folder, style):
    (folder / "chat_template.jinja").write_text(STYLES[style], "utf-8")
    ours, theirs = both(folder)
    for prompt in (False, True):
        texts = {name: accepted(theirs, talk, prompt) for name, talk in TALKS.items()}
        good = [name for name, text in texts.items() if text is not None]
        assert len(good) >= 2
        mine = ours.apply_chat_template([TALKS[name] for name in good], add_generation_prompt=prompt)
        assert mine == [texts[name] for name in good]
    for name in [name for name in TALKS if name not in good][:1]:
        with pytest.raises(TokenizerError):
            ours.apply_chat_template(TALKS[name])
    assert ours.encode(mine[good.index("three")], add_special_tokens=False) == theirs.apply_chat_template(
        TALK, add_generation_prompt=True, return_dict=False
    )


def test_one_conversation_or_several(folder):
    ours = load_tokenizer(folder)
    ours.chat_template = "{{ messages|length }}{{ raise_exception('no') if messages|length == 4 }}"
    assert ours.apply_chat_template(TALK) == "3"
    assert ours.apply_chat_template([TALK]) == ["3"]
    assert ours.apply_chat_template((TALK, TALK[:1], TALK[:2])) == ["3", "1", "2"]
    with pytest.raises(TokenizerError, match="the chat template, conversation 1 refuses these messages: no"):
        ours.apply_chat_template([TALK, TALKS["system"]])


def test_a_template_that_refuses_says_why(folder):
    (folder / "chat_template.jinja").write_text(STYLES["mistral"])
    with pytest.raises(TokenizerError, match="refuses these messages: Roles must alternate"):
        load_tokenizer(folder).apply_chat_template(TALKS["wrong order"])


# --- where they are read and written ----------------------------------------------------------------------------------

SHORT = "{% for m in messages %}{{ m.content }}é{% endfor %}\n"
NAMED = [{"name": "default", "template": SHORT}, {"name": "tool_use", "template": "tools {{ messages|length }}"}]


@pytest.mark.parametrize("where", ["config", "list", "list without default", "file", "both", "folder"])
def test_where_templates_stand(make, tmp_path, where):
    settings = {"config": SHORT, "list": NAMED, "list without default": NAMED[1:], "both": "not this"}.get(where)
    folder = make("bytes", **({"chat_template": settings} if settings else {}))
    if where in ("file", "both", "folder"):
        (folder / "chat_template.jinja").write_bytes(SHORT.encode())
    if where == "folder":
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates/tool_use.jinja").write_text(NAMED[1]["template"])
    ours, theirs = both(folder)
    assert ours.chat_template == theirs.chat_template
    assert (where in ("list", "list without default", "folder")) == isinstance(ours.chat_template, dict)
    if where == "list without default":
        with pytest.raises(TokenizerError, match=r"got None, expected one of \['tool_use'\]"):
            ours.apply_chat_template(TALK)
    else:
        text = ours.apply_chat_template(TALK)
        assert text == theirs.apply_chat_template(TALK, tokenize=False)
        assert "Say.é" in text
    if isinstance(ours.chat_template, dict):
        assert ours.apply_chat_template(TALK, chat_template="tool_use") == "tools 3"
    saved = tmp_path / "saved"
    ours.save(saved)
    (saved / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert load_tokenizer(saved).chat_template == AutoTokenizer.from_pretrained(saved).chat_template
    assert load_tokenizer(saved).chat_template == ours.chat_template
    assert "chat_template" not in json.loads((saved / "tokenizer_config.json").read_text())


def test_transformers_files_are_read_back(folder, tmp_path):
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = {"default": SHORT, "rag": "rag"}
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").chat_template == {"default": SHORT, "rag": "rag"}


def test_a_template_given_by_hand(folder):
    ours = load_tokenizer(folder)
    assert ours.chat_template is None
    assert ours.apply_chat_template(TALK[:1], chat_template="{{ messages[0].role }}") == "user"
    ours.chat_template = "{{ eos_token }}"
    assert ours.apply_chat_template(TALK) == "<|endoftext|>"


def test_none_there(folder, tmp_path):
    marian = load_tokenizer(write_folder(tmp_path, "marian"), tokenizer_class="MarianTokenizer")
    for tokenizer in (load_tokenizer(folder), marian):
        with pytest.raises(TokenizerError, match="this tokenizer has no chat template; take"):
            tokenizer.apply_chat_template(TALK)


@pytest.mark.parametrize("value", [7, [7], [{"name": "default"}], {"default": 1}, "x" * (10**6 + 1), True])
def test_a_setting_that_is_no_template(make, value):
    with pytest.raises(TokenizerError, match="chat_template is"):
        load_tokenizer(make("bytes", chat_template=value))


def test_a_file_too_big_or_no_text(folder):
    (folder / "chat_template.jinja").write_text("x" * (10**6 + 1))
    with pytest.raises(TokenizerError, match="at most 1000000 characters"):
        load_tokenizer(folder)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="UTF-8"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "", "..", "a\0b"])
def test_a_name_leads_nowhere_else(folder, tmp_path, name):
    ours = load_tokenizer(folder)
    ours.chat_template = {"default": "x", name: "evil"}
    with pytest.raises(TokenizerError, match="rename that template"):
        ours.save(tmp_path / "deep/saved")
    assert not list(tmp_path.rglob("*evil*"))


# --- what goes wrong, and what cannot be done -------------------------------------------------------------------------

QUICK = {"seconds": 1, "memory": 2**28, "characters": 10**6}
in_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or needs a limit of memory")


@pytest.mark.parametrize(
    "messages",
    [None, [], "hello", {"role": "user", "content": "x"}, [1], ["x"], [{"role": "user"}], [{"content": "x"}],
     [{"role": 1, "content": "x"}], [TALK], [{"role": "user", "content": object()}],
     [{"role": "user", "content": {1}}], [{"role": "user", "content": "half \ud83d"}]],
)  # fmt: skip
def test_messages_that_are_none(messages):
    with pytest.raises(TokenizerError, match="message") as error:
        chat.render("x", [messages], {})
    assert "\n" not in str(error.value)


FAULTS = {
    "{% if x %}": "line 1: Unexpected end of template",
    "a\n{{ 1 + }}": "line 2:",
    "\n\n{{ x|nothing }}": "line 3: No filter named 'nothing'",
    "{{ nobody.name }}": "'nobody' is undefined",
    "{{ 1 // 0 }}": "ZeroDivisionError",
    "{{ nobody|tojson }}": "TypeError",
    "{% include 'x' %}": "no loader",
    "{{ raise_exception('two\nlines \\ud83d') }}": "refuses these messages: two lines ?",
    "{{ " + "(" * 5000: "Recursion",
}
ENDLESS = "{% set r = range(100000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}"
UNSAFE = [  # each: SecurityError
    "''.__class__.__mro__",
    "''.__class__.__mro__[1].__subclasses__()",
    "cycler.__init__.__globals__",
    "lipsum.__globals__['os'].system('true')",
    "joiner.__init__.__globals__.x",
    "raise_exception.__globals__['sys']",
    "strftime_now.__globals__.json",
    "namespace.__globals__.x",
    "dict.__globals__.x",
    "namespace().__class__.x",
    "namespace(__class__=1)",
    "[].__getattribute__('append')",
    "'{0.__class__.__mro__}'.format(1)",
    "'{x.__class__.__mro__}'.format_map({'x': 1})",
    "('{0.__class__.__mro__}'|attr('format'))(1)",
    "'{0.__class__.__mro__}' | safe | attr('format') | attr('__call__')()",
    "['{0.__class__.__mro__}'.format][0](1)",
    "messages | map(attribute='__class__') | map(attribute='mro') | list | map(attribute='x') | list",
    "(''|attr('__class__')).x",
    "messages.append(1)",
    "messages[0].update(role='x')",
    "messages[0].clear()",
]
HUGE = {
    "{{ 'a' * 10**10 }}": "memory",
    "{{ 10**(10**10) }}": "memory|takes longer",
    "{{ '%9999999999d' % 1 }}": "MemoryError|memory|OverflowError|ValueError",
    "{{ '{:9999999999}'.format(1) }}": "MemoryError|memory|OverflowError|ValueError",
    "{{ ('x' * 10**7).join(['a'] * 10**4) }}": "memory",
    "{% set ns = namespace(x='aa') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}": "memory",
    "{{ 'a' * 10**7 }}": "more than 1000000 characters",
    "{% for a in range(100000) %}{{ 'a' * 1000 }}{% endfor %}": "more than 1000000 characters",
    ENDLESS: "takes longer than",  # 1 s of computing or, where others compute too, 3 s of waiting
    "{{x}}{{ 1 + 1 }}" * 60_000: "takes longer than|memory",
}


@pytest.mark.parametrize("template", FAULTS)
def test_faults_are_told_in_one_line(template):
    with pytest.raises(TokenizerError) as error:
        chat.render(template, [TALK], {})
    assert FAULTS[template] in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("expression", UNSAFE)
def test_no_way_out_of_the_sandbox(expression):
    template = render_template.environment().from_string("{{ " + expression + " }}")  # here, as it is quicker
    with pytest.raises(SecurityError):
        template.render(messages=[{"role": "user"}])


def test_an_error_of_the_sandbox_is_told():
    with pytest.raises(TokenizerError, match="SecurityError: access to attribute '__class__' of 'str'"):
        chat.render("{{ ''.__class__.__mro__ }}", [TALK], {})


@in_linux
@pytest.mark.parametrize("template", HUGE, ids=lambda template: template[:30])
def test_what_is_huge_ends_soon_and_elsewhere(template, monkeypatch):
    monkeypatch.setattr(chat, "LIMITS", QUICK)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(TokenizerError, match=HUGE[template]) as error:
        chat.render(template, [TALK], {})
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024  # KiB
    assert "\n" not in str(error.value)


def test_a_process_that_waits_is_ended(monkeypatch, tmp_path):
    (tmp_path / "wait.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(chat, "PROGRAM", tmp_path / "wait.py")
    monkeypatch.setattr(chat, "LIMITS", QUICK)
    monkeypatch.setattr(chat, "PATIENCE", 0.5)
    with pytest.raises(TokenizerError, match=r"takes longer than 0.5 s"):
        chat.render("x", [TALK], {})


@in_linux
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interrupt asks for no exit status
def test_an_interrupt_ends_the_process_too():
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before, during = children.read_text(), []

    def interrupt(*_):
        during.append(children.read_text())
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(KeyboardInterrupt):
            chat.render(ENDLESS, [TALK], {})
    finally:
        signal.signal(signal.SIGALRM, usual)
    started = set(during[0].split()) - set(before.split())
    assert len(started) == 1
    state = Path(f"/proc/{started.pop()}/stat")
    until = time.monotonic() + 5
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended, and was asked how
        while ") Z " not in state.read_text():  # Z: ended, and not yet asked how
            assert time.monotonic() < until
            time.sleep(0.01)


def test_without_jinja_or_python(monkeypatch, tmp_path):
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError(\"No module named 'jinja2'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TokenizerError, match=r"rendered \(ModuleNotFoundError: No module named 'jinja2'\)"):
        chat.render("x", [TALK], {})
    for program, message in (("", "its own program"), (str(tmp_path / "nothing"), "No such file")):
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(TokenizerError, match=message):
            chat.render("x", [TALK], {})


def test_surroundings_do_not_matter(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("1 / 0")
    assert chat.render("{{ messages[0].content }}{{ x }} ☃", [TALK], {"x": "é"}) == [TALK[0]["content"] + "é ☃"]
    (tmp_path / "warned.py").write_text("import sys; print('{\"texts\": [', len(sys.warnoptions), ']}')")
    monkeypatch.setattr(chat, "PROGRAM", tmp_path / "warned.py")
    assert chat.render("x", [TALK], {}) == [0]


def test_a_template_too_long():
    with pytest.raises(TokenizerError, match="at most 1000000"):
        chat.render("x" * (10**6 + 1), [TALK], {})


def test_a_long_template_and_a_long_conversation():
    talk = [{"role": ("user", "assistant")[number % 2], "content": "word " * 300} for number in range(1000)]
    template = STYLES["mistral"] + "{# " + "x" * 900_000 + " #}"
    assert len(chat.render(template, [talk], {"bos_token": "<s>", "eos_token": "</s>"})[0]) > 10**6


def test_jinja_is_imported_only_when_it_is_needed():
    code = "import sys, minitransformer.text; print({'jinja2', 'minitransformer.text.chat'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
