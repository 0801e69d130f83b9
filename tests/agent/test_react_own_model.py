"""A small model of ours learns one conversation by heart, and then holds it with the real tool."""

import numpy as np
import pytest

pytest.importorskip("jsonschema")

from minqwen.agent.react import run_react
from minqwen.agent.react_prompt import react_prompt
from minqwen.agent.tool import Tool, make_tools
from minqwen.alignment.text_generation import text_generator
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chatml import encode_chat
from minqwen.training.adamw import adamw_init, adamw_step

NUMBER = {"type": "integer"}
NUMBERS = {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]}
CALL = 'Thought: Add.\nAction: add\nAction Input: {"a": 2, "b": 3}'
LEARNT = CALL + "\nObservation: 5\nThought: I know.\nFinal Answer: done"


@pytest.fixture(scope="module")
def learnt():
    """Return the tools, the calls they got, the model, and its tokenizer."""
    calls = []

    def add(a, b):
        calls.append((a, b))
        return str(a + b)

    tools = make_tools([Tool("add", "Adder", "Adds.", NUMBERS, add)])
    question = react_prompt("2 + 3?", tools)
    tokenizer = bpe_train((question + "\n" + LEARNT) * 3, merges=220)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": LEARNT}]
    chat = encode_chat(tokenizer, messages)
    ids, mask = np.array([chat.ids]), np.array([chat.loss_mask])
    config = QwenConfig(tokenizer.vocab_size, 32, 64, 2, 2, 1)
    params = init_params(config, np.random.default_rng(0))
    state = adamw_init(params)
    for _ in range(150):
        logits, cache = language_model_forward(params, config, ids[:, :-1])
        loss, loss_cache = cross_entropy_forward(logits, ids[:, 1:], mask[:, 1:])
        if loss < 0.02:
            break
        grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
        adamw_step(params, grads, state, lr=1e-2, weight_decay=0.0)
    assert loss < 0.02
    return tools, calls, (params, config, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [["Observation:"], []])
def test_it_calls_the_tool_and_reads_what_it_gave(learnt, stop):
    """Without the stop string the model writes the observation too: it is dropped all the same."""
    tools, calls, model = learnt
    calls.clear()
    generate = text_generator(*model, stop=stop, chat=True, max_new_tokens=60)
    transcript = run_react("2 + 3?", tools, generate)
    assert calls == [(2, 3)]
    assert (transcript.final_answer, transcript.ended) == ("done", "answer")
    assert "".join(text for text, _ in transcript.parts[1:]) == LEARNT
    assert [ours for _, ours in transcript.parts] == [False, True, False, True]
