"""What the tests of checkpoints share: which names each family ties, changes of a file, and comparisons."""

import re

import torch
from oracle import Case
from safetensors.torch import load_file

# A language model of each family -> its tied names: second name in the file -> the name that transformers writes.
TIES = {
    Case("bert", "masked-lm"): {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    Case("bert", "pretraining"): {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    Case("roberta", "masked-lm"): {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    Case("xlm-roberta", "causal-lm", "decoder"): {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    Case("distilbert", "masked-lm"): {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    Case("albert", "masked-lm"): {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    Case("albert", "pretraining"): {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    Case("electra", "masked-lm"): {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    Case("openai-gpt", "causal-lm"): {"lm_head.weight": "transformer.tokens_embed.weight"},
    Case("gpt2", "causal-lm"): {"lm_head.weight": "transformer.wte.weight"},
    Case("gpt2", "double-heads"): {"lm_head.weight": "transformer.wte.weight"},
    Case("llama", "causal-lm", "odd"): {"lm_head.weight": "model.embed_tokens.weight"},
    Case("mistral", "causal-lm", "odd"): {"lm_head.weight": "model.embed_tokens.weight"},
    Case("qwen2", "causal-lm", "odd"): {"lm_head.weight": "model.embed_tokens.weight"},
    Case("qwen3", "causal-lm", "odd"): {"lm_head.weight": "model.embed_tokens.weight"},
    Case("t5", "seq2seq-lm"): {"lm_head.weight": "shared.weight"},
    Case("bart", "seq2seq-lm"): {"lm_head.weight": "model.shared.weight"},
    Case("bart", "causal-lm"): {"lm_head.weight": "model.decoder.embed_tokens.weight"},
    Case("marian", "seq2seq-lm"): {"lm_head.weight": "model.shared.weight"},
}
# Names that always mean the same tensor, whichever head: second name -> the one that transformers writes.
COPIES = {
    Case("t5", "seq2seq-lm"): {f"{s}.embed_tokens.weight": "shared.weight" for s in ("encoder", "decoder")},
    Case("t5", "sequence-classification"): {
        f"transformer.{s}.embed_tokens.weight": "transformer.shared.weight" for s in ("encoder", "decoder")
    },
    Case("t5", "encoder"): {"encoder.embed_tokens.weight": "shared.weight"},
    Case("bart", "seq2seq-lm"): {
        f"model.{s}.embed_tokens.weight": "model.shared.weight" for s in ("encoder", "decoder")
    },
    Case("bart", "question-answering"): {
        f"model.{s}.embed_tokens.weight": "model.shared.weight" for s in ("encoder", "decoder")
    },
    Case("bart", "causal-lm"): {"model.shared.weight": "model.decoder.embed_tokens.weight"},
    Case("marian", "seq2seq-lm"): {
        f"model.{s}.embed_tokens.weight": "model.shared.weight" for s in ("encoder", "decoder")
    },
}
# One model of each family, with a head.
ONE_OF_EACH = list({case.family: case for case in reversed(TIES)}.values())
ONE_OF_EACH += [Case("vit", "image-classification"), Case("deit", "image-classification-with-teacher")]


def names_of(case):
    """All second names of a case."""
    return {**TIES.get(case, {}), **COPIES.get(case, {})}


def with_copies(copies):
    """Both names of each tied tensor."""
    return lambda old: {**old, **{copy: old[name].clone() for copy, name in copies.items()}}


def only_copies(copies):
    """The second names alone."""
    return lambda old: {name: x for name, x in with_copies(copies)(old).items() if name not in copies.values()}


def without(*patterns):
    """The file without the names that any of these regular expressions is found in."""
    return lambda old: {name: x for name, x in old.items() if not any(re.search(part, name) for part in patterns)}


def renamed(*pairs):
    """Regular expressions, and what each is replaced by, one after the other."""

    def new(name):
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        return name

    return lambda old: {new(name): x for name, x in old.items()}


def state(model):
    return model.transformer.state_dict()


def assert_same_tensors(first, second):
    """Same names, same bits."""
    assert first.keys() == second.keys()
    different = [name for name, x in first.items() if not torch.equal(x, second[name])]
    assert not different


def assert_whole_file_in_report(report, folder):
    """Used, ignored and tied together are the file, each name once."""
    file = {report.aliased.get(name, name) for name in load_file(folder / "model.safetensors")}
    parts = [set(report.used), set(report.ignored), set(report.tied)]
    assert set.union(*parts) == file
    assert sum(map(len, parts)) == len(file) == sum(report.file_dtypes.values())
