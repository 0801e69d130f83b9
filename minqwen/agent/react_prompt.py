"""The ReAct prompt: which tools there are, and how to ask for one.

    Answer the following questions as best you can. You have access to the following tools:

    calculator: Call this tool to interact with the Calculator API. What is ... {"type": "object"}
    Format the arguments as a JSON object.                        (one line; a line for each tool)

    Use the following format:

    Question: the input question you must answer
    Thought: you should always think about what to do
    Action: the action to take, should be one of [calculator]
    Action Input: the input to the action
    Observation: the result of the action
    ... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
    Thought: I now know the final answer
    Final Answer: the final answer to the original input question

    Begin!

    Question: What is 21 times 2?

The words are those Qwen was trained to see, to the character: a model knows them. In Chinese the
labels stay English, as in the release, so that one parser reads both.

Earlier turns come between "Begin!" and the question, each with its answer; an answer that was no
ReAct text is written as one. For a chat they are turns of their own, and the tools are told in the
last earlier question, not in the new one: `react_messages`.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent: ReAct prompting.
Origin:   Yao et al. 2022, arXiv:2210.03629. The words: react_prompt.md of the Qwen release;
          earlier turns: react_demo.py and openai_api.py there.
Differs:  parameters are a JSON Schema, not the list of the release. The release joins names with
          "," in one file and ", " in the others (`separator`); openai_api.py says "APIs" for
          "tools" and leaves the sentence on the arguments to the description. The Chinese words
          are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .react_parse import has_label
from .tool import Tool


class Words(NamedTuple):
    opening: str
    tool: str  # name_for_model, name_for_human twice, description_for_model, parameters
    json: str  # how to write the arguments
    code: str  # how to write code
    format: str


ENGLISH = Words(
    "Answer the following questions as best you can. You have access to the following tools:",
    "{name}: Call this tool to interact with the {title} API. What is the {title} API useful for? "
    "{description} Parameters: {parameters} {arguments}",
    "Format the arguments as a JSON object.",
    "Enclose the code within triple backticks (`) at the beginning and end of the code.",
    """Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!""",
)
CHINESE = Words(
    "请尽力回答下面的问题。你可以使用以下工具：",
    "{name}：调用此工具可以使用 {title} API。{title} API 有什么用？{description} "
    "参数：{parameters} {arguments}",
    "请把参数写成一个 JSON 对象。",
    "请在代码的开头和结尾各写三个反引号（`）。",
    """请使用以下格式：

Question: 需要回答的问题
Thought: 想一想下一步该做什么
Action: 要采取的行动，应为 [{names}] 之一
Action Input: 行动的输入
Observation: 行动的结果
...（Thought/Action/Action Input/Observation 可以重复零次或多次）
Thought: 我已经知道最终答案
Final Answer: 原问题的最终答案

开始！""",
)
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def react_prompt(
    query: str,
    tools: Mapping[str, Tool],
    *,
    language: str = "en",
    history: Sequence[tuple[str, str]] = (),
    separator: str = ",",
) -> str:
    """Write the prompt for a question.

    Args:
        query: the question; space around it is dropped.
        tools: at least one, in the order in which they are told.
        language: of the instructions, "en" or "zh".
        history: earlier turns, (question, answer); the answer is the whole ReAct text or plain.
        separator: stands between the names of the tools; ", " in some files of the release.

    Returns:
        The prompt, without a line end; the model goes on with "\\nThought: ...".

    Raises:
        ValueError: no tool, no question, or the language is none of the two.

    >>> from minqwen.agent.tool import Tool
    >>> tool = Tool("now", "Clock", "Tells the time.", {"type": "object"}, lambda: "12:30")
    >>> print(react_prompt("How late is it?", {"now": tool}).splitlines()[2])
    now: Call this tool to interact with the Clock API. What is the Clock API useful for? \
Tells the time. Parameters: {"type": "object"} Format the arguments as a JSON object.
    """
    turns = [(require_query(question), _as_react(answer)) for question, answer in history]
    earlier = "".join(f"Question: {question}\n{answer}\n\n" for question, answer in turns)
    instructions = _instructions(tools, language, separator)
    return f"{instructions}\n\n{earlier}Question: {require_query(query)}"


def react_messages(
    query: str,
    tools: Mapping[str, Tool],
    *,
    language: str = "en",
    history: Sequence[tuple[str, str]] = (),
    separator: str = ",",
) -> list[dict[str, str]]:
    """Write the same as a chat: turns of the user and the assistant, the last one the question.

    The tools are told once: in the question if it is the first, otherwise in the one before it.

    >>> from minqwen.agent.tool import Tool
    >>> tools = {"now": Tool("now", "Clock", "Tells the time.", {}, lambda: "12:30")}
    >>> messages = react_messages("Thanks.", tools, history=[("How late is it?", "12:30.")])
    >>> messages[1]["content"]
    'Thought: I now know the final answer.\\nFinal Answer: 12:30.'
    >>> messages[2]
    {'role': 'user', 'content': 'Thanks.'}
    """
    instructions = _instructions(tools, language, separator)
    told = max(0, len(history) - 1)
    messages: list[dict[str, str]] = []
    for i, (question, answer) in enumerate([*history, (query, "")]):
        question = require_query(question)
        content = f"{instructions}\n\nQuestion: {question}" if i == told else question
        messages.append({"role": "user", "content": content})
        if i < len(history):
            messages.append({"role": "assistant", "content": _as_react(answer)})
    return messages


def require_query(query: str) -> str:
    """Return a question without the space around it; raise when nothing is left.

    >>> require_query(" Why? ")
    'Why?'
    """
    if not query.strip():
        raise ValueError("a question is empty, there is nothing to answer")
    return query.strip()


def _instructions(tools: Mapping[str, Tool], language: str, separator: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    if not tools:
        raise ValueError("tools must hold at least one tool: the prompt is about them")
    words = LANGUAGES[language]
    lines = [
        words.tool.format(
            name=name,
            title=tool.title,
            description=tool.description,
            parameters=json.dumps(tool.parameters, ensure_ascii=False),
            arguments=words.json if tool.code_argument is None else words.code,
        )
        for name, tool in tools.items()
    ]
    form = words.format.format(names=separator.join(tools))
    return "\n\n".join([words.opening, *lines, form])


def _as_react(answer: str) -> str:
    answer = answer.strip("\n").rstrip()  # as the texts were that Qwen was trained on
    if has_label(answer):
        return answer
    return f"Thought: I now know the final answer.\nFinal Answer: {answer}"
