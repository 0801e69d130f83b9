"""Self-instruct: a model makes up samples of tool use, rules choose, the rest is learnt from.

    while fewer samples are kept than wanted:
        prompt = tools + 6 seeds + 2 kept samples + "Question:"       (sample_prompt.py)
        answer = generate(prompt)
        for each sample in the answer:
            keep it, if it can be read (sample.py) and every rule passes (sample_rules.py)

Kept samples stand in later prompts and count as known questions, so the set drifts away from its
seeds instead of repeating them.

Every answer adds one line to answers.jsonl in the folder (answers_file.py), so Ctrl-C or a kill
costs the answer that was being made and no more. Which prompt comes next depends on the seed, the
number of the answer and what was kept before. So with a model that answers a prompt always alike a
run that was stopped ends like one that was not.

Paper:    Qwen Technical Report, 3.4: self-instruct; about 2,000 samples of high quality, checked by
          rules and people, which are learnt together with the rest of the data for fine-tuning.
Origin:   Wang et al. 2022 (Self-Instruct), arXiv:2212.10560.
Differs:  the report repeats this with the model that was trained on the samples; give that model's
          `generate` and the kept samples as seeds for the same. People are left to you:
          `write_samples` writes a file that can be thinned out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.jsonl import NOT_TEXT
from .rouge import RougePool
from .samples.answers_file import FILE, Answer, answer_record, append_record, open_run
from .samples.sample import Sample, parse_sample
from .samples.sample_files import sample_record
from .samples.sample_prompt import OPENING, draw_examples, sample_prompt, split_answer
from .samples.sample_rules import Check, Dropped, Rules, why_dropped
from .tool import Tool

EXAMPLES = 0x5349  # first word of the seed: no other use shares its stream
LONGEST = 200_000  # characters of an answer that are read: a model that never stops fills no disk


class SelfInstructSettings(NamedTuple):
    wanted: int = 2000  # samples; the last answer may bring a few more
    most_answers: int = 10_000  # calls of generate, over all runs in the folder
    seed: int = 0
    human_examples: int = 6  # in a prompt
    model_examples: int = 2
    most_tools: int = 5  # told in a prompt; the report's benchmark offers as many
    keep_last: bool = (
        True  # False where a limit on tokens may have cut the last sample of an answer
    )
    rules: Rules = Rules()


DEFAULT = SelfInstructSettings()


class SelfInstructReport(NamedTuple):
    kept: list[Sample]  # in the order in which they were made
    dropped: dict[str, int]  # by reason, the most frequent first; see sample_rules.py
    answers: int  # of the model

    def __str__(self) -> str:
        """Say it in one line."""
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.dropped.items())
        lost = sum(self.dropped.values())
        more = f" ({reasons})" if reasons else ""
        return f"{len(self.kept)} kept, {lost} dropped{more}, {self.answers} answers"


def self_instruct(
    seeds: Sequence[Sample],
    tools: Mapping[str, Tool],
    generate: Callable[[str], str],
    folder: str | os.PathLike[str],
    settings: SelfInstructSettings = DEFAULT,
    *,
    check: Check | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SelfInstructReport:
    """Make samples until there are enough, or the answers are spent; go on where a run stopped.

    Args:
        seeds: samples that people wrote, which pass the rules themselves.
        tools: of `make_tools`, only those that may be learnt.
        generate: continues a prompt.
        folder: made if missing. A second process in it is turned away.
        settings: those of the run that stopped, but for wanted and most_answers.
        check: asked of samples that pass all rules, such as `agrees_with_tools(tools)`.
        progress: called after each answer as progress(samples kept, answers so far).

    Returns:
        What was kept and why the rest was not, over all runs in the folder.

    Raises:
        ValueError: there is no seed, or one fails a rule; a setting is out of range; or the folder
            holds a run with other seeds, tools or settings, or its file is damaged. Nothing has
            been written.
        TypeError: generate gave no text.
        OSError: the file cannot be read or written, or another process works in it.
        KeyboardInterrupt, and what generate or check raise: all answers before are in the file.

    >>> import tempfile
    >>> add = Tool("add", "Add", "Adds numbers.", {"type": "object"}, lambda: "5")
    >>> seed = Sample("What is 2 + 3?", ("add",), (), "Easy.", "5")
    >>> made = lambda prompt: "Who wrote Faust, please?\\nThought: I know.\\nFinal Answer: Goethe"
    >>> once = SelfInstructSettings(wanted=1, rules=Rules(calls=(0, 0)))
    >>> print(self_instruct([seed], {"add": add}, made, tempfile.mkdtemp(), once))
    1 kept, 0 dropped, 1 answers
    """
    s = settings
    _require_settings(s)
    _require_seeds(seeds, tools, s.rules, check)
    with open_run(Path(folder) / FILE, _facts(seeds, tools, s)) as (file, answers):
        kept = [sample for answer in answers for sample in answer.kept]
        reasons = Counter(one.reason for answer in answers for one in answer.dropped)
        pool = RougePool(sample.question for sample in [*seeds, *kept])
        number = len(answers)
        while len(kept) < s.wanted and number < s.most_answers:
            rng = np.random.default_rng([EXAMPLES, s.seed, number])
            examples, names = draw_examples(
                seeds,
                kept,
                list(tools),
                rng,
                human_examples=s.human_examples,
                model_examples=s.model_examples,
                most_tools=s.most_tools,
            )
            told = {name: tools[name] for name in names}
            written = generate(sample_prompt(examples, told, s.rules.language))
            if not isinstance(written, str):
                raise TypeError(f"generate must return a str, got {type(written).__name__}")
            answer = _sift(written, told, s, pool, check)
            append_record(file, answer_record(answer))
            kept += answer.kept
            reasons.update(one.reason for one in answer.dropped)
            number += 1
            if progress is not None:
                progress(len(kept), number)
    return SelfInstructReport(kept, dict(reasons.most_common()), number)


def _sift(
    written: str,
    tools: Mapping[str, Tool],
    settings: SelfInstructSettings,
    pool: RougePool,
    check: Check | None,
) -> Answer:
    """Ask the rules of each sample in an answer; adds the kept questions to the pool."""
    answer = Answer([], [])
    written = NOT_TEXT.sub("\ufffd", written[:LONGEST])  # else the file could not be read again
    texts = split_answer(written)
    if not settings.keep_last and texts:
        answer.dropped.append(Dropped("last", "it may have been cut off", texts.pop()))
    for text in texts:
        try:
            sample = parse_sample(text, tools)
        except ValueError as error:
            answer.dropped.append(Dropped("format", str(error), text))
            continue
        failed = why_dropped(sample, tools, settings.rules, pool, check)
        if failed is not None:
            answer.dropped.append(failed._replace(why=NOT_TEXT.sub("\ufffd", failed.why)))
            continue
        answer.kept.append(sample)
        pool.add(sample.question)
    return answer


def _require_settings(settings: SelfInstructSettings) -> None:
    s = settings
    if s.wanted < 1 or s.most_answers < 1 or s.most_tools < 1 or s.seed < 0:
        raise ValueError(
            f"need wanted, most_answers and most_tools of at least 1 and a seed of at least 0, got "
            f"{s.wanted}, {s.most_answers}, {s.most_tools} and {s.seed}"
        )
    if s.human_examples < 1 or s.model_examples < 0:
        raise ValueError(
            f"need human_examples >= 1 and model_examples >= 0, got {s.human_examples} and "
            f"{s.model_examples}"
        )
    if s.rules.language not in OPENING:
        known = ", ".join(OPENING)
        raise ValueError(f"language must be one of {known}, got {s.rules.language!r}")
    if not 0 < s.rules.overlap <= 1:
        raise ValueError(f"overlap must be above 0 and at most 1, got {s.rules.overlap}")


def _require_seeds(
    seeds: Sequence[Sample], tools: Mapping[str, Tool], rules: Rules, check: Check | None
) -> None:
    if not seeds:
        raise ValueError("seeds must hold at least one sample: the model needs an example")
    for i, seed in enumerate(seeds):
        if unknown := [name for name in seed.tools if name not in tools]:
            raise ValueError(f"seeds[{i}] was offered {unknown[0]!r}, which is not in tools")
        if failed := why_dropped(seed, tools, rules, None, check):
            raise ValueError(f"seeds[{i}] fails the rule {failed.reason!r}: {failed.why}")


def _facts(
    seeds: Sequence[Sample], tools: Mapping[str, Tool], settings: SelfInstructSettings
) -> dict[str, Any]:
    """Return what must be the same when a run goes on, as it stands on the first line."""
    fields = settings._asdict() | {"rules": settings.rules._asdict()}
    del fields["wanted"], fields["most_answers"]
    told = [[name, tool.description, tool.parameters] for name, tool in tools.items()]
    return {
        "settings": json.loads(json.dumps(fields)),
        "seeds": _digest([sample_record(seed) for seed in seeds]),
        "tools": _digest(told),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
