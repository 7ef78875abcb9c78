"""BLEU, chrF and ROUGE are sacrebleu's and rouge-score's; Chinese counts character by character."""

import json
import random
import string
import subprocess
import sys

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from minitransformer.errors import DataError, DependencyError
from minitransformer.metrics import bleu, bleu_signature, chrf, rouge

CHINESE = ["今天天气很好，我们去公园散步。", "他在学习深度学习。你呢？"]
ANSWERS = ["今天天气不错，我们去公园走走。", "她在学习机器学习。你呢？"]


WORDS = "the cat sat on mats running quickly café naïve U.S. 3.5% well-known . , ! \n"


def drawn(seed, words=WORDS):
    rng = random.Random(seed)
    return [" ".join(rng.choice(words.split(" ")) for _ in range(rng.randrange(0, 25))) for _ in range(12)]


@pytest.mark.parametrize("seed", range(4))
def test_bleu_and_chrf_are_sacrebleus(seed):
    predicted, first, second = (drawn(seed * 3 + i) for i in range(3))
    for references, theirs in ((first, [first]), (list(zip(first, second, strict=True)), [first, second])):
        assert bleu(predicted, references)["bleu"] == sacrebleu.corpus_bleu(predicted, theirs, force=True).score > 0
        assert chrf(predicted, references)["chrf"] == sacrebleu.corpus_chrf(predicted, theirs).score > 0
        char = sacrebleu.corpus_bleu(predicted, theirs, tokenize="char", force=True).score
        assert bleu(predicted, references, "char")["bleu"] == char


def test_bleu_is_what_the_command_line_prints(tmp_path):
    predicted, right = (
        [line.replace("\n", " ") for line in drawn(seed, words="the cat sat U.S. 3,5 mat.")] for seed in (7, 8)
    )
    (tmp_path / "right").write_text("\n".join(right) + "\n")
    told = subprocess.run(
        [sys.executable, "-m", "sacrebleu", str(tmp_path / "right"), "-m", "bleu", "chrf", "-b", "-w", "6"],
        input="\n".join(predicted) + "\n", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    numbers = json.loads(told)
    assert numbers == pytest.approx([bleu(predicted, right)["bleu"], chrf(predicted, right)["chrf"]], abs=1e-5)


def test_rows_may_have_unlike_numbers_of_references():
    predicted, references = ["a b c d e", "f g h i j"], [["a b c d x"], ["f g h i x", "f g h i j"]]
    theirs = sacrebleu.corpus_bleu(predicted, [["a b c d x", "f g h i x"], [None, "f g h i j"]]).score
    assert bleu(predicted, references)["bleu"] == theirs
    assert "nrefs:var" in bleu_signature(references)
    assert chrf(predicted, references)["chrf"] > chrf(predicted, ["a b c d x", "f g h i x"])["chrf"]


def test_chinese_is_split_into_characters():
    found = bleu(ANSWERS, CHINESE)["bleu"]
    assert found == sacrebleu.corpus_bleu(ANSWERS, [CHINESE], tokenize="zh").score > 20
    assert bleu(ANSWERS, CHINESE, "13a")["bleu"] < found
    assert "|tok:zh|" in bleu_signature(CHINESE)
    assert "|tok:13a|" in bleu_signature(["The sign says 出口.", "It is new.", "Go on."])
    assert bleu_signature(["a"]) == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


@pytest.mark.parametrize("seed", range(4))
def test_rouge_is_rouge_scores(seed):
    predicted, right = drawn(seed), drawn(seed + 50)
    ours = rouge(predicted, right)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score(r, p) for p, r in zip(predicted, right, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        assert ours[name] == pytest.approx(sum(row[name].fmeasure for row in rows) / len(rows), abs=1e-12)
    assert 0 < ours["rouge2"] < ours["rouge1"]


def test_the_best_of_several_references_counts():
    assert rouge(["the cat sat"], [["dogs", "the cats sat"]])["rouge1"] == 1
    assert rouge(["the cat sat"], [["dogs", "the cats sat"]]) == rouge(["the cat sat"], ["the cats sat"])


def test_lsum_goes_by_sentence():
    one, other = "Cats sleep all day. Dogs bark at night!", "Dogs bark at night! Cats sleep all day."
    scores = rouge([one], [other])
    assert scores["rougeLsum"] == 1
    assert scores["rougeL"] == 0.5
    by_hand = RougeScorer(["rougeLsum"], use_stemmer=True).score(other.replace("! ", "!\n"), one.replace(". ", ".\n"))
    assert by_hand["rougeLsum"].fmeasure == 1
    assert rouge(["Cats sleep\nDogs bark"], ["Dogs bark\nCats sleep"])["rougeLsum"] == 1


def test_chinese_rouge_is_that_of_characters_as_words():
    assert rouge(["我喜欢猫"], ["我喜欢狗"])["rouge1"] == 0.75
    assert rouge(["我喜欢猫"], ["我喜欢狗"])["rouge2"] == pytest.approx(2 / 3)
    codes = {
        char: " " + "".join(string.ascii_lowercase[int(d)] for d in str(ord(char)))
        for text in CHINESE + ANSWERS
        for char in text
    }
    latin = [
        [
            "\n".join(
                "".join(codes[c] for c in line if c not in "，。？") for line in text.replace("。", "。\n").splitlines()
            )
            for text in texts
        ]
        for texts in (ANSWERS, CHINESE)
    ]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    rows = [scorer.score(right, answer) for answer, right in zip(*latin, strict=True)]
    expected = {name: sum(row[name].fmeasure for row in rows) / 2 for name in rows[0]}
    assert rouge(ANSWERS, CHINESE) == pytest.approx(expected)
    assert min(expected.values()) > 0.4


def test_chinese_with_latin_words_in_it():
    assert rouge(["我的iPhone 15坏了"], ["我的iPhone 15好了"])["rouge1"] == pytest.approx(5 / 6)
    assert rouge(["さくら"], ["さくや"])["rouge1"] == pytest.approx(2 / 3)
    assert rouge(["한국어"], ["한국어"])["rouge1"] == 1


def test_empty_answers_score_nothing():
    assert set(rouge([""], ["a cat"]).values()) == {0}
    assert bleu([""], ["a cat"]) == {"bleu": 0}
    assert chrf([""], ["a cat"]) == {"chrf": 0}


def test_what_cannot_be_judged_is_named():
    for judge in (bleu, chrf, rouge):
        with pytest.raises(DataError, match="got 1 answers, expected 2"):
            judge(["a"], ["a", "b"])
        with pytest.raises(DataError, match="row 2: got no reference"):
            judge(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="tokenize: got 'flores200', expected one of 13a, zh"):
        bleu(["a"], ["a"], "flores200")


@pytest.mark.parametrize(
    ("module", "package", "judge"),
    [
        ("sacrebleu.metrics", "sacrebleu", bleu),
        ("sacrebleu.metrics", "sacrebleu", chrf),
        ("rouge_score", "rouge-score", rouge),
    ],
)
def test_without_the_library(module, package, judge, monkeypatch):
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=rf"{package} is not installed; pip install 'minitransformer\[metrics\]'"):
        judge(["a"], ["a"])


def test_the_libraries_are_imported_only_when_asked():
    heavy = {"sklearn", "seqeval", "sacrebleu", "rouge_score", "nltk", "torch", "scipy"}
    code = f"import sys, minitransformer.metrics; print([name for name in sys.modules if name in {heavy}])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
