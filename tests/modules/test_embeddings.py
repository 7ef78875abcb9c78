"""Where a token stands, how wide its table is, and what an image becomes: against transformers and plain tables."""

import dataclasses

import pytest
import torch
from small_boxes import EMBED, IDS, assert_near, books, give, noisy
from transformers import DeiTConfig, ViTConfig
from transformers.models.deit.modeling_deit import DeiTEmbeddings
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings
from transformers.models.vit.modeling_vit import ViTEmbeddings

from minitransformer.config import PatchEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.modules import PatchEmbedding, TokenEmbedding

PAD = 1
TEXTS = torch.tensor([[5, 6, 7, PAD, PAD], [PAD, PAD, 5, 6, 7], [5, PAD, 6, PAD, 7], [PAD] * 5, [5, 6, 7, 8, 9]])


def embed(**fields):
    return noisy(TokenEmbedding(dataclasses.replace(EMBED, **fields)))


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("pad_id", [0, 1, 3])
def test_padding_takes_no_position_as_in_roberta(pad_id, past):
    texts = torch.where(TEXTS == PAD, pad_id, TEXTS)
    module = embed(max_positions=12, position_offset=pad_id + 1, skips_id=pad_id)
    expected = RobertaEmbeddings.create_position_ids_from_input_ids(texts, pad_id, past)
    assert torch.equal(module.default_positions(texts, past), expected)
    assert_near(module(texts, past=past), module.tokens.weight[texts] + module.positions.weight[expected])


def test_the_first_token_is_on_the_row_of_the_offset():
    module = embed(position_offset=2)
    rows = torch.tensor([[2, 3, 4]])
    assert torch.equal(module(IDS), module(IDS, position_ids=rows))
    assert torch.equal(module(IDS, past=4), module(IDS, position_ids=rows + 4))


def test_the_offset_shortens_the_longest_text():
    module = embed(position_offset=2)  # 9 rows, 7 tokens
    told = r"input_ids: got a sequence of 8 tokens, but the model has 7 positions; cut the text: .*max_length=7\)"
    module(torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(InputError, match=told):
        module(torch.zeros(1, 8, dtype=torch.int64))
    module(torch.zeros(1, 3, dtype=torch.int64), past=4)
    with pytest.raises(InputError, match=told):
        module(torch.zeros(1, 3, dtype=torch.int64), past=5)


def test_skipped_tokens_do_not_make_a_text_too_long():
    module = embed(position_offset=2, skips_id=PAD)
    text = torch.full((1, 20), 5)
    text[:, 7:] = PAD
    assert module(text).isfinite().all()
    text[:, 7] = 5
    with pytest.raises(InputError, match="got a sequence of 8 tokens, but the model has 7 positions"):
        module(text)


def test_position_ids_are_rows_of_the_table():
    module = embed(position_offset=2)
    module(IDS, position_ids=torch.full((2, 3), 8))
    with pytest.raises(InputError, match="position_ids: got 9 at row 0, position 0, expected 0 to 8"):
        module(IDS, position_ids=torch.full((2, 3), 9))


def test_without_a_table_a_longer_text_than_in_training_is_a_warning():
    module = embed(positions=None, max_positions=3)
    assert_near(module(IDS), module.tokens.weight[IDS])
    told = r"got 4 tokens, but the model was trained on texts of up to 3; cut the text: .*max_length=3\)"
    with pytest.warns(UserWarning, match=told):
        module(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.warns(UserWarning, match=told):
        module(IDS, past=1)
    assert [name for name, _ in module.named_parameters()] == ["tokens.weight"]


def test_without_any_end_nothing_is_told():
    embed(positions=None, max_positions=None)(torch.zeros(1, 3000, dtype=torch.int64))


def test_sinusoids_of_a_checkpoint_end_where_its_table_does():
    module = embed(positions="sinusoidal_halves")
    with pytest.raises(InputError, match="got a sequence of 10 tokens, but the model has 9 positions"):
        module(torch.zeros(1, 10, dtype=torch.int64))


def test_sinusoids_in_halves_are_the_sinusoids_in_another_order():
    width, zero = 7, torch.zeros(1, 9, dtype=torch.int64)
    halves, paper = (embed(positions=kind, max_positions=9) for kind in ("sinusoidal_halves", "sinusoidal"))
    first, second = halves(zero) - halves.tokens.weight[0], paper(zero) - paper.tokens.weight[0]
    assert_near(first, second[..., [0, 2, 4, 6, 1, 3, 5]])
    assert first.shape[-1] == width


@books
def test_narrow_tables_are_projected(book):
    """ALBERT's, ELECTRA's: tokens, types, positions and norm at the tables' width, then a linear map."""
    fields = {"d_embed": 5, "token_types": "learned", "type_vocab_size": 2, "norm_eps": 0.1}
    module = noisy(TokenEmbedding(dataclasses.replace(EMBED, **fields)), book)
    assert module.tokens.weight.shape == (11, 5)
    assert module.positions.weight.shape == (9, 5)
    x = module.tokens.weight[IDS] + module.types.weight[0] + module.positions.weight[:3]
    x = torch.nn.functional.layer_norm(x, (5,), module.norm.weight, module.norm.bias, 0.1)
    assert_near(module(IDS), x @ module.proj.weight.T + module.proj.bias)
    assert module(IDS).shape == (2, 3, 7)


def test_a_table_that_is_as_wide_is_projected_too():
    assert embed(d_embed=7).proj is not None
    assert embed().proj is None


def test_two_embeddings_share_a_table():
    first = embed()
    second = TokenEmbedding(EMBED, first.tokens).double()
    assert second.tokens is first.tokens
    assert second.positions is not first.positions
    second(IDS).sum().backward()
    assert first.tokens.weight.grad is not None
    assert first.positions.weight.grad is None


PATCHES = PatchEmbeddingConfig(d_model=7, image_size=(6, 8), patch_size=(2, 3), channels=2, special_tokens=1)


def patch_embedding(book, **fields):
    return noisy(PatchEmbedding(dataclasses.replace(PATCHES, **fields)), book)


@books
@pytest.mark.parametrize(
    ("theirs", "their_config", "special"), [(ViTEmbeddings, ViTConfig, 1), (DeiTEmbeddings, DeiTConfig, 2)]
)
def test_images_are_embedded_as_in_vit_and_deit(theirs, their_config, special, book):
    """Rectangles; the two last columns of pixels are left over."""
    ours = patch_embedding(book, special_tokens=special)
    sizes = {"hidden_size": 7, "image_size": [6, 8], "patch_size": [2, 3], "num_channels": 2}
    names = {
        "cls_token": ours.class_token,
        "position_embeddings": ours.positions.weight,
        "patch_embeddings.projection.weight": ours.patches.weight,
        "patch_embeddings.projection.bias": ours.patches.bias,
    }
    if special == 2:
        names["distillation_token"] = ours.distillation_token
    pixels = torch.randn(3, 2, 6, 8).double()
    expected = give(theirs(their_config(**sizes)), names)(pixels)
    assert expected.shape == (3, 6 + special, 7)
    assert_near(ours(pixels), expected)


def test_pixels_take_the_models_dtype():
    module, pixels = patch_embedding("fused").to(torch.bfloat16), torch.randn(1, 2, 6, 8)
    for part in module.modules():
        part.book = TokenEmbedding.book
    assert module(pixels).dtype == torch.bfloat16


def test_dropout_of_images_only_while_training():
    module, pixels = patch_embedding(TokenEmbedding.book, dropout=0.5), torch.randn(3, 2, 6, 8).double()
    assert torch.equal(module(pixels), module(pixels))
    assert 0.2 < (module.train()(pixels) == 0).double().mean() < 0.8


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (torch.zeros(1, 3, 6, 8), r"torch.float32 \[1, 3, 6, 8\]"),
        (torch.zeros(1, 2, 8, 6), r"torch.float32 \[1, 2, 8, 6\]"),
        (torch.zeros(2, 6, 8), r"torch.float32 \[2, 6, 8\]"),
        (torch.zeros(1, 6, 8, 2), r"torch.float32 \[1, 6, 8, 2\]"),
        (torch.zeros(1, 2, 6, 8, dtype=torch.uint8), r"torch.uint8 \[1, 2, 6, 8\]"),
    ],
)
def test_pixels_of_another_shape_are_refused(pixels, got):
    told = rf"pixel_values: got {got}, expected floats of shape \[batch, 2, 6, 8\]; model.image_processor"
    with pytest.raises(InputError, match=told):
        patch_embedding(TokenEmbedding.book)(pixels)
