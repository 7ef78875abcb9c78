"""The paper's own model, which no other library has: against loops of a few lines over its plain forward pass."""

import math
from itertools import product

import pytest
import torch

import minitransformer as mt
from minitransformer.generation import generate
from minitransformer.generation.settings import settings

VOCAB, START, END, PAD = 4, 1, 2, 3
SOURCE = torch.tensor([[3, 1, 2, 3], [2, 3, 0, 0], [1, 1, 3, 0]])
SOURCE_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
FIELDS = {"decoder_start_token_id": START, "pad_token_id": PAD}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(11)
        model = mt.build(mt.vaswani2017(vocab_size=VOCAB, layers=2, d_model=12, heads=3, d_ffn=20))
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return model.double().eval()


def log_probabilities(model, row, ids):
    """Of every next token, after the texts `ids` [R T] behind one source: [R T V]."""
    source, mask = (x[row : row + 1].expand(len(ids), -1) for x in (SOURCE, SOURCE_MASK))
    with torch.no_grad():
        return model(source, mask, decoder_input_ids=ids).logits.log_softmax(-1)


def all_texts(new):
    """Every text of up to `new` tokens that ends, or has so many, without its start token."""
    cut = {text[: text.index(END) + 1] if END in text else text for text in product(range(VOCAB), repeat=new)}
    return sorted(cut)


def ranking(model, row, new, power):
    """All texts, the best first: log-probability / length to this power."""
    texts = all_texts(new)
    ids = torch.tensor([[START, *text] + [PAD] * (new - len(text)) for text in texts])
    each = log_probabilities(model, row, ids[:, :-1]).gather(2, ids[:, 1:, None])[..., 0]  # [R N]
    scores = [float(each[i, : len(text)].sum()) / len(text) ** power for i, text in enumerate(texts)]
    return [list(texts[i]) for i in sorted(range(len(texts)), key=lambda i: -scores[i])]


@pytest.mark.parametrize("early_stopping", [False, "never"])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, -1.0])
def test_a_search_as_wide_as_all_texts_ranks_all_texts(model, power, early_stopping):
    new, count = 3, len(all_texts(3))
    assert count == 1 + 3 + 9 * 4
    fields = {"num_beams": VOCAB**new, "num_return_sequences": count, "max_new_tokens": new, "eos_token_id": END}
    config = settings({}, {**FIELDS, **fields, "length_penalty": power, "early_stopping": early_stopping})
    got = generate(model, SOURCE, SOURCE_MASK, config=config).unflatten(0, (len(SOURCE), count))
    for row, found in enumerate(got.tolist()):
        expected = [[START, *text] + [PAD] * (new - len(text)) for text in ranking(model, row, new, power)]
        assert found == expected
    assert len(got.unique(dim=0)) > 1  # not one ranking for all sources


def test_the_power_of_the_length_changes_the_ranking(model):
    assert len({tuple(map(tuple, ranking(model, 0, 3, power))) for power in (0.0, 1.0, 2.0, -1.0)}) == 4


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_beams_without_an_end(model, beams):
    """The K best of all lengthenings of the K best; K = 1 is greedy."""
    new = 7
    config = settings({}, {**FIELDS, "num_beams": beams, "num_return_sequences": beams, "max_new_tokens": new})
    got = generate(model, SOURCE, SOURCE_MASK, config=config).unflatten(0, (len(SOURCE), beams))
    for row in range(len(SOURCE)):
        kept = [([START], 0.0)]
        for _ in range(new):
            following = log_probabilities(model, row, torch.tensor([text for text, _ in kept]))[:, -1].tolist()
            longer = [
                ([*text, token], score + following[i][token])
                for i, (text, score) in enumerate(kept)
                for token in range(VOCAB)
            ]
            kept = sorted(longer, key=lambda pair: -pair[1])[:beams]
        assert got[row].tolist() == [text for text, _ in kept]


def test_greedy_up_to_the_end(model):
    config = settings({}, {**FIELDS, "max_new_tokens": 9, "eos_token_id": END})
    got = generate(model, SOURCE, SOURCE_MASK, config=config)
    for row in range(len(SOURCE)):
        text = [START]
        while len(text) < 10 and text[-1] != END:
            text.append(int(log_probabilities(model, row, torch.tensor([text]))[0, -1].argmax()))
        assert got[row].tolist() == text + [PAD] * (got.shape[1] - len(text))


def test_sampled_texts_have_their_probabilities(model):
    """Whole texts, drawn 4000 times, against the product of their tokens' probabilities."""
    new, count = 2, 4000
    config = settings({}, {**FIELDS, "max_new_tokens": new, "eos_token_id": END, "do_sample": True, "top_k": 0})
    config = settings({}, {**vars(config), "num_return_sequences": count})
    got = generate(model, SOURCE[:1], SOURCE_MASK[:1], config=config, seed=0)[:, 1:].tolist()
    texts = all_texts(new)
    ids = torch.tensor([[START, *text] + [PAD] * (new - len(text)) for text in texts])
    each = log_probabilities(model, 0, ids[:, :-1]).gather(2, ids[:, 1:, None])[..., 0]
    for i, text in enumerate(texts):
        expected = math.exp(float(each[i, : len(text)].sum()))
        seen = got.count(ids[i, 1:].tolist()) / count
        assert abs(seen - expected) < 4 * math.sqrt(expected * (1 - expected) / count) + 1e-9, text
