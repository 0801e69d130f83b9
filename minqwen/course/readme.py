"""The README of an assignment for students, in English or Chinese."""

from __future__ import annotations

from collections.abc import Iterator

from ..check.specs import spec
from .aspects import ASPECTS
from .assignment import Assignment, points_of
from .exercise import Exercise
from .readme_words import ASPECT_ZH, QUESTIONS, TEXT
from .variants import variant


def student_readme(assignment: Assignment) -> str:
    """Return README.md of the student's folder."""
    return "\n".join(_lines(assignment)) + "\n"


def _lines(assignment: Assignment) -> Iterator[str]:
    say = TEXT[assignment.lang]
    zh = assignment.lang == "zh"
    found, points = assignment.found, points_of(assignment)
    minutes = sum(one.minutes for one in found)
    count = _text(say["one"] if len(found) == 1 else say["many"]).format(n=len(found))
    hours = _text(say["minutes"]).format(m=minutes)
    if minutes >= 120:
        hours = _text(say["hours"]).format(h=round(minutes / 60))
    yield f"# {assignment.title}"
    yield ""
    yield _text(say["intro"]).format(count=count, points=assignment.points, hours=hours)
    yield from _section(say, "todo", "steps")
    yield ""
    yield _text(say["table"])
    yield "| ---: | --- | --- | --- | ---: | ---: | --- |"
    for i, one in enumerate(found, 1):
        before = ", ".join(name for name in one.needs if name in assignment.exercises)
        yield (
            f"| {i} | {title_of(one, zh)} | {_files(one)} | {_functions(one, ', ')} "
            f"| {points[one.name]} | {one.minutes} | {before} |"
        )
    if assignment.variants:
        yield from _section(say, "change", "changed")
        yield ""
        for key in assignment.variants.items():
            this = variant(*key)
            names = [f for one in found for p in one.parts if p.spec == key[0] for f in p.functions]
            yield f"- `{'`, `'.join(names)}`: {this.says_zh if zh else this.says}"
    yield from ("", f"## {say['exercises']}")
    for i, one in enumerate(found, 1):
        yield from ("", f"### {i}. {title_of(one, zh)}", "")
        yield _text(say["facts"]).format(
            files="`, `".join(one.files), points=points[one.name], minutes=one.minutes,
            report=one.report,
        )  # fmt: skip
        yield from ("", one.task_zh if zh else one.task)
        yield from ("", _text(say["to_write"]).format(functions=_functions(one, _text(say["and"]))))
        for n, hint in enumerate(hints_of(one, assignment), 1):
            title = _text(say["hint"]).format(n=n)
            yield from ("", f"<details><summary>{title}</summary>", "", hint, "", "</details>")
    file = found[0].files[0]
    tells = say["tells"][assignment.hint]
    checks = _text(say["checks"]).format(file=file, pad=" " * max(2, 21 - len(file)), tells=tells)
    yield from ("", f"## {say['check']}", "", checks)
    yield from ("", f"## {say['points']}", "", _text(say["aspects"]))
    told = {"values": say["half"], "hard inputs": say["later"], "gradient": say["later"]}
    for aspect, share in ASPECTS.items():
        name = ASPECT_ZH[aspect] if zh else aspect
        yield f"| {name} | {share} | {told.get(aspect, say['now'])} | {QUESTIONS[aspect][zh]} |"
    yield from ("", _text(say["pointed"]))
    yield from _section(say, "rules", "ruled")
    files = dict.fromkeys(file for one in found for file in one.files)
    between = "、" if zh else ", "
    handed = _text(say["handed"]).format(files=between.join(f"`{file}`" for file in files))
    yield from ("", f"## {say['hand']}", "", handed)


def _text(found: object) -> str:
    assert isinstance(found, str)
    return found


def _section(say: dict[str, str | tuple[str, ...]], title: str, text: str) -> Iterator[str]:
    yield from ("", f"## {say[title]}", "", _text(say[text]))


def _files(one: Exercise) -> str:
    return ", ".join(f"`{file}`" for file in one.files)


def _functions(one: Exercise, between: str) -> str:
    """Join the functions of an exercise; the last two by `between`."""
    names = [f"`{name}`" for part in one.parts for name in part.functions]
    if len(names) == 1 or between in (", ", "、"):
        return between.join(names)
    return ", ".join(names[:-1]) + between + names[-1]


def title_of(one: Exercise, zh: bool) -> str:
    """Return the title of an exercise in the language of the assignment."""
    return one.title_zh if zh else one.title


def hints_of(one: Exercise, assignment: Assignment) -> tuple[str, ...]:
    """Return the hints of an exercise; where a variant makes one false, that of the variant."""
    zh = assignment.lang == "zh"
    hints = list(one.hints_zh if zh else one.hints)
    for key in assignment.variants.items():
        if key[0] in [spec(part.spec).name for part in one.parts]:
            for which, *words in variant(*key).hints:
                hints[which] = words[zh]
    return tuple(hints)
