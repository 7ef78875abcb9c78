"""Conversations, in the three layouts that people have, as messages: [{"role": "user", "content": "..."}, ...]."""

from collections.abc import Mapping
from typing import Any

from minitransformer.errors import DataError
from minitransformer.storage.files import quote
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


def check_messages(row: Row) -> None:
    """Bring a row's messages to {"role", "content"}; a DataError names what is none."""
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{row.where}: 'messages' is {quote(messages)}, expected a list of messages")
    row["messages"] = [_message(message, row.where) for message in messages]


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"{where}: a message is {quote(message)}, expected its role and content")
    role, content = message.get("role"), message.get("content")
    if role is None and "from" in message:
        role, content = ROLES.get(str(message["from"])), message.get("value")
    if not isinstance(role, str) or not isinstance(content, str):
        known = "'role' and 'content', or 'from' (human, gpt, system) and 'value'"
        raise DataError(f"{where}: a message is {quote(message)}, expected {known}")
    return {"role": role, "content": content}
