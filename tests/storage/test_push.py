"""push, against a hub on this machine: what is published, what is not, and what every refusal says."""

import json

import pytest
from fake_hub import hub_environment
from fake_hub_uploads import upload_hub
from safetensors.torch import save
from storage_helpers import run_python
from torch import ones

SCRIPT = """
import json, sys, warnings
from minitransformer.storage.push import push
warnings.simplefilter("ignore")
answers = []
for args, kwargs in json.loads(sys.argv[1]):
    try:
        answers.append(push(*args, **kwargs))
    except Exception as error:
        answers.append([type(error).__name__, str(error)])
print("ANSWERS" + json.dumps(answers))
"""
CARD = """---
library_name: minitransformer
model_name: {out}
---

# {shown}

Fine-tuned from {base} with minitransformer: data reviews.csv.

```python
model = mt.load({out!r})
tokenizer = AutoTokenizer.from_pretrained({out!r})
```
"""


def ask(home, address, *calls, **variables):
    """The answers of `push` to these calls, in a fresh process."""
    calls = [call if isinstance(call[-1], dict) else (*call, {}) for call in calls]
    arguments = json.dumps([[list(map(str, call[:-1])), call[-1]] for call in calls])
    done = run_python(SCRIPT, arguments, cwd=home, timeout=60, **{**hub_environment(home, address), **variables})
    assert "ANSWERS" in done.stdout, done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


@pytest.fixture
def run(tmp_path):
    """The folder of a run, with all that stands there."""
    out = tmp_path / "my_runs" / "film"
    (out / "checkpoints" / "step-000001").mkdir(parents=True)
    files = {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "metrics.json": '{"dev": {"accuracy": 1.0}}',
        "recipe.json": "{}",
        "curves.svg": "<svg/>",
        "log.jsonl": "{}\n",
        "rows.csv": "secret,row\n",
        ".hidden": "x",
        "checkpoints/step-000001/model.safetensors": "x",
        "data.json": json.dumps({"name": str(tmp_path / "a_base"), "given": {"rows": str(tmp_path / "reviews.csv")}}),
        "README.md": CARD.format(
            out=str(out), shown=str(out).replace("_", "\\_"), base=str(tmp_path / "a_base").replace("_", "\\_")
        ),
    }
    for name, text in files.items():
        (out / name).write_text(text)
    (out / "model.safetensors").write_bytes(save({"w": ones(2)}))
    return out


def test_the_model_is_published_and_nothing_else(run, tmp_path):
    with upload_hub() as hub:
        (answer,) = ask(tmp_path, hub.address, (run, "ada/film", {"private": True, "message": "first"}))
        assert answer.startswith(f"{hub.address}/ada/film/commit/"), answer
        files = hub.files["ada/film"]
        assert hub.messages == ["first"]
        assert (hub.made[0]["name"], hub.made[0]["organization"]) == ("film", "ada")
        assert hub.made[0].get("private") is True or hub.made[0].get("visibility") == "private"
    expected = {"config.json", "tokenizer.json", "metrics.json", "recipe.json", "curves.svg", "README.md"}
    assert files.keys() == {*expected, "model.safetensors"}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    for name in expected - {"README.md"}:
        assert files[name] == (run / name).read_bytes()
    assert not any(str(tmp_path).encode() in content for content in files.values())
    card = CARD.format(out="ada/film", shown="ada/film", base="a_base")
    assert files["README.md"].decode() == card


def test_what_the_hub_would_refuse_is_said_before_anything_is_made(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with upload_hub() as hub:
        names, owner, none, empty = ask(
            tmp_path, hub.address, (run, "film"), (run, "grace/film"), (tmp_path / "none", "ada/film"),
            (tmp_path / "empty", "ada/film"),
        )  # fmt: skip
        assert names == ["HubError", "'film': expected user/name, of letters, digits, '-', '_' and '.'"]
        assert owner[0] == "HubError"
        assert "that of ada, engines, and not of grace" in owner[1]
        assert none[0] == empty[0] == "NotFoundError"
        (offline,) = ask(tmp_path, hub.address, (run, "ada/film"), HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE is set" in offline[1]
        (nobody,) = ask(tmp_path, hub.address, (run, "ada/film"), HF_TOKEN="")
        assert "no token" in nobody[1]
        assert hub.written() == []
    (gone,) = ask(tmp_path, hub.address, (run, "ada/film"))
    assert "the hub cannot be reached" in gone[1]
    with upload_hub(role="read") as hub:
        assert "may only read" in ask(tmp_path, hub.address, (run, "ada/film"))[0][1]
        assert hub.written() == []
    with upload_hub(refuse={"GET /api/whoami-v2": 401}) as hub:
        assert "does not know your token" in ask(tmp_path, hub.address, (run, "ada/film"))[0][1]
    with upload_hub(refuse={"POST /api/repos/create": 403, "GET /api/models/engines/film": 404}) as hub:
        assert "no right to write to engines" in ask(tmp_path, hub.address, (run, "engines/film"))[0][1]
        assert hub.files == hub.stored == {}


def test_an_adapter_whose_base_is_a_folder_of_this_machine_is_refused(run, tmp_path):
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "a_base")}))
    with upload_hub() as hub:
        (answer,) = ask(tmp_path, hub.address, (run, "ada/film"))
        assert hub.written() == []
    assert answer[0] == "ConfigError"
    assert f"adapter_config.json: it names {tmp_path / 'a_base'}, a folder of this machine" in answer[1]
