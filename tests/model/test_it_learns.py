"""The paper's own model learns: it reverses strings it has never seen, whole strings, letter by letter."""

import pytest
import torch

from minitransformer.config import vaswani2017
from minitransformer.model import build
from minitransformer.modules import KVCache

LETTERS, LENGTH, START = 26, 10, 26  # the vocabulary is the letters and one token to start with


def strings(count, seed):
    return torch.randint(LETTERS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def reversed_by(model, source):
    """Greedy decoding, one letter after the other."""
    memory, cache = model.encode(source), KVCache.empty(layers=model.config.decoder.layers)
    tokens = torch.full((len(source), 1), START)
    for _ in range(LENGTH):
        hidden = model.decode(tokens[:, -1:], memory=memory, cache=cache)
        logits = hidden[:, -1] @ model.embed.tokens.weight.T
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    return tokens[:, 1:]


def train(model, steps):
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        source = strings(64, seed=step)
        target = source.flip(1)
        decoder_input_ids = torch.cat([torch.full((64, 1), START), target[:, :-1]], dim=1)
        loss = model(source, decoder_input_ids=decoder_input_ids, labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("dropout", "steps"), [(0.0, 400), pytest.param(0.1, 600, marks=pytest.mark.slow)])
def test_it_learns_to_reverse_strings(dropout, steps):
    config = vaswani2017(vocab_size=LETTERS + 1, layers=1, d_model=64, heads=4, d_ffn=128, dropout=dropout)
    model = build(config)
    held_out = strings(1000, seed=1_000_000)
    train(model, steps)
    model.eval()
    with torch.no_grad():
        right = (reversed_by(model, held_out) == held_out.flip(1)).all(-1)
    assert right.double().mean() > 0.99
