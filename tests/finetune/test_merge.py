"""A merged checkpoint answers as the adapter beside its base did, in transformers, too."""

import pytest
import torch
import transformers
from typer.testing import CliRunner

import minitransformer as mt
from minitransformer.cli import app
from minitransformer.errors import ConfigError, CorruptFileError, MiniTransformerError
from minitransformer.finetune.ship.merge import merge
from minitransformer.model.adapters import add_adapters, add_lora
from minitransformer.modules.adapters import LoRALinear

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture
def ours(small_bert, tmp_path):
    """A folder with LoRA that changes much."""
    model = mt.load(small_bert, head="sequence-classification", labels=3)
    add_lora(model.transformer, rank=2)
    with torch.no_grad():
        for module in model.transformer.modules():
            if isinstance(module, LoRALinear):
                module.lora_b.normal_()
    for name, x in model.transformer.named_parameters():
        x.requires_grad_("lora" in name or name.startswith(("head", "pooler")))
    model.save_adapter(tmp_path / "lora")
    return tmp_path / "lora"


def test_ours_merged_is_read_by_transformers(ours, small_bert, tmp_path):
    done = CliRunner().invoke(
        app, ["merge", str(ours), "--out", str(tmp_path / "new" / "merged")], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "largest difference of the logits" in done.output
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "new" / "merged", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        found = model.eval()(input_ids=IDS, attention_mask=MASK).logits
        expected = mt.load(ours).eval()(input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(found, expected, atol=1e-5)
    plain = mt.load(small_bert, head="sequence-classification", labels=3)
    merged = mt.load(tmp_path / "new" / "merged")
    name = "encoder.layers.0.self_attn.q.weight"
    assert not torch.equal(merged.transformer.get_parameter(name), plain.transformer.get_parameter(name))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_pefts(small_bert, tmp_path):
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(small_bert)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query", "value"], init_lora_weights=False)
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "peft")
    assert merge(tmp_path / "peft", tmp_path / "merged") < 1e-5
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        expected = theirs(input_ids=IDS, attention_mask=MASK).logits
        assert torch.allclose(model(input_ids=IDS, attention_mask=MASK).logits, expected, atol=1e-5)


def test_a_merge_that_changes_the_answers_is_not_written(ours, tmp_path, monkeypatch):
    changed = LoRALinear.changed_weight
    monkeypatch.setattr(LoRALinear, "changed_weight", lambda layer: changed(layer) * 1.01)
    with pytest.raises(CorruptFileError, match="not written: merged, logits differ"):
        merge(ours, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_what_cannot_be_merged(ours, small_bert, tmp_path):
    with pytest.raises(ConfigError, match="no adapter"):
        merge(small_bert, tmp_path / "merged")
    with pytest.raises(MiniTransformerError, match="not empty"):
        merge(ours, ours)
    model = mt.load(small_bert, head="sequence-classification", labels=3)
    add_adapters(model.transformer, 4)
    for name, x in model.transformer.named_parameters():
        x.requires_grad_("adapter" in name or name.startswith(("head", "pooler")))
    model.save_adapter(tmp_path / "bottleneck")
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge(tmp_path / "bottleneck", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
