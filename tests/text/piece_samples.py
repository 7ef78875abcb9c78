"""Folders of every tokenizer class in its older files, trained here on real sentences."""

import io
import json
from pathlib import Path

import sentencepiece
import tokenizers
from text_samples import ODD
from tokenizers import models, normalizers, pre_tokenizers, trainers

import minitransformer

ASSETS = Path(minitransformer.__file__).parent / "assets"
REVIEWS = [line.split("\t")[-1] for line in (ASSETS / "movie_reviews.tsv").read_text("utf-8").split("\n")[1:] if line]
PHRASES = [*REVIEWS[2000:2200], *ODD]
PHRASES += [
    "<s> </s> <unk><pad> <mask>, <mask>. [MASK] [MASK]</s>x<extra_id_0> <extra_id_17>y <extra_id_100> <0x41>",
    "▁ low ▁line ▁▁ two▁",
    "``quoted'' and '' odd ` ones",
    ">>de<< Ein Satz. >>fr<< un autre",
    ">>xx<<",
    ">>\n<<",
    ">>open",
    "</s>>>de<< after",
    "ﬀ ﬃ ① ½ ™ ㌔ ｶﾞ",
    "tabs\t\tand\n\n\nlines\r\n \x0b\x0c",
    "12345 67,890 1.5e-3",
    "ZERO\u200b \u00a0 \u2003wide",
    "中文 字符中文",
    "e\u0301\u0302 a\u0308",
]


def train(path, lines, vocab_size=350, **options):
    """A SentencePiece model of some lines, written to a file."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        seed_sentencepiece_size=2000,
        **options,
    )
    path.write_bytes(model.getvalue())


def train_bpe(folder, lines, special, kind, vocab_size=700):
    """vocab.json and merges.txt of BPE over bytes, or over characters as GPT has it."""
    words = kind == "gpt1"
    suffix = {"end_of_word_suffix": "</w>"} if words else {}
    tokenizer = tokenizers.Tokenizer(models.BPE(**suffix))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.BertPreTokenizer() if words else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    if words:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=[] if words else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        **suffix,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.model.save(str(folder))


def marian(folder, source, target, *, separate=False):
    """source.spm, target.spm and the vocabularies, from which one piece of each is left out."""
    train(folder / "source.spm", source)
    train(folder / "target.spm", target)
    pieces = []
    for name in ("source.spm", "target.spm"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        pieces.append([model.id_to_piece(number) for number in range(3, model.get_piece_size()) if number != 40])
    if separate:
        for name, some in zip(("vocab.json", "target_vocab.json"), pieces, strict=True):
            numbered(folder / name, ["</s>", "<unk>", *some, "<pad>"])
    else:
        joint = dict.fromkeys(["</s>", "<unk>", *pieces[0], *pieces[1], ">>de<<", ">>fr<<", "<pad>"])
        numbered(folder / "vocab.json", joint)


def numbered(path, pieces):
    path.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}), "utf-8")


ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True}
MASK |= {"rstrip": False, "normalized": False, "single_word": False}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
ALBERT |= {"user_defined_symbols": ["(", ")", "£"]}
LLAMA = {"model_type": "bpe", "byte_fallback": True, "split_digits": True, "vocab_size": 700}
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}

# model_type -> the class that a family says its tokenizer is of
CLASSES = {
    "t5": "T5Tokenizer",
    "albert": "AlbertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "llama": "LlamaTokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "marian": "MarianTokenizer",
}
# name -> model_type, tokenizer_config.json, what writes the vocabulary: (folder, lines, other lines)
FOLDERS = {
    "t5": ("t5", {}, lambda f, a, b: train(f / "spiece.model", a, **T5)),
    "t5-few-extra": (
        "t5",
        {"extra_ids": 7, "tokenizer_class": "T5TokenizerFast"},
        lambda f, a, b: train(f / "spiece.model", a, **T5, **IDENTITY),
    ),
    "albert": ("albert", {}, lambda f, a, b: train(f / "spiece.model", [s.lower() for s in a], **ALBERT)),
    "albert-cased": (
        "albert",
        {"do_lower_case": False, "keep_accents": True, "mask_token": "[MASK]"},
        lambda f, a, b: train(f / "spiece.model", a, **ALBERT, normalization_rule_name="nfkc"),
    ),
    "xlm-r": (
        "xlm-roberta",
        {"mask_token": MASK},
        lambda f, a, b: train(f / "sentencepiece.bpe.model", a),
    ),
    "llama": (
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
        lambda f, a, b: train(f / "tokenizer.model", a, **LLAMA, **IDENTITY),
    ),
    "llama-legacy": (
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_eos_token": True, "pad_token": "<unk>"},
        lambda f, a, b: train(f / "tokenizer.model", a, **LLAMA, user_defined_symbols=["[INST]"]),
    ),
    "llama-no-prefix": (
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
        lambda f, a, b: train(f / "tokenizer.model", a, **LLAMA, **IDENTITY),
    ),
    "roberta": ("roberta", {"mask_token": MASK}, lambda f, a, b: train_bpe(f, a, ANGLES, "bytes")),
    "bart": (
        "bart",
        {"tokenizer_class": "BartTokenizer", "mask_token": MASK, "add_prefix_space": True},
        lambda f, a, b: train_bpe(f, a, ANGLES, "bytes"),
    ),
    "qwen2": ("qwen2", {}, lambda f, a, b: train_bpe(f, a, ["<|endoftext|>"], "bytes")),
    "gpt1": (
        "openai-gpt",
        {"tokenizer_class": "OpenAIGPTTokenizer"},
        lambda f, a, b: train_bpe(f, a, ["<unk>"], "gpt1"),
    ),
    "marian": ("marian", {}, marian),
    "marian-separate": ("marian", {"separate_vocabs": True}, lambda f, a, b: marian(f, a, b, separate=True)),
}


def write_folder(root, name, lines=None, other=None):
    """A folder of that name with config.json, tokenizer_config.json and the vocabulary files."""
    model_type, config, vocabulary = FOLDERS[name]
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary(folder, lines or REVIEWS[:200], other or REVIEWS[600:800])
    return folder
