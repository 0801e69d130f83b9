"""The tools of the study of agents, and which of them are held out.

    trained     calculator, dictionary, count_words, convert_unit
                and look-ups: price_owl, price_fox, weight_owl, ... each word under 20 makers
    held out    look-ups of 12 words by 4 makers          of a form that was trained
                add_days                                  arguments of a form that was not

Of a tool that is held out, name and description stand in no training text. Words that only such
tools look up, "density", and names like theirs, "density_owl" where the tool is "density_lynx", do
stand in chats that repeat them (agent_chats.py), but in no list of tools and in no sample.

As each word comes under many makers, the end of a name cannot be remembered: it has to be read in
the prompt. All tools run: an observation is what a tool really said.

Descriptions and schemas are short, but for the calculator's, which is told as `minqwen agent` does.
The instructions of react_prompt.py stand there in full.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent: at most five candidates;
          plug-ins that fine-tuning has not seen.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

from ..agent.tool import Tool, make_tools
from ..agent.tools.calculator import calculator_tool
from ..agent.tools.dictionary import look_up
from ..agent.tools.everyday_tools import add_days, convert_unit, count_words
from ..agent.tools.model_hub import local_tool

MEANINGS = {
    "apple": "苹果", "egg": "鸡蛋", "book": "书", "lantern": "灯笼", "flower": "花",
    "candle": "蜡烛", "coin": "硬币", "lamp": "灯", "chair": "椅子", "table": "桌子",
    "door": "门", "window": "窗", "boat": "船", "horse": "马", "bird": "鸟", "fish": "鱼",
    "river": "河", "stone": "石头", "bell": "钟", "kite": "风筝", "drum": "鼓", "hat": "帽子",
    "shoe": "鞋", "coat": "外套", "cup": "杯子", "bowl": "碗", "knife": "刀", "spoon": "勺子",
    "clock": "时钟", "map": "地图", "bridge": "桥", "tower": "塔", "wheel": "轮子",
    "basket": "篮子", "mirror": "镜子", "pen": "笔", "letter": "信", "ring": "戒指",
    "rope": "绳子", "ladder": "梯子",
}  # fmt: skip
THINGS = tuple(MEANINGS)
HELD_OUT_THINGS = THINGS[3::4]  # asked about in tests only
TRAINED_THINGS = tuple(thing for thing in THINGS if thing not in HELD_OUT_THINGS)
LOOKED_UP = (
    "price weight height colour age owner maker speed size depth width length rating rank taste "
    "smell shape value cost power origin label number volume limit level score total count share "
    "area floor shelf room street city market season style brand model code grade class stock "
    "warranty address phone seller buyer author title theme sound shade heat strength mood story "
    "purpose history charge delay"
)
LOOKED_UP_IN_TESTS = (
    "density voltage texture latitude pressure humidity birthday nickname altitude fragrance "
    "temper recipe"
)
WORDS, HELD_OUT_WORDS = LOOKED_UP.split(), LOOKED_UP_IN_TESTS.split()
MAKERS = (
    "owl", "fox", "bear", "wolf", "crow", "deer", "swan", "hawk", "frog", "toad", "crab", "seal",
    "goat", "lamb", "mole", "hare", "dove", "moth", "newt", "lynx",
)  # fmt: skip
OTHER_FORM = "add_days"  # held out; no trained tool takes its arguments
UNITS = (("km", "m"), ("m", "cm"), ("kg", "g"), ("hour", "minute"), ("day", "hour"), ("cm", "mm"))


def tell(word: str, name: str) -> str:
    """Look a thing up in the table of a word: a number that is the same each time.

    >>> tell("price", "lamp") == tell("price", "lamp") != tell("weight", "lamp")
    True
    """
    if name not in MEANINGS:
        return f"{name[:40]} is not in the list"
    return str(10 + zlib.crc32(f"{word} of {name}".encode()) % 990)


def name_of(word: str, maker: str) -> str:
    """Return the name of the look-up of a word; makers stand for those that offer it.

    >>> name_of("price", "owl")
    'price_owl'
    """
    return f"{word}_{maker}"


def makers_of(word: str, held_out: bool) -> tuple[str, ...]:
    """Return who offers the look-up of a word; tools that are held out have makers of their own.

    >>> "price_owl" in LOOK_UPS, "density_owl" in LOOK_UPS, "density_lynx" in LOOK_UPS
    (True, False, True)
    """
    if word not in HELD_OUT_WORDS:
        return MAKERS
    return MAKERS[-4:] if held_out else MAKERS[:-4]


LOOK_UPS = {
    name_of(word, maker): word
    for word in (*WORDS, *HELD_OUT_WORDS)
    for maker in makers_of(word, True)
}
TRAINED_NAMES = [name for name, word in LOOK_UPS.items() if word in WORDS]
HELD_OUT_NAMES = [name for name, word in LOOK_UPS.items() if word in HELD_OUT_WORDS]


def look_up_tool(name: str, word: str) -> Tool:
    """Make a look-up of a word under a name."""
    about = f"Tells the {word} of a thing."
    return Tool(name, name, about, _schema(name="string"), partial(tell, word))


def study_tools() -> dict[str, Tool]:
    """Make all tools, those that are held out too.

    >>> tools = study_tools()
    >>> tools["calculator"].call(expression="482 + 37")
    '519'
    """
    made = [
        calculator_tool(),
        Tool("dictionary", "Dictionary", "Tells what a word means in Chinese.",
             _schema(term="string"), partial(look_up, MEANINGS)),
        _short(local_tool(count_words), "Counts the words of a text.", text="string"),
        _short(local_tool(convert_unit), "Converts a value to another unit.", value="number",
               unit="string", to="string"),
        _short(local_tool(add_days), "Tells the date some days after a day.", day="string",
               days="integer"),
    ]  # fmt: skip
    made += [look_up_tool(name, word) for name, word in LOOK_UPS.items()]
    return make_tools(made)


def trained_tools(tools: dict[str, Tool]) -> dict[str, Tool]:
    """Return the tools that may be learnt.

    >>> set(study_tools()) - set(trained_tools(study_tools())) >= {"add_days", "density_lynx"}
    True
    """
    return {
        name: tool
        for name, tool in tools.items()
        if name != OTHER_FORM and LOOK_UPS.get(name) not in HELD_OUT_WORDS
    }


def _schema(**kinds: str) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _short(tool: Tool, description: str, **kinds: str) -> Tool:
    return tool._replace(description=description, parameters=_schema(**kinds))
