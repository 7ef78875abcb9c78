"""Folders of small models without a head, each with its tokenizer, and what the tests of all tasks do with them."""

import string

import torch
import transformers
from small_writers import bart, byte_level
from tokenizers import processors

import minitransformer as mt

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WORDS = ["a", "the", "film", "plot", "was", "not", "very", "good", "bad", "fine", "awful", "dull", "great", "who"]
WORDS += ["what", "when", "where", "made", "it", "in"]


def bert(folder, **fields):
    """A BERT whose pieces are some words, and all letters."""
    folder.mkdir(exist_ok=True)
    letters = [*string.ascii_lowercase, *string.digits, *".,;?!'-"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters[1:], *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    config = transformers.BertConfig(
        vocab_size=len(words), max_position_embeddings=512, **SIZES | NO_DROPOUT | {"initializer_range": 0.1} | fields
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def roberta(folder):
    """A RoBERTa over bytes: its pairs are <s> a </s></s> b </s>, all of one type."""
    backend = byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", **special
    )
    tokenizer.save_pretrained(folder)
    sizes = SIZES | NO_DROPOUT | {"initializer_range": 0.1, "max_position_embeddings": 514, "type_vocab_size": 1}
    config = transformers.RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **sizes)
    torch.manual_seed(0)
    transformers.RobertaModel(config).save_pretrained(folder)
    return folder


FOLDERS = {"bert": bert, "roberta": roberta, "bart": bart}


def their_loss(cls, model, batch, folder):
    """The loss of a class of transformers' on a batch, its weights and its config read from what our model saved."""
    model.save(folder)
    theirs, told = cls.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not told["missing_keys"]
    with torch.no_grad():
        return theirs(**batch).loss.item()


def load(folder, head, **options):
    """Our model in float64 with a new head, and no dropout."""
    torch.manual_seed(5)
    return mt.load(folder, head=head, dtype=torch.float64, **options).eval()


def mean_and_parts(task, model, batch):
    """The mean loss of a batch at once, and of its parts' losses added: rows 0 and 1, row 2, and the others."""
    rows = len(next(iter(batch.values())))
    count = task.count(batch)
    with torch.no_grad():
        total, counted = task.loss(model, batch)
        assert counted == count
        bounds = [(0, 2), (2, 3), (3, rows)]
        parts = [{name: x[slice(*bound)] for name, x in batch.items()} for bound in bounds]
        losses = [task.loss(model, part) for part in parts]
    assert sum(counted for _, counted in losses) == count
    return (total / count).item(), (sum(loss for loss, _ in losses) / count).item()


def overfit(task, model, rows, *, steps, rate=3e-3):
    """The mean loss after `steps` steps on these rows."""
    examples = task.encode(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        batch = task.collate(examples)
        loss = task.loss(model, batch)[0] / task.count(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
