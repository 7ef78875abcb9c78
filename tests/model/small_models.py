"""Small models of odd sizes with noise on every parameter: first values hide errors, as a bias of zeros does."""

import dataclasses
from itertools import chain

import torch

from minitransformer.config import (
    ClassificationConfig,
    DistilledClassificationConfig,
    LanguageModelConfig,
    PatchEmbeddingConfig,
    PretrainingConfig,
    RelativePositionsConfig,
    ReplacedTokensConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
    vaswani2017,
)
from minitransformer.model import build

VOCAB, WIDTH, HEADS, LAYERS, INNER, PLACES = 13, 12, 3, 2, 20, 16


def stack(**fields):
    post = {"norm_order": "post", "final_norm": False, "activation": "gelu", "causal": False, "norm_eps": 1e-3}
    sizes = {"layers": LAYERS, "d_model": WIDTH, "heads": HEADS, "d_ffn": INNER}
    return StackConfig(**(sizes | post | fields))


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


def t5(**fields):
    """Two pre-norm stacks without biases, RMSNorm, relative positions, gated feed-forward, heads of another width."""
    relative = RelativePositionsConfig(buckets=6, max_distance=9)
    shape = {"norm": "rms", "norm_order": "pre", "final_norm": True, "gated": True, "activation": "gelu_tanh"}
    shape |= {"biases": (), "relative_positions": relative, "score_scale": 1.0, "head_width": 5}
    return TransformerConfig(
        **{
            "embed": embed(positions=None, max_positions=None),
            "encoder": stack(**shape),
            "decoder": stack(**shape, causal=True, cross_attention=True),
            "head": LanguageModelConfig(task="seq2seq-lm", tied=True, scale=WIDTH**-0.5),
            "decoder_start_id": 1,
            "pad_id": 2,
        }
        | fields
    )


def llama(head=None, **fields):
    """A pre-norm decoder with RMSNorm, rotary positions, groups of heads, gated feed-forward, and an untied head."""
    shape = {"norm": "rms", "norm_order": "pre", "final_norm": True, "gated": True, "activation": "silu", "biases": ()}
    shape |= {"heads": 6, "kv_heads": 2, "rotary_theta": 100.0, "head_width": 4, "causal": True}
    return TransformerConfig(
        embed=embed(positions=None, max_positions=PLACES),
        decoder=stack(**(shape | fields)),
        head=head or LanguageModelConfig(task="causal-lm", tied=False),
    )


def qwen():
    """Llama's blocks with norms on queries and keys, biases on q, k, v, and a window of attention."""
    return llama(qk_norm=True, biases=("qkv",), window=3)


def bart(head=None):
    """Two post-norm stacks, each with positions of its own, over one table of tokens."""
    own = embed(max_positions=PLACES + 2, position_offset=2, norm_eps=1e-3)
    return TransformerConfig(
        embed=own,
        target_embed=own,
        shared_tokens=True,
        encoder=stack(),
        decoder=stack(causal=True, cross_attention=True),
        head=head or LanguageModelConfig(task="seq2seq-lm", tied=True, bias="fixed"),
        decoder_start_id=1,
        pad_id=2,
    )


def marian():
    """BART's blocks on sinusoids in halves, a table of its own for the target."""
    own = embed(positions="sinusoidal_halves", scale=WIDTH**0.5)
    return dataclasses.replace(bart(), embed=own, target_embed=own, shared_tokens=False)


def albert(**fields):
    """Two layers that compute five times, on tables narrower than the model."""
    own = embed(d_embed=5, token_types="learned", type_vocab_size=2, norm_eps=1e-3)
    lm = LanguageModelConfig(task="masked-lm", tied=True, bias="learned", transform="gelu_tanh", norm_eps=1e-3)
    head = PretrainingConfig(lm=lm, pairs="sentence_order")
    shared = stack(layer_order=(0, 1, 1, 0, 1))
    return TransformerConfig(**({"embed": own, "encoder": shared, "head": head, "pooler": True} | fields))


def roberta(**fields):
    """A post-norm encoder whose padding takes no position, with a classifier on the first token."""
    own = embed(max_positions=PLACES + 3, position_offset=3, skips_id=2, norm_eps=1e-3)
    head = ClassificationConfig(task="sequence-classification", num_labels=4, reads="first_token", transform="tanh")
    return TransformerConfig(**({"embed": own, "encoder": stack(), "head": head} | fields))


def electra():
    """The discriminator: which tokens were replaced."""
    return bert(embed=embed(d_embed=5, norm_eps=1e-3), head=ReplacedTokensConfig(activation="gelu"))


def vit(special_tokens=1, **fields):
    """A pre-norm encoder of images of 7 × 8 pixels, in patches of 2 × 3."""
    patches = PatchEmbeddingConfig(
        d_model=WIDTH, image_size=(7, 8), patch_size=(2, 3), channels=2, special_tokens=special_tokens
    )
    head = ClassificationConfig(task="image-classification", num_labels=4, reads="first_token")
    encoder = stack(norm_order="pre", final_norm=True)
    return TransformerConfig(**({"embed": patches, "encoder": encoder, "head": head} | fields))


def deit():
    """The same with a distillation token, and a classifier for each of the two."""
    return vit(special_tokens=2, head=DistilledClassificationConfig(num_labels=4))


def kinds():
    """Every kind of model, by the name of a family that is one."""
    makers = (bert, gpt2, paper, t5, llama, qwen, bart, marian, albert, roberta, electra, vit, deit)
    return {maker.__name__: maker() for maker in makers}


def inputs(config, batch=3, seed=0):
    """Something that the model reads: texts of 5 tokens (and 4 for a decoder behind an encoder), or images."""
    if isinstance(config.embed, PatchEmbeddingConfig):
        sizes = (batch, config.embed.channels, *config.embed.image_size)
        return {"pixel_values": torch.randn(sizes, generator=torch.Generator().manual_seed(seed))}
    read = {"input_ids": ids(batch, 5, seed=seed)}
    return read | ({"decoder_input_ids": ids(batch, 4, seed=seed + 1)} if config.encoder and config.decoder else {})


def noisy(config, book="fused", dtype=torch.float64, seed=0):
    """The model, evaluating, each parameter and buffer moved from its first value by noise."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = build(config)
        for parameter in chain(model.parameters(), model.buffers()):
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.to(dtype).eval().use(book)


def ids(*shape, seed=0):
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def padding(lengths, width, side="right"):
    """An attention mask: one row of `width` for each length, padded on one side."""
    right = torch.arange(width) < torch.tensor(lengths)[:, None]
    return (right if side == "right" else right.flip(1)).long()
