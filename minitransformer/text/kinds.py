"""Which tokenizer a folder holds: for each tokenizer class, by its name, the files it reads and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from minitransformer.errors import NotFoundError, TokenizerError
from minitransformer.text import legacy, marian, pieces
from minitransformer.text.settings import Settings, wrong

MARIAN = "MarianTokenizer"
GENERAL = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")  # classes whose names say nothing
TYPED = ("input_ids", "token_type_ids", "attention_mask")
UNTYPED = ("input_ids", "attention_mask")

Build = Callable[[Path, Settings, Mapping[str, AddedToken]], tokenizers.Tokenizer]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a tokenizer class reads and gives, where no file says otherwise.

    files: its vocabulary; build: what reads them, None if that is not one tokenizers.Tokenizer. usual: role -> token.
    """

    files: tuple[str, ...]
    build: Build | None
    usual: Mapping[str, AddedToken]
    model_input_names: tuple[str, ...] = UNTYPED
    padding_side: str = "right"
    model_max_length: int | None = None


def usual(**texts: str) -> dict[str, AddedToken]:
    """Role -> token, from the texts of tokens without any peculiarity."""
    return {f"{role}_token": AddedToken(text, special=True, normalized=False) for role, text in texts.items()}


BRACKETS = usual(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
END_OF_TEXT = usual(bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>")
ANGLES = usual(bos="<s>", eos="</s>", unk="<unk>", sep="</s>", pad="<pad>", cls="<s>", mask="<mask>")
# A text says "hides <mask> tokens", the model knows "hides<mask> tokens": the mask takes the space before it along.
GREEDY_MASK = ANGLES | {"mask_token": AddedToken("<mask>", lstrip=True, special=True, normalized=False)}
VOCAB_TXT, BPE_FILES = ("vocab.txt",), ("vocab.json", "merges.txt")

BERT = Kind(files=VOCAB_TXT, build=legacy.wordpiece, usual=BRACKETS, model_input_names=TYPED)
ROBERTA = Kind(files=BPE_FILES, build=legacy.roberta, usual=GREEDY_MASK)
KINDS: dict[str, Kind] = {
    "BertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "DistilBertTokenizer": Kind(files=VOCAB_TXT, build=legacy.wordpiece, usual=BRACKETS),
    "GPT2Tokenizer": Kind(files=BPE_FILES, build=legacy.gpt2, usual=END_OF_TEXT),
    "RobertaTokenizer": ROBERTA,
    "BartTokenizer": ROBERTA,
    "Qwen2Tokenizer": Kind(
        files=BPE_FILES,
        build=legacy.qwen2,
        usual=usual(eos="<|endoftext|>", unk="<|endoftext|>", pad="<|endoftext|>"),
    ),
    "OpenAIGPTTokenizer": Kind(files=BPE_FILES, build=legacy.gpt1, usual=usual(unk="<unk>")),
    "XLMRobertaTokenizer": Kind(files=("sentencepiece.bpe.model",), build=pieces.xlm_roberta, usual=ANGLES),
    "T5Tokenizer": Kind(files=("spiece.model",), build=pieces.t5, usual=usual(eos="</s>", unk="<unk>", pad="<pad>")),
    "AlbertTokenizer": Kind(
        files=("spiece.model",),
        build=pieces.albert,
        usual=usual(bos="[CLS]", eos="[SEP]", unk="<unk>", sep="[SEP]", pad="<pad>", cls="[CLS]", mask="[MASK]"),
        model_input_names=TYPED,
    ),
    "LlamaTokenizer": Kind(
        files=("tokenizer.model",),
        build=pieces.llama,
        usual=usual(bos="<s>", eos="</s>", unk="<unk>"),
        padding_side="left",
    ),
    MARIAN: Kind(
        files=marian.FILES, build=None, usual=usual(eos="</s>", unk="<unk>", pad="<pad>"), model_max_length=512
    ),
}
# Whose files they are where no class is named. spiece.model is not among them: T5 and ALBERT read it differently.
IN_DOUBT = ("BertTokenizer", "GPT2Tokenizer", "XLMRobertaTokenizer", "LlamaTokenizer", MARIAN)


def class_name(settings: Settings, otherwise: str | None) -> str | None:
    """The tokenizer class that the files name, without "Fast"; `otherwise` where they name none."""
    for name in (settings.config.get("tokenizer_class"), settings.model_config.get("tokenizer_class"), otherwise):
        if name is not None and not isinstance(name, str):
            raise wrong(settings.folder, "tokenizer_class", name, "the name of a class")
        if name and name.removesuffix("Fast") not in GENERAL:
            return name.removesuffix("Fast")
    return None


def class_to_read(folder: Path, name: str | None) -> str:
    """The class that reads the folder's vocabulary files: the one named, else the one whose files are there.

    Raises TokenizerError for a class that is not known, NotFoundError where its files are missing.
    """
    if name is None:
        name = next((other for other in IN_DOUBT if has_files(folder, other)), None)
        if name is None and (folder / "spiece.model").exists():
            raise TokenizerError(
                f"{folder}: spiece.model does not tell whose it is; write into tokenizer_config.json "
                '{"tokenizer_class": "T5Tokenizer"} or {"tokenizer_class": "AlbertTokenizer"}'
            )
    if name is not None and name not in KINDS:
        raise TokenizerError(
            f"{folder}: tokenizer_class is {name}, without a tokenizer.json expected one of {', '.join(KINDS)}; "
            "save the tokenizer as tokenizer.json"
        )
    if name is None or not has_files(folder, name):
        vocabularies = [KINDS[name].files] if name else list(dict.fromkeys(kind.files for kind in KINDS.values()))
        wanted = ", ".join(" with ".join(files) for files in [("tokenizer.json",), *vocabularies])
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise NotFoundError(f"{folder}: no tokenizer; looked for {wanted}; there is {there}")
    return name


def has_files(folder: Path, name: str) -> bool:
    """Whether the vocabulary files of this class are there."""
    return all((folder / file).exists() for file in KINDS[name].files)
