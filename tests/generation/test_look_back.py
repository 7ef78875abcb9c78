"""output_scores and output_attentions, against what transformers' generate and its eager models say."""

import pytest
import small_writers
import torch
from small_writers import theirs

import minitransformer as mt

TEXTS = ["What a film", "It was the worst of all films, and then", "I", "naïve 😀"]
CLOSE = {"atol": 1e-4, "rtol": 1e-3}  # of logits of up to some dozens


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> our model, and transformers' with its tokenizer."""
    root = tmp_path_factory.mktemp("writers")
    folders = {name: getattr(small_writers, name)(root / name) for name in ("gpt2", "t5", "bart")}
    return {name: (mt.load(folder), *theirs(folder)) for name, folder in folders.items()}


def their_batch(tokenizer, texts=TEXTS):
    return dict(tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))


def early_ends(ours, tokenizer, settings):
    """End tokens that some of these texts reach before others."""
    torch.manual_seed(3)
    new = ours.generate(**their_batch(tokenizer), max_new_tokens=9, **settings)[:, -9:]  # [R 9]
    return [int(new[0, 3]), int(new[-1, 5])]


def alive(sequences, new, ends):
    """Where a new token is the text's own, not padding behind its end: bool [R N]."""
    ended = torch.isin(sequences[:, -new:], torch.tensor(ends))
    return (ended.cumsum(1) - ended.int()) == 0


SETTINGS = {
    "greedy": {},
    "rules": {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2, "suppress_tokens": [*range(9, 99)]},
    "drawn": {"do_sample": True, "temperature": 1.7, "top_k": 20, "top_p": 0.8, "num_return_sequences": 2},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
def test_probabilities_are_the_softmax_of_transformers_scores(models, name, settings):
    ours, model, tokenizer = models[name]
    ends = early_ends(ours, tokenizer, settings)
    settings = {**settings, "max_new_tokens": 9, "eos_token_id": ends}
    torch.manual_seed(3)
    asked = {"return_dict_in_generate": True, "output_scores": True}
    expected = model.generate(**their_batch(tokenizer), **settings, **asked)
    torch.manual_seed(3)
    found = ours.generate(TEXTS, output_scores=True, **settings)
    assert found.sequences.equal(expected.sequences)
    assert list(found.texts) == tokenizer.batch_decode(expected.sequences, skip_special_tokens=True)
    theirs = torch.stack(expected.scores, dim=1).softmax(-1)  # [R N V]
    own = alive(expected.sequences, len(expected.scores), ends)
    assert 0 < own.float().mean() < 1
    torch.testing.assert_close(found.probabilities[own], theirs[own], **CLOSE)
    assert not found.probabilities[~own].any()
    told = model.compute_transition_scores(expected.sequences, expected.scores, normalize_logits=True)
    torch.testing.assert_close(found.log_probabilities[own], told[own], **CLOSE)
    assert not found.log_probabilities[~own].any()
    assert found.attentions is found.cross_attentions is found.encoder_attentions is None


@pytest.mark.parametrize("settings", [{}, {"no_repeat_ngram_size": 2, "renormalize_logits": True}])
@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
def test_log_probabilities_of_beams(models, name, settings):
    """The scores of a text's own beam at each step; their sum is the text's score."""
    ours, model, tokenizer = models[name]
    settings = {**settings, "num_beams": 4, "num_return_sequences": 3}
    ends = early_ends(ours, tokenizer, settings)
    settings = {**settings, "max_new_tokens": 9, "eos_token_id": ends}
    asked = {"return_dict_in_generate": True, "output_scores": True}
    expected = model.generate(**their_batch(tokenizer), **settings, length_penalty=0.0, **asked)
    found = ours.generate(TEXTS, output_scores=True, length_penalty=0.0, **settings)
    assert found.sequences.equal(expected.sequences)
    told = model.compute_transition_scores(
        expected.sequences, expected.scores, expected.beam_indices, normalize_logits=False
    )
    new = found.log_probabilities.shape[1]
    torch.testing.assert_close(found.log_probabilities, told[:, :new], **CLOSE)
    torch.testing.assert_close(found.log_probabilities.sum(1), expected.sequences_scores, **CLOSE)
    own = alive(expected.sequences, new, ends)
    assert 0 < own.float().mean() < 1
    assert not found.probabilities[~own].any()
    torch.testing.assert_close(found.probabilities.sum(-1), own.float(), **CLOSE)


def test_probabilities_end_where_a_stop_string_does(models):
    ours, model, tokenizer = models["gpt2"]
    free = ours.generate(TEXTS[:2], max_new_tokens=9)
    stop = free[1][len(TEXTS[1]) + 2 : len(TEXTS[1]) + 4]
    settings = {"max_new_tokens": 9, "stop_strings": [stop]}
    asked = {"return_dict_in_generate": True, "output_scores": True, "tokenizer": tokenizer}
    expected = model.generate(**their_batch(tokenizer, TEXTS[:2]), **settings, **asked)
    found = ours.generate(TEXTS[:2], output_scores=True, **settings)
    assert found.sequences.equal(expected.sequences)
    lengths = found.probabilities.any(-1).sum(1)  # [R]
    assert lengths[0] == 9
    ids = found.sequences[1, -9:]
    assert tokenizer.decode(ids[: lengths[1]]).rstrip().endswith(stop) or stop in tokenizer.decode(ids[: lengths[1]])
    assert stop not in tokenizer.decode(ids[: lengths[1] - 1])


def forward(model, batch, sequences, new):
    """transformers' eager forward pass over the finished texts."""
    asked = {"output_attentions": True}
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(**batch, decoder_input_ids=sequences, **asked)
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, new), value=1)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        return model(sequences, attention_mask=mask, position_ids=places, **asked)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
def test_attentions_are_those_of_one_pass_over_the_finished_texts(models, name, settings, book):
    ours, model, tokenizer = models[name]
    batch = their_batch(tokenizer)
    ours.use(book)
    try:
        found = ours.generate(TEXTS, max_new_tokens=7, output_attentions=True, min_new_tokens=7, **settings)
    finally:
        ours.use("fused")
    assert found.probabilities is found.log_probabilities is None
    copies = settings.get("num_return_sequences", 1)
    repeated = {key: x.repeat_interleave(copies, dim=0) for key, x in batch.items()}
    expected = forward(model, repeated, found.sequences, 7)
    two = name != "gpt2"
    of_theirs = (
        {key: getattr(expected, key) for key in ("decoder_attentions", "cross_attentions", "encoder_attentions")}
        if two
        else {"attentions": expected.attentions}
    )
    real = torch.ones_like(found.sequences) if two else mask_of(batch, found.sequences, copies)
    for key, layers in of_theirs.items():
        mine = getattr(found, key.removeprefix("decoder_"))
        assert len(mine) == len(layers) == 2
        rows = repeated["attention_mask"] if key == "encoder_attentions" else real
        for one, other in zip(mine, layers, strict=True):
            assert one.shape == other.shape
            one, other = (x.transpose(1, 2)[rows.bool()] for x in (one, other))  # [tokens H S], no padding
            torch.testing.assert_close(one, other, **CLOSE)
    if not two:
        assert found.cross_attentions is found.encoder_attentions is None


def mask_of(batch, sequences, copies):
    mask = batch["attention_mask"].repeat_interleave(copies, dim=0)
    return torch.nn.functional.pad(mask, (0, sequences.shape[1] - mask.shape[1]), value=1)


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
def test_attentions_are_those_of_transformers_steps(models, name):
    """Its generate gives one slice for each step; put together, they are our square."""
    ours, model, tokenizer = models[name]
    batch = their_batch(tokenizer)
    asked = {"return_dict_in_generate": True, "output_attentions": True}
    expected = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, **asked)
    found = ours.generate(**batch, max_new_tokens=6, min_new_tokens=6, output_attentions=True)
    assert found.sequences.equal(expected.sequences)
    assert found.texts is None
    steps = expected.decoder_attentions if name != "gpt2" else expected.attentions
    real = torch.ones_like(found.sequences) if name != "gpt2" else mask_of(batch, found.sequences, 1)
    for layer, square in enumerate(found.attentions):
        first = 0
        for step in steps:
            rows = step[layer]  # [R H T S]
            last = first + rows.shape[2]
            mine = square[:, :, first:last, : rows.shape[3]].transpose(1, 2)
            shown = real[:, first:last].bool()
            torch.testing.assert_close(mine[shown], rows.transpose(1, 2)[shown], **CLOSE)
            assert not square[:, :, first:last, rows.shape[3] :].transpose(1, 2)[shown].any()
            first = last
        assert first == found.sequences.shape[1] - 1  # the last token was never read
    if name != "gpt2":
        for layer, mine in enumerate(found.cross_attentions):
            put = torch.cat([step[layer] for step in expected.cross_attentions], dim=2)
            torch.testing.assert_close(mine[:, :, :-1], put, **CLOSE)


def test_nothing_attends_to_padding(models):
    ours, _, tokenizer = models["gpt2"]
    found = ours.generate(TEXTS, max_new_tokens=5, output_attentions=True)
    mask = mask_of(their_batch(tokenizer), found.sequences, 1).bool()
    assert not mask.all()
    for layer in found.attentions:
        for row, real in zip(layer, mask, strict=True):
            assert not row[:, real][:, :, ~real].any()
            torch.testing.assert_close(row[:, real].sum(-1), torch.ones(row.shape[0], int(real.sum())))
    ours_t5, _, tokenizer = models["t5"]
    found = ours_t5.generate(TEXTS, max_new_tokens=5, output_attentions=True)
    mask = their_batch(tokenizer)["attention_mask"].bool()
    for layer in found.cross_attentions:
        assert not layer.transpose(1, 3).transpose(2, 3)[~mask].any()  # [B S T H]


def test_what_it_saw_does_not_depend_on_the_other_texts(models):
    ours, *_ = models["gpt2"]
    together = ours.generate(TEXTS, max_new_tokens=5, output_scores=True, output_attentions=True)
    for place, text in enumerate(TEXTS):
        alone = ours.generate(text, max_new_tokens=5, output_scores=True, output_attentions=True)
        assert alone.texts == together.texts[place : place + 1]
        torch.testing.assert_close(alone.probabilities[0], together.probabilities[place], **CLOSE)
        size = alone.sequences.shape[1]
        torch.testing.assert_close(alone.attentions[1][0], together.attentions[1][place, :, -size:, -size:], **CLOSE)


@pytest.mark.parametrize("use_cache", [True, False])
def test_asking_changes_no_token_and_no_cache_no_number(models, use_cache):
    ours, *_ = models["bart"]
    plain = ours.generate(TEXTS, max_new_tokens=8, seed=2, do_sample=True)
    found = ours.generate(
        TEXTS, max_new_tokens=8, seed=2, do_sample=True, output_scores=True, output_attentions=True, use_cache=use_cache
    )
    assert list(found.texts) == plain
    assert not any(x.requires_grad for x in (found.probabilities, found.log_probabilities, *found.attentions))
    assert found.probabilities.shape[:2] == found.log_probabilities.shape
