"""Conversations, in the three layouts that people have, as messages: [{"role": "user", "content": "..."}, ...]."""

from collections.abc import Mapping
from typing import Any

from minitransformer.errors import DataError
from minitransformer.tasks import Row

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
}  # ShareGPT's


def with_messages(record: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """A record that has messages under `name`, also where the file is laid out as ShareGPT or Alpaca."""
    if name in record:
        return record
    if "conversations" in record:
        return {name: record["conversations"]}
    if "instruction" not in record:
        return record
    request, given, answer = (record.get(column) or "" for column in ("instruction", "input", "output"))
    if not all(isinstance(text, str) for text in (request, given, answer)):
        raise DataError(f"{where}: expected texts as instruction, input and output")
    turns = [("user", f"{request}\n\n{given}" if given else request), ("assistant", answer)]
    return {name: [{"role": role, "content": content} for role, content in turns if content]}


def shape_messages(row: Row) -> None:
    """Bring ShareGPT's messages, {"from", "value"}, to {"role", "content"}."""
    if isinstance(row["messages"], list):
        row["messages"] = [_message(message) for message in row["messages"]]


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    role, content = message.get("role"), message.get("content")
    if role is None and str(message.get("from")) in ROLES:
        role, content = ROLES[str(message["from"])], message.get("value")
    return message if role is None else {"role": role, "content": content}
