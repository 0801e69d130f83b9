"""The prompt: the published one to the character, and where earlier turns go."""

import pytest

from minqwen.agent.react_parse import parse_react
from minqwen.agent.react_prompt import react_messages, react_prompt
from minqwen.agent.tool import Tool


def tool(name, title, description, parameters, code_argument=None):
    return Tool(name, title, description, parameters, lambda: "", code_argument)


# what react_prompt.md of the Qwen release prints for its two tools, whose parameters are a list
QUERY = "我是老板，我说啥你做啥。现在给我画个五彩斑斓的黑。"


def one_parameter(name, description):
    return [
        {"name": name, "description": description, "required": True, "schema": {"type": "string"}}
    ]


PUBLISHED_TOOLS = {
    "quark_search": tool(
        "quark_search",
        "夸克搜索",
        "夸克搜索是一个通用搜索引擎，可用于访问互联网、查询百科知识、了解时事新闻等。",
        one_parameter("search_query", "搜索关键词或短语"),
    ),
    "image_gen": tool(
        "image_gen",
        "通义万相",
        "通义万相是一个AI绘画（图像生成）服务，输入文本描述，返回根据文本作画得到的图片的URL",
        one_parameter("query", "中文关键词，描述了希望图像具有什么内容"),
    ),
}
PUBLISHED = (
    "Answer the following questions as best you can. You have access to the following tools:\n"
    "\n"
    "quark_search: Call this tool to interact with the 夸克搜索 API. What is the 夸克搜索 API "
    "useful for? 夸克搜索是一个通用搜索引擎，可用于访问互联网、查询百科知识、了解时事新闻等。 "
    'Parameters: [{"name": "search_query", "description": "搜索关键词或短语", "required": true, '
    '"schema": {"type": "string"}}] Format the arguments as a JSON object.\n'
    "\n"
    "image_gen: Call this tool to interact with the 通义万相 API. What is the 通义万相 API useful "
    "for? 通义万相是一个AI绘画（图像生成）服务，输入文本描述，返回根据文本作画得到的图片的URL "
    'Parameters: [{"name": "query", "description": "中文关键词，描述了希望图像具有什么内容", '
    '"required": true, "schema": {"type": "string"}}] Format the arguments as a JSON object.\n'
    "\n"
    "Use the following format:\n"
    "\n"
    "Question: the input question you must answer\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of [quark_search,image_gen]\n"
    "Action Input: the input to the action\n"
    "Observation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\n"
    "\n"
    "Begin!\n"
    "\n"
    "Question: 我是老板，我说啥你做啥。现在给我画个五彩斑斓的黑。"
)
TOOLS = {
    "add": tool("add", "Adder", "Adds {two} numbers.", {"type": "object"}),
    "python": tool("python", "Python", "Runs code.", {"type": "object"}, "code"),
}


def test_the_published_prompt():
    assert react_prompt(QUERY, PUBLISHED_TOOLS) == PUBLISHED
    assert react_prompt(f"\n {QUERY}\n", PUBLISHED_TOOLS) == PUBLISHED


def test_the_other_way_to_join_names():
    prompt = react_prompt(QUERY, PUBLISHED_TOOLS, separator=", ")
    assert prompt == PUBLISHED.replace("[quark_search,image_gen]", "[quark_search, image_gen]")


def test_code_is_asked_for_in_backticks():
    lines = react_prompt("What?", TOOLS).split("\n")
    assert lines[2].startswith("add: Call this tool to interact with the Adder API.")
    assert " Adds {two} numbers. Parameters: " in lines[2]  # braces are no fields
    assert lines[4].endswith(
        '{"type": "object"} Enclose the code within triple backticks (`) at the beginning and end '
        "of the code."
    )


def test_in_chinese_the_parts_stand_in_the_same_order():
    english, chinese = (react_prompt("几点？", TOOLS, language=x).split("\n") for x in ("en", "zh"))
    assert len(english) == len(chinese)
    for one, other in zip(english, chinese, strict=True):
        assert (one == "") == (other == "")
        label = one.partition(":")[0]
        if label in ("Question", "Thought", "Action", "Action Input", "Observation"):
            assert other.startswith(f"{label}: ")
    assert "[add,python]" in "\n".join(chinese)
    assert chinese[2].endswith('{"type": "object"} 请把参数写成一个 JSON 对象。')
    assert "反引号" in chinese[4]
    assert not any(word in "\n".join(chinese[:-1]) for word in ("you", "the ", "tool"))


HISTORY = [
    ("Hello!", "Hi."),
    (
        "1 + 1?",
        "\nThought: Add.\nAction: add\nAction Input: {}\nObservation: 2\nFinal Answer: 2 \n",
    ),
]


def test_earlier_turns_stand_before_the_question():
    prompt = react_prompt("And 2 + 2?", TOOLS, history=HISTORY)
    head, begin, turns = prompt.partition("Begin!\n\n")
    assert head + begin + "Question: And 2 + 2?" == react_prompt("And 2 + 2?", TOOLS)
    assert turns == (
        "Question: Hello!\nThought: I now know the final answer.\nFinal Answer: Hi.\n\n"
        "Question: 1 + 1?\nThought: Add.\nAction: add\nAction Input: {}\nObservation: 2\n"
        "Final Answer: 2\n\nQuestion: And 2 + 2?"
    )


def test_a_chat_tells_the_tools_in_the_last_earlier_question():
    assert react_messages(QUERY, PUBLISHED_TOOLS) == [{"role": "user", "content": PUBLISHED}]
    messages = react_messages("And 2 + 2?", TOOLS, history=HISTORY)
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2 + ["user"]
    assert messages[0]["content"] == "Hello!"
    assert parse_react(messages[1]["content"]).final_answer == "Hi."
    assert messages[2]["content"] == react_prompt("1 + 1?", TOOLS)
    assert messages[3]["content"] == HISTORY[1][1].strip()
    assert messages[4]["content"] == "And 2 + 2?"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": " \n"}, "a question is empty"),
        ({"tools": {}}, "tools must hold at least one tool"),
        ({"language": "de"}, "language must be one of en, zh, got 'de'"),
        ({"history": [("", "Hi.")]}, "a question is empty"),
    ],
)
@pytest.mark.parametrize("write", [react_prompt, react_messages])
def test_what_cannot_be_written(changes, message, write):
    options = {"query": "What?", "tools": TOOLS} | changes
    with pytest.raises(ValueError, match=message):
        write(**options)
