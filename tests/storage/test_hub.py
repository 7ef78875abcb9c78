"""download, against a small hub on this machine: what is fetched, what is reused, and what every refusal says."""

import json
import socket
from itertools import repeat
from pathlib import Path

import pytest
from fake_hub import COMMIT, IMPATIENT, NEXT, Answer, Repo, ask, change, check_cache, fake_hub, present, status
from huggingface_hub.constants import ENDPOINT
from safetensors.torch import save
from torch import ones

WEIGHTS = save({"w": ones(2)})
INDEX = json.dumps({"weight_map": {"w": "model-00001-of-00001.safetensors"}}).encode()
SINGLE = {
    "config.json": b'{"model_type": "x"}',
    "tokenizer.json": b'{"x": 1}',
    "model.safetensors": WEIGHTS,
    "model.fp16.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"x",
    "1_Pooling/config.json": b"{}",
    "README.md": b"x",
}
SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": INDEX,
    "model-00001-of-00001.safetensors": WEIGHTS,
    "extra.safetensors": WEIGHTS,
}
TRAVERSAL = {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"w": "../../x.safetensors"}}'}
PICKLE = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}


def repo(files):
    return Repo({COMMIT: files}, {"main": COMMIT, "v1": COMMIT})


def by(revision, name="org/single"):
    return {"args": [name], "kwargs": {"revision": revision}}


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- which files, and how often ---------------------------------------------------------------------------------------


def test_the_needed_files_come_once_and_then_from_the_cache(tmp_path):
    with fake_hub({"org/single": repo(SINGLE), "sharded": repo(SHARDED)}) as hub:
        (single, _), (sharded, _) = ask(tmp_path, hub.address, "org/single", "sharded")
        assert Path(single).name == COMMIT
        assert present(single) == {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"}
        assert (Path(single) / "model.safetensors").read_bytes() == WEIGHTS
        assert present(sharded) == set(SHARDED) - {"extra.safetensors"}
        assert sorted(hub.files()) == sorted([*present(single), *present(sharded)])
        agents = [seen.headers["User-Agent"] for seen in hub.seen if seen.repo in hub.repos]
        assert all("minitransformer/" in agent for agent in agents)

        hub.seen.clear()
        assert ask(tmp_path, hub.address, by(COMMIT))[0][0] == single
        assert hub.files("GET") == hub.files("HEAD") == []
        assert ask(tmp_path, hub.address, "org/single")[0][0] == single
        assert (hub.files("GET"), hub.files("HEAD")) == ([], ["config.json"])  # where the branch stands, and no more
        address = hub.address

    # The hub is gone now. With HF_HUB_OFFLINE that is as wished; without, it is worth a word.
    calls = ["org/single", "sharded", by(COMMIT)]
    answers = ask(tmp_path, address, *calls, HF_HUB_OFFLINE="1")
    assert answers == [[single, []], [sharded, []], [single, []]]
    for (folder, warned), expected in zip(ask(tmp_path, address, *calls), [single, sharded, single], strict=True):
        assert folder == expected
        assert "cannot be reached" in warned[0]
        assert COMMIT in warned[0]


NEEDED = """
    config.json model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json
    added_tokens.json vocab.txt vocab.json merges.txt spiece.model sentencepiece.bpe.model
    tokenizer.model source.spm target.spm target_vocab.json preprocessor_config.json
    modules.json sentence_bert_config.json sentence_xlm-roberta_config.json config_sentence_transformers.json
    generation_config.json chat_template.jinja
    1_Pooling/config.json 2_Dense/config.json 2_Dense/model.safetensors 3_Normalize/config.json
"""
NOT_NEEDED = """
    README.md .gitattributes pytorch_model.bin tf_model.h5 flax_model.msgpack rust_model.ot model.fp16.safetensors
    model.safetensors.index.json model-00001-of-00001.safetensors consolidated.safetensors adapter_model.safetensors
    onnx/model.onnx onnx/config.json openvino/openvino_model.xml coreml/model.mlpackage/config.json training_args.bin
    2_Dense/pytorch_model.bin 1_Pooling/README.md 1_Pooling/deep/config.json 0_Transformer/model.safetensors
    checkpoint-500/model.safetensors checkpoint-500/config.json modeling_custom.py tokenizer.json.bak optimizer.pt
    sub/tokenizer.json sub/chat_template.jinja tokenizer.model.v3 unigram.json original/tokenizer.model
"""


def test_exactly_the_needed_files_are_asked_for(tmp_path):
    files = {name: name.encode() for name in (NEEDED + NOT_NEEDED).split()}  # equal contents would be sent once
    with fake_hub({"org/all": repo(files)}) as hub:
        ((folder, _),) = ask(tmp_path, hub.address, "org/all")
        assert sorted(hub.files("GET")) == sorted(NEEDED.split())
        assert sorted(hub.files("HEAD")) == sorted([*NEEDED.split(), "config.json"])
        assert present(folder) == set(NEEDED.split())


def test_names_that_lead_elsewhere_and_a_listing_without_end(tmp_path):
    evil = [
        "../../evil.json", "/tmp/evil.json", "1_Pooling/../../../config.json", "..\\tokenizer.json", "C:/vocab.txt",
        "./tokenizer.json", "tokenizer.json\n", "vocab.txt\0", "1_Pooling//config.json", "\u202eevil", "x" * 10**6,
    ]  # fmt: skip
    long = [f"checkpoint-{number}/model.safetensors" for number in range(100_000)]
    repos = {name: repo({"config.json": b"{}", "model.safetensors": WEIGHTS}) for name in ("org/evil", "org/long")}
    repos["org/evil"].listing = lambda files: [*evil, *files]
    repos["org/long"].listing = lambda files: [*long, *files]
    bare = {COMMIT: {"config.json": b"{}"}}
    repos["org/none"] = Repo(bare, listing=lambda files: [*files, *evil, "a\nb.onnx", *long])
    repos["org/numbers"] = Repo(bare, listing=lambda files: [*files, 7, None, ["x"]])
    with fake_hub(repos) as hub:
        (bad, _), (good, _), (none, _), (numbers, _) = ask(tmp_path, hub.address, *repos)
        asked = set(hub.files("GET") + hub.files("HEAD"))
    assert asked == {"config.json", "model.safetensors"}
    assert present(bad) == present(good) == {"config.json", "model.safetensors"}
    assert none[0] == "NotFoundError"
    assert "'a\\nb.onnx'" in none[1]
    assert len(none[1]) < 1000
    assert none[1].isprintable()
    assert numbers[0] == "HubError"
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


# --- which commit -----------------------------------------------------------------------------------------------------


def version(number):
    return {
        "config.json": b'{"version": %d}' % number,
        "vocab.txt": b"the same",
        "model.safetensors": save({"w": ones(2) * number}),
    }


def versions(folder):
    """The version of each file of a folder."""
    at = {name: [version(n)[name] for n in (1, 2)] for name in ("config.json", "model.safetensors")}
    return {at[name].index((Path(folder) / name).read_bytes()) + 1 for name in at}


def test_a_branch_that_moves_between_two_loads(tmp_path):
    moving = Repo({COMMIT: version(1)})
    with fake_hub({"org/single": moving}) as hub:
        ((old, _),) = ask(tmp_path, hub.address, "org/single")
        moving.commits[NEXT], moving.revisions["main"] = version(2), NEXT
        hub.seen.clear()
        (new, _), (same, _), (pinned, _) = ask(tmp_path, hub.address, "org/single", by("main"), by(COMMIT))
        assert hub.files() == ["config.json", "model.safetensors"]  # vocab.txt is the same, and was not sent again
        address = hub.address
    assert [Path(folder).name for folder in (old, new, same, pinned)] == [COMMIT, NEXT, NEXT, COMMIT]
    assert (versions(old), versions(new)) == ({1}, {2})
    offline = ask(tmp_path, address, "org/single", by(COMMIT), by(NEXT), HF_HUB_OFFLINE="1")
    assert offline == [[new, []], [old, []], [new, []]]


def test_a_branch_that_moves_during_a_load(tmp_path):
    files = {COMMIT: version(1), NEXT: {**version(2), "added_tokens.json": b"{}"}}
    before = {"org/a": "org/a", "org/b": "HEAD org/b/config.json", "org/c": "GET org/c/config.json"}
    before["org/d"] = "HEAD org/d/model.safetensors"
    repos = {name: Repo(files) for name in before}

    def move(name):
        def fault(answer):
            repos[name].revisions["main"] = NEXT
            return answer

        return fault

    with fake_hub(repos) as hub:
        for name, request in before.items():
            hub.fail(request, move(name))
        for folder, _ in ask(tmp_path, hub.address, *repos):
            assert Path(folder).name == COMMIT
            assert versions(folder) == {1}
            assert present(folder) == set(files[COMMIT])
        assert all(found.revisions["main"] == NEXT for found in repos.values())
        for folder, _ in ask(tmp_path, hub.address, *repos):
            assert Path(folder).name == NEXT
            assert versions(folder) == {2}
            assert present(folder) == set(files[NEXT])


def test_an_update_that_fails_leaves_the_old_commit_for_use_offline(tmp_path):
    moving = Repo({COMMIT: version(1)})
    with fake_hub({"org/single": moving}) as hub:
        ((old, _),) = ask(tmp_path, hub.address, "org/single")
        moving.commits[NEXT], moving.revisions["main"] = version(2), NEXT
        hub.fail("GET org/single/model.safetensors", *repeat(status(500), 3))
        (((kind, text), _),) = ask(tmp_path, hub.address, "org/single")
        assert kind == "HubError"
        assert "org/single: model.safetensors: the hub refused with HTTP status 500; try again later" in text
        assert ask(tmp_path, hub.address, "org/single", HF_HUB_OFFLINE="1") == [[old, []]]
        assert versions(old) == {1}


def test_branches_tags_and_short_commits(tmp_path):
    revisions = {"main": NEXT, "v1": COMMIT, "pr%2F1": COMMIT, COMMIT[:7]: COMMIT}
    with fake_hub({"org/single": Repo({COMMIT: version(1), NEXT: version(2)}, revisions)}) as hub:
        calls = [by("v1"), by("pr/1"), by(COMMIT[:7]), "org/single"]
        online = [folder for folder, _ in ask(tmp_path, hub.address, *calls)]
        offline = [folder for folder, _ in ask(tmp_path, hub.address, *calls, HF_HUB_OFFLINE="1")]
    assert online == offline
    assert [Path(folder).name for folder in online] == [COMMIT, COMMIT, COMMIT, NEXT]
    assert [versions(folder) for folder in online] == [{1}, {1}, {1}, {2}]


def test_what_the_hub_calls_a_commit_is_no_path(tmp_path):
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    commits = {"a": "../../../../evil", "b": "main", "c": "", "d": None, "e": 7, "f": COMMIT + "\n"}
    with fake_hub(dict.fromkeys(commits, repo(files))) as hub:
        for name, commit in commits.items():
            listing = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            hub.fail(name, change(body=json.dumps(listing).encode()))
        answers = ask(tmp_path, hub.address, *commits)
    for (kind, text), _ in answers:
        assert kind == "HubError"
        assert "no commit" in text or "does not answer as a hub does" in text
    assert not present(tmp_path)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_incomplete_cache_is_told(tmp_path):
    with fake_hub({"org/single": repo(SINGLE), "sharded": repo(SHARDED)}) as hub:
        (single, _), (sharded, _) = ask(tmp_path, hub.address, "org/single", "sharded")
        address = hub.address
    (Path(single) / "model.safetensors").unlink()
    (Path(sharded) / "model-00001-of-00001.safetensors").unlink()
    (one, _), (two, _) = ask(tmp_path, address, "org/single", "sharded", timeout=20)  # no retries for what is missing
    assert one[0] == "NotFoundError"
    assert "the copy in the cache" in one[1]
    assert two[0] == "HubError"
    assert "only a part" in two[1]


def test_every_refusal_is_one_line_with_a_way_out(tmp_path):
    repos = {"org/traversal": repo(TRAVERSAL), "org/pickle": repo(PICKLE), "org/bare": repo({"README.md": b"x"})}
    refusals = {
        "org/private": status(401, X_Error_Code="RepoNotFound"),
        "org/gated": status(403, X_Error_Code="GatedRepo"),
        "org/broken": status(500),
        "org/busy": status(429, Retry_After="3600"),  # the first question is not repeated: no hour of silence
        "org/stalled": change(silent=True),
        "org/portal": change(body=b"<html>Welcome to our network</html>"),
        "org/odd": change(body=b"[1, 2]"),
        "org/moved": lambda _answer: Answer(307, b"", {"Location": "/api/models/org/moved"}),
        "org/empty": change(body=b"{}"),
    }
    expected = {
        "org/missing": ("HubError", "no such public model", "HF_TOKEN"),
        "org/private": ("HubError", "no such public model", "HF_TOKEN"),
        "org/gated": ("HubError", "access is restricted", "HF_TOKEN"),
        "org/broken": ("HubError", "status 500", "try again later"),
        "org/busy": ("HubError", "too many requests", "wait"),
        "org/stalled": ("HubError", "cannot be reached", "HF_HUB_OFFLINE"),
        "org/portal": ("HubError", "does not answer as a hub does", "check the network"),
        "org/odd": ("HubError", "does not answer as a hub does", "check the network"),
        "org/moved": ("HubError", "cannot be reached", "check the network"),
        "org/empty": ("HubError", "does not answer as a hub does", "check the network"),
        "org/bare": ("HubError", "no config.json", "transformers' layout"),
        "org/pickle": ("UnsafeFileError", "pytorch_model.bin", "allow_pickle=True"),
        "org/traversal": ("UnsafeFileError", "../../x.safetensors", "nothing was opened"),
    }
    pickled = {"args": ["org/pickle"], "kwargs": {"allow_pickle": True}}
    with fake_hub(repos | {name: repo(SINGLE) for name in ("org/single", *refusals)}) as hub:
        for name, refusal in refusals.items():
            hub.fail(name, *repeat(refusal, 100))
        *answers, (revision, _), (pickle, _) = ask(
            tmp_path, hub.address, *expected, by("no-such-branch"), pickled, **IMPATIENT
        )
    for (name, (kind, *words)), (answer, _) in zip(expected.items(), answers, strict=True):
        assert answer[0] == kind, answer
        assert name in answer[1].replace("--", "/"), answer  # org--name is how the cache spells org/name
        assert all(word in answer[1] for word in words), answer
        assert "\n" not in answer[1]
    assert revision == ["HubError", "org/single: it has no revision 'no-such-branch'; check the branch, tag or commit"]
    assert present(pickle) == {"config.json", "pytorch_model.bin"}
    check_cache(tmp_path)


def test_no_network_and_nothing_in_the_cache(tmp_path):
    nowhere = f"http://127.0.0.1:{unused_port()}"
    (((kind, text), _),) = ask(tmp_path, nowhere, "org/single")
    assert kind == "HubError"
    assert "org/single: the hub cannot be reached" in text
    assert "package:NAME" in text
    (((kind, text), _),) = ask(tmp_path, nowhere, "org/single", HF_HUB_OFFLINE="1")
    assert kind == "HubError"
    assert "HF_HUB_OFFLINE is set" in text


@pytest.mark.online
def test_the_real_hub(tmp_path):
    answers = ask(tmp_path, ENDPOINT, "hf-internal-testing/tiny-random-bert", HF_TOKEN="")
    assert "config.json" in present(answers[0][0])
