"""Sixteen rows for each task, of every length, and folders of small models without dropout that can learn them."""

import numpy as np
from small_readers import reader, say
from small_writers import LINES, marian

from minitransformer.tasks import Row

NUMBERS = range(16)
WORDS = [[word for word in line.split() if word.isalpha()][:10] for line in LINES[:80]]
WORDS = [words for words in WORDS if len(words) > 7][:16]  # of a review each
LENGTHS = [1 + (5 * i + 2) % 8 for i in NUMBERS]  # all from 1 to 8, twice
TEXTS = [
    " ".join(["etaoinshrdlcumwf"[i], *words[:size]]) for i, (words, size) in enumerate(zip(WORDS, LENGTHS, strict=True))
]
TAGS = ("O", "B-film", "I-film", "B-who", "O")
CHAT = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
READERS = {"lm": "gpt2", "dialogue": "gpt2", "translate": "t5", "image": "vit"}  # the family, where it is not BERT


def rows_of(task, folder):
    """The rows of a task; of images, files in `folder`."""
    if task == "image":
        paths = [picture(folder / f"{i}.png", i) for i in NUMBERS]
        return [Row(path=path, label="abc"[i % 3]) for i, path in enumerate(paths)]
    return [Row(columns, where=f"row {i}") for i, columns in enumerate(map(COLUMNS[task], NUMBERS))]


def picture(path, number):
    """The path of an image that is noise, brighter on one side or on neither."""
    from PIL import Image

    pixels = np.random.RandomState(number).randint(0, 120, (15, 15, 3)).astype(np.uint8)
    pixels[:, {0: slice(0, 7), 1: slice(0, 0), 2: slice(8, 15)}[number % 3]] += 130
    Image.fromarray(pixels).save(path)
    return str(path)


def tagged(i):
    words = WORDS[i][: LENGTHS[i] + 1]
    return {"words": words, "tags": [TAGS[(i + place) % 5] for place in range(len(words))]}


def related(i):
    first, second, *others = WORDS[i]
    label = "abc"[i % 3]
    return {"text": f"<e1>{first}</e1> <e2>{second}</e2> {' '.join(others[: LENGTHS[i]])} {i}", "label": label}


def asked(i):
    words = [f"{i}", *WORDS[i]]
    place = 1 + i % 5
    answers = [{"text": words[place], "answer_start": len(" ".join([*words[:place], ""]))}] if i % 4 else []
    return {"question": "who?" * (1 + i % 3), "context": " ".join(words), "answers": answers}


def said(i):
    turns = [("user", TEXTS[i]), ("assistant", WORDS[i][0]), ("user", "why?"), ("assistant", " ".join(WORDS[i][1:3]))]
    return {"messages": [{"role": role, "content": text} for role, text in turns[: 2 + 2 * (i % 2)]]}


COLUMNS = {
    "classify": lambda i: {"text": TEXTS[i], "label": "abc"[i % 3]},
    "pair": lambda i: {"text": TEXTS[i], "pair": TEXTS[i - 3], "label": "abc"[i % 3]},
    "regress": lambda i: {"text": TEXTS[i], "label": i / 8 - 1},
    "multilabel": lambda i: {"text": TEXTS[i], "labels": [name for bit, name in enumerate("abc") if i >> bit & 1]},
    "tag": tagged,
    "relation": related,
    "span": asked,
    "choice": lambda i: {"prompt": TEXTS[i], "choices": [TEXTS[i - 3], TEXTS[i - 1], "no"], "label": i % 3},
    "lm": lambda i: {"text": TEXTS[i]},
    "mlm": lambda i: {"text": TEXTS[i]},
    "translate": lambda i: {"source": TEXTS[i], "target": " ".join(WORDS[i - 1][: 1 + i % 2])},
    "dialogue": said,
}


class InDouble:
    """A task whose batches have float64 where they had float32."""

    def __init__(self, task):
        self.count, self.loss, self._collate = task.count, task.loss, task.collate

    def collate(self, examples):
        return {name: x.double() if x.is_floating_point() else x for name, x in self._collate(examples).items()}


def write_model(folder, family):
    """A folder with a small model of this family, without dropout, and its tokenizer."""
    if family == "marian":
        folder.mkdir()
        return marian(folder, dropout=0.0)
    reader(folder, family)
    if family == "gpt2":
        say(folder, chat_template=CHAT)
    return folder
