"""The recipes of Code-Qwen and Math-Qwen, and instructions in pretraining."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import error_of

from minqwen.cli import main
from minqwen.lab import (
    recipe_code,
    recipe_code_report,
    recipe_instruction_tasks,
    recipe_instructions,
    recipe_instructions_report,
    recipe_math,
    recipe_math_report,
    recipe_math_tasks,
)
from minqwen.lab.findings import AGREES, DISAGREES, PARTLY, UNDECIDED
from minqwen.lab.recipe_code_tasks import (
    INNER,
    OUTER,
    Task,
    code_tasks,
    general_tasks,
    is_held_out,
    judge,
)
from minqwen.lab.recipe_instruction_tasks import (
    HELD_OUT,
    SEEN,
    few_shots,
    make_items,
    ngrams,
    without_overlap,
)
from minqwen.lab.recipe_math_tasks import KINDS, TEMPLATES, make_problems, right_result
from minqwen.lab.recipe_study import (
    RecipeSettings,
    answers,
    chat_of,
    difference,
    make_tokenizer,
    mean_and_spread,
    values,
    verdict,
)
from minqwen.lab.results import Results
from minqwen.model.init import init_params
from minqwen.training.lr_schedule import cosine_lr

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
STAGES = {"seeds": 1, "base_steps": 2, "base_batch_size": 2, "base_context": 32}
TINY = {
    "code": replace(
        recipe_code.QUICK, **SMALL, **STAGES, steps=2, long_context=128, code_bytes=60_000,
        stories=20, reference_every=20, held_out_rows=2, chats=12, general_steps=1, code_steps=2,
        sft_batch_size=2, tests=2,
    ),
    "math": replace(
        recipe_math.QUICK, **SMALL, **STAGES, stories=40, drills=60, steps=4, looks=2,
        sft_batch_size=2, problems=40, tests=3,
    ),
    "instructions": replace(
        recipe_instructions.QUICK, **SMALL, **STAGES, stories=20, reference_every=20, tests=1,
        held_out_rows=4,
    ),
}  # fmt: skip
STUDIES = {
    "code": recipe_code.code_study,
    "math": recipe_math.math_study,
    "instructions": recipe_instructions.instructions_study,
}
MODULES = {"code": recipe_code, "math": recipe_math, "instructions": recipe_instructions}


def rng(seed=0):
    return np.random.default_rng(seed)


# --- functions to write ------------------------------------------------------------------------


STEPS = {
    "twice": lambda v, n: 2 * v, "plus": lambda v, n: v + n, "minus": lambda v, n: v - n,
    "square": lambda v, n: v * v, "the text": lambda v, n: str(v),
    "even": lambda v, n: v % 2 == 0, "negative": lambda v, n: v < 0,
}  # fmt: skip


def test_code_answers_do_what_the_request_says():
    """The only place where answers are run: ours, to prove the templates."""
    wanted = {
        "the length of": len, "the sum of": sum, "the largest of": max, "the smallest of": min,
        "the first of": lambda x: x[0], "the last of": lambda x: x[-1],
    }  # fmt: skip
    items = [3, -5, 8, 2]
    for task in code_tasks(200, rng()) + code_tasks(60, rng(), held_out=True):
        space = {}
        exec(task.answer, space)
        name = re.search(r"def (\w+)", task.answer)[1]
        value = next(f(items) for phrase, f in wanted.items() if phrase in task.request)
        number = int(n[1]) if (n := re.search(r"(?:plus|minus) (\d)", task.request)) else 0
        for phrase, step in STEPS.items():
            value = step(value, number) if phrase in task.request else value
        assert space[name](items) == value, task.request


def pair_of(task):
    inner = [
        i for i, (phrase, _) in enumerate(INNER) if phrase.format(x="").strip() in task.request
    ]
    words = [phrase.format(e="|", n="").split("|") for phrase, _ in OUTER[1:]]
    what = task.request
    outer = [o for o, parts in enumerate(words, 1) if all(p.strip() in what for p in parts)]
    assert (len(inner), len(outer)) in {(1, 0), (1, 1)}, what
    return inner[0], outer[0] if outer else 0


def test_held_out_pairs_of_steps_are_never_trained_on():
    trained = {pair_of(task) for task in code_tasks(1500, rng())}
    tested = {pair_of(task) for task in code_tasks(300, rng(), held_out=True)}
    assert not trained & tested
    assert {i for i, _ in tested} <= {i for i, _ in trained}  # every step alone is known
    assert {o for _, o in tested} <= {o for _, o in trained}
    assert trained | tested == {(i, o) for i in range(len(INNER)) for o in range(len(OUTER))}
    assert all(is_held_out(*pair) for pair in tested)


RIGHT = "def f(x):\n    return 2 * len(x)"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RIGHT, (True, True)),
        ("  " + RIGHT.replace("\n", "\n  "), (True, True)),  # indented as a whole
        ("def f( x ):\n  return (2*len(x))", (True, True)),
        ("def f(x):\n    return len(x) * 2", (True, False)),
        ("def g(x):\n    return 2 * len(x)", (True, False)),
        (RIGHT + "\n" + RIGHT, (True, False)),
        ("def f(x):\n    return 2 * len(x", (False, False)),
        ("2 * len(x)", (False, False)),  # parses, and is no function
        ("", (False, False)),
        ("\x00", (False, False)),
        ("(" * 500, (False, False)),
        ("import os; os.abort()", (False, False)),  # were it run, there would be no next test
    ],
)
def test_answers_are_judged_by_their_tree(answer, expected):
    assert judge(Task("", RIGHT, "code"), answer) == expected


def test_general_answers_are_judged_by_their_words():
    task = general_tasks(1, rng())[0]
    assert judge(task, f" {task.answer}\n") == (True, True)
    assert judge(task, task.answer + "!") == (False, False)


# --- exam questions ----------------------------------------------------------------------------


def test_every_step_of_every_answer_is_right():
    for words in (False, True):
        for problem in make_problems(300, rng(), new_words=words):
            for left, sign, right in re.findall(r"([\d +-]+) ([=<>]) (\d+)", problem.answer):
                a, b = eval(left), int(right)  # digits and signs only
                assert {"=": a == b, "<": a < b, ">": a > b}[sign], problem
            assert right_result(problem.answer) == problem.result
            if problem.kind == "choice":
                end = re.findall(r"= (\d+)", problem.answer)[-1]
                assert f"{problem.result}: {end}" in problem.question
                assert len(set(re.findall(r"[ABC]: (\d+)", problem.question))) == 3


def numbers_of(problem):
    return tuple(map(int, re.findall(r"\d+", problem.question)[:3]))


def triple_of(problem):
    """a, b, c in the order in which the steps use them."""
    a, b, middle, middle2, c = map(int, re.findall(r"\d+", problem.answer)[:5])
    assert middle == middle2
    return a, b, c


def test_held_out_numbers_are_never_trained_on():
    trained = make_problems(3000, rng())
    tested = make_problems(300, rng(1), new_numbers=True)
    assert not {triple_of(p) for p in trained} & {triple_of(p) for p in tested}
    known = {step for p in trained for step in re.findall(r"\d+ [+-] \d+ = \d+", p.answer)}
    needed = {step for p in tested for step in re.findall(r"\d+ [+-] \d+ = \d+", p.answer)}
    assert len(needed - known) <= 0.05 * len(needed)  # each sum by itself is known


def test_held_out_words_are_never_trained_on():
    def shapes(problems):
        found = set()
        for p in problems:
            text = re.sub(r"\d+", "#", p.question)
            for language in recipe_math_tasks.LANGUAGES:
                for word in (
                    *recipe_math_tasks.NAMES[language],
                    *recipe_math_tasks.THINGS[language],
                ):
                    text = text.replace(word, "*")
            found.add((p.kind, p.language, text))
        return found

    trained, tested = (
        shapes(make_problems(2000, rng())),
        shapes(make_problems(500, rng(), new_words=True)),
    )
    assert not trained & tested
    assert len(tested) == 2 * len(KINDS)
    assert len(trained) == sum(len(t) - 1 for kind in TEMPLATES.values() for t in kind.values())


def test_too_many_questions_are_refused(monkeypatch):
    monkeypatch.setattr(recipe_math_tasks, "KINDS", ("equation",))
    monkeypatch.setattr(recipe_math_tasks, "LARGEST", 1)
    with pytest.raises(ValueError, match="there are not 20 different questions"):
        make_problems(20, rng())


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("3 + 4 = 7. 7 - 2 = 5. The answer is 5.", "5"),
        ("3 + 4 = 7。7 > 2。答案是小梅。", "小梅"),
        ("The answer is 3. The answer is 4.", "4"),
        ("3 + 4 = 7. 7 - 2 = 5.", "5"),
        ("The answer is 5", "5"),  # without its end: the last number
        ("nothing", None),
        ("", None),
    ],
)
def test_what_an_answer_says(answer, result):
    assert right_result(answer) == result


def test_the_settings_of_the_report():
    s = recipe_math.MATH_SFT
    assert (s.peak_lr, s.context_length, s.steps) == (2e-5, 1024, 50_000)
    assert (s.batch_size, s.dropout, s.weight_decay, s.max_norm) == (128, 0.1, 0.1, 1.0)


# --- instructions ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*SEEN, *HELD_OUT])
def test_options_differ_and_either_may_be_right(family):
    items = make_items(family, 100, rng())
    assert {item.right for item in items} == {0, 1}
    for item in items:
        assert item.options[0] != item.options[1]
        assert item.document == item.prompt + item.options[item.right]
        assert all(option in item.prompt for option in item.options)


def test_right_options_are_right():
    def check(family, holds):
        for item in make_items(family, 60, rng()):
            right, wrong = item.options[item.right].strip(), item.options[1 - item.right].strip()
            given = re.search(r"Input: (.*)\. Answer", item.prompt)
            assert holds(given[1] if given else "", right, wrong), item

    check("larger", lambda _, r, w: int(r) > int(w))
    check("longer", lambda _, r, w: len(r) > len(w))
    check("same", lambda g, r, w: g == r != w)
    check("first_letter", lambda g, r, w: g[0] == r != w)
    check("last_letter", lambda g, r, w: g[-1] == r != w)
    check("number_after", lambda g, r, w: int(g) + 1 == int(r) != int(w))
    check("number_before", lambda g, r, w: int(g) - 1 == int(r) != int(w))
    check("animal", lambda _, r, w: r in recipe_instruction_tasks.ANIMALS)
    pairs = set(recipe_instruction_tasks.OPPOSITES)
    check("opposite", lambda g, r, w: (g, r) in pairs or (r, g) in pairs)
    words = dict(recipe_instruction_tasks.CHINESE)
    check("chinese", lambda g, r, w: words[g] == r)
    check("english", lambda g, r, w: words[r] == g)


def test_ngrams_of_words_signs_and_characters():
    assert ngrams("你好, World", 4) == {("你", "好", ",", "world")}
    assert ngrams("too short") == set()
    twelve, thirteen = ("a " * n for n in (12, 13))
    assert without_overlap([twelve, thirteen], [thirteen]) == ([twelve], 1)


def test_the_filter_drops_what_shares_a_question_with_a_test():
    item = make_items("larger", 1, rng())[0]
    shots = make_items("larger", 2, rng(1))
    asked = few_shots(item, shots) + item.options[item.right]
    turned = item.document.replace(item.options[0], " 777")
    assert without_overlap([item.document, turned], [asked]) == ([turned], 1)
    assert without_overlap([shots[1].document], [asked]) == ([], 1)  # the shots count too


def test_no_row_of_training_holds_a_test():
    s = TINY["instructions"]
    data = recipe_instructions.prepare(s)
    asked = [
        few_shots(i, shots) + i.options[i.right] for f in data.tests.values() for i, shots in f
    ]
    documents, dropped = recipe_instructions.instruction_documents(3000, data.text, asked, rng())
    known = set().union(*map(ngrams, asked))
    assert dropped > 0  # else this test could not fail
    assert known.isdisjoint(set().union(*map(ngrams, documents)))
    heads = {re.match(r"Task: ([^.]*)", document)[1] for document in documents}
    assert heads == {recipe_instruction_tasks.HEADS[family] for family in SEEN}


def test_every_arm_reads_as_many_tokens():
    s = replace(TINY["instructions"], base_steps=100)
    data = recipe_instructions.prepare(s)
    rows = {arm: recipe_instructions.training_rows(s, data, arm, 0)[0]
            for arm in recipe_instructions.ARMS}  # fmt: skip
    assert {len(r) for r in rows.values()} == {s.base_steps * s.base_batch_size}
    text = data.text.tokenizer
    found = {arm: text.decode(r[:, 1:].ravel().tolist()) for arm, r in rows.items()}
    assert "Task:" not in found["text"]
    documents = found["instructions"].split("<|endoftext|>")
    tokens = sum(len(text.encode(d)) + 1 for d in documents if d.startswith("Task:"))
    assert 0.1 * s.training_tokens < tokens < 0.3 * s.training_tokens


# --- what the studies share --------------------------------------------------------------------


@pytest.fixture(scope="module")
def text():
    return make_tokenizer(["Once upon a time. 3 + 4 = 7."], RecipeSettings(**SMALL))


def test_loss_on_answers_or_on_everything(text):
    one, all_ = (chat_of(text, "3 + 4?", "7", everything=x) for x in (False, True))
    assert one.ids == all_.ids
    assert all(all_.loss_mask)
    trained = [i for i, counts in zip(one.ids, one.loss_mask, strict=True) if counts]
    assert trained == [*text.tokenizer.encode("7"), text.tokenizer.special_tokens["<|im_end|>"]]


def test_answers_do_not_depend_on_their_neighbours(text):
    params = init_params(text.config, rng())
    requests = ["3 + 4?", "Once upon a time there was", "?"]
    alone = [answers(params, text, [request], 6)[0] for request in requests]
    assert answers(params, text, requests, 6) == alone


def test_short_rows_ask_for_the_same_tokens():
    rows = rng().integers(0, 99, (3, 65))
    short = recipe_code.shorter(rows, 16)
    assert short.shape == (12, 17)
    for labels in (sorted(rows[:, 1:].ravel()), sorted(rows[:, :-1].ravel())):
        cut = short[:, 1:] if labels == sorted(rows[:, 1:].ravel()) else short[:, :-1]
        assert sorted(cut.ravel()) == labels


def test_three_percent_warm_up_and_no_decay():
    s = recipe_code.CodeSettings(steps=1000).continuing(0)
    assert s.warmup_steps == 30
    rates = [
        cosine_lr(step, peak_lr=s.peak_lr, min_lr=s.peak_lr * s.min_lr_ratio,
                  warmup_steps=s.warmup_steps, total_steps=s.steps)
        for step in (0, 30, 500, 999)
    ]  # fmt: skip
    assert rates[0] < s.peak_lr
    assert rates[1:] == pytest.approx([s.peak_lr] * 3)


def test_when_a_difference_counts():
    assert difference([2, 3, 4], [1, 2, 3.1]).sure == 1
    assert difference([1, 2, 3.1], [2, 3, 4]).sure == -1
    assert difference([2, 3], [1, 2]).sure == 0  # two seeds
    assert difference([1.1, 1.2, 9], [1, 1, 1]).sure == 0  # below two errors
    assert difference([2, 3, 2.9], [1, 2, 3]).sure == 0  # one seed against
    assert difference([1, 1, 1], [1, 1, 1]).sure == 0
    assert [verdict(x) for x in (1, -1, 0)] == [AGREES, DISAGREES, UNDECIDED]
    assert difference([0.5], [0.25]).text(1, percent=True) == "+25.0 points"
    assert mean_and_spread([0.25, 0.75], 1, percent=True) == "50.0 % (35.4)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": 0}, "seeds must be a whole number, at least 1"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"vocab_size": 200}, "vocab_size must be at least 260"),
        ({"base_lr": 0.0}, "peak_lr must be positive"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RecipeSettings(**values).base(0)


# --- the whole ---------------------------------------------------------------------------------


def run(name, folder, settings=None, lines=None):
    lines = [] if lines is None else lines
    return STUDIES[name](Path(folder), settings or TINY[name], say=lines.append)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Each study, run once."""
    folders = {name: tmp_path_factory.mktemp("recipes") / name for name in STUDIES}
    return {name: (folder, run(name, folder)) for name, folder in folders.items()}


def without_times(cells):
    text = json.dumps(cells)
    return re.sub(r'"seconds": [\d.e-]+', '"seconds": 0', text)


@pytest.mark.parametrize("name", STUDIES)
def test_writes_tables_plots_and_page(finished, name):
    folder, results = finished[name]
    table, html = ((folder / n).read_text(encoding="utf-8") for n in ("table.md", "index.html"))
    plot = folder / ("curves.png" if name == "math" else "bars.png")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert html.count("data:image/png") == 1
    report = {
        "code": recipe_code_report, "math": recipe_math_report,
        "instructions": recipe_instructions_report,
    }[name]  # fmt: skip
    for finding in report.findings(results):
        assert finding.verdict == UNDECIDED  # one seed decides nothing
        assert finding.claim in table
        assert finding.ours in table
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_rerun_trains_nothing_and_a_stopped_study_goes_on(finished, name, tmp_path, monkeypatch):
    folder, results = finished[name]
    module, calls = MODULES[name], []
    real = module.pretrained if name == "instructions" else module.fine_tuned

    def stopped(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    where = "pretrained" if name == "instructions" else "fine_tuned"
    monkeypatch.setattr(module, where, stopped)
    with pytest.raises(KeyboardInterrupt):
        run(name, tmp_path / "lab")
    monkeypatch.setattr(module, where, real)
    assert without_times(run(name, tmp_path / "lab").cells) == without_times(results.cells)

    def never(*args, **kwargs):
        raise AssertionError("done again")

    for target in ("training.pretrain.train_step", "alignment.sft.train_step"):
        monkeypatch.setattr(f"minqwen.{target}", never)
    (folder / "index.html").unlink()
    assert without_times(run(name, folder).cells) == without_times(results.cells)
    assert (folder / "index.html").is_file()


def test_other_settings_code_or_folders_are_refused(finished, tmp_path):
    folder = finished["math"][0]
    with pytest.raises(ValueError, match=r"has problems = 40, not 41: .* another folder"):
        run("math", folder, replace(TINY["math"], problems=41))
    with pytest.raises(FileExistsError, match="not of `minqwen lab code`"):
        run("code", folder)
    (tmp_path / "results.json").write_text(
        (folder / "results.json").read_text(encoding="utf-8").replace('"code": "', '"code": "0'),
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="was made by another code: use another folder"):
        run("math", tmp_path)


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recipe_math, "QUICK", TINY["math"])
    words = ["lab", "math", "--out", str(tmp_path / "lab"), "--quick", "--steps", "2"]
    assert main([*words, "--seed", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"]["settings"] == replace(TINY["math"], steps=2, seed=5).to_dict()
    assert set(printed["cells"]) == {"base", "answers", "everything"}
    assert "has steps = 2, not 4" in error_of(capsys, *words[:-1], "4", "--seed", "5")


# --- what they conclude ------------------------------------------------------------------------


def made_up(folder, kind, arms):
    """Results with these numbers: arm -> key -> one of each seed."""
    results = Results(folder, kind, ())
    for arm, keys in arms.items():
        for seed in range(3):
            cell = {}
            for key, numbers in keys.items():
                place = cell
                *outer, last = key.split(".")
                for part in outer:
                    place = place.setdefault(part, {})
                place[last] = numbers[seed]
            results.cells.setdefault(arm, {})[str(seed)] = cell
    return results


NOISE = np.array([0.0, 0.01, -0.01])
TUNED = ("parses", "right", "new_parses", "new", "general")


def code_results(folder, **changed):
    changed_general = changed.pop("general", {})
    losses = {"nothing": (4.0, 3.9, 2.0), "mixed": (3.0, 3.2, 2.1), "code_only": (2.9, 3.1, 2.6)}
    shares = {"nothing_two": 0.3, "mixed_two": 0.8, "mixed_one": 0.5} | changed.pop("shares", {})
    losses |= changed
    arms = {
        arm: dict(zip(("code_long", "code_short", "text"), (x + NOISE * i for i, x in
                  enumerate(numbers, 1)), strict=True))
        for arm, numbers in losses.items()
    }  # fmt: skip
    general = {"mixed_two": 0.1, "mixed_one": 0.1} | changed_general
    for i, (arm, share) in enumerate(shares.items(), 1):
        arms[arm] = dict.fromkeys(TUNED, share + i * NOISE)
        arms[arm]["general"] = general.get(arm, 0.0) + i * NOISE
    return made_up(folder, recipe_code.KIND, arms)


@pytest.mark.parametrize(
    ("which", "changed", "verdict_"),
    [
        (0, {}, AGREES),
        (0, {"mixed": (4.5, 4.6, 2.1)}, DISAGREES),
        (0, {"mixed": (3.99, 4.6, 2.1)}, AGREES),
        (1, {}, AGREES),
        (1, {"code_only": (2.9, 3.1, 1.9)}, DISAGREES),
        (2, {}, AGREES),
        (2, {"mixed": (3.3, 3.2, 2.1)}, DISAGREES),
        (2, {"mixed": (3.2, 3.2, 2.1)}, UNDECIDED),
        (3, {}, AGREES),
        (3, {"shares": {"nothing_two": 0.9}}, DISAGREES),
        (4, {}, AGREES),
        (4, {"general": {"mixed_two": 0.9}}, AGREES),
        (4, {"general": {"mixed_one": 0.9}}, PARTLY),  # the first stage is forgotten
        (4, {"shares": {"mixed_one": 0.9}}, DISAGREES),
        (4, {"shares": {"mixed_one": 0.8}}, UNDECIDED),
    ],
)
def test_each_verdict_on_code_follows_its_claim(tmp_path, which, changed, verdict_):
    found = recipe_code_report.findings(code_results(tmp_path, **changed))
    assert found[which].verdict == verdict_


def math_results(folder, answers_, everything):
    arms = {"base": {"tests.new_numbers.all": [0.0, 0.01, 0.0], "tests.new_words.all": [0.0] * 3}}
    for arm, curve in (("answers", answers_), ("everything", everything)):
        looks = [[[10 * i + 10, a + x, l] for i, (a, l) in enumerate(curve)] for x in NOISE]
        last = [seed[-1][1] for seed in looks]
        arms[arm] = {"curve": looks, "tests.new_numbers.all": last, "tests.new_words.all": last}
    return made_up(folder, recipe_math.KIND, arms)


FAST, SLOW = [(0.2, 1.0), (0.8, 0.3)], [(0.1, 1.2), (0.7, 0.6)]


def test_what_masking_does(tmp_path):
    def second(name, *curves):
        (tmp_path / name).mkdir()
        results = math_results(tmp_path / name, *curves)
        return recipe_math_report.findings(results)[1].verdict

    assert second("agrees", FAST, SLOW) == AGREES
    assert second("not", SLOW, FAST) == DISAGREES
    assert second("mixed", [(0.2, 1.3), (0.8, 0.9)], SLOW) == UNDECIDED  # right, and yet more loss
    assert second("same", FAST, FAST) == UNDECIDED


def test_how_fast(tmp_path):
    results = math_results(tmp_path, FAST, [(0.1, 1.0), (0.495, 0.5)])
    assert recipe_math_report.reached(results, "answers", 0.5) == "20, 20, 20"
    assert recipe_math_report.reached(results, "everything", 0.5) == "never, 20, never"
    assert recipe_math_report.over_looks(results, "answers", 2) == pytest.approx([0.65] * 3)
    assert values(results, "base", "tests.new_numbers.all") == [0.0, 0.01, 0.0]


def test_what_instructions_do(tmp_path):
    arms = {
        arm: {
            "seen.zero": x + NOISE * (i + 1), "seen.few": x + NOISE * (i + 1),
            "held_out.zero": 0.5 - d + NOISE * (i + 1), "held_out.few": 0.5 + d + NOISE,
        }
        for i, (arm, x, d) in enumerate((("text", 0.5, 0), ("instructions", 0.7, 0.2)))
    }  # fmt: skip
    arms["instructions"]["seen.few"] = [0.6, 0.6, 0.48]  # one seed is not for it
    results = made_up(tmp_path, recipe_instructions.KIND, arms)
    verdicts = [f.verdict for f in recipe_instructions_report.findings(results)]
    assert verdicts == [AGREES, UNDECIDED, DISAGREES, AGREES]
    for arm, share in (("text", 0.3), ("instructions", 0.5)):  # better, and yet only chance
        for cell in results.cells[arm].values():
            cell["held_out"]["few"] += share - 0.5 - 0.2 * (arm == "instructions")
    assert recipe_instructions_report.findings(results)[3].verdict == PARTLY
