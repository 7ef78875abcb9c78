"""Folders of small models that write, each with its tokenizer, as transformers saves them.

Random ones have large weights: small ones repeat themselves. One recites a text, whatever its prompt is: so a test can
say what the model writes.
"""

import functools
import io
import json
import warnings
from pathlib import Path

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import minitransformer as mt

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

REVIEWS = (Path(mt.__file__).parent / "assets" / "movie_reviews.tsv").read_text("utf-8").split("\n")[1:400]
LINES = [line.split("\t")[-1] for line in REVIEWS]
END = "<|end|>"
CHATML = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def byte_level(*special):
    """A tokenizer of bytes and of some pieces of several; `special` are its first tokens."""
    return Tokenizer.from_str(trained_bytes(special))


@functools.cache
def trained_bytes(special):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    return backend.to_str()


def gpt2_tokenizer(**fields):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level("<|first|>", END), bos_token=END, eos_token=END, **fields
    )


def gpt2(folder, *, seed=0, tokenizer=None, **fields):
    """A GPT-2 over bytes, without a pad token. `fields`: of its config."""
    tokenizer = tokenizer or gpt2_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = {
        "vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96,
        "bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.3,
    }  # fmt: skip
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**config | fields)).save_pretrained(folder)
    return folder


def reciter(folder, text, *, tokenizer=None):
    """A GPT-2 that writes the rest of `text` after any beginning of it, and then the end token.

    Its blocks are zero, and the vector of each place is that of the token that comes next.
    """
    tokenizer = tokenizer or gpt2_tokenizer()
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], 1]
    places = len(ids) + 99
    gpt2(folder, tokenizer=tokenizer, n_embd=128, n_positions=places)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()
        table = torch.nn.functional.normalize(torch.randn(len(tokenizer), 128), dim=1)
        model.transformer.wte.weight.copy_(table)
        model.transformer.wpe.weight.copy_(10 * table[torch.tensor([*ids[1:], *[1] * 100])])
    model.save_pretrained(folder)
    return folder


@functools.cache
def trained_pieces(vocab_size=300, **options):
    """The file of a SentencePiece model of so many pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        vocab_size=vocab_size,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def t5(folder, **fields):
    """A T5 with a SentencePiece model beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(trained_pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 9}')
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=309, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
        decoder_start_token_id=0, initializer_factor=3.0, tie_word_embeddings=False, **fields,
    )  # fmt: skip
    noisy(transformers.T5ForConditionalGeneration(config), 0.2).save_pretrained(folder)
    return folder


def bert(folder):
    """A BERT, which reads and cannot write."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhat\n")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=6, **sizes)).save_pretrained(folder)
    return folder


def bart(folder, **fields):
    """A BART over bytes; its decoder starts with the end token."""
    backend = byte_level("<s>", "<pad>", "</s>", "<unk>")
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=3, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, init_std=0.3,
        tie_word_embeddings=False, **fields,
    )  # fmt: skip
    noisy(transformers.BartForConditionalGeneration(config), 0.5).save_pretrained(folder)
    return folder


def marian(folder, **fields):
    """A Marian with one SentencePiece model for both languages, in its two files."""
    folder.mkdir(exist_ok=True)
    for name in ("source", "target"):
        (folder / f"{name}.spm").write_bytes(trained_pieces())
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    known = ["</s>", "<unk>", *(model.id_to_piece(i) for i in range(3, model.get_piece_size())), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(known)}), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"source_lang": "en", "target_lang": "de"}')
    torch.manual_seed(0)
    pad = len(known) - 1
    config = transformers.MarianConfig(
        vocab_size=len(known), d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=3, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, init_std=0.3,
        pad_token_id=pad, eos_token_id=0, forced_eos_token_id=0, decoder_start_token_id=pad, num_beams=2,
        max_length=20, bad_words_ids=[[pad]], **fields,
    )  # fmt: skip
    noisy(transformers.MarianMTModel(config), 0.5).save_pretrained(folder)
    return folder


def noisy(model, amount):
    """Noise on every matrix, without which an encoder and its decoder write the same of every text."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:  # Marian's sinusoids are called parameters, too
                parameter.add_(torch.randn_like(parameter), alpha=amount)
    return model


def theirs(folder):
    """transformers' model and tokenizer, from disk; a decoder's prompts are padded on the left."""
    config = transformers.AutoConfig.from_pretrained(folder)
    cls = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not config.is_encoder_decoder:
        tokenizer.padding_side = "left"
    return cls.from_pretrained(folder, attn_implementation="eager"), tokenizer


def edit(folder, name, remove=(), **fields):
    """Change fields of a JSON file in a folder."""
    path = folder / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in {**old, **fields}.items() if key not in remove}))
    return folder
