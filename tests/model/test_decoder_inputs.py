"""What a decoder behind an encoder reads where that is not given: another input, shifted right by one."""

import dataclasses

import pytest
import torch
from small_models import VOCAB, bart, gpt2, ids, marian, noisy, padding, paper, t5

from minitransformer.config import ClassificationConfig, QuestionAnsweringConfig, TokenClassificationConfig
from minitransformer.errors import InputError

START, PAD, END = 1, 2, 12  # of the small models
SOURCE, MASK = ids(3, 5), padding([5, 2, 4], 5)
LABELS = torch.tensor([[4, 5, 6, END], [4, -100, END, -100], [-100, 3, END, 7]])
SHIFTED = torch.tensor([[START, 4, 5, 6], [START, 4, PAD, END], [START, PAD, 3, END]])
TEXTS = torch.tensor([[5, 6, 7, 8, END], [5, END, PAD, PAD, PAD], [5, END, 6, END, PAD]])
TEXTS_SHIFTED = torch.tensor([[START, 5, 6, 7, 8], [START, 5, END, PAD, PAD], [START, 5, END, 6, END]])
CLASSIFIER = ClassificationConfig(
    task="sequence-classification", num_labels=4, reads="last_eos", token_id=END, transform="tanh"
)


@pytest.mark.parametrize("maker", [t5, bart, marian])
def test_labels_shifted(maker):
    """The start token, then the labels without the last; padding where nothing is judged."""
    model = noisy(maker())
    out, expected = model(SOURCE, MASK, labels=LABELS), model(SOURCE, MASK, decoder_input_ids=SHIFTED)
    assert torch.equal(out.logits, expected.logits)
    wanted = torch.nn.functional.cross_entropy(expected.logits.flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(out.loss, wanted, rtol=1e-12, atol=1e-12)
    assert LABELS[1, 1] == -100  # they are as they were


@pytest.mark.parametrize("maker", [t5, bart])
def test_what_is_given_is_read(maker):
    model, given = noisy(maker()), ids(3, 4, seed=8)
    out = model(SOURCE, decoder_input_ids=given, labels=LABELS)
    assert torch.equal(out.logits, model(SOURCE, decoder_input_ids=given).logits)
    assert not torch.equal(out.logits, model(SOURCE, labels=LABELS).logits)


@pytest.mark.parametrize("maker", [t5, bart])
@pytest.mark.parametrize("head", [CLASSIFIER, QuestionAnsweringConfig()])
def test_a_text_is_read_twice(head, maker):
    """By a classifier and for an answer: the encoder reads the text, the decoder the text shifted."""
    model, mask = noisy(dataclasses.replace(maker(), head=head)), (TEXTS != PAD).long()
    alone = model(TEXTS, mask)
    given = model(TEXTS, mask, decoder_input_ids=TEXTS_SHIFTED)
    for field in ("logits", "start_logits", "end_logits", "last_hidden_state", "encoder_last_hidden_state"):
        one, other = getattr(alone, field), getattr(given, field)
        assert one is other is None or torch.equal(one, other), field


def test_the_classifier_reads_the_last_end_token_of_the_text():
    model = noisy(bart(head=CLASSIFIER))
    out = model(TEXTS, (TEXTS != PAD).long())
    x = out.last_hidden_state[torch.arange(3), torch.tensor([4, 1, 3])]  # where the last END of TEXTS stands
    head = model.head
    expected = torch.tanh(x @ head.dense.weight.T + head.dense.bias) @ head.cls.weight.T + head.cls.bias
    torch.testing.assert_close(out.logits, expected, rtol=1e-11, atol=1e-11)


def test_a_text_without_an_end_token():
    model, text = noisy(bart(head=CLASSIFIER)), TEXTS.clone()
    text[1] = 5
    with pytest.raises(InputError, match=r"input_ids: row 1 has no end token \(12\)"):
        model(text)


def test_a_text_of_another_length_than_the_decoders():
    with pytest.raises(InputError, match="sequence-classification: it reads the text's last token; give input_ids"):
        noisy(bart(head=CLASSIFIER))(TEXTS, decoder_input_ids=TEXTS_SHIFTED[:, :4])


def test_without_labels_there_is_nothing_to_shift():
    for maker in (t5, bart):
        with pytest.raises(InputError, match=r"decoder_input_ids: got none; .*or labels, which it then reads"):
            noisy(maker())(SOURCE)


@pytest.mark.parametrize("head", [None, TokenClassificationConfig(num_labels=2)])
def test_only_some_heads_read_a_text_twice(head):
    with pytest.raises(InputError, match="decoder_input_ids: got none"):
        noisy(dataclasses.replace(t5(), head=head))(SOURCE)


def test_a_model_without_a_start_token():
    with pytest.raises(InputError, match=r"decoder_input_ids: got none; .* needs what it reads$"):
        noisy(paper())(SOURCE, labels=SOURCE)


def test_a_model_without_a_padding_token_reads_zeros():
    model = noisy(dataclasses.replace(t5(), pad_id=None))
    read = torch.where(SHIFTED == PAD, 0, SHIFTED)
    assert torch.equal(model(SOURCE, labels=LABELS).logits, model(SOURCE, decoder_input_ids=read).logits)


def test_a_decoder_alone_reads_its_input():
    model = noisy(gpt2())
    out = model(SOURCE, labels=SOURCE)
    assert out.logits.shape == (3, 5, VOCAB)


def test_the_two_stacks_know_their_own_positions():
    """BART's: a change of the target's table is seen by the decoder only; the table of tokens is one."""
    model = noisy(bart())
    before = model(SOURCE, decoder_input_ids=SHIFTED)
    with torch.no_grad():
        model.target_embed.positions.weight.mul_(2)
    after = model(SOURCE, decoder_input_ids=SHIFTED)
    assert torch.equal(before.encoder_last_hidden_state, after.encoder_last_hidden_state)
    assert not torch.equal(before.logits, after.logits)
    assert model.target_embed.tokens is model.embed.tokens
    other = noisy(marian())
    assert other.target_embed.tokens is not other.embed.tokens
