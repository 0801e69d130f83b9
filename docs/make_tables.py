"""Write the tables of docs/concepts.md from the code: python docs/make_tables.py [--check]

The page is never edited between its two markers; a test runs this with --check.
"""

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from minqwen.check.concepts import CONCEPTS
from minqwen.check.specs import names, spec
from minqwen.course.ladder import LADDER

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "concepts.md"
BEGIN, END = "<!-- made by docs/make_tables.py -->", "<!-- end -->"

# what has no backward pass: file -> section of the report, functions to start with
OTHERS = {
    "minqwen/data/corpora.py": "Qwen 2.1 Data (text for lessons)",
    "minqwen/data/exact_dedup.py": "Qwen 2.1 Data (deduplication)",
    "minqwen/data/shingles.py": "Qwen 2.1 Data (deduplication)",
    "minqwen/data/minhash.py": "Qwen 2.1 Data (deduplication)",
    "minqwen/data/fast_sketch.py": "Qwen 2.1 Data (deduplication)",
    "minqwen/data/lsh.py": "Qwen 2.1 Data (deduplication)",
    "minqwen/data/fuzzy_dedup.py": "Qwen 2.1 Data (deduplication)",
    "minqwen/data/text_units.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/text_measures.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/repetition.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/quality_rules.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/language.py": "Qwen 2.1 Data (languages)",
    "minqwen/data/blocklist.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/decontamination.py": "Qwen 2.1 Data (test sets)",
    "minqwen/data/hashed_ngrams.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/text_classifier.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/classifier_calibration.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/classifier_file.py": "Qwen 2.1 Data (quality)",
    "minqwen/training/perplexity_rule.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/streaming/stream_dedup.py": "Qwen 2.1 Data (of any size)",
    "minqwen/data/streaming/filter_files.py": "Qwen 2.1 Data (of any size)",
    "minqwen/data/streaming/mix_files.py": "Qwen 2.1 Data (of any size)",
    "minqwen/data/mixture.py": "Qwen 2.1 Data (mixture)",
    "minqwen/data/packing.py": "Qwen 2.4 Training",
    "minqwen/data/records.py": "Qwen 3 (files of chats and preferences)",
    "minqwen/tokenizer/pretokenizer.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/merges.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/merge_arrays.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/known_pretokens.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/bpe.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/special_tokens.py": "Qwen 3.1.1, Qwen2 Tokenizer",
    "minqwen/tokenizer/stream_decoder.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/stop_strings.py": "Qwen 3.4 (ReAct)",
    "minqwen/tokenizer/vocabulary.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/chat_templates.py": "Qwen 3.1.1 Data (ChatML)",
    "minqwen/tokenizer/chatml.py": "Qwen 3.1.1 Data (ChatML)",
    "minqwen/layers/attention_tiles.py": "Qwen 2.3.1 Architecture",
    "minqwen/layers/rmsnorm_fast.py": "Qwen 2.3.1 Architecture",
    "minqwen/layers/cross_entropy_in_place.py": "Qwen 2.4 Training",
    "minqwen/layers/linear_cross_entropy.py": "Qwen 2.4 Training",
    "minqwen/model/chunked_head.py": "Qwen 2.4 Training",
    "minqwen/model/decode_step.py": "(the same numbers, faster)",
    "minqwen/long_context/chunk_pieces.py": "Qwen2 2.2.1 (Dual Chunk Attention)",
    "minqwen/model/config.py": "Qwen Table 1, Qwen2 Table 1",
    "minqwen/model/long_context_fields.py": "Qwen 2.3.2, Qwen2 3.2",
    "minqwen/model/rope_scaling.py": "Qwen 2.3.2, Qwen2 3.2",
    "minqwen/model/layer_plan.py": "Qwen 2.3.2, Qwen2 3.2",
    "minqwen/model/moe_fields.py": "Qwen2 2.2.2, Table 1",
    "minqwen/model/expert_files.py": "(released files)",
    "minqwen/model/dense_to_experts.py": "Qwen2 2.2.2 (Expert Initialization)",
    "minqwen/model/upcycling.py": "Qwen2 2.2.2 (Expert Initialization)",
    "minqwen/model/upcycling_receipt.py": "Qwen2 2.2.2 (Expert Initialization)",
    "minqwen/lab/long_context.py": "Qwen 2.3.2, Table 3",
    "minqwen/lab/techniques.py": "Qwen 2.3.2, Qwen2 3.2",
    "minqwen/model/presets.py": "Qwen Table 1, Qwen2 Table 1",
    "minqwen/model/init.py": "(released code)",
    "minqwen/model/kv_cache.py": "Qwen2 Dense Model",
    "minqwen/model/sampling.py": "Qwen 3.2.2",
    "minqwen/model/generate.py": "Qwen 3.2.2",
    "minqwen/model/checkpoint.py": "(released files)",
    "minqwen/model/qwen1.py": "(released files)",
    "minqwen/model/accounting.py": "Qwen2 Table 1",
    "minqwen/training/adamw.py": "Qwen 2.4 Training",
    "minqwen/training/lr_schedule.py": "Qwen 2.4 Training",
    "minqwen/training/grad_clip.py": "Qwen 3.1.2 Training",
    "minqwen/training/settings.py": "Qwen 2.4 Training",
    "minqwen/training/accumulate.py": "Qwen 2.4 Training",
    "minqwen/training/pretrain.py": "Qwen 2.4 Training",
    "minqwen/training/data_parallel.py": "Qwen 2.4 Training (large batches)",
    "minqwen/training/mixed_precision.py": "Qwen 2.4 Training (BFloat16)",
    "minqwen/training/loss_scaling.py": "Qwen 2.4 Training (mixed precision)",
    "minqwen/model/backbone.py": "Qwen 2.3.1 Architecture",
    "minqwen/alignment/settings.py": "Qwen 3.1.2, 3.2.1, 3.2.2",
    "minqwen/alignment/chat_batch.py": "Qwen 3.1.2 Training",
    "minqwen/alignment/sft.py": "Qwen 3.1.2 Training",
    "minqwen/alignment/preference_pairs.py": "Qwen 3.2.1, Qwen2 4.2",
    "minqwen/alignment/reward_model.py": "Qwen 3.2.1 Reward Model",
    "minqwen/alignment/reward_training.py": "Qwen 3.2.1 Reward Model",
    "minqwen/alignment/calibration.py": "Qwen 3.2.1 Reward Model",
    "minqwen/alignment/answer_logprobs.py": "Qwen2 4.3 (DPO)",
    "minqwen/alignment/dpo.py": "Qwen2 4.3 (DPO)",
    "minqwen/alignment/text_generation.py": "Qwen 3.4 Tool Use",
    "minqwen/agent/react_prompt.py": "Qwen 3.4 Tool Use (ReAct)",
    "minqwen/agent/react_parse.py": "Qwen 3.4 Tool Use (ReAct)",
    "minqwen/agent/react.py": "Qwen 3.4 Tool Use (ReAct)",
    "minqwen/agent/tool.py": "Qwen 3.4 Tool Use",
    "minqwen/agent/json_arguments.py": "Qwen 3.4 Tool Use",
    "minqwen/agent/tools/calculator.py": "Qwen 3.4 Tool Use",
    "minqwen/agent/tools/dictionary.py": "Qwen 3.4 Tool Use",
    "minqwen/agent/tools/model_hub.py": "Qwen 3.4 (Hugging Face Agent)",
    "minqwen/agent/code_interpreter.py": "Qwen 3.4 Code Interpreter",
    "minqwen/agent/rouge.py": "Qwen 3.4 (self-instruct)",
    "minqwen/agent/self_instruct.py": "Qwen 3.4 (self-instruct)",
    "minqwen/agent/mixed_chats.py": "Qwen 3.4 (self-instruct)",
    "minqwen/agent/tool_metrics.py": "Qwen Table 6",
    "minqwen/agent/openai_server.py": "(a common interface)",
    "minqwen/alignment/online_dpo.py": "Qwen2 4.3 (online training)",
    "minqwen/alignment/rollout.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/score.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/reward_scaling.py": "Qwen 3.2.2 (running mean)",
    "minqwen/alignment/kl_penalty.py": "Qwen 3.2.2 (KL coefficient)",
    "minqwen/alignment/gae.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/whitening.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/answer_heads.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/experience.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/policy_update.py": "Qwen 3.2.2 (pretraining gradient)",
    "minqwen/alignment/value_update.py": "Qwen 3.2.2 (value clip, warm-up)",
    "minqwen/alignment/ppo_step.py": "Qwen 3.2.2 Reinforcement Learning",
    "minqwen/alignment/ppo.py": "Qwen 3.2.2 Reinforcement Learning",
}
# tested through others
THROUGH = {
    "stream_dedup": "tests/data/streaming/test_dedup_files.py",
    "attention_tiles": "tests/layers/test_block_attention.py",
    "answer_logprobs": "tests/parity/test_dpo_parity.py",
    "answer_heads": "tests/parity/test_ppo_step_parity.py",
    "score": "tests/test_cli_ppo.py",
    "chat_templates": "tests/tokenizer/test_chatml.py",
    "chunk_pieces": "tests/long_context/test_dual_chunk.py",
    "self_attention": "tests/model/test_long_context_model.py",
    "rope_scaling": "tests/parity/test_config_parity.py",
    "qwen1": "tests/model/test_checkpoint.py",
    "decoder_block": "tests/parity/test_model_parity.py",
    "feed_forward": "tests/model/test_moe_model.py",
    "upcycling_receipt": "tests/model/test_upcycling.py",
}


@cache
def public_names(path: Path) -> list[str]:
    """Return the public functions and classes that a file defines, in order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [n.name for n in tree.body if isinstance(n, kinds)]
    return [n for n in dict.fromkeys(names) if not n.startswith("_") and not n.endswith("Cache")]


@cache
def tests_of(name: str) -> list[str]:
    """Return two test files for a module: that of its name first, then those that import it."""
    found: list[Any] = []
    homes = {path.parent.name for path in files_of("minqwen", f"{name}.py")}
    for path in files_of("tests", "test_*.py"):
        text, own = text_of(path), path.stem == f"test_{name}"
        if own or f".{name} import" in text:
            uses = len(re.findall(rf"\b{name}_(?:forward|backward)\b", text))
            near = path.parent.name in homes
            found.append((not own, not near, -uses, path.relative_to(ROOT).as_posix()))
    found = [path for *_, path in sorted(found)]
    found = [p for p in found if "parity" not in p and "helpers" not in p] or found
    return (found or [THROUGH[name]] if name in THROUGH else found)[:2]


@cache
def files_of(folder: str, pattern: str) -> list[Path]:
    """Return the files of a folder, at any depth."""
    return sorted((ROOT / folder).rglob(pattern))


@cache
def text_of(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


def file_of(module: str) -> str:
    """Return the file of a module, from the root of the repository."""
    return module.replace(".", "/") + ".py"


def imports(text: str, module: str) -> bool:
    """Whether a file imports a module or something from it."""
    package, _, name = module.rpartition(".")
    named = rf"from {re.escape(module)} import|from {re.escape(package)} import [^\n]*\b{name}\b"
    return bool(re.search(named, text))


@cache
def notebooks_of(module: str, most: int = 2) -> list[str]:
    """Return the notebooks that use a module: one that has its name first, then by their uses."""
    found, name = [], module.rpartition(".")[2]
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        text = text_of(path.with_suffix(".py"))
        if imports(text, module):
            used = [re.findall(rf"\b{n}\b", text) for n in public_names(ROOT / file_of(module))]
            found.append((name not in path.stem, -sum(map(len, used)), path.stem))
    return [stem for *_, stem in sorted(found)[:most]]


@cache
def notebooks_through(module: str) -> list[str]:
    """Return a notebook for a module that none imports: of a file that imports it."""
    package, _, name = module.rpartition(".")
    for path in files_of("minqwen", "*.py"):
        other = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        text = text_of(path)
        relative = rf"from \.+(?:{package.rpartition('.')[2]}\.)?{name} import"
        if path.parent.name != "check" and re.search(relative, text) and notebooks_of(other):
            return [notebooks_of(other)[0]]
    return []


@cache
def exercises() -> dict[str, tuple[str, bool]]:
    """Return module or concept -> (what `minqwen assign` takes, whether it is a rung)."""
    found = {name: (name, False) for name in names()}
    found |= {spec(name).module: (name, False) for name in reversed(names())}
    modules = {row.name: row.module for row in CONCEPTS}
    for rung in LADDER:
        for part in reversed(rung.parts):
            module = spec(part.spec).module if part.spec in names() else modules.get(part.spec, "")
            found[part.spec] = found[module] = (rung.name, True)
    return found


def exercise_cell(*keys: str) -> str:
    """Return a cell of the table: the first exercise of these names."""
    for key in keys:
        if key in exercises():
            name, rung = exercises()[key]
            return f"`{name}`" if rung else f"*`{name}`*"
    return ""


def cell(paths: list[str]) -> str:
    """Return a cell of the table."""
    return ", ".join(f"`{p}`" for p in paths)


def notebook_cell(module: str) -> str:
    """Return the notebooks of a module by their numbers; in brackets where it works inside."""
    found = notebooks_of(module)
    inside = found or notebooks_through(module)
    links = ", ".join(f"[{stem[:2]}](../notebooks/{stem}.ipynb)" for stem in inside)
    return links if found else links and f"({links})"


def missing() -> list[str]:
    """Say which equations have no function, no test, or no test that names the function."""
    found = []
    for row in CONCEPTS:
        # NTK, YaRN and windows give other tables or masks to the functions of rope and attention
        modules = [importlib.import_module(m) for m in (row.module, row.backward.__module__)]
        for name in row.functions:
            if not any(callable(getattr(module, name, None)) for module in modules):
                found.append(f"{row.name}: no function {name} in {row.module}")
        tests = tests_of(row.module.split(".")[-1])
        # a row's own test, and in any case the proof of its gradient, over the whole table
        if not tests or not all((ROOT / path).is_file() for path in tests):
            found.append(f"{row.name}: no test")
        elif not any(imports(text_of(ROOT / path), row.module) for path in tests):
            stem = row.module.split(".")[-1]
            if THROUGH.get(stem) not in tests:
                found.append(f"{row.name}: no test imports {row.module}")
    return found


def tables() -> str:
    """Return the text between the markers."""
    bad = {line.split(":")[0] for line in missing()}
    n = len(CONCEPTS)
    shown = sum(bool(notebook_cell(row.module)) for row in CONCEPTS)
    asked = sum(bool(exercise_cell(row.name, row.module)) for row in CONCEPTS)
    lines = [
        f"Equations: **{n - len(bad)} of {n}** have a function, its gradient and a test; {shown} "
        f"are in a notebook, {asked} are an exercise.",
        "",
        "## Forward and backward",
        "",
        "| report | equation | file | functions | tests | notebook | exercise |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in CONCEPTS:
        pair = cell(list(row.functions))
        equation = row.equation.replace("|", "\\|")
        tests = cell(tests_of(row.module.split(".")[-1]))
        book, task = notebook_cell(row.module), exercise_cell(row.name, row.module)
        file = file_of(row.module)
        lines.append(
            f"| {row.report} | `{equation}` | `{file}` | {pair} | {tests} | {book} | {task} |"
        )
    lines += ["", "## Without a backward pass", ""]
    lines += ["| report | file | names | tests | notebook | exercise |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for file, report in OTHERS.items():
        module = file.removesuffix(".py").replace("/", ".")
        public = cell(public_names(ROOT / file))
        tests = cell(tests_of(Path(file).stem))
        book, task = notebook_cell(module), exercise_cell(module)
        lines.append(f"| {report} | `{file}` | {public} | {tests} | {book} | {task} |")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page with fresh tables."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    fresh = page()
    if "--check" in sys.argv:
        sys.exit("docs/concepts.md is stale" if fresh != PAGE.read_text("utf-8") else 0)
    PAGE.write_text(fresh, encoding="utf-8")
