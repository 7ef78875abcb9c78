"""The paper's own model against torch.nn.Transformer with the same weights, embeddings and sinusoids by numpy."""

import numpy as np
import pytest
import torch
from small_models import HEADS, INNER, LAYERS, VOCAB, WIDTH, ids, noisy, padding, paper
from torch import nn

SOURCE, TARGET = ids(4, 7, seed=1), ids(4, 6, seed=2)
SOURCE_MASK, TARGET_MASK = padding([7, 3, 1, 5], 7), padding([6, 4, 5, 1], 6)  # ragged
ATTENTION = {"in_proj_weight": ("qkv", "weight"), "in_proj_bias": ("qkv", "bias")}
ATTENTION |= {"out_proj.weight": ("o", "weight"), "out_proj.bias": ("o", "bias")}
ENCODER = {"self_attn": "self_attn", "linear1": "ffn.up", "linear2": "ffn.down"}
DECODER = ENCODER | {"norm1": "self_attn_norm", "multihead_attn": "cross_attn", "norm2": "cross_attn_norm"}
ENCODER |= {"norm1": "self_attn_norm", "norm2": "ffn_norm"}
DECODER |= {"norm3": "ffn_norm"}


def torchs_transformer(norm_order, final_norm, dtype):
    """torch.nn.Transformer, put together from its own layers: only so can it be had without last norms."""
    sizes = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": INNER, "dropout": 0.0}
    layer = sizes | {"norm_first": norm_order == "pre", "batch_first": True}
    norms = [nn.LayerNorm(WIDTH) if final_norm else None for _ in range(2)]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer), LAYERS, norms[0], enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), LAYERS, norms[1])
    whole = nn.Transformer(WIDTH, HEADS, batch_first=True, custom_encoder=encoder, custom_decoder=decoder)
    return whole.to(dtype)


def pairs(theirs, ours):
    """(a parameter of torch's, those of ours that stand in it one below the other), for all of torch's."""
    ours, found = dict(ours.named_parameters()), []
    for name, parameter in theirs.named_parameters():
        stack, *rest = name.split(".", 3)
        if rest[0] == "norm":
            found.append((parameter, [ours[f"{stack}.final_norm.{rest[1]}"]]))
            continue
        i, (part, last) = rest[1], rest[2].split(".", 1)
        prefix = f"{stack}.layers.{i}.{(ENCODER if stack == 'encoder' else DECODER)[part]}"
        if "attn" in part:
            matrices, kind = ATTENTION[last]
            found.append((parameter, [ours[f"{prefix}.{matrix}.{kind}"] for matrix in matrices]))
        else:
            found.append((parameter, [ours[f"{prefix}.{last}"]]))
    return found


def embedded(table, tokens):
    """Section 3.4 and 3.5 of the paper: the token's vector · √D, and a sinusoid for its position."""
    place, column = np.arange(tokens.shape[1])[:, None], np.arange(WIDTH)
    angles = place / 10000 ** (2 * (column // 2) / WIDTH)
    sinusoids = np.where(column % 2 == 0, np.sin(angles), np.cos(angles))
    return table[tokens] * WIDTH**0.5 + torch.from_numpy(sinusoids).to(table.dtype)


def torchs_logits(theirs, table):
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)  # torch's masks say True for what is forbidden
    hidden = theirs(
        embedded(table, SOURCE),
        embedded(table, TARGET),
        tgt_mask=causal,
        src_key_padding_mask=SOURCE_MASK == 0,
        tgt_key_padding_mask=TARGET_MASK == 0,
        memory_key_padding_mask=SOURCE_MASK == 0,
    )
    return hidden @ table.T


def both_models(norm_order, final_norm, book, dtype):
    ours = noisy(paper(norm_order=norm_order, final_norm=final_norm), book, dtype)
    theirs = torchs_transformer(norm_order, final_norm, dtype)
    with torch.no_grad():
        for parameter, parts in pairs(theirs, ours):
            parameter.copy_(torch.cat(parts))
    return ours, theirs, ours.embed.tokens.weight.detach().clone().requires_grad_()


def our_logits(model):
    return model(SOURCE, SOURCE_MASK, decoder_input_ids=TARGET, decoder_attention_mask=TARGET_MASK).logits


def test_every_parameter_has_its_pair():
    ours, theirs, _ = both_models("post", True, "fused", torch.float32)
    paired = [id(part) for _, parts in pairs(theirs, ours) for part in parts]
    assert len(paired) == len(set(paired)) == len(list(ours.parameters())) - 1  # all but the token embedding
    assert ours.embed.tokens.weight.shape == (VOCAB, WIDTH)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("norm_order", ["post", "pre"])
class TestSameNumbers:
    """The paper's config is post-norm without last norms; torch's default is post-norm with them."""

    def test_logits(self, norm_order, final_norm, book):
        ours, theirs, table = both_models(norm_order, final_norm, book, torch.float32)
        real = TARGET_MASK == 1
        got, expected = our_logits(ours)[real], torchs_logits(theirs, table)[real]
        assert 1 < expected.abs().max() < 100
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    def test_gradients(self, norm_order, final_norm, book):
        ours, theirs, table = both_models(norm_order, final_norm, book, torch.float64)
        real = TARGET_MASK == 1
        direction = torch.randn(int(real.sum()), VOCAB, dtype=torch.float64)
        (our_logits(ours)[real] * direction).sum().backward()
        (torchs_logits(theirs, table)[real] * direction).sum().backward()
        torch.testing.assert_close(ours.embed.tokens.weight.grad, table.grad, rtol=1e-9, atol=1e-9)
        for parameter, parts in pairs(theirs, ours):
            got = torch.cat([part.grad for part in parts])
            torch.testing.assert_close(got, parameter.grad, rtol=1e-9, atol=1e-9)
