"""Folders of small models and the tokenizers (or image processors) of their families, in the files of the hub."""

import functools
import json

import torch
import transformers
from small_families import SIZES
from small_writers import LINES, byte_level, noisy, trained_pieces
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from minitransformer.families import FAMILIES
from minitransformer.text import load_tokenizer

BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ",".join(BRACKETS[2:])}
LLAMA = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 600}
GPT2_IDS = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
LLAMA_IDS = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
IDS = {  # as their tokenizers have them
    "openai-gpt": {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
    "gpt2": GPT2_IDS,
    "qwen2": GPT2_IDS,
    "qwen3": GPT2_IDS,
    "llama": LLAMA_IDS,
    "mistral": LLAMA_IDS,
}
LENGTHS = {"max_position_embeddings": 66, "n_positions": 64}


@functools.cache
def trained_words():
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=BRACKETS, show_progress=False)
    backend.train_from_iterator(LINES, trainer)
    return backend.to_str()


def wordpiece(folder):
    Tokenizer.from_str(trained_words()).model.save(str(folder))


def character_pairs(folder):
    """GPT's: pairs of characters, the last piece of a word marked."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    backend.model.save(str(folder))


def byte_pairs(*special):
    def write(folder):
        byte_level(*special).model.save(str(folder))
        if len(special) == 1:  # GPT-2's end token is its last
            say(folder, bos_token=special[0], eos_token=special[0], unk_token=special[0])

    return write


def pieces(name, **options):
    return lambda folder: (folder / name).write_bytes(trained_pieces(**options))


def squares(kind, side):
    """What brings images to the size of small models."""
    sizes = {"size": {"height": side, "width": side}, "crop_size": {"height": side, "width": side}}
    fields = {"image_processor_type": kind, **sizes}
    return lambda folder: (folder / "preprocessor_config.json").write_text(json.dumps(fields))


# family -> what writes its tokenizer's vocabulary
VOCABULARIES = {
    "bert": wordpiece,
    "roberta": byte_pairs(*ANGLES),
    "bart": byte_pairs(*ANGLES),
    "gpt2": byte_pairs("<|endoftext|>"),
    "albert": pieces("spiece.model", **ALBERT),
    "xlm-roberta": pieces("sentencepiece.bpe.model"),
    "t5": pieces("spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "distilbert": wordpiece,
    "electra": wordpiece,
    "openai-gpt": character_pairs,
    "qwen2": byte_pairs("<|endoftext|>"),
    "qwen3": byte_pairs("<|endoftext|>"),
    "llama": pieces("tokenizer.model", **LLAMA),
    "mistral": pieces("tokenizer.model", **LLAMA),
    "vit": squares("ViTImageProcessor", 15),
    "deit": squares("DeiTImageProcessor", 15),
}


def say(folder, **fields):
    path = folder / "tokenizer_config.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **fields}))


def reader(folder, family, architecture=None, *, vocabulary=None, **fields):
    """A folder with a small model of this family, noise on all its matrices, and the family's tokenizer.

    architecture: the name of transformers' class; by default its base model. vocabulary: what writes the tokenizer's.
    fields: of its config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (vocabulary or VOCABULARIES[family])(folder)
    if FAMILIES[family].tokenizer:
        say(folder, tokenizer_class=FAMILIES[family].tokenizer)
    default = transformers.AutoConfig.for_model(family)
    lengths = {name: size for name, size in LENGTHS.items() if hasattr(default, name)}
    config = type(default)(**{**SIZES[family], **IDS.get(family, {}), **lengths, **dropouts(default), **fields})
    config.save_pretrained(folder)
    if FAMILIES[family].tokenizer:
        config.vocab_size = fields.get(
            "vocab_size", len(load_tokenizer(folder, tokenizer_class=FAMILIES[family].tokenizer))
        )
    torch.manual_seed(0)
    cls = getattr(transformers, architecture) if architecture else transformers.AutoModel
    model = cls(config) if architecture else cls.from_config(config)
    noisy(model, 0.1).save_pretrained(folder)
    return folder


def dropouts(config):
    """No dropout anywhere: a small model is to learn its few examples by heart."""
    return {name: 0.0 for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)}
