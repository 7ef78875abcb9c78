"""A conversation as one text, by the chat template of a checkpoint.

A template is a Jinja program from a stranger. Jinja's sandbox keeps it from executing Python; but it can loop without
end, or fill the memory. So it is rendered in a process of its own (render_template.py), with LIMITS that the operating
system enforces: where it has no such limits (memory: macOS, Windows), only the time is bounded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minitransformer.errors import TokenizerError
from minitransformer.text.settings import MAX_TEMPLATE

PROGRAM = Path(__file__).with_name("render_template.py")
LIMITS = {"seconds": 10, "memory": 2**30, "characters": 10**7}  # of one process; its text is some ten long books
PATIENCE = 3  # times the seconds of computing: how long to wait for a process on a busy machine


def choose(templates: str | Mapping[str, str] | None, wanted: str | None) -> str:
    """The template to use: the one of the name `wanted`, or `wanted` itself; by default a tokenizer's own."""
    if isinstance(templates, Mapping):
        name = "default" if wanted is None else wanted
        if name in templates:
            return templates[name]
        if wanted is None or "{" not in wanted:
            raise TokenizerError(f"chat_template: got {wanted!r:.100}, expected one of {sorted(templates)}")
        return wanted
    if wanted is None and templates is None:
        raise TokenizerError(
            "this tokenizer has no chat template; take a checkpoint that was tuned on conversations, "
            "or give a template as chat_template"
        )
    return str(templates if wanted is None else wanted)


def render(template: str, conversations: Sequence[Any], variables: Mapping[str, Any]) -> list[str]:
    """The texts that a template makes of conversations, each a list of messages, and of further variables.

    A message is {"role": ..., "content": ...}. A call starts a process, which takes 0.1 to 0.2 s: give many
    conversations at once.
    """
    if len(template) > MAX_TEMPLATE:
        raise TokenizerError(f"chat_template: got {len(template)} characters, expected at most {MAX_TEMPLATE}")
    plain = [checked(messages) for messages in conversations]
    question = {"template": template, "conversations": plain, "variables": dict(variables), "limits": LIMITS}
    done = run(json.dumps(question))
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise TokenizerError(how_it_ended(done)) from None
    if "error" in answer:
        raise TokenizerError(answer["error"])
    return answer["texts"]


def checked(messages: Any) -> list[dict[str, Any]]:
    """The messages as plain data, each a dict with role and content; what is None is left out."""
    if not isinstance(messages, list | tuple) or not messages:
        raise TokenizerError(f'messages: got {messages!r:.60}, expected a list of {{"role": ..., "content": ...}}')
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise TokenizerError(f'message {number}: got {message!r:.60}, expected {{"role": ..., "content": ...}}')
    try:
        plain = json.loads(json.dumps(messages, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: also for half a character (a surrogate)
        raise TokenizerError(f"messages: {error!s:.200}; expected texts, numbers, lists and dicts") from None
    return [{name: value for name, value in message.items() if value is not None} for message in plain]


def run(question: str) -> subprocess.CompletedProcess[str]:
    """The finished process that was asked; it ends with this call, whatever happens."""
    if not sys.executable:
        raise TokenizerError("the chat template cannot be rendered: Python does not know its own program")
    command = [sys.executable, "-P", str(PROGRAM)]  # -P: the modules beside the program are not its own
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    limit = PATIENCE * LIMITS["seconds"]
    try:
        return subprocess.run(
            command, input=question, capture_output=True, encoding="utf-8", errors="replace", env=surroundings,
            timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TokenizerError(f"the chat template takes longer than {limit} s; look for a loop without end") from None
    except OSError as error:
        raise TokenizerError(f"the chat template cannot be rendered: {sys.executable} ({error.strerror})") from None


def how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process left no answer."""
    if sys.platform != "win32" and done.returncode == -signal.SIGXCPU:
        return f"the chat template takes longer than {LIMITS['seconds']} s; look for a loop without end"
    reason = " ".join(done.stderr.strip().split("\n")[-1].split())[:300]
    return f"the chat template cannot be rendered ({reason or f'its process ended with {done.returncode}'})"
