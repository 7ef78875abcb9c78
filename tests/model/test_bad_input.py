"""What a model cannot take is refused with a message that names it, before anything is computed."""

import pytest
import torch
from small_models import bart, bert, gpt2, ids, llama, noisy, paper, roberta, t5, vit

from minitransformer.config import TokenClassificationConfig
from minitransformer.errors import InputError

IDS = ids(2, 5)
MODELS = {
    "bert": noisy(bert()),
    "gpt2": noisy(gpt2()),
    "paper": noisy(paper()),
    "t5": noisy(t5()),
    "roberta": noisy(roberta()),
    "llama": noisy(llama()),
    "vit": noisy(vit()),
}
TEXTS = [name for name in MODELS if name != "vit"]


def with_one(value, dtype=torch.int64):
    """IDS with this value at row 1, position 3."""
    changed = IDS.clone().to(dtype)
    changed[1, 3] = value
    return changed


BAD_IDS = {
    "too large": (with_one(13), r"got 13 at row 1, position 3, expected 0 to 12; .*tokenizer"),
    "negative": (with_one(-1), "got -1 at row 1, position 3, expected 0 to 12"),
    "int32": (with_one(99, torch.int32), "got 99 at row 1, position 3"),
    "float": (IDS.float(), "got torch.float32, expected int64 ids"),
    "bool": (IDS.bool(), "got torch.bool, expected int64 ids"),
    "empty": (torch.zeros(2, 0, dtype=torch.int64), r"got shape \[2, 0\], expected .* at least one token"),
    "no text": (torch.zeros(0, 5, dtype=torch.int64), r"got shape \[0, 5\]"),
    "1-D": (IDS[0], r"got shape \[5\], expected \[batch, tokens\]"),
    "0-D": (torch.tensor(3), r"got shape \[\]"),
    "3-D": (IDS[None], r"got shape \[1, 2, 5\]"),
}


@pytest.mark.parametrize("model", TEXTS)
@pytest.mark.parametrize("kind", BAD_IDS)
def test_input_ids(kind, model):
    bad, message = BAD_IDS[kind]
    decoder = {"decoder_input_ids": IDS} if model in ("paper", "t5") else {}
    with pytest.raises(InputError, match=f"input_ids: {message}"):
        MODELS[model](bad, **decoder)


@pytest.mark.parametrize("kind", BAD_IDS)
def test_decoder_input_ids(kind):
    bad, message = BAD_IDS[kind]
    with pytest.raises(InputError, match=f"input_ids: {message}"):
        MODELS["paper"](IDS, decoder_input_ids=bad)


ZEROS = torch.zeros(2, 5, dtype=torch.int64)
# model, arguments besides input_ids, the message
BAD_ARGUMENTS = [
    ("bert", {"attention_mask": torch.ones(2, 4)}, r"attention_mask: got shape \[2, 4\], expected \[2, 5\]"),
    ("gpt2", {"attention_mask": torch.ones(5)}, r"attention_mask: got shape \[5\], expected \[2, 5\]"),
    ("gpt2", {"attention_mask": torch.ones(2, 1, 5, 5)}, r"attention_mask: got shape \[2, 1, 5, 5\]"),
    ("bert", {"token_type_ids": ZEROS + 3}, "token_type_ids: got 3 at row 0, position 0, expected 0 to 2"),
    ("bert", {"token_type_ids": ZEROS[:, :4]}, r"token_type_ids: got shape \[2, 4\], expected \[2, 5\]"),
    ("bert", {"token_type_ids": ZEROS.float()}, "token_type_ids: got torch.float32"),
    ("gpt2", {"token_type_ids": ZEROS + 13}, "token_type_ids: got 13 at row 0"),
    ("gpt2", {"position_ids": ZEROS + 16}, "position_ids: got 16 at row 0, position 0, expected 0 to 15"),
    ("gpt2", {"position_ids": ZEROS - 1}, "position_ids: got -1"),
    ("gpt2", {"position_ids": ZEROS[:, :1]}, r"position_ids: got shape \[2, 1\], expected \[2, 5\]"),
    ("gpt2", {"position_ids": torch.zeros(3, 5).long()}, r"position_ids: got shape \[3, 5\], expected \[2, 5\]"),
    ("paper", {"position_ids": ZEROS - 1, "decoder_input_ids": IDS}, "position_ids: got -1"),
    ("paper", {"position_ids": ZEROS[:, :1], "decoder_input_ids": IDS}, r"position_ids: got shape \[2, 1\]"),
    ("paper", {"token_type_ids": ZEROS, "decoder_input_ids": IDS}, "token_type_ids: this model has no token types"),
    ("paper", {}, "decoder_input_ids: got none; a decoder behind an encoder needs what it reads$"),
    ("paper", {"decoder_input_ids": IDS, "attention_mask": torch.ones(2, 4)}, r"attention_mask: got shape \[2, 4\]"),
    (
        "paper",
        {"decoder_input_ids": IDS[:, :3], "decoder_attention_mask": torch.ones(2, 5)},
        r"attention_mask: got shape \[2, 5\], expected \[2, 3\]",
    ),
    ("bert", {"decoder_input_ids": IDS}, "decoder_input_ids: this model has one stack"),
    ("gpt2", {"decoder_attention_mask": ZEROS}, "decoder_attention_mask: this model has one stack"),
    ("gpt2", {"pixel_values": torch.zeros(2, 3, 4, 4)}, "pixel_values: this model reads text; leave pixel_values out"),
    ("t5", {"decoder_input_ids": IDS, "position_ids": ZEROS}, "position_ids: this model knows distances"),
    ("t5", {}, r"decoder_input_ids: got none; .*\(or labels, which it then reads shifted by one\)"),
    ("llama", {"position_ids": ZEROS - 1}, "position_ids: got -1"),
    ("llama", {"position_ids": ZEROS[:, :1]}, r"position_ids: got shape \[2, 1\], expected \[2, 5\]"),
    ("roberta", {"position_ids": ZEROS + 19}, "position_ids: got 19 at row 0, position 0, expected 0 to 18"),
]


@pytest.mark.parametrize(("model", "arguments", "message"), BAD_ARGUMENTS)
def test_other_arguments(model, arguments, message):
    with pytest.raises(InputError, match=message):
        MODELS[model](IDS, **arguments)


PIXELS = torch.zeros(2, 2, 7, 8)
BAD_PIXELS = [
    ({}, "pixel_values: got none; model.image_processor"),
    ({"input_ids": IDS}, "input_ids: this model reads images, given as pixel_values; leave input_ids out"),
    ({"pixel_values": PIXELS, "input_ids": IDS}, "input_ids: this model reads images"),
    ({"pixel_values": PIXELS, "attention_mask": ZEROS}, "attention_mask: this model reads images"),
    ({"pixel_values": PIXELS, "token_type_ids": ZEROS}, "token_type_ids: this model reads images"),
    ({"pixel_values": PIXELS, "position_ids": ZEROS}, "position_ids: this model reads images"),
    ({"pixel_values": PIXELS, "decoder_input_ids": IDS}, "decoder_input_ids: this model has one stack"),
    ({"pixel_values": PIXELS[0]}, r"pixel_values: got torch.float32 \[2, 7, 8\], expected .* \[batch, 2, 7, 8\]"),
    ({"pixel_values": PIXELS[:, :, :6]}, r"pixel_values: got torch.float32 \[2, 2, 6, 8\]"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_PIXELS)
def test_images(arguments, message):
    with pytest.raises(InputError, match=message):
        MODELS["vit"](**arguments)


@pytest.mark.parametrize("model", TEXTS)
def test_no_text_at_all(model):
    with pytest.raises(InputError, match=r"input_ids: got none; model\.tokenizer"):
        MODELS[model](attention_mask=torch.ones(2, 5))


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_more_tokens_than_positions(model):
    MODELS[model](ids(1, 16))
    with pytest.raises(InputError, match=r"sequence of 17 tokens, but the model has 16 positions; .*max_length=16"):
        MODELS[model](ids(1, 17))


def test_sinusoids_have_no_end():
    MODELS["paper"](ids(1, 50), decoder_input_ids=ids(1, 40))


def test_stacks_that_are_not_there():
    with pytest.raises(InputError, match="encode: this model has no encoder"):
        MODELS["gpt2"].encode(IDS)
    with pytest.raises(InputError, match="decode: this model has no decoder"):
        MODELS["bert"].decode(IDS)


def test_a_decoder_that_needs_a_memory():
    with pytest.raises(InputError, match="memory: got none; this decoder attends to the encoder's output"):
        MODELS["paper"].decode(IDS)
    memory = MODELS["paper"].encode(IDS)
    with pytest.raises(InputError, match=r"memory_mask: got shape \[2, 4\], expected \[2, 5\]"):
        MODELS["paper"].decode(IDS, memory=memory, memory_mask=torch.ones(2, 4))


def test_a_decoder_that_can_stand_alone():
    """With cross-attention but no encoder: it attends to what it is given, or to nothing."""
    config = paper()
    alone = noisy(gpt2(embed=config.embed, decoder=config.decoder))
    memory = torch.randn(2, 3, 12).double()
    assert alone(IDS).logits.isfinite().all()
    assert not torch.equal(alone.decode(IDS, memory=memory), alone.decode(IDS))
    whole = noisy(config)
    alone.load_state_dict({name: x for name, x in whole.state_dict().items() if not name.startswith("encoder.")})
    assert torch.equal(alone.decode(IDS, memory=memory), whole.decode(IDS, memory=memory))


def test_a_decoder_that_needs_none():
    with pytest.raises(InputError, match="memory: this decoder has no cross-attention"):
        MODELS["gpt2"].decode(IDS, memory=MODELS["bert"].encode(IDS))
    with pytest.raises(InputError, match="memory_mask: this decoder has no cross-attention"):
        MODELS["gpt2"].decode(IDS, memory_mask=torch.ones(2, 5))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (with_one(13), "labels: got 13 at row 1, position 3, expected 0 to 12"),
        (with_one(-1), "labels: got -1 at row 1, position 3"),
        (IDS[0], r"labels: got shape \[5\], expected \[batch, tokens\]"),
        (IDS.float(), "labels: got torch.float32"),
    ],
)
@pytest.mark.parametrize("maker", [t5, bart])
def test_labels_that_a_decoder_cannot_read(maker, labels, told):
    with pytest.raises(InputError, match=told):
        noisy(maker())(IDS, labels=labels)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (torch.tensor([[0], [1]]), "got [2, 1], expected a tensor of shape [2, 5]"),
        (torch.zeros(5, 2, dtype=torch.int64), "got [5, 2]"),
        (torch.full((2, 5), 3), "got 3, expected 0 to 2, or -100"),
        (torch.full((2, 5), -1), "got -1"),
        (torch.zeros(2, 5), "expected whole numbers"),
        ([[0] * 5] * 2, "got list"),
    ],
)
@pytest.mark.parametrize("book", ["by_hand", "fused"])
def test_labels_that_do_not_fit_are_refused(labels, told, book):
    model = noisy(bert(head=TokenClassificationConfig(num_labels=3))).use(book)
    with pytest.raises(InputError) as error:
        model(IDS, labels=labels)
    assert told in str(error.value)
