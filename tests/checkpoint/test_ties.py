"""Two names for one tensor: equal, different, one of them, none. What the file says counts, as in transformers."""

import json
import re

import pytest
import torch
from checkpoint_helpers import (
    COPIES,
    TIES,
    assert_whole_file_in_report,
    names_of,
    only_copies,
    state,
    with_copies,
    without,
)
from oracle import Case, assert_same, checkpoint, make_batch, rewritten, theirs
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import ConfigError, MismatchError

T5 = Case("t5", "seq2seq-lm")
MARIAN = Case("marian", "seq2seq-lm")


def matrix_of(case):
    """The head's matrix: its name in the file, and the name of the table it is tied to."""
    return next(iter(TIES[case].items()))


def different(case):
    """Both names of everything that the head ties, and not the same numbers."""

    def change(old):
        changed = with_copies(TIES[case])(old)
        return {name: x + 0.25 if name in TIES[case] else x for name, x in changed.items()}

    return change


@pytest.mark.parametrize("case", TIES, ids=str)
def test_equal_copies_stay_one_parameter(case):
    for change in (with_copies(names_of(case)), only_copies(TIES[case])):
        model = mt.load(rewritten(checkpoint(case), change))
        assert model.transformer.config.lm.tied
        assert not any("lm.weight" in name for name in state(model))


@pytest.mark.parametrize("case", TIES, ids=str)
def test_copies_that_differ_untie_the_head(case, tmp_path):
    """Whatever the config says: the file holds two matrices, transformers uses both, and so do we."""
    folder = rewritten(checkpoint(case), different(case))
    model, batch, (matrix, table) = mt.load(folder), make_batch(case, "right"), matrix_of(case)
    assert not model.transformer.config.lm.tied
    assert matrix in " ".join(model.report.notes)
    assert_whole_file_in_report(model.report, folder)
    with torch.no_grad():
        ours, expected = model(**batch), theirs(case, folder)(**batch)
    assert_same(ours, expected, batch)
    with torch.no_grad():
        assert (mt.load(checkpoint(case))(**batch).last_hidden_state == ours.last_hidden_state).all()

    model.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved[matrix], state(model)[next(name for name in state(model) if name.endswith("lm.weight"))])
    assert torch.equal(saved[table], load_file(folder / "model.safetensors")[table])
    reference, info = theirs(case, tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        assert_same(reference(**batch), expected, batch, atol=0, rtol=0)


def test_gpts_double_heads_are_tied_the_other_way_round(tmp_path):
    """transformers stores the table by the name of the head's matrix; both may be there, and differ."""
    case, table = Case("openai-gpt", "double-heads"), "transformer.tokens_embed.weight"
    folder = rewritten(checkpoint(case), lambda old: {**old, table: old["lm_head.weight"] + 0.25})
    model, batch = mt.load(folder), make_batch(case, "right")
    assert not model.transformer.config.lm.tied
    with torch.no_grad():
        expected = theirs(case, folder)(**batch)
        assert_same(model(**batch), expected, batch)
        model.save(tmp_path)
        assert_same(theirs(case, tmp_path)(**batch), expected, batch, atol=0, rtol=0)


def test_one_copy_that_differs_is_enough():
    case, bias = Case("bert", "masked-lm"), "cls.predictions.decoder.bias"

    def change(old):
        changed = with_copies(TIES[case])(old)
        changed[bias][3] += 0.25
        return changed

    folder, batch = rewritten(checkpoint(case), change), make_batch(case, "right")
    with torch.no_grad():
        assert_same(mt.load(folder)(**batch), theirs(case, folder)(**batch), batch)


@pytest.mark.parametrize("case", TIES, ids=str)
def test_neither_name_is_there(case):
    matrix, table = matrix_of(case)
    folder = rewritten(checkpoint(case), without(f"^{re.escape(table)}$"))
    with pytest.raises(MismatchError, match=rf"missing 1: {re.escape(table)} \(here .*\).* or {re.escape(matrix)}"):
        mt.load(folder)


@pytest.mark.parametrize("case", [case for case in TIES if case.family not in ("t5", "marian")], ids=str)
def test_an_untied_config_needs_both(case):
    """T5's config does not say it, and Marian's says it of the stacks' tables: see below."""
    matrix, _ = matrix_of(case)
    with pytest.raises(MismatchError, match=rf"missing.*{re.escape(matrix)}(.|\n)*'tie_word_embeddings': True"):
        mt.load(checkpoint(case), config={"tie_word_embeddings": False})
    folder = rewritten(checkpoint(case), with_copies(names_of(case)), {"tie_word_embeddings": False})
    model = mt.load(folder)
    assert not model.transformer.config.lm.tied
    assert_whole_file_in_report(model.report, folder)
    matrix, table = (
        state(model)[next(n for n in state(model) if n.endswith(e))] for e in ("lm.weight", "tokens.weight")
    )
    assert torch.equal(matrix, table)
    assert matrix.data_ptr() != table.data_ptr()


@pytest.mark.parametrize(("case", "copy"), [(case, copy) for case in COPIES for copy in COPIES[case]], ids=str)
def test_copies_that_must_not_differ(case, copy):
    """They would be ties of a head, but there is no such head: one of the two is wrong."""

    def change(old):
        return {**old, copy: old[COPIES[case][copy]] + 0.25}

    with pytest.raises(MismatchError, match=rf"{re.escape(copy)}: differs from .*which one is right"):
        mt.load(rewritten(checkpoint(case), change))


@pytest.mark.parametrize("head", ["seq2seq-lm", "base", "question-answering"])
def test_an_untied_bart_has_a_table_for_each_stack(head):
    """One of them for both is not what its config says."""
    case = Case("bart", head)
    with pytest.raises(MismatchError, match=r"missing \d: (model\.)?decoder\.embed_tokens\.weight"):
        mt.load(checkpoint(case), config={"tie_word_embeddings": False})


# What config.json says of tying and of scaling, whether the file's two tables differ,
# and what becomes of it: whether the decoder's output is scaled, whether the head has a table of its own.
T5_TABLE = [
    ({}, False, True, False),
    ({"tie_word_embeddings": True}, False, True, False),
    ({"tie_word_embeddings": False}, True, False, True),
    ({"tie_word_embeddings": False}, False, False, False),
    ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, False, False),
    ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, False, True),
    ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, True, True, True),
    ({"tie_word_embeddings": True}, True, True, True),
    ({}, True, True, True),
]


@pytest.mark.parametrize(("said", "differ", "scaled", "separate"), T5_TABLE)
def test_t5s_decision_table(said, differ, scaled, separate, tmp_path):
    """As transformers decides; and what we save gives the same numbers there, and here again."""
    fields = {"tie_word_embeddings": None, "scale_decoder_outputs": None, **said}
    folder = rewritten(checkpoint(T5), different(T5) if differ else None, fields)
    model, batch = mt.load(folder), make_batch(T5, "right")
    lm = model.transformer.config.lm
    assert (lm.scale != 1, not lm.tied) == (scaled, separate)
    with torch.no_grad():
        expected = theirs(T5, folder)(**batch)
        assert_same(model(**batch), expected, batch)
        model.save(tmp_path)
        reference, info = theirs(T5, tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert_same(reference(**batch), expected, batch, atol=0, rtol=0)
        assert torch.equal(mt.load(tmp_path)(**batch).logits, model(**batch).logits)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (
        separate or not scaled
    )  # for all readers
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["tie_word_embeddings"] == scaled


@pytest.mark.parametrize("row", [T5_TABLE[2], T5_TABLE[3]])
def test_t5s_of_later_versions(row, tmp_path):
    """v1.1 and Flan: gated, not scaled, a head of its own; in half precision, too."""
    case, (said, differ, _, separate) = Case("t5", "seq2seq-lm", "odd"), row
    change = different(T5) if differ else None
    folder = rewritten(checkpoint(case), change, {"scale_decoder_outputs": None, **said})
    model, batch = mt.load(folder), make_batch(case, "left")
    assert model.transformer.config.lm.tied != separate
    with torch.no_grad():
        expected = theirs(case, folder)(**batch)
        assert_same(model(**batch), expected, batch)
        model.save(tmp_path)
        assert_same(theirs(case, tmp_path)(**batch), expected, batch, atol=0, rtol=0)


def table_of_marian(change):
    def changed(old):
        table = load_file(checkpoint(Case("marian", "base")) / "model.safetensors")["encoder.embed_positions.weight"]
        return {**old, "model.encoder.embed_positions.weight": change(table.clone())}

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x + 0.01, r"up to 0.01 away from sinusoids"),
        (torch.zeros_like, r"up to 1 away from sinusoids"),
        (lambda x: x.where(x > 2, float("nan")), r"up to nan away from sinusoids"),
        (lambda x: torch.cat((x[:, ::2], x[:, 1::2]), dim=1), r"away from sinusoids"),
        (lambda x: x[:20].clone(), r"shape of .*: \[20, 18\] in the file, \[21, 18\] by the config"),
        (lambda x: x[0].clone(), r"shape of .*: \[18\] in the file, \[21, 18\] by the config"),
        (lambda x: x.to(torch.int64), r"I64 in the file, expected one of F64"),
    ],
)
def test_sinusoids_that_are_none(change, words):
    """transformers would take them as they are; here they are computed, so they must be what is computed."""
    folder = rewritten(checkpoint(MARIAN), table_of_marian(change))
    with pytest.raises(MismatchError, match=words) as raised:
        mt.load(folder)
    assert "model.encoder.embed_positions.weight" in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_sinusoids_in_another_dtype(dtype):
    folder = rewritten(checkpoint(MARIAN), table_of_marian(lambda x: x.to(dtype)))
    assert "model.encoder.embed_positions.weight" in mt.load(folder).report.ignored


def test_a_base_marian_without_sinusoids(tmp_path):
    """They are computed, and written where transformers expects them."""
    case = Case("marian", "base")
    mt.load(rewritten(checkpoint(case), without("embed_positions"))).save(tmp_path)
    saved, original = (load_file(place / "model.safetensors") for place in (tmp_path, checkpoint(case)))
    assert saved.keys() == original.keys()
    for name, x in original.items():
        torch.testing.assert_close(saved[name], x, atol=1e-6, rtol=0)


def test_an_unshared_marian_needs_its_tables():
    case = Case("marian", "seq2seq-lm", "unshared")
    with pytest.raises(MismatchError, match=r"missing 2: .*encoder.embed_tokens.weight .*decoder.embed_tokens.weight"):
        mt.load(checkpoint(MARIAN), config={"share_encoder_decoder_embeddings": False})
    with pytest.raises(MismatchError, match=r"missing 1: .*shared.weight .* or .*encoder.embed_tokens.weight"):
        mt.load(rewritten(checkpoint(case), without("embed_tokens")), config={"share_encoder_decoder_embeddings": True})
    with pytest.raises(ConfigError, match=r"tie_word_embeddings: got False, expected True"):
        mt.load(checkpoint(MARIAN), config={"tie_word_embeddings": False})
    table = "model.decoder.embed_tokens.weight"
    folder = rewritten(checkpoint(case), lambda old: {**old, "lm_head.weight": old[table] + 0.25})
    model, batch = mt.load(folder), make_batch(case, "right")
    with torch.no_grad():
        assert_same(model(**batch), theirs(case, folder)(**batch), batch)
