"""The program that chat.py runs to render a chat template: a question on standard input, an answer on standard output.

A process of its own: whatever a template does to time and memory, the system ends this process, and no other.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if sys.platform != "win32":
    import resource


class RefusedError(Exception):
    """What a template raises where the messages do not suit it, or makes too much text."""


class Generation(Extension):
    """``{% generation %}`` marks what the model wrote; for the text it makes no difference."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """What stands in the block, with variables of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(list(parser.parse_statements(("name:endgeneration",), drop_needle=True)), lineno=line)


class PublicNamespace(Namespace):
    """A template's own variables; names with _ are Python's, and Jinja's own checks of an object rely on them."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace cannot have {name!r:.60}")
        super().__setitem__(name, value)


def namespace(*args: Any, **kwargs: Any) -> PublicNamespace:
    """The function of that name that templates have."""
    made = PublicNamespace()
    for name, value in dict(*args, **kwargs).items():
        made[name] = value
    return made


def raise_exception(message: str) -> None:
    """The function of that name that templates have."""
    raise RefusedError(f"refuses these messages: {one_line(message)}")


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """A value as JSON, as templates expect it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja's sandbox, with what chat templates rely on."""
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = tojson
    sandbox.globals.update(
        dict=lambda *args, **kwargs: dict(*args, **kwargs),  # not the class: it has more than templates need
        namespace=namespace,
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
    )
    return sandbox


def set_limits(seconds: int, memory: int) -> None:
    """From here on, seconds of computing and bytes of memory that this process may take, where the system can."""
    if sys.platform != "win32":
        for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
            with suppress(ValueError, OSError):  # a stricter one holds already, or (macOS) there is none of this kind
                resource.setrlimit(kind, (limit, limit + 1))  # one second after SIGXCPU comes SIGKILL


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """{"texts": one for each conversation}, or {"error": a line}."""
    limits, texts = question["limits"], []
    set_limits(limits["seconds"], limits["memory"])
    try:
        template = environment().from_string(question["template"])
        room = limits["characters"]
        for messages in question["conversations"]:
            pieces = []
            for piece in template.generate(messages=messages, tools=None, documents=None, **question["variables"]):
                room -= len(piece)
                if room < 0:
                    raise RefusedError(f"makes more than {limits['characters']} characters; look what it repeats")
                pieces.append(piece)
            texts.append("".join(pieces))
    except Exception as error:  # a template can bring about any error that Python has
        which = f", conversation {len(texts)}" if len(question["conversations"]) > 1 else ""
        return {"error": f"the chat template{which}{told(error, limits)}"}
    return {"texts": texts}


def told(error: Exception, limits: dict[str, int]) -> str:
    """What went wrong, on one line."""
    if isinstance(error, RefusedError):
        return f" {error}"
    if isinstance(error, TemplateSyntaxError):
        return f", line {error.lineno}: {one_line(error.message)}; correct it"
    if isinstance(error, MemoryError):
        return f" takes more than {limits['memory']} bytes of memory; look what it repeats"
    return f" cannot be rendered ({type(error).__name__}: {one_line(error)})"


def one_line(text: object) -> str:
    """A message on one line, at most 300 characters, each of which can be printed."""
    return " ".join(str(text)[:1000].split())[:300].encode(errors="replace").decode()


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))  # ASCII both ways: whatever the encoding of the streams
