"""Write the tables of docs/concepts.md from the code: python docs/make_tables.py [--check]

The page is never edited between its two markers; a test runs this with --check.
"""

import ast
import sys
from pathlib import Path

from minqwen.check.concepts import CONCEPTS

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
    "minqwen/data/hashed_ngrams.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/text_classifier.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/classifier_calibration.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/classifier_file.py": "Qwen 2.1 Data (quality)",
    "minqwen/training/perplexity_rule.py": "Qwen 2.1 Data (quality)",
    "minqwen/data/streaming/stream_dedup.py": "Qwen 2.1 Data (of any size)",
    "minqwen/data/streaming/filter_files.py": "Qwen 2.1 Data (of any size)",
    "minqwen/data/mixture.py": "Qwen 2.1 Data (mixture)",
    "minqwen/data/packing.py": "Qwen 2.4 Training",
    "minqwen/data/records.py": "Qwen 3 (files of chats and preferences)",
    "minqwen/tokenizer/pretokenizer.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/merges.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/bpe.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/special_tokens.py": "Qwen 3.1.1, Qwen2 Tokenizer",
    "minqwen/tokenizer/stream_decoder.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/stop_strings.py": "Qwen 3.4 (ReAct)",
    "minqwen/tokenizer/vocabulary.py": "Qwen 2.2 Tokenization",
    "minqwen/tokenizer/chat_templates.py": "Qwen 3.1.1 Data (ChatML)",
    "minqwen/tokenizer/chatml.py": "Qwen 3.1.1 Data (ChatML)",
    "minqwen/layers/attention_tiles.py": "Qwen 2.3.1 Architecture",
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


def public_names(path: Path) -> list[str]:
    """Return the public functions and classes that a file defines, in order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [n.name for n in tree.body if isinstance(n, kinds)]
    return [n for n in dict.fromkeys(names) if not n.startswith("_") and not n.endswith("Cache")]


def tests_of(name: str) -> str:
    """Return two test files for a module: that of its name first, then those that import it."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py"), key=lambda p: p.stem != f"test_{name}"):
        text = path.read_text(encoding="utf-8")
        if path.stem == f"test_{name}" or f".{name} import" in text:
            found.append(path.relative_to(ROOT).as_posix())
    found = [p for p in found if "parity" not in p and "helpers" not in p] or found
    return ", ".join(f"`{p}`" for p in (found or [THROUGH[name]])[:2])


def tables() -> str:
    """Return the text between the markers."""
    lines = [
        "## Forward and backward",
        "",
        "| report | equation | file | functions | tests |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in CONCEPTS:
        file = row.module.replace(".", "/") + ".py"
        pair = ", ".join(f"`{name}`" for name in row.functions)
        equation = row.equation.replace("|", "\\|")
        tests = tests_of(row.module.split(".")[-1])
        lines.append(f"| {row.report} | `{equation}` | `{file}` | {pair} | {tests} |")
    lines += ["", "## Without a backward pass", "", "| report | file | names | tests |"]
    lines += ["| --- | --- | --- | --- |"]
    for file, report in OTHERS.items():
        names = ", ".join(f"`{n}`" for n in public_names(ROOT / file))
        lines.append(f"| {report} | `{file}` | {names} | {tests_of(Path(file).stem)} |")
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
