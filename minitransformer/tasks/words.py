"""Sentences as words: found in a text, cut into tokens, and read in windows where a sentence is too long."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import tokenizers
from tokenizers import Encoding, Regex, pre_tokenizers

from minitransformer.errors import TokenizerError
from minitransformer.tasks.task import Example
from minitransformer.text import Tokenizer
from minitransformer.text.files import library_errors
from minitransformer.text.marian import MarianBackend
from minitransformer.text.rows import check_rows, kept

# A Chinese character; or letters and digits, also with an apostrophe, a hyphen or a decimal point inside (don't, 3.5);
# or any other sign, alone. Python's own \w would part Hindi's vowel signs from their letters.
LETTER = r"[\p{L}\p{M}\p{N}_&&[^\p{Han}]]"
WORD = pre_tokenizers.Split(
    Regex(rf"\p{{Han}}|{LETTER}+(?:['’\-]{LETTER}+|[.,]\p{{N}}+)*|\S"), behavior="removed", invert=True
)
NO_WORD = -1


def find_words(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The words of a text, and where each stands: from which character, up to which."""
    found = WORD.pre_tokenize_str(*check_rows(text, "text"))
    return [word for word, _ in found], [place for _, place in found]


@dataclass(frozen=True)
class Window:
    """The words that are read at once, and those among them whose labels are read there."""

    read: range
    judged: range


def windows(lengths: Sequence[int], room: int, overlap: int) -> list[Window]:
    """Windows over one or more words of so many tokens each, of at most `room` tokens; a longer word stands alone.

    Neighbours share whole words of at most `overlap` tokens, and of these each judges the half that is farther from
    its edge. So each word is judged once.
    """
    reads: list[range] = []
    end = 0
    while end < len(lengths):
        start, size = end, 0
        while start > 0 and size + lengths[start - 1] <= min(overlap, room - lengths[end]):
            start -= 1
            size += lengths[start]
        while end < len(lengths) and (size == 0 or size + lengths[end] <= room):
            size += lengths[end]
            end += 1
        reads.append(range(start, end))
    edges = [0, *((one.stop + following.start) // 2 for one, following in pairwise(reads)), len(lengths)]
    return [Window(read, range(*judged)) for read, judged in zip(reads, pairwise(edges), strict=True)]


def sentence_examples(
    tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], max_length: int | None, stride: int
) -> Iterator[Example]:
    """An example, without a target, for each window of each sentence in which a word is judged.

    inputs["words"] says of each token which word of the sentence is judged there: that whose first token it is.
    """
    room = sys.maxsize if max_length is None else max_length - backend_of(tokenizer).num_special_tokens_to_add(False)
    for place, (words, whole) in enumerate(zip(sentences, encode_words(tokenizer, sentences), strict=True)):
        counts = Counter(whole.word_ids)
        for window in windows([counts[word] for word in range(len(words))], room, min(stride, room // 2)):
            part = words[window.read.start : window.read.stop]
            encoding = whole if len(part) == len(words) else encode_words(tokenizer, [part])[0]
            example = window_example(place, encoding, window, max_length)
            if any(word != NO_WORD for word in example.inputs["words"]):
                yield example


def window_example(place: int, encoding: Encoding, window: Window, max_length: int | None) -> Example:
    """The example of one window, whose encoding is of its words alone. Only a single word's end is ever cut off."""
    words = [
        NO_WORD if number is None else window.read[number] for number in encoding.word_ids
    ]  # None: a special token
    first = [word != before for before, word in pairwise([NO_WORD, *words])]
    judged = [word if begins and word in window.judged else NO_WORD for word, begins in zip(words, first, strict=True)]
    size = len(encoding.ids)
    stay = range(size) if max_length is None or size <= max_length else kept(encoding, max_length, "right")
    columns = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids, "words": judged}
    return Example(place, {name: [column[i] for i in stay] for name, column in columns.items()}, lost=size - len(stay))


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[Encoding]:
    """The tokens of each word by itself, with special tokens around each sentence.

    Byte-level tokenizers tell a word behind a space from one that is not: there each gets its space, the first too.
    """
    backend = backend_of(tokenizer)
    alone = backend.encode(["a", "a"], is_pretokenized=True, add_special_tokens=False)
    if backend.encode("a a", add_special_tokens=False).ids != alone.ids:
        sentences = [[word if word[:1].isspace() else f" {word}" for word in words] for words in sentences]
    with library_errors("these words cannot be encoded"):
        return backend.encode_batch(sentences, is_pretokenized=True)


def backend_of(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """What tells the tokens of each word; a TokenizerError where nothing does."""
    if isinstance(tokenizer.backend, MarianBackend):
        raise TokenizerError("Marian's tokenizer does not tell which word a token is of; tag with another model")
    return tokenizer.backend
