"""Scores of answers that are written: translations and summaries."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

from minitransformer.errors import DataError
from minitransformer.metrics.checks import check_rows, library

References = Sequence[str] | Sequence[Sequence[str]]  # for each row the right text, or several
Tokenize = Literal["13a", "zh", "char", "intl", "none"]  # sacrebleu's tokenizers that need neither network nor MeCab
TOKENIZERS = ("13a", "zh", "char", "intl", "none")
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
NO_SPACES = re.compile(  # Han, kana and hangul: each character is taken for a word
    "([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af])"
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def bleu(predicted: Sequence[str], references: References, tokenize: Tokenize | None = None) -> dict[str, float]:
    """Corpus BLEU, 0 to 100, as sacrebleu computes it.

    `tokenize` is sacrebleu's: "13a", what is usual; "zh", each Chinese character a word; "char", each character of
    any script. None: "zh" where at least half of the rows have a reference with a Han character, else "13a".
    Quote `bleu_signature` with the number. Papineni et al. 2002; Post 2018.
    """
    check_rows(predicted, references)
    metric = sacrebleu_metric(references, tokenize)
    return {"bleu": float(metric.corpus_score(list(predicted), None).score)}


def bleu_signature(references: References, tokenize: Tokenize | None = None) -> str:
    """How `bleu` is computed for these references, in sacrebleu's short form: nrefs:1|case:mixed|eff:no|tok:13a|..."""
    return str(sacrebleu_metric(references, tokenize).get_signature())


def chrf(predicted: Sequence[str], references: References) -> dict[str, float]:
    """Corpus chrF2, 0 to 100: F of groups of up to six characters, for any script. Popović 2015."""
    check_rows(predicted, references)
    metric = library("sacrebleu.metrics", "sacrebleu").CHRF(references=streams(references))
    return {"chrf": float(metric.corpus_score(list(predicted), None).score)}


def sacrebleu_metric(references: References, tokenize: str | None) -> Any:
    """sacrebleu's BLEU for these references."""
    if tokenize is None:
        chinese = sum(any(HAN.search(text) for text in texts) for texts in several(references))
        tokenize = "zh" if chinese * 2 >= len(references) else "13a"
    if tokenize not in TOKENIZERS:
        raise DataError(f"tokenize: got {tokenize!r}, expected one of {', '.join(TOKENIZERS)}")
    metrics = library("sacrebleu.metrics", "sacrebleu")
    return metrics.BLEU(tokenize=tokenize, force=True, references=streams(references))  # force: no advice is printed


def streams(references: References) -> list[tuple[str | None, ...]]:
    """The first reference of each row, the second of each, and so on; None where a row has no more."""
    return list(zip_longest(*several(references)))


def several(references: References) -> list[list[str]]:
    """The references of each row, as a list."""
    texts = [[given] if isinstance(given, str) else list(given) for given in references]
    for i, row in enumerate(texts):
        if not row:
            raise DataError(f"row {i + 1}: got no reference, expected 1 or more")
    return texts


def rouge(predicted: Sequence[str], references: References) -> dict[str, float]:
    """ROUGE-1, -2, -L and -Lsum: the mean over rows of F, 0 to 1, as rouge-score computes it, with its stemmer.

    Of several references that with the best F counts. rougeLsum judges sentence by sentence: a sentence ends with its
    line, or with . ! ? and a space, or with 。！？. rouge-score knows only a to z and digits; here each Han, kana or
    hangul character is a word besides, so texts without any get rouge-score's own numbers. Other alphabets still count
    nothing: use chrF. Lin 2004.
    """
    check_rows(predicted, references)
    scorer = library("rouge_score.rouge_scorer", "rouge-score").RougeScorer(ROUGES, tokenizer=Words())
    rows = [
        scorer.score_multi([lines(text) for text in texts], lines(answer))
        for answer, texts in zip(predicted, several(references), strict=True)
    ]
    return {name: sum(float(row[name].fmeasure) for row in rows) / len(rows) for name in ROUGES}


def lines(text: str) -> str:
    """The text with each sentence on a line of its own."""
    return SENTENCE_END.sub("\n", text)


class Words:
    """rouge-score's own tokenizer for words written with spaces; characters, for those without."""

    def __init__(self) -> None:
        self.spaced = library("rouge_score.tokenizers", "rouge-score").DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The text's words."""
        parts = NO_SPACES.split(text)  # between the characters, which stand at the odd places
        return [word for i, part in enumerate(parts) for word in ([part] if i % 2 else self.spaced.tokenize(part))]
