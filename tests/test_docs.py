"""The pages agree with the code: the concept table, the constants, the tree in the map."""

import dataclasses
import inspect
import math
import pathlib
import re

import pytest
from helpers.scripts import load_script

from minqwen.model.accounting import cost
from minqwen.model.config import param_shapes
from minqwen.model.presets import PRESETS, preset
from minqwen.training.adamw import adamw_step
from minqwen.training.pretrain import PretrainSettings

ROOT = pathlib.Path(__file__).parent.parent


def rows(text, columns):
    """Return the body rows of the Markdown tables with this many columns."""
    found = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns and not set(cells[0]) <= {"-", " "}:
            found.append(cells)
    return found


def make_tables():
    """Load docs/make_tables.py, which stands in no package."""
    return load_script(ROOT / "docs" / "make_tables.py")


def test_every_equation_has_a_function_and_a_test():
    module = make_tables()
    assert module.missing() == []
    n = len(module.CONCEPTS)
    assert f"Equations: **{n} of {n}** have" in module.PAGE.read_text(encoding="utf-8")


def test_an_equation_without_function_or_test_is_missed(monkeypatch):
    module = make_tables()
    row = dataclasses.replace(module.CONCEPTS[0], pair="nobody_wrote")
    lost = dataclasses.replace(module.CONCEPTS[0], module="minqwen.tour_page")
    monkeypatch.setattr(module, "CONCEPTS", (row, lost))
    monkeypatch.setattr(module, "tests_of", lambda name: [] if name == "tour_page" else ["LICENSE"])
    assert [line.split(":")[1][:12] for line in module.missing()] == [
        " no function",
        " no function",
        " no test imp",
        " no test",
    ]


def test_the_concept_page_is_fresh():
    module = make_tables()
    fresh = module.page() == module.PAGE.read_text(encoding="utf-8")
    assert fresh, "run: python docs/make_tables.py"
    listed = {pathlib.Path(f).stem for f in module.OTHERS} | {
        c.module.split(".")[-1] for c in module.CONCEPTS
    }
    helpers = {"__init__", "atomic_folder", "blocks", "interrupt", "loss_plot", "metrics"}
    helpers |= {"progress", "resume", "run_folder", "run_loop", "update", "jsonl"}
    helpers |= {"sft_rows", "pair_training", "start_params", "learned", "ppo_metrics"}
    helpers |= {"metrics_plot", "picture", "closed_text", "json_schema", "middle_cut"}
    helpers |= {"communicator", "together", "in_order"}
    packages = ("data", "tokenizer", "layers", "long_context", "model", "training", "alignment")
    for package in (*packages, "agent"):
        for path in (ROOT / "minqwen" / package).glob("*.py"):
            assert path.stem in listed | helpers, f"{path} stands in no table"


def test_model_constants():
    table = {r[0]: r for r in rows((ROOT / "docs/papers.md").read_text("utf-8"), 10)}
    assert set(PRESETS) <= set(table)
    for name in PRESETS:
        c = preset(name)
        shapes = param_shapes(c)
        want = [
            c.vocab_size,
            c.hidden_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.intermediate_size,
            int(c.rope_theta),
            c.max_position_embeddings,
            sum(math.prod(s) for s in shapes.values()),
        ]
        assert [int(x) for x in table[name][1:]] == want, name


def test_constants_of_experts():
    table = {r[0]: r for r in rows((ROOT / "docs/papers.md").read_text("utf-8"), 7)}
    names = [name for name in PRESETS if preset(name).num_experts]
    assert len(names) == 2
    for name in names:
        c, found = preset(name), cost(preset(name), 1, 1)
        want = [
            c.num_experts,
            c.num_experts_per_tok,
            c.moe_intermediate_size,
            c.shared_expert_intermediate_size,
            found.activated_parameters,
            found.activated_parameters - found.embedding_parameters,
        ]
        assert [int(x) for x in table[name][1:]] == want, name


def test_training_constants():
    table = {r[0]: r for r in rows((ROOT / "docs/papers.md").read_text("utf-8"), 4)}
    s = PretrainSettings()
    ours = {
        "AdamW beta1": s.beta1,
        "AdamW beta2": s.beta2,
        "AdamW eps": s.eps,
        "last learning rate over the peak": s.min_lr_ratio,
        "peak learning rate, 7B": s.peak_lr,
        "context length": s.context_length,
        "weight decay": s.weight_decay,
        "gradient clipping": s.max_norm,
        "warm-up steps": s.warmup_steps,
    }
    for name, value in ours.items():
        report, differs = float(table[name][1]), table[name][3]
        stated = float(re.match(r"[\d.e-]+", differs)[0]) if differs else report
        assert value == stated, name
    defaults = inspect.signature(adamw_step).parameters
    assert (defaults["beta1"].default, defaults["beta2"].default) == (s.beta1, s.beta2)
    assert defaults["eps"].default == s.eps


def test_the_tree_in_the_map_is_the_tree():
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    tree = text.split("```text\nminqwen/")[1].split("```")[0]
    listed = set(
        re.findall(r"^[\s│├└─]*([\w.]+\.(?:py|md|ipynb|cfg|toml)|[\w.]+/)", tree, re.MULTILINE)
    )
    # not in .venv or .ci/env: there lie a hundred thousand files of others
    ours = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    there = {path.name for folder in ours for path in (folder, *folder.rglob("*"))}
    for entry in listed:
        assert entry.rstrip("/") in there, f"the map lists {entry}"
    for folder in (
        "data",
        "tokenizer",
        "layers",
        "long_context",
        "model",
        "training",
        "alignment",
        "agent",
        "check",
        "course",
        "lab",
    ):
        for path in (ROOT / "minqwen" / folder).rglob("[a-z]*.py"):
            if path.parent.name == "mistakes":  # a file for each concept
                continue
            assert path.name in tree, f"{path} is missing in docs/map.md"


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md"], ids=str)
def test_links_and_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:minqwen|tests|docs|notebooks|benchmarks)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).exists(), path
