"""resolve: from a name to a folder, without running a package's code and without asking the hub needlessly."""

import importlib
from pathlib import Path

import pytest

from minitransformer.errors import HubError, NotFoundError
from minitransformer.storage import resolve

resolve_module = importlib.import_module("minitransformer.storage.resolve")


@pytest.fixture
def asked(monkeypatch):
    """What the hub was asked for, which is nothing unless a test says so."""
    calls = []

    def download(repo_id, revision=None, *, allow_pickle=False):
        calls.append((repo_id, revision, allow_pickle))
        return Path("snapshot")

    monkeypatch.setattr(resolve_module.hub, "download", download)
    return calls


def checkpoint(folder, weights="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / weights).touch()
    return folder


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A place to install packages, whose code must never run."""
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(place)

    def package(name):
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text("raise SystemExit('this package was imported')")
        importlib.invalidate_caches()
        return place / name

    return package


# --- folders and the hub ----------------------------------------------------------------------------------------------


def test_a_folder_that_exists_wins_over_the_hub(tmp_path, monkeypatch, asked):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("gpt2") == Path("gpt2")
    assert resolve("org/name") == Path("org/name")
    assert resolve("~/gpt2") == tmp_path / "gpt2"
    assert resolve(tmp_path / "gpt2") == tmp_path / "gpt2"
    assert resolve("./gpt2/").resolve() == tmp_path / "gpt2"
    assert asked == []


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "a/b.c-d_e", "x", "_x/y_"])
def test_other_names_go_to_the_hub(tmp_path, monkeypatch, asked, name):
    monkeypatch.chdir(tmp_path)
    assert resolve(name, revision="v1", allow_pickle=True) == Path("snapshot")
    assert asked == [(name, "v1", True)]


@pytest.mark.parametrize(
    "name",
    [
        "./x", "../x", "/x/y", "~/x", "~nobody-of-this-name/x", "x/", "a/b/c", "a//b", ".x", "x/.y", "-x", "x-", "a/b.",
        "a b", "a\\b", "C:\\x", "é", "a..b", "a--b", "a/b.git", "x" * 97, "x" * 5000, "", " ", "x\n", "x\0", "a:b",
        "\ud800",
    ],
)  # fmt: skip
def test_what_looks_like_a_path_or_nothing_never_goes_to_the_hub(tmp_path, monkeypatch, asked, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="no such folder") as caught:
        resolve(name)
    assert asked == []
    assert len(str(caught.value)) < 500


def test_a_path_object_never_goes_to_the_hub(asked):
    with pytest.raises(NotFoundError, match="no such folder"):
        resolve(Path("gpt2-of-nobody"))
    assert asked == []


def test_the_hub_agrees_on_what_a_name_is():
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    for name in [
        "gpt2",
        "a/b",
        "a.b/c_d-e",
        "_a_",
        "a--b",
        "a..b",
        "-a",
        "a-",
        "a/b.git",
        ".a",
        "a/b/c",
        "x" * 96,
        "x" * 97,
    ]:
        try:
            validate_repo_id(name)
        except HFValidationError:
            assert not resolve_module.hub.is_repo_id(name), name
        else:
            assert resolve_module.hub.is_repo_id(name), name


def test_a_file_is_not_a_folder(tmp_path, asked):
    checkpoint(tmp_path)
    with pytest.raises(NotFoundError, match=f"is no folder; give the folder .* perhaps {tmp_path}"):
        resolve(tmp_path / "model.safetensors")
    assert asked == []


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(NotFoundError, match="no revision 'main'"):
        resolve(tmp_path, revision="main")


@pytest.mark.parametrize("revision", ["../../x", "", "a b", "-x", "/x", "x\n"])
def test_a_revision_is_no_path(tmp_path, monkeypatch, revision):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError, match="cannot be a revision"):
        resolve("gpt2", revision=revision)


# --- package: ---------------------------------------------------------------------------------------------------------


def test_a_package_with_one_checkpoint(packages):
    model = checkpoint(packages("some_model") / "data" / "model")
    assert resolve("package:some_model") == model
    assert resolve("package:some-model") == model
    assert resolve("package:some-model/data") == model
    assert resolve("package:some_model/data/model") == model


def test_a_package_that_is_itself_a_checkpoint_and_holds_more(packages):
    root = checkpoint(packages("flat"))
    checkpoint(root / "other", weights="model.safetensors.index.json")
    assert resolve("package:flat") == root
    assert resolve("package:flat/other") == root / "other"


def test_a_package_with_several_checkpoints_offers_them(packages):
    root = packages("zoo")
    checkpoint(root / "models" / "small")
    checkpoint(root / "models" / "large")
    with pytest.raises(NotFoundError, match="package:zoo/models/large, package:zoo/models/small"):
        resolve("package:zoo/models")
    assert resolve("package:zoo/models/small") == root / "models" / "small"


def test_a_package_without_a_checkpoint(packages):
    root = packages("bare")
    (root / "model.safetensors").touch()
    with pytest.raises(NotFoundError, match=r"package:bare: no folder with config\.json"):
        resolve("package:bare")
    with pytest.raises(NotFoundError, match="package:json/nowhere: no folder"):
        resolve("package:json/nowhere")
    with pytest.raises(NotFoundError, match="package:stat: no folder"):  # a module, not a package
        resolve("package:stat")


@pytest.mark.parametrize("name", ["no_such_package_here", "__main__"])
def test_a_package_that_is_not_installed(name):
    with pytest.raises(NotFoundError, match=f"package:{name}: no"):
        resolve(f"package:{name}")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc", "a.b", "os.path", "a/../..", "a//b", "a/", "a/.x", "a/\0", "é", "a\n"]
)
def test_a_package_name_cannot_lead_elsewhere(name):
    with pytest.raises(NotFoundError, match="expected package:NAME"):
        resolve(f"package:{name}")


# --- builtin: ---------------------------------------------------------------------------------------------------------


def test_a_builtin_model(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve_module, "ASSETS", tmp_path)
    model = checkpoint(tmp_path / "tiny")
    (tmp_path / "sample_data").mkdir()
    assert resolve("builtin:tiny") == model
    for name in ("sample_data", "", ".", "..", "../x", "tiny/..", "\0"):
        with pytest.raises(NotFoundError, match="available: tiny"):
            resolve(f"builtin:{name}")


def test_the_folder_of_builtin_models_is_there():
    with pytest.raises(NotFoundError, match="available: "):
        resolve("builtin:none-of-this-name")
