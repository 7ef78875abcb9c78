"""Marian's translation models: BART's blocks on sinusoids. Junczys-Dowmunt et al. 2018, "Marian"."""

from collections.abc import Sequence
from dataclasses import replace

from minitransformer.config import LanguageModelConfig, TokenEmbeddingConfig, TransformerConfig
from minitransformer.families import bart
from minitransformer.families.fields import Raw, flag, number, optional_whole, refuse, whole
from minitransformer.families.rules import Family, Ignore, Map, Rule, Sinusoids

CLASSES = {"base": "MarianModel", "seq2seq-lm": "MarianMTModel"}


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    embed = TokenEmbeddingConfig(
        vocab_size=whole(raw, "vocab_size"),
        d_model=whole(raw, "d_model"),
        positions="sinusoidal_halves",
        max_positions=whole(raw, "max_position_embeddings"),
        scale=whole(raw, "d_model") ** 0.5 if flag(raw, "scale_embedding", default=False) else 1.0,
        dropout=number(raw, "dropout", 0.1),
    )
    shared = flag(raw, "share_encoder_decoder_embeddings", default=True)
    target = replace(embed, vocab_size=optional_whole(raw, "decoder_vocab_size") or embed.vocab_size)
    tied = flag(raw, "tie_word_embeddings", default=True)
    if shared:
        refuse(raw, {"tie_word_embeddings": (True, None)})  # it would mean a table for each stack
    return TransformerConfig(
        embed=embed,
        target_embed=None if shared else target,
        encoder=bart.stack(raw, "encoder"),
        decoder=bart.stack(raw, "decoder"),
        head=LanguageModelConfig(task="seq2seq-lm", tied=tied, bias="fixed") if head == "seq2seq-lm" else None,
        decoder_start_id=whole(raw, "decoder_start_token_id", 58100),
        pad_id=whole(raw, "pad_token_id", 58100),
    )


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a Marian file."""
    base = config.head is None
    return [
        *bart.tokens(config),
        Sinusoids("{prefix}encoder.embed_positions.weight", "sinusoidal_halves", written=base),
        Sinusoids("{prefix}decoder.embed_positions.weight", "sinusoidal_halves", written=base),
        *bart.layers("encoder"),
        *bart.layers("decoder"),
        Map("lm_head.weight", "head.lm.weight"),
        Map("final_logits_bias", "head.lm.bias", ones=1, zeros=True),
        Ignore(bart.OTHER_HEADS, "belongs to another head"),
    ]


MARIAN = Family(
    model_type="marian",
    differs="BART's without the norm of embeddings, sinusoidal positions",
    tokenizer="MarianTokenizer",
    prefix="model.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses=bart.REFUSES,
    saved=bart.saved,
    synonyms=bart.SYNONYMS,
)
