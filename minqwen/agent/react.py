"""ReAct: the model thinks, asks for a tool, reads what it gave, and goes on until it can answer.

    prompt                          instructions and the question           (react_prompt.py)
    -> model     Thought: I need a calculator.
                 Action: calculator
                 Action Input: {"expression": "21 * 2"}
    <- we        Observation: 42                                            (tool.py)
                 Thought:
    -> model      I now know the final answer.
                 Final Answer: 42

The model gets the text so far and continues it. What it writes is read (react_parse.py), and cut
after the action: a model that is not stopped in time invents the observation too, and an invented
one must not stay in the text. A mistake is no end: a tool that does not exist, or arguments that do
not fit, give an observation that says so, and the model may try again.

The run ends with
    answer         a final answer, or in the first step a text without any label
    no action      a thought, and neither an action nor an answer after it
    nothing        the model wrote nothing
    repetition     three times in a row the same action, the same input, the same observation
    step limit     the model was asked max_steps times

What a tool gives stands in the text like everything else: a page of the web that says "Thought: I
should send the files" can mislead the model, though never this loop, which reads only what the
model wrote.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   Yao et al. 2022, arXiv:2210.03629; the loop of react_demo.py in the Qwen release.
Differs:  the release has no limit of steps, of an observation's length, or of repetitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .middle_cut import cut_middle
from .react_parse import read_react
from .react_prompt import react_prompt
from .tool import Tool, call_tool

Generate = Callable[[str], str]
MOST_REPETITIONS = 3


class Prompt(str):
    """A text to continue, and where in it the model's own answer begins.

    To a `generate` that completes text it is a str. One that writes chats may put what stands
    before `answer_begins` into the turn of the user and the rest into the answer.
    """

    answer_begins: int


def make_prompt(question: str, answer: str) -> Prompt:
    """Join a question and the beginning of an answer with a line end.

    >>> prompt = make_prompt("2 + 2?", "Thought: Easy.")
    >>> prompt, prompt[prompt.answer_begins :]
    ('2 + 2?\\nThought: Easy.', 'Thought: Easy.')
    """
    prompt = Prompt(f"{question}\n{answer}")
    prompt.answer_begins = len(question) + 1
    return prompt


class ReactStep(NamedTuple):
    thought: str | None
    action: str | None
    action_input: str | None
    observation: str | None  # as the model read it; None = no tool was called
    error: bool  # the observation tells of a mistake
    files: tuple[str, ...]  # that the tool wrote
    prompt_tokens: int | None  # of all that the model read, None = nobody counted
    answer_tokens: int | None  # of all that it wrote, what was cut included


class Transcript(NamedTuple):
    steps: tuple[ReactStep, ...]
    final_answer: str | None
    ended: str  # "answer", "no action", "nothing", "repetition" or "step limit"
    parts: tuple[tuple[str, bool], ...]  # True = written by the model; the first is the prompt

    def text(self) -> str:
        """Return everything that was read and written, in order."""
        return "".join(text for text, _ in self.parts)

    def tokens(self) -> tuple[int, int]:
        """Return how many tokens the model read and wrote, over all steps; they were counted."""
        read = [step.prompt_tokens for step in self.steps]
        wrote = [step.answer_tokens for step in self.steps]
        return sum(n or 0 for n in read), sum(n or 0 for n in wrote)


def run_react(
    query: str,
    tools: Mapping[str, Tool],
    generate: Generate,
    *,
    max_steps: int = 8,
    observation_limit: int = 4000,
    count_tokens: Callable[[str], int] | None = None,
    language: str = "en",
    history: Sequence[tuple[str, str]] = (),
    separator: str = ",",
) -> Transcript:
    """Let a model answer a question with tools.

    Args:
        query: the question.
        tools: of `make_tools`.
        generate: continues a text: takes the prompt, a `Prompt`, and returns what comes after it.
            It should stop at "Observation:", with or without it; what goes beyond is dropped.
        max_steps: how often the model is asked, 1 or more.
        observation_limit: the most characters of an observation, 1 or more; a longer one loses its
            middle, and says so.
        count_tokens: gives the number of tokens of a text; None: they are not counted.
        language, history, separator: see `react_prompt`.

    Returns:
        What happened. For fine-tuning, parts[0] is the question and the others are the answer, of
        which only what the model wrote is learnt; see `Transcript.parts`.

    Raises:
        TypeError: generate gave no text, or a tool neither text nor an Observation.
        ValueError: an option is out of range, or see `react_prompt`.

    >>> from minqwen.agent.tool import Tool
    >>> tools = {"now": Tool("now", "Clock", "Tells the time.", {}, lambda: "12:30")}
    >>> answers = iter(["Thought: A clock.\\nAction: now\\nAction Input: {}\\nObservation: 9:00", \
" I see.\\nFinal Answer: 12:30"])
    >>> transcript = run_react("How late is it?", tools, lambda prompt: next(answers))
    >>> transcript.final_answer, transcript.ended
    ('12:30', 'answer')
    >>> print("".join(text for text, _ in transcript.parts[1:]))
    Thought: A clock.
    Action: now
    Action Input: {}
    Observation: 12:30
    Thought: I see.
    Final Answer: 12:30
    """
    for name, value in (("max_steps", max_steps), ("observation_limit", observation_limit)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    question = react_prompt(query, tools, language=language, history=history, separator=separator)
    parts: list[tuple[str, bool]] = [(question + "\n", False)]
    steps: list[ReactStep] = []
    final_answer: str | None = None
    ended = ""
    while not ended:
        prompt = make_prompt(question, "".join(text for text, _ in parts[1:]))
        written = generate(prompt)
        if not isinstance(written, str):
            raise TypeError(f"generate must return a str, got {type(written).__name__}")
        step, used = read_react(written, after_thought=len(parts) > 1)
        if len(parts) == 1:
            used = used.lstrip()
        elif used and not used[0].isspace():
            used = " " + used  # after "Thought:"; servers of chats strip their answers
        if step.action is not None:
            used += "\nObservation:"  # the label is the model's own: with it, it learns to stop
        if used:
            parts.append((used, True))
        final_answer = step.final_answer
        observation = None
        if step.action is not None:
            observation = call_tool(tools, step.action, step.action_input or "")
            shown = cut_middle(observation.text.strip(), observation_limit)
            parts.append((f" {shown}\nThought:", False))
        steps.append(
            ReactStep(
                step.thought,
                step.action,
                step.action_input,
                None if observation is None else shown,
                observation is not None and observation.error,
                () if observation is None else observation.files,
                None if count_tokens is None else count_tokens(prompt),
                None if count_tokens is None else count_tokens(written),
            )
        )
        ended = _end(steps, final_answer, used, max_steps)
    return Transcript(tuple(steps), final_answer, ended, tuple(parts))


def _end(steps: list[ReactStep], final_answer: str | None, used: str, max_steps: int) -> str:
    """Return why the run ends with this step, or ""."""
    if final_answer is not None:
        return "answer"
    if steps[-1].action is None:
        return "no action" if used else "nothing"
    latest = [(s.action, s.action_input, s.observation) for s in steps[-MOST_REPETITIONS:]]
    if len(latest) == MOST_REPETITIONS and len(set(latest)) == 1:
        return "repetition"
    return "step limit" if len(steps) >= max_steps else ""
