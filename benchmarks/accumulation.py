"""What becomes of a gradient when a batch is computed in pieces: in transformers' Trainer, and here.

python benchmarks/finetune.py accumulation

One batch of 8 rows in one piece against four pieces of two, in float64 and without dropout: the length of the gradient
in pieces over that in one piece (1 is right), for heads of transformers trained by its Trainer as it comes, and for the
same weights loaded here. Rows and labels are of unlike length.
"""

import tempfile
from types import SimpleNamespace

import torch
import transformers
from timing import machine, table

import minitransformer as mt
from minitransformer.finetune.checkpoints import State
from minitransformer.finetune.forward import loss_sum
from minitransformer.finetune.loop import gradient
from minitransformer.finetune.recipe import Recipe

BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ROBERTA = {**BERT, "pad_token_id": 0, "max_position_embeddings": 40}
GPT = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "pad_token_id": 0}
DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
T5 = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
BART = {"vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32}
BART |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8}
VIT |= {"patch_size": 4}
of = transformers
HEADS = {  # what it is called -> transformers' class, its config, our head
    "BERT, classes": ("BertForSequenceClassification", of.BertConfig(**BERT, num_labels=3), "sequence-classification"),
    "BERT, a number": ("BertForSequenceClassification", of.BertConfig(**BERT, num_labels=1), "sequence-classification"),
    "BERT, tags": ("BertForTokenClassification", of.BertConfig(**BERT, num_labels=3), "token-classification"),
    "BERT, masked tokens": ("BertForMaskedLM", of.BertConfig(**BERT), "masked-lm"),
    "BERT, answers": ("BertForQuestionAnswering", of.BertConfig(**BERT), "question-answering"),
    "RoBERTa, classes": (
        "RobertaForSequenceClassification", of.RobertaConfig(**ROBERTA, num_labels=3), "sequence-classification"
    ),
    "RoBERTa, masked tokens": ("RobertaForMaskedLM", of.RobertaConfig(**ROBERTA), "masked-lm"),
    "DistilBERT, classes": (
        "DistilBertForSequenceClassification", of.DistilBertConfig(**DISTIL, num_labels=3), "sequence-classification"
    ),
    "ALBERT, classes": (
        "AlbertForSequenceClassification",
        of.AlbertConfig(**BERT, embedding_size=16, num_labels=3), "sequence-classification",
    ),
    "GPT-2, classes": ("GPT2ForSequenceClassification", of.GPT2Config(**GPT, num_labels=3), "sequence-classification"),
    "GPT-2, next tokens": ("GPT2LMHeadModel", of.GPT2Config(**GPT), "causal-lm"),
    "GPT, next tokens": ("OpenAIGPTLMHeadModel", of.OpenAIGPTConfig(**GPT), "causal-lm"),
    "T5, sequences": ("T5ForConditionalGeneration", of.T5Config(**T5), "seq2seq-lm"),
    "BART, sequences": ("BartForConditionalGeneration", of.BartConfig(**BART), "seq2seq-lm"),
    "ViT, classes": ("ViTForImageClassification", of.ViTConfig(**VIT, num_labels=3), "image-classification"),
}  # fmt: skip


def print_accumulation() -> None:
    """Print the table: what four pieces of two rows make of the gradient of one batch of eight."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(machine("torch", "transformers", "minitransformer"))
    rows = []
    for label, (name, config, head) in HEADS.items():
        torch.manual_seed(0)
        theirs = getattr(transformers, name)(config).double()
        for part in theirs.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        data = batch_of(theirs, head)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = [our_gradient(folder, head, data, rows_at_once) for rows_at_once in (8, 2)]
            norms = [trainer_norm(theirs, data, rows_at_once, folder) for rows_at_once in (8, 2)]
        whole, pieces = (torch.cat([x.flatten() for x in gradients]) for gradients in ours)
        ratio, difference = pieces.norm() / whole.norm(), (pieces - whole).norm() / whole.norm()
        rows.append([label, f"{norms[1] / norms[0]:.3f}", f"{ratio.item():.3f}", f"{difference.item():.0e}"])
    print(table(["head", "Trainer: length in pieces / whole", "ours", "ours: relative difference"], rows))


def batch_of(model: torch.nn.Module, head: str) -> dict[str, torch.Tensor]:
    """Eight rows of unlike length, with labels."""
    draw = torch.Generator().manual_seed(1)
    if head == "image-classification":
        pixels = torch.rand(8, 3, 8, 8, generator=draw, dtype=torch.float64)
        return {"pixel_values": pixels, "labels": torch.randint(3, (8,), generator=draw)}
    lengths = [3, 12, 5, 9, 4, 12, 7, 3]
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]  # [B T]
    ids = torch.randint(5, 50, mask.shape, generator=draw).where(mask, 0)
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    if head in ("token-classification", "masked-lm", "causal-lm", "seq2seq-lm"):
        wanted = torch.randint(3, mask.shape, generator=draw) if head == "token-classification" else ids
        return {**batch, "labels": wanted.where(mask, -100)}
    if head == "question-answering":
        return {**batch, "start_positions": torch.tensor([1] * 8), "end_positions": torch.tensor([2] * 8)}
    numbers = torch.rand(8, generator=draw, dtype=torch.float64)
    return {**batch, "labels": numbers if model.config.num_labels == 1 else torch.randint(3, (8,), generator=draw)}


def our_gradient(folder: str, head: str, data: dict[str, torch.Tensor], rows_at_once: int) -> list[torch.Tensor]:
    model = mt.load(folder, head=head, dtype=torch.float64).transformer.eval()
    task = SimpleNamespace(
        collate=lambda rows: data, count=lambda batch: model.loss(batch)[1], loss=lambda model, batch: model.loss(batch)
    )
    recipe = Recipe(micro_batch_size=rows_at_once)
    gradient(loss_sum(model, task, recipe), task, range(8), recipe, State(), torch.amp.GradScaler(enabled=False))
    return [p.grad for p in model.parameters() if p.grad is not None]


def trainer_norm(model: torch.nn.Module, data: dict[str, torch.Tensor], rows_at_once: int, folder: str) -> float:
    """The length of the gradient that Trainer logs for its first step."""
    arguments = transformers.TrainingArguments(
        output_dir=folder, max_steps=1, per_device_train_batch_size=rows_at_once, learning_rate=1e-30, logging_steps=1,
        gradient_accumulation_steps=8 // rows_at_once, max_grad_norm=1e9, save_strategy="no", report_to="none",
        disable_tqdm=True, train_sampling_strategy="sequential", use_cpu=True,
    )  # fmt: skip
    rows = [{name: x[i] for name, x in data.items()} for i in range(8)]
    runner = transformers.Trainer(model, arguments, train_dataset=rows)
    runner.remove_callback(transformers.PrinterCallback)
    runner.train()
    return runner.state.log_history[0]["grad_norm"]
