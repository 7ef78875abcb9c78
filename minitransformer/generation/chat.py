"""A conversation, turn by turn, as long as the model can read it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.prompt import DEFAULT_NEW_TOKENS, check_model
from minitransformer.generation.settings import GenerationConfig
from minitransformer.generation.texts import pieces
from minitransformer.model import Transformer
from minitransformer.text import Tokenizer

Message = dict[str, str]


class Chat:
    """What was said so far, and `say`, which adds to it.

    chat = model.chat("You are brief.", max_new_tokens=100)
    for piece in chat.say("Hello!"):
        print(piece, end="")

    `messages`: all of them, {"role": "system" | "user" | "assistant", "content": ...}. `left_out`: how many of the
    oldest the last prompt had no room for.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        *,
        system: str | None = None,
        chat_template: str | None = None,
        seed: int | None = None,
    ) -> None:
        check_model(model)
        if model.encoder is not None:
            raise InputError("chat: got an encoder and a decoder, expected a decoder alone that was tuned to converse")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.chat_template, self.seed = chat_template, seed
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.left_out = 0
        self.prompt([*self.messages, {"role": "user", "content": ""}])  # a tokenizer without a template says so now
        limit = model.embed.config.max_length  # type: ignore[union-attr]
        new = config.max_new_tokens or (1 if config.max_length else DEFAULT_NEW_TOKENS)
        ends = [
            length for length in (limit, None if config.max_new_tokens else config.max_length) if length is not None
        ]
        self.room = min(ends) - new if ends else None  # in tokens, for a prompt
        if self.room is not None and self.room < 1:
            raise InputError(f"chat: got answers of up to {new} tokens (max_new_tokens), expected fewer than {limit}")

    def say(self, text: str) -> Iterator[str]:
        """The model's answer, piece by piece. One that is interrupted is kept as far as it came."""
        question: Message = {"role": "user", "content": text}
        answer: Message = {"role": "assistant", "content": ""}
        ids, left_out = self.fitting_prompt([*self.messages, question])
        found = pieces(self.model, self.tokenizer, {"input_ids": ids}, config=self.config, seed=self.seed)
        self.messages += [question, answer]  # nothing was wrong: from here on, it was said
        self.left_out = left_out
        return self._kept(found, answer)

    def _kept(self, found: Iterator[str], answer: Message) -> Iterator[str]:
        for piece in found:
            answer["content"] += piece
            yield piece

    def prompt(self, messages: list[Message]) -> Tensor:
        """The token ids of messages, up to where the answer begins: int [1 T]."""
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, chat_template=self.chat_template
        )
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return torch.tensor([ids], dtype=torch.int64, device=next(self.model.parameters()).device)

    def fitting_prompt(self, messages: list[Message]) -> tuple[Tensor, int]:
        """The prompt without the oldest turns that the model has no room for, and how many messages those are.

        The system's message stays.
        """
        system = [message for message in messages if message["role"] == "system"]
        turns = [message for message in messages if message["role"] != "system"]
        first = self.left_out if self.left_out < len(turns) else 0  # 0: the user took messages away
        for start in range(first, len(turns), 2):  # a question goes with its answer
            ids = self.prompt(system + turns[start:])
            if self.room is None or ids.shape[1] <= self.room:
                return ids, start
        raise InputError(f"chat: the message has {ids.shape[1]} tokens, expected at most {self.room}; shorten it")
