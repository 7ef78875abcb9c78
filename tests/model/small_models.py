"""Small models of odd sizes with noise on every parameter: first values hide errors, as a bias of zeros does."""

import dataclasses

import torch

from minitransformer.config import (
    LanguageModelConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
    vaswani2017,
)
from minitransformer.model import build

VOCAB, WIDTH, HEADS, LAYERS, INNER, PLACES = 13, 12, 3, 2, 20, 16


def stack(**fields):
    post = {"norm_order": "post", "final_norm": False, "activation": "gelu", "causal": False, "norm_eps": 1e-3}
    return StackConfig(layers=LAYERS, d_model=WIDTH, heads=HEADS, d_ffn=INNER, **(post | fields))


def embed(**fields):
    learned = {"positions": "learned", "max_positions": PLACES}
    return TokenEmbeddingConfig(vocab_size=VOCAB, d_model=WIDTH, **(learned | fields))


def bert(**fields):
    """A post-norm encoder with token types and an embedding norm."""
    embedding = embed(token_types="learned", type_vocab_size=3, norm_eps=1e-3)
    return TransformerConfig(**({"embed": embedding, "encoder": stack()} | fields))


def gpt2(**fields):
    """A pre-norm causal decoder with a last norm."""
    decoder = stack(norm_order="pre", final_norm=True, activation="gelu_tanh", causal=True)
    head = LanguageModelConfig(task="causal-lm", tied=True)
    return TransformerConfig(**({"embed": embed(token_types="tokens"), "decoder": decoder, "head": head} | fields))


def paper(dropout=0.0, **stack_fields):
    """The paper's own two stacks; `stack_fields` change both."""
    config = vaswani2017(vocab_size=VOCAB, layers=LAYERS, d_model=WIDTH, heads=HEADS, d_ffn=INNER, dropout=dropout)
    encoder, decoder = (dataclasses.replace(s, **stack_fields) for s in (config.encoder, config.decoder))
    return dataclasses.replace(config, encoder=encoder, decoder=decoder)


def noisy(config, book="fused", dtype=torch.float64, seed=0):
    """The model, evaluating, each parameter moved from its first value by noise."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = build(config)
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.to(dtype).eval().use(book)


def ids(*shape, seed=0):
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def padding(lengths, width, side="right"):
    """An attention mask: one row of `width` for each length, padded on one side."""
    right = torch.arange(width) < torch.tensor(lengths)[:, None]
    return (right if side == "right" else right.flip(1)).long()
