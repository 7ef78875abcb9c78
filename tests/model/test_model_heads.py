"""Each head's logits and loss against torch's functions, and its (sum, count) that adds up over micro-batches."""

import dataclasses

import pytest
import torch
from small_models import (
    HEADS,
    VOCAB,
    albert,
    bart,
    bert,
    deit,
    electra,
    embed,
    gpt2,
    ids,
    inputs,
    llama,
    noisy,
    padding,
    paper,
    roberta,
    t5,
    vit,
)

from minitransformer.config import (
    ClassificationConfig,
    LanguageModelConfig,
    PretrainingConfig,
    QuestionAnsweringConfig,
    ReplacedTokensConfig,
    TokenClassificationConfig,
)
from minitransformer.errors import ConfigError, InputError
from minitransformer.model import build

F = torch.nn.functional
BATCH, LENGTH, LABELS, CHOICES = 5, 6, 4, 3
IDS, MASK = ids(BATCH, LENGTH, seed=1), padding([6, 2, 1, 4, 3], LENGTH)
MASKED_LM = LanguageModelConfig(task="masked-lm", tied=True, bias="learned", transform="gelu", norm_eps=1e-3)


def classifier(num_labels=LABELS, reads="pooler", **fields):
    task = fields.pop("task", "sequence-classification")
    return ClassificationConfig(task=task, num_labels=num_labels, reads=reads, **fields)


def labels(*shape, high=LABELS, ignore=False):
    """Random labels, some of them -100 where `ignore`."""
    drawn = torch.randint(high, shape, generator=torch.Generator().manual_seed(5))
    return (
        torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(6)) < 0.3, -100, drawn)
        if ignore
        else drawn
    )


WORDS = {"labels": labels(BATCH, LENGTH, high=VOCAB, ignore=True)}
TAGS = {"labels": labels(BATCH, LENGTH, ignore=True)}
ONE, SEVERAL = {"labels": labels(BATCH, ignore=True)}, {"labels": labels(BATCH, LABELS, high=2).double()}
NUMBER, CHOICE = {"labels": labels(BATCH) / 2.5 - 1}, {"labels": labels(BATCH, high=CHOICES)}
PLACES = {"start_positions": torch.tensor([0, 5, 2, 6, 99]), "end_positions": torch.tensor([1, 6, 2, 3, 7])}
CHOICE_IDS = ids(BATCH, CHOICES, LENGTH)
POOLED = bert(pooler=True)
BOTH = PretrainingConfig(lm=MASKED_LM, pairs="next_sentence")
UNTIED = LanguageModelConfig(task="masked-lm", tied=False)
ORDER = {"sentence_order_label": labels(BATCH, high=2)}
REPLACED = {"labels": labels(BATCH, LENGTH, high=2, ignore=True)}
PIXELS = inputs(vit(), BATCH)["pixel_values"].double()
END = 12
EOS_IDS = ids(BATCH, LENGTH, seed=1).clamp(max=11)
ENDS = [5, 1, 0, 3, 2]  # where the last end token of each text is
EOS_IDS[range(BATCH), ENDS] = END
EOS_IDS[0, 2] = END
THREE_PAIRS = PretrainingConfig(lm=MASKED_LM, pairs="sentence_order", num_labels=3)


def with_head(config, head):
    return dataclasses.replace(config, head=head)


CASES = {  # name -> (config, input_ids, targets)
    "masked-lm": (with_head(bert(), MASKED_LM), IDS, WORDS),
    "untied lm": (with_head(bert(), UNTIED), IDS, WORDS),
    "causal-lm": (gpt2(), IDS, WORDS),
    "seq2seq-lm": (paper(), IDS, WORDS),
    "pretraining": (with_head(POOLED, BOTH), IDS, WORDS | {"next_sentence_label": labels(BATCH, high=2)}),
    "one of several labels": (with_head(POOLED, classifier()), IDS, ONE),
    "several labels at once": (with_head(POOLED, classifier()), IDS, SEVERAL),
    "a number": (with_head(POOLED, classifier(1)), IDS, NUMBER),
    "last token": (with_head(gpt2(), classifier(reads="last_token")), IDS, ONE),
    "token-classification": (with_head(bert(), TokenClassificationConfig(num_labels=LABELS)), IDS, TAGS),
    "question-answering": (with_head(bert(), QuestionAnsweringConfig()), IDS, PLACES),
    "multiple-choice": (with_head(POOLED, classifier(1, task="multiple-choice")), CHOICE_IDS, CHOICE),
    "choices without a pooler": (
        roberta(head=classifier(1, "first_token", task="multiple-choice")),
        CHOICE_IDS,
        CHOICE,
    ),
    "replaced tokens": (electra(), IDS, REPLACED),
    "sentence order": (albert(), IDS, WORDS | ORDER),
    "sentence order of three": (
        with_head(POOLED, THREE_PAIRS),
        IDS,
        WORDS | {"sentence_order_label": labels(BATCH, high=3)},
    ),
    "first token": (roberta(), IDS, ONE),
    "first token, gelu": (roberta(head=classifier(reads="first_token", transform="gelu")), IDS, ONE),
    "no bias": (llama(classifier(reads="last_token", bias=False)), IDS, ONE),
    "last end token": (bart(classifier(reads="last_eos", token_id=END, transform="tanh")), EOS_IDS, ONE),
    "image-classification": (vit(), PIXELS, ONE),
    "images, several labels at once": (vit(), PIXELS, SEVERAL),
    "scaled lm": (t5(), IDS, WORDS),
    "fixed bias": (bart(), IDS, WORDS),
    "untied causal lm": (llama(), IDS, WORDS),
    "narrow table": (bert(embed=embed(d_embed=5), head=MASKED_LM), IDS, WORDS),
    "untied narrow table": (bert(embed=embed(d_embed=5), head=dataclasses.replace(MASKED_LM, tied=False)), IDS, WORDS),
}
LOGITS = ("logits", "prediction_logits", "seq_relationship_logits", "sop_logits", "start_logits", "end_logits")
LOGITS += ("cls_logits", "distillation_logits")
PAIRS = {"next_sentence": "seq_relationship_logits", "sentence_order": "sop_logits"}


def arguments(config, x):
    """What the model is called with. The decoder of a translator reads the same text here."""
    if x.is_floating_point():
        return {"pixel_values": x}
    return {"input_ids": x} | ({"decoder_input_ids": x} if config.task == "seq2seq-lm" else {})


def run(name, book="fused", rows=slice(None), **changes):
    """The model, its output for some rows, and their targets."""
    config, input_ids, targets = CASES[name]
    model = noisy(config, book)
    targets = {key: value[rows] for key, value in (targets | changes).items()}
    return model, model(**arguments(config, input_ids[rows]), **targets), targets


def linear(x, part):
    return x @ part.weight.T + (0 if part.bias is None else part.bias)


ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "tanh": torch.tanh}


def lm_logits(projection, x, table, config):
    if config.transform:
        x = ACTIVATIONS[config.transform](linear(x, projection.dense))
        x = F.layer_norm(x, x.shape[-1:], projection.norm.weight, projection.norm.bias, 1e-3)
    x = x * config.scale @ (table if config.tied else projection.weight).T
    return x + projection.bias if config.bias else x


def expected_logits(model, out, choices):
    head, x, task, config = model.head, out.last_hidden_state, model.config.task, model.config.head
    if task.endswith("-lm"):
        return {"logits": lm_logits(head.lm, x, model.embed.tokens.weight, config)}
    if task == "question-answering":
        return dict(zip(("start_logits", "end_logits"), linear(x, head.qa).unbind(-1), strict=True))
    if task == "token-classification":
        return {"logits": linear(x, head.cls)}
    if isinstance(config, ReplacedTokensConfig):
        return {"logits": linear(F.gelu(linear(x, head.dense)), head.cls)[..., 0]}
    whole = x[:, 0]
    if model.config.pooler:
        whole = torch.tanh(linear(whole, model.pooler))
    if task == "pretraining":
        words = lm_logits(head.lm, x, model.embed.tokens.weight, config.lm)
        return {"prediction_logits": words, PAIRS[config.pairs]: linear(whole, head.pairs)}
    if config.reads == "last_token":
        whole = x[:, -1]
    if config.reads == "last_eos":
        whole = x[range(BATCH), ENDS]
    if config.transform:
        whole = ACTIVATIONS[config.transform](linear(whole, head.dense))
    logits = linear(whole, head.cls)
    return {"logits": logits.view(-1, choices) if task == "multiple-choice" else logits}


TWO_LOSSES = ("pretraining", "sentence order", "sentence order of three")


def expected_loss(name, out, targets):
    if name in TWO_LOSSES:
        words = F.cross_entropy(out.prediction_logits.flatten(0, 1), targets["labels"].flatten())
        if name == "pretraining":
            return words + F.cross_entropy(out.seq_relationship_logits, targets["next_sentence_label"])
        return words + F.cross_entropy(out.sop_logits, targets["sentence_order_label"])
    if name == "question-answering":
        scores, places = torch.cat([out.start_logits, out.end_logits]), torch.cat(list(targets.values()))
        return F.cross_entropy(scores[places < LENGTH], places[places < LENGTH])
    wanted = targets["labels"]
    if name == "a number":
        return F.mse_loss(out.logits[:, 0], wanted)
    if "several labels at once" in name:
        return F.binary_cross_entropy_with_logits(out.logits, wanted)
    if name == "replaced tokens":
        return F.binary_cross_entropy_with_logits(out.logits[wanted >= 0], wanted[wanted >= 0].double())
    if "causal" in name:  # logits at t are for the token at t + 1
        return F.cross_entropy(out.logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())
    return F.cross_entropy(out.logits.flatten(0, -2), wanted.flatten())


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_loss(name, book):
    model, out, targets = run(name, book)
    expected = expected_logits(model, out, CHOICES)
    assert {field for field in LOGITS if getattr(out, field) is not None} == set(expected)
    for field, value in expected.items():
        torch.testing.assert_close(getattr(out, field), value, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out.loss, expected_loss(name, out, targets), rtol=1e-11, atol=1e-11)
    assert out.loss > 0.1


def sum_and_count(name, rows=slice(None), **changes):
    model, out, targets = run(name, rows=rows, **changes)
    logits = {field: getattr(out, field) for field in LOGITS if getattr(out, field) is not None}
    return model.head.loss(logits, targets)


@pytest.mark.parametrize("name", [name for name in CASES if name not in TWO_LOSSES])
def test_micro_batches_add_up(name):
    """The mean of the whole is not the mean of the means, but sums and counts add up."""
    total, count = sum_and_count(name)
    parts = [sum_and_count(name, rows) for rows in (slice(0, 1), slice(1, 3), slice(3, 5))]
    torch.testing.assert_close(sum(part for part, _ in parts), total, rtol=1e-12, atol=1e-12)
    assert sum(counted for _, counted in parts) == count
    assert count.dtype == torch.int64


def test_counts():
    judged = int((WORDS["labels"] != -100).sum())
    assert sum_and_count("masked-lm")[1] == sum_and_count("seq2seq-lm")[1] == judged
    assert sum_and_count("causal-lm")[1] == (WORDS["labels"][:, 1:] != -100).sum()
    assert sum_and_count("question-answering")[1] == 6  # four of the ten places are past the end
    assert sum_and_count("several labels at once")[1] == BATCH * LABELS
    assert sum_and_count("a number")[1] == sum_and_count("multiple-choice")[1] == BATCH
    assert sum_and_count("pretraining")[1] == sum_and_count("sentence order")[1] == 1
    assert sum_and_count("replaced tokens")[1] == (REPLACED["labels"] != -100).sum()
    assert sum_and_count("image-classification")[1] == (ONE["labels"] != -100).sum()


@pytest.mark.parametrize("name", ["masked-lm", "causal-lm", "token-classification", "replaced tokens"])
def test_nothing_judged_is_zero_of_zero(name):
    total, count = sum_and_count(name, labels=torch.full((BATCH, LENGTH), -100))
    assert (total, count) == (0, 0)


def test_labels_shaped_as_a_column_are_taken():
    column = CASES["a number"][2]["labels"][:, None]
    assert torch.equal(sum_and_count("a number", labels=column)[0], sum_and_count("a number")[0])


@pytest.mark.parametrize("name", CASES)
def test_no_labels_no_loss(name):
    config, input_ids, _ = CASES[name]
    model = noisy(config)
    assert model(**arguments(config, input_ids)).loss is None
    needed = "start_positions" if name == "question-answering" else "labels"
    wrong = {"labels": labels(BATCH)} if name == "question-answering" else PLACES
    with pytest.raises(InputError, match=f"{needed}: this head needs it for its loss; got {', '.join(sorted(wrong))}"):
        model(**arguments(config, input_ids), **wrong)


@pytest.mark.parametrize(("name", "other"), [("pretraining", "next_sentence"), ("sentence order", "sentence_order")])
def test_pretraining_needs_both_labels(name, other):
    model = noisy(CASES[name][0])
    with pytest.raises(InputError, match=f"{other}_label: this head needs it for its loss; got labels"):
        model(IDS, **WORDS)


def test_padding_is_not_judged_for_having_been_replaced():
    """The labels of padding make no difference; as in ELECTRA's own loss, the mask says what is padding."""
    model = noisy(electra())
    out = model(IDS, MASK, labels=REPLACED["labels"])
    judged = (MASK == 1) & (REPLACED["labels"] != -100)
    wanted = REPLACED["labels"][judged].double()
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits[judged], wanted))
    unmasked = model(IDS, labels=REPLACED["labels"])
    assert not torch.equal(out.loss, unmasked.loss)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
def test_a_teachers_classifier(book):
    """The class token's, the distillation token's, and their mean; the loss would need the teacher."""
    model = noisy(deit(), book)
    out = model(pixel_values=PIXELS)
    by_class = linear(out.last_hidden_state[:, 0], model.head.cls)
    by_teacher = linear(out.last_hidden_state[:, 1], model.head.distillation)
    torch.testing.assert_close(out.cls_logits, by_class, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out.distillation_logits, by_teacher, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out.logits, (by_class + by_teacher) / 2, rtol=1e-11, atol=1e-11)
    with pytest.raises(InputError, match=r"labels: this head is trained by a teacher; .* 'image-classification'"):
        model(pixel_values=PIXELS, **ONE)


def test_a_language_model_over_images():
    with pytest.raises(ConfigError, match="head: got a language model over images"):
        build(vit(head=UNTIED))


@pytest.mark.parametrize("head", [classifier(), classifier(reads="first_token")])
def test_only_choices_are_texts_within_a_row(head):
    with pytest.raises(InputError, match=r"input_ids: got shape \[5, 3, 6\], expected \[batch, tokens\]"):
        noisy(with_head(POOLED, head))(CHOICE_IDS)


def test_labels_without_a_head():
    with pytest.raises(InputError, match="labels: this model has no head and no loss"):
        noisy(bert())(IDS, **WORDS)


PAD = 0
PADDED = torch.tensor([[3, 4, 5], [3, PAD, PAD], [PAD, 3, 4], [PAD, PAD, 7], [PAD, PAD, PAD]])
LAST = [2, 0, 2, 2, 0]  # the right-most that is not padding; the first where all is


@pytest.mark.parametrize(("pad_id", "mask"), [(PAD, None), (None, PADDED != PAD), (PAD, torch.ones(5, 3))])
def test_the_last_token_is_read_whichever_side_is_padded(pad_id, mask):
    model = noisy(gpt2(head=classifier(reads="last_token", token_id=pad_id)))
    out = model(PADDED, mask)
    expected = linear(out.last_hidden_state[torch.arange(5), LAST], model.head.cls)
    torch.testing.assert_close(out.logits, expected, rtol=1e-11, atol=1e-11)


def test_without_mask_and_pad_id_the_last_token_is_the_last():
    model = noisy(gpt2(head=classifier(reads="last_token")))
    out = model(PADDED)
    torch.testing.assert_close(out.logits, linear(out.last_hidden_state[:, -1], model.head.cls))


def test_choices_are_texts_of_their_own():
    config, input_ids, _ = CASES["multiple-choice"]
    model, mask = noisy(config), padding([6, 3, 4] * BATCH, LENGTH).view(BATCH, CHOICES, LENGTH)
    types = torch.ones_like(input_ids)
    out = model(input_ids, mask, types)
    for choice in range(CHOICES):
        alone = model(input_ids[:, choice], mask[:, choice], types[:, choice])
        torch.testing.assert_close(out.logits[:, choice], alone.logits[:, 0], rtol=1e-11, atol=1e-11)


def test_a_table_for_the_target_is_the_tied_one():
    config = dataclasses.replace(paper(), target_embed=dataclasses.replace(paper().embed, vocab_size=7))
    model = noisy(config)
    target = ids(BATCH, LENGTH) % 7
    out = model(IDS, decoder_input_ids=target)
    torch.testing.assert_close(out.logits, out.last_hidden_state @ model.target_embed.tokens.weight.T)
    assert out.logits.shape[-1] == 7
    assert out.last_hidden_state.shape[-1] % HEADS == 0
