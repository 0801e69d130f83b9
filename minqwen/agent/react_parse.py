"""Read what a model wrote in the ReAct format: a thought, and an action or an answer.

    Thought: I need a calculator.              thought
    Action: calculator                         action
    Action Input: {"expression": "21 * 2"}     action_input
    Observation: 41                            the model's own invention: dropped, with all after it
    Final Answer: 41                           (final_answer when there is no action)

The rules, from the top:

1. A label stands at the beginning of a line, whatever its case and spacing; it may be in bold, by
   itself or with its line, be a heading (#), or have a number, and its colon may be that of Chinese
   text. An `Action Input:` may also stand on the line of its `Action:`.
2. The text ends where the model begins to play the other parts: at the first `Observation:`, and at
   a `Question:` after an action or an answer. A last line that is the beginning of "Observation:",
   three letters or more, is what a stop string left over, and is dropped; so it is on the line of
   a JSON object's end.
3. The first action that has an input wins, over an answer too, before it or after it: as in the
   release. An action without input wins only where there is no answer.
4. An action input that begins with a JSON object, or with three backticks, ends where that does
   (closed_text.py): labels inside are not read and text after is dropped. Other input ends at the
   next label, so bare code with a line "Action:" in it is cut there. Labels inside a closed block
   of code in a final answer are not read either.
5. A text without any label is a plain answer.

Nothing raises: what fits no rule becomes a Step with None in it.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   parse_latest_plugin_call in react_demo.py and parse_response in openai_api.py of the Qwen
          release; the left over "Observ": QwenLM/Qwen3 issue 197.
Differs:  the release finds "\\nAction:" letter by letter, in react_demo.py the last one.
"""

from __future__ import annotations

import re
from bisect import bisect
from typing import NamedTuple

from .closed_text import closed_blocks, closed_input, is_left_over

# every run of spaces has a limit, so that no text takes longer than its length
LABEL = re.compile(
    r"^[ \t\u3000]*(?:#{1,6}[ \t]{1,4})?(?P<bold>\*\*|__)?"
    r"(?P<name>Question|Thought|Action[ \t_]{0,4}Input|Action|Observation|Final[ \t_]{0,4}Answer)"
    r"[ \t]{0,4}\d{0,3}[ \t]{0,4}(?P<bold_end>\*\*|__)?[ \t\u3000]{0,4}[:：]",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)
INPUT_ON_THE_LINE = re.compile(r"\bAction[ \t_]{0,4}Input[ \t]{0,4}[:：]", re.IGNORECASE | re.ASCII)
OPENED_BLOCK = re.compile(r"\s*(?:```[^`\n]*\n\s*)?")
AROUND_NAMES = " \t\u3000`'\"[]*,;，；"


class Step(NamedTuple):
    thought: str | None = None
    action: str | None = None  # name of a tool, as it was written
    action_input: str | None = None  # as it was written; "" = the label stands there alone
    final_answer: str | None = None


class _Section(NamedTuple):
    label: str  # "thought", "action", "actioninput", ...; "" = before the first label
    text: str
    end: int  # where the text ends


def parse_react(text: str) -> Step:
    """Read a step.

    Args:
        text: what the model wrote, all of it or up to a stop string.

    Returns:
        The step; at most one of action and final_answer is there. Never raises for a str.

    >>> parse_react("Thought: Add.\\nAction: add\\nAction Input: {\\"a\\": 1}\\nObserv")
    Step(thought='Add.', action='add', action_input='{"a": 1}', final_answer=None)
    >>> parse_react("Thought: I know.\\nFinal Answer: 42").final_answer
    '42'
    """
    return read_react(text)[0]


def read_react(text: str, after_thought: bool = False) -> tuple[Step, str]:
    """Read a step, and say how much of the text it took.

    Args:
        text: what the model wrote.
        after_thought: the text goes on after a `Thought:` that somebody else wrote, so that a text
            without label is a thought, not an answer.

    Returns:
        step: as of parse_react.
        used: the text up to the end of the action input or answer, without space at its end and
            with line ends "\\n"; what the model wrote after that is to be forgotten.

    >>> read_react(" Add.\\nAction: add\\nAction Input: 1\\nObservation: 7\\nAction: mul", True)[1]
    ' Add.\\nAction: add\\nAction Input: 1'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    sections = _sections(text)
    action = _first_action(sections)
    answer = next((i for i, s in enumerate(sections) if s.label == "finalanswer"), None)
    if action is not None and (action[1].action_input is not None or answer is None):
        last, step = action
    elif answer is not None:
        last, step = answer, Step(final_answer=sections[answer].text)
    elif [s.label for s in sections] == [""] and not after_thought:
        return Step(final_answer=sections[0].text), text[: sections[0].end]
    else:
        last, step = len(sections) - 1, Step()
    before = sections[: last + 1]
    thoughts = [s.text for s in before if s.label in ("", "thought") and s.text]
    used = text[: before[-1].end] if before else ""
    return step._replace(thought="\n".join(thoughts) or None), used.rstrip()


def _first_action(sections: list[_Section]) -> tuple[int, Step] | None:
    """Return the first action that has an input, or else the first; and its last section."""
    without: tuple[int, Step] | None = None
    for i, section in enumerate(sections):
        name = _name(section.text)
        if section.label != "action" or not name:
            continue
        for j in range(i + 1, len(sections)):
            if sections[j].label == "action":
                break
            if sections[j].label == "actioninput":
                return j, Step(action=name, action_input=sections[j].text)
        without = without or (i, Step(action=name))
    return without


def _name(text: str) -> str:
    """Return the name of a tool that an action's text gives."""
    return text.partition("\n")[0].strip(AROUND_NAMES).rstrip("." + AROUND_NAMES)


def _sections(text: str) -> list[_Section]:
    """Cut the text at its labels, up to where nothing of it counts any more.

    That is the first action with its input, or where the model begins to play the other parts.
    """
    found: list[tuple[str, int, int]] = []  # label, where its text begins, where that ends
    label, begins = "", 0
    named = False  # the last action has a name, and waits for its input
    played = False  # an action or an answer came before: a question now is the model's own
    blocks: list[tuple[int, int]] | None = None  # of code, in the first answer
    while True:
        closed = closed_input(text, begins) if label == "actioninput" and named else None
        if label == "finalanswer" and blocks is None:
            blocks = closed_blocks(text, begins)
        following, start, after = _next_label(text, label, begins, closed or begins, blocks or [])
        found.append((label, begins, closed or start))
        if following in ("", "observation") or (following == "question" and played):
            break
        if label == "actioninput" and named:
            break
        named = bool(_name(text[begins:start].strip())) if label == "action" else named
        played = played or following in ("action", "finalanswer")
        label, begins = following, after

    end = _without_left_over(text, start)
    sections = []
    for label, begins, stop in found:
        part = text[begins : min(stop, end)]
        if label or not OPENED_BLOCK.fullmatch(part):  # all of it may stand in a block
            end_of_part = begins + len(part.rstrip())
            sections.append(_Section(label, _without_bold(text, begins, part.strip()), end_of_part))
    return sections


def _without_bold(text: str, begins: int, part: str) -> str:
    """Return a section's text without the end of bold print that began before its label."""
    line = text[text.rfind("\n", 0, begins) + 1 : begins]
    for bold in ("**", "__"):
        first = part.partition("\n")[0].rstrip()
        if line.count(bold) % 2 and first.endswith(bold):
            return first.removesuffix(bold).rstrip() + part[len(first) :]
    return part


def _next_label(
    text: str, label: str, begins: int, at: int, blocks: list[tuple[int, int]]
) -> tuple[str, int, int]:
    """Find the label that follows the one whose text begins at `begins`, from `at` on.

    Returns:
        The label, "" at the end; where it begins; and where its text begins.
    """
    if label == "action":
        line_end = text.find("\n", begins)
        line_end = len(text) if line_end < 0 else line_end
        if match := INPUT_ON_THE_LINE.search(text, begins, line_end):
            return "actioninput", match.start(), match.end()
    for match in LABEL.finditer(text, at):
        start, after = match.span()
        inside = bisect(blocks, (start, len(text)))  # they stand in order
        if inside and start < blocks[inside - 1][1]:
            continue
        bold, bold_end = match["bold"], match["bold_end"]
        if bold and not bold_end and text.startswith(bold, after):
            after += len(bold)  # **Thought:** with the colon inside
        return re.sub(r"[ \t_]", "", match["name"]).lower(), start, after
    return "", len(text), len(text)


def _without_left_over(text: str, end: int) -> int:
    """Return where the text ends without the beginning of the stop string on its last line."""
    whole = text[:end].rstrip()
    last = whole.rpartition("\n")[2].strip()
    return len(whole) - len(last) if is_left_over(last) else end


def has_label(text: str) -> bool:
    """Say whether a text has an action or a final answer in it, so that it is ReAct text.

    >>> has_label("Final Answer: 42"), has_label("It is 42.")
    (True, False)
    """
    labels = {section.label for section in _sections(text.replace("\r\n", "\n"))}
    return not labels.isdisjoint(("action", "finalanswer"))


def render_react(step: Step) -> str:
    """Write a step as a model would: `parse_react` reads the same step from it.

    >>> print(render_react(Step("Add.", "add", '{"a": 1}')))
    Thought: Add.
    Action: add
    Action Input: {"a": 1}
    """
    lines = []
    if step.thought is not None:
        lines.append(f"Thought: {step.thought}")
    if step.action is not None:
        lines.append(f"Action: {step.action}")
    if step.action_input is not None:
        space = "\n" if step.action_input.startswith("```") else " "
        lines.append(f"Action Input:{space}{step.action_input}")
    if step.final_answer is not None:
        lines.append(f"Final Answer: {step.final_answer}")
    return "\n".join(lines)
