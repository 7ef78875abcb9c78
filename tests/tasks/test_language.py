"""Language models: blocks that judge each token once, masks drawn and losses computed as by transformers."""

import itertools
import math
import os
import time
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from small_task_models import mean_and_parts, overfit, their_loss
from small_writers import END, LINES, gpt2
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

import minitransformer as mt
from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.tasks import Row
from minitransformer.tasks.inference import predict
from minitransformer.tasks.language import CausalLM, MaskedLM, TokenLoss
from minitransformer.tasks.task import Criterion

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{i}" for i in range(95)]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    return mt.load(gpt2(tmp_path_factory.mktemp("gpt")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT that knows 95 words, with noise on every parameter."""
    folder = tmp_path_factory.mktemp("bert")
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(roles, SPECIAL, strict=True))
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=140, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(folder):
    return mt.load(folder)


def rows(*texts):
    return [Row(text=text, where=f"x.txt, line {i + 1}") for i, text in enumerate(texts)]


# --- causal


def judged_tokens(examples, row):
    """The tokens of a row that are predicted, in order, and those that are read."""
    targets = [example.target for example in examples if example.row == row]
    return [token for target in targets for token in target[1:]]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), max_length=st.integers(2, 17))
def test_each_token_but_the_first_is_judged_once(bert, lengths, max_length):
    bert.tokenizer.special.pop("eos_token", None)
    texts = [" ".join(WORDS[:length]) for length in lengths]
    examples = CausalLM(bert.tokenizer, (), max_length).encode(rows(*texts))
    for row, text in enumerate(texts):
        whole = bert.tokenizer.encode(text)
        assert judged_tokens(examples, row) == whole[1:]
        assert next(e.target[0] for e in examples if e.row == row) == whole[0]
    assert all(2 <= len(e) <= max_length and list(e.inputs["input_ids"]) == list(e.target) for e in examples)
    assert sum(e.lost for e in examples) == 0


def test_a_document_ends_with_one_end_token_and_its_blocks_overlap_by_one_token(gpt):
    whole = [*gpt.tokenizer.encode("What a film!"), gpt.tokenizer.eos_token_id]
    examples = CausalLM(gpt.tokenizer, (), 5).encode(rows("What a film!", "What a film!" + END))
    assert judged_tokens(examples, 0) == judged_tokens(examples, 1) == whole[1:]
    blocks = [e.target for e in examples if e.row == 0]
    assert len(blocks) > 1
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(blocks))


def test_without_a_limit_a_document_is_one_block(gpt):
    assert len(CausalLM(gpt.tokenizer, (), None).encode(rows("What a film!"))) == 1


def test_padding_by_the_end_token_is_not_judged_and_the_end_token_is(gpt):
    task = CausalLM(gpt.tokenizer, (), 50)
    batch = task.collate(task.encode(rows("What a film!", "What a very long film it was!")))
    end, mask = gpt.tokenizer.eos_token_id, batch["attention_mask"]
    assert gpt.tokenizer.pad_token_id is None
    assert (batch["input_ids"][mask == 0] == end).all()
    assert (mask == 0).any()
    assert torch.equal(batch["labels"], torch.where(mask == 1, batch["input_ids"], -100))
    assert (batch["labels"] == end).sum() == 2


def test_the_loss_of_gpt2_is_transformers(gpt, tmp_path):
    model = mt.load(gpt.report.source, dtype=torch.float64).eval()
    task = CausalLM(model.tokenizer, (), 30)
    batch = task.collate(task.encode(rows(*LINES[:3])))
    right = their_loss(transformers.GPT2LMHeadModel, model, batch, tmp_path / "ours")
    whole, parts = mean_and_parts(task, model.transformer, batch)
    judged = task.decode(model.transformer, batch)
    assert whole == pytest.approx(right, rel=1e-7)  # transformers computes it in float32
    assert parts == pytest.approx(whole, rel=1e-12)
    assert sum(j.loss for j in judged) / sum(j.tokens for j in judged) == pytest.approx(whole, rel=1e-12)


def test_the_score_is_that_of_the_whole_text_read_at_once(gpt):
    task = CausalLM(gpt.tokenizer, (), 90)
    given = rows(*(line[:60] for line in LINES[:3]))
    examples = task.encode(given)
    decoded = task.decode(gpt.transformer, task.collate(examples))
    answers = task.answers(given, examples, decoded)
    ids = [[*gpt.tokenizer.encode(row["text"]), gpt.tokenizer.eos_token_id] for row in given]
    losses = [gpt.transformer(torch.tensor([x]), labels=torch.tensor([x])).loss.item() * (len(x) - 1) for x in ids]
    assert [a.tokens for a in answers] == [len(x) - 1 for x in ids]
    assert [a.loss for a in answers] == pytest.approx(losses, rel=1e-5)
    mean = sum(losses) / sum(len(x) - 1 for x in ids)
    assert task.score(answers, given) == pytest.approx({"loss": mean, "perplexity": math.exp(mean)}, rel=1e-5)


def test_the_score_smooths_no_labels(gpt):
    plain, smooth = (CausalLM(gpt.tokenizer, (), 30, Criterion(label_smoothing=e)) for e in (0.0, 0.1))
    batch = plain.collate(plain.encode(rows(LINES[0])))
    assert plain.decode(gpt.transformer, batch) == smooth.decode(gpt.transformer, batch)
    assert plain.loss(gpt.transformer, batch)[0] != smooth.loss(gpt.transformer, batch)[0]


def test_blocks_of_a_document_are_one_answer(gpt):
    task = CausalLM(gpt.tokenizer, (), 10)
    given = rows(*LINES[:2])
    examples = task.encode(given)
    batch = task.collate(examples)
    answers = task.answers(given, examples, task.decode(gpt.transformer, batch))
    assert len(examples) > len(answers) == 2
    total, count = task.loss(gpt.transformer, batch)
    assert task.score(answers, given)["loss"] == pytest.approx((total / count).item(), rel=1e-5)


def test_gpt2_learns_16_documents_by_heart(tmp_path):
    model = mt.load(gpt2(tmp_path, initializer_range=0.02, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    task = CausalLM(model.tokenizer, (), 48)
    texts = [f"{chr(65 + i)}: {LINES[i][:20]}" for i in range(16)]
    examples = task.encode(rows(*texts))
    for example in examples:  # the second token is the first that can be known: the letter says all
        assert example.target[1] == model.tokenizer.encode(":")[0]
    assert overfit(task, model.transformer, rows(*texts), steps=150, rate=1e-2) < 1e-2


@pytest.mark.parametrize(
    ("max_length", "text", "message"),
    [(1, "What a film!", "max_length: got 1"), (5, " \n", "x.txt, line 1: 'text' is"), (5, 3, "expected a text")],
)
def test_what_cannot_be_predicted_is_refused(gpt, max_length, text, message):
    with pytest.raises((InputError, DataError), match=message):
        CausalLM(gpt.tokenizer, (), max_length).encode(rows(text))


def test_a_document_of_one_token_is_refused_where_there_is_no_end_token(gpt):
    tokenizer = gpt.tokenizer
    end = tokenizer.special.pop("eos_token")
    with pytest.raises(DataError, match=r"x.txt, line 1: 'a' is 1 token\(s\)"):
        CausalLM(tokenizer, (), 8).encode(rows("a"))
    tokenizer.special["eos_token"] = end


def test_predict_says_to_generate(gpt):
    task = CausalLM(gpt.tokenizer, (), 8)
    with pytest.raises(InputError, match=r"model\.generate"):
        predict(gpt.transformer, task, [task.row("What a")], batch_size=2)
    with pytest.raises(InputError, match="expected a text"):
        task.row(3)
    assert task.row("What a")["text"] == task.row({"text": "What a"})["text"]


def test_a_book_is_cut_in_seconds(gpt):
    folder = os.environ.get("MINITRANSFORMER_DATA")
    if folder is None:
        pytest.skip("MINITRANSFORMER_DATA is not set")
    text = (Path(folder) / "shakespeare" / "input.txt").read_text("utf-8")
    started = time.perf_counter()
    examples = CausalLM(gpt.tokenizer, (), 128).encode(rows(text))
    assert time.perf_counter() - started < 30
    assert len(judged_tokens(examples, 0)) == len(gpt.tokenizer.encode(text))  # without the first, with the end


# --- masked


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), max_length=st.integers(3, 17))
def test_masked_blocks_lose_nothing_and_have_special_tokens(bert, lengths, max_length):
    texts = [" ".join(WORDS[:length]) for length in lengths]
    examples = MaskedLM(bert.tokenizer, (), max_length).encode(rows(*texts))
    for row, text in enumerate(texts):
        blocks = [list(e.inputs["input_ids"]) for e in examples if e.row == row]
        assert list(itertools.chain(*(block[1:-1] for block in blocks))) == bert.tokenizer.encode(
            text, add_special_tokens=False
        )
        assert all(block[0] == 2 and block[-1] == 3 and 3 <= len(block) <= max_length for block in blocks)


def drawn(task, examples, times):
    """What was shown and what is to be predicted, of the examples' tokens, in many batches."""
    batches = [task.collate(examples) for _ in range(times)]
    return (torch.stack([batch[name] for batch in batches]) for name in ("input_ids", "labels"))


def shares(shown, labels, whole):
    """How many words were chosen, masked, replaced by another, and kept; and all words."""
    chosen = labels != -100
    masked, kept = chosen & (shown == 4), chosen & (shown == whole)
    return [int(x.sum()) for x in (chosen, masked, chosen & ~masked & ~kept, kept)], whole.ge(5).expand_as(shown).sum()


def test_masks_are_drawn_as_transformers_draws_them(bert, folder):
    task = MaskedLM(bert.tokenizer, (), 126)
    examples = task.encode(rows(*(" ".join((WORDS * 3)[i : i + 124]) for i in range(8))))
    whole = torch.tensor([example.target for example in examples])  # [8 126]
    shown, labels = drawn(task, examples, 200)
    ours, words = shares(shown, labels, whole)
    collator = transformers.DataCollatorForLanguageModeling(transformers.AutoTokenizer.from_pretrained(folder))
    batches = [collator([{"input_ids": row} for row in whole.tolist()]) for _ in range(200)]
    oracle, _ = shares(*(torch.stack([b[name] for b in batches]) for name in ("input_ids", "labels")), whole)
    # A random word is the word itself once in 95 times.
    expected = torch.tensor([0.15, 0.12, 0.015 * 94 / 95, 0.015 * (1 + 1 / 95)]) * words
    for found in (ours, oracle):
        parts = torch.tensor([words - found[0], *found[1:]], dtype=torch.float64)
        right = torch.tensor([words - expected[0], *expected[1:]], dtype=torch.float64)
        assert ((parts - right) ** 2 / right).sum() < 16.3, found  # chi-square, 3 degrees of freedom: 1 in 1000
    assert not (labels.eq(2) | labels.eq(3)).any()  # special tokens are not chosen
    assert torch.equal(shown.where(labels == -100, whole), whole.expand_as(shown))  # what is not chosen is shown
    assert torch.equal(labels[labels != -100], whole.expand_as(labels)[labels != -100])


def test_random_words_are_any_words_but_special_tokens(bert):
    task = MaskedLM(bert.tokenizer, (), 126, mask_probability=1.0)
    examples = task.encode(rows(" ".join(["w0"] * 124)))
    shown, labels = drawn(task, examples, 400)
    assert (labels[..., 1:-1] == 5).all()
    others = torch.bincount(shown[(shown != 4) & (shown != 5)][:], minlength=100)
    others[[2, 3]] -= 400  # around each text
    assert (others[:5] == 0).all()
    expected = others[6:].sum() / 94
    assert ((others[6:] - expected) ** 2 / expected).sum() < 145  # chi-square, 93 degrees of freedom: 1 in 2000


def test_each_text_has_a_chosen_word_and_padding_is_none(bert):
    task = MaskedLM(bert.tokenizer, (), 20, mask_probability=1e-9)
    batch = task.collate(task.encode(rows("w1", "w1 w2 w3 w4", "w5 [SEP] w6", "unknown")))
    assert (batch["labels"] != -100).sum(1).tolist() == [1, 1, 1, 1]
    assert batch["labels"][0].tolist() == [-100, 6, -100, -100, -100, -100]
    assert set(batch["labels"].flatten().tolist()) <= {-100, 6, 7, 8, 9, 10, 11, 1}
    assert task.count(batch) == 4


def test_other_words_are_chosen_each_time_and_the_same_under_a_seed(bert):
    task = MaskedLM(bert.tokenizer, (), 90)
    examples = task.encode(rows(" ".join(WORDS)))
    first, second = (task.collate(examples)["labels"] for _ in range(2))
    assert not torch.equal(first, second)
    again = []
    for _ in range(2):
        torch.manual_seed(3)
        again.append(task.collate(examples))
    assert all(torch.equal(again[0][name], again[1][name]) for name in again[0])


def test_the_loss_of_bert_is_transformers(folder, tmp_path):
    ours = mt.load(folder, dtype=torch.float64).eval()
    task = MaskedLM(ours.tokenizer, (), 30)
    batch = task.collate(task.encode(rows(" ".join(WORDS[:50]), "w7 w8 w9", " ".join(WORDS[40:60]))))
    right = their_loss(transformers.BertForMaskedLM, ours, batch, tmp_path / "ours")
    assert mean_and_parts(task, ours.transformer, batch) == pytest.approx((right, right), rel=1e-10)
    judged = task.decode(ours.transformer, batch)
    assert sum(j.loss for j in judged) / sum(j.tokens for j in judged) == pytest.approx(right, rel=1e-10)


class TheSameMasks(MaskedLM):
    """Otherwise no loss can be small: half of a text may be hidden."""

    def collate(self, examples):
        torch.manual_seed(0)
        return super().collate(examples)


def test_bert_learns_16_documents_by_heart(folder):
    model = mt.load(folder)
    torch.manual_seed(1)
    texts = [" ".join(WORDS[i] for i in torch.randint(95, (8,))) for _ in range(16)]
    task = TheSameMasks(model.tokenizer, (), 20)
    assert overfit(task, model.transformer, rows(*texts), steps=150, rate=1e-2) < 1e-2


def test_predict_fills_masks_as_transformers_does(bert, folder):
    texts = ["w1 [MASK] w3 [MASK] w5", "[MASK] w9"]
    task = MaskedLM(bert.tokenizer, (), 30)
    answers = predict(bert.transformer, task, [task.row(text) for text in texts], batch_size=2)
    oracle = transformers.BertForMaskedLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, answer in zip(texts, answers, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            found = oracle(**inputs).logits.softmax(-1)[inputs["input_ids"] == 4]
        assert answer.text == text
        assert len(answer.places) == len(found)
        for place, right in zip(answer.places, found, strict=True):
            best, ids = right.topk(5)
            assert [token for token, _ in place] == [tokenizer.decode([i]) for i in ids.tolist()]
            assert [score for _, score in place] == pytest.approx(best.tolist(), rel=1e-4)


def test_masks_in_all_blocks_are_filled(bert):
    task = MaskedLM(bert.tokenizer, (), 6)
    text = "w1 w2 w3 [MASK] w5 w6 w7 w8 w9 [MASK] w2 w3 [MASK]"
    answers = predict(bert.transformer, task, [task.row(text)], batch_size=2)
    assert [len(answer.places) for answer in answers] == [3]


def test_what_cannot_be_masked_is_refused(bert, gpt):
    with pytest.raises(TokenizerError, match="no mask token"):
        MaskedLM(gpt.tokenizer, (), 10)
    for probability in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="mask_probability"):
            MaskedLM(bert.tokenizer, (), 10, mask_probability=probability)
    with pytest.raises(InputError, match="max_length: got 2"):
        MaskedLM(bert.tokenizer, (), 2).encode(rows("w1"))
    with pytest.raises(DataError, match=r"x\.txt, line 1: got special tokens alone"):
        MaskedLM(bert.tokenizer, (), 5).encode(rows("[SEP] [SEP]"))
    task = MaskedLM(bert.tokenizer, (), 10)
    with pytest.raises(InputError, match=r"no \[MASK\] in 'w1 w2'"):
        predict(bert.transformer, task, [task.row("w1 w2")], batch_size=1)


def test_nothing_judged_is_no_perplexity(bert):
    with pytest.raises(DataError, match="no token was predicted"):
        MaskedLM(bert.tokenizer, (), 10).score([TokenLoss(0.0, 0)], [])
