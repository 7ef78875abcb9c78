"""mt.load by a name on the hub, from the first question to the numbers, and the same once more with the hub gone."""

import json

import pytest
import torch
import transformers
from fake_hub import COMMIT, NEXT, Repo, check_cache, fake_hub, hub_environment
from storage_helpers import run_python

TEXTS = ["a good film", "bad"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
NOT_NEEDED = [
    "README.md", ".gitattributes", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot",
    "onnx/model.onnx", "onnx/config.json", "model.fp16.safetensors", "training_args.bin", "modeling_evil.py",
]  # fmt: skip
LOAD = """
import json, sys
import minitransformer as mt
model = mt.load("org/tiny", **json.loads(sys.argv[1]))
print(model.report)
logits = model(**model.tokenizer(json.loads(sys.argv[2]), padding=True, return_tensors="pt")).logits
print("LOGITS" + json.dumps(logits.tolist()))
"""


@pytest.fixture
def tiny(tmp_path):
    """A small BERT as transformers writes it, with all that a repository holds besides, and the logits it gives."""
    folder = tmp_path / "tiny"
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=16, num_labels=3, initializer_range=0.5,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files.keys() == {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    ids = torch.tensor([[2, 5, 6, 8, 3], [2, 7, 3, 0, 0]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=ids.ne(0).long()).logits
    return files, logits


def load(home, endpoint, *, revision="v1", **variables):
    """What is printed by a fresh process that loads the model and runs it."""
    return run_python(
        LOAD,
        json.dumps({"revision": revision}),
        json.dumps(TEXTS),
        cwd=home,
        **{**hub_environment(home, endpoint), **variables},
    )


def check(done, logits, commit=COMMIT):
    assert done.returncode == 0, done.stderr
    report, numbers = done.stdout.split("LOGITS")
    assert f"commit   {commit}" in report
    assert "bert" in report
    torch.testing.assert_close(torch.tensor(json.loads(numbers)), logits, atol=1e-5, rtol=1e-5)


def test_load_by_name_and_revision_then_without_the_hub(tmp_path, tiny):
    files, logits = tiny
    rubbish = {name: name.encode() for name in NOT_NEEDED}
    repos = {"org/tiny": Repo({COMMIT: {**files, **rubbish}, NEXT: rubbish}, {"main": NEXT, "v1": COMMIT})}
    with fake_hub(repos) as hub:
        first = load(tmp_path, hub.address)
        check(first, logits)
        assert sorted(hub.files("GET")) == sorted(files)
        assert sorted(hub.files("HEAD")) == sorted([*files, "config.json"])
        assert len([seen for seen in hub.seen if seen.repo == "org/tiny" and not seen.name]) == 1
        address = hub.address
    check_cache(tmp_path)

    offline = load(tmp_path, address, HF_HUB_OFFLINE="1")
    assert (offline.stdout, offline.stderr) == (first.stdout, "")
