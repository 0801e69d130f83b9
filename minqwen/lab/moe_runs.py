"""The runs of the study: the same rows in the same order at the same rates, for every model.

A model from scratch is an ordinary run of training/pretrain.py. An upcycled one is an ordinary run
too, that finds a checkpoint of step S0 in its folder and goes on with it:

    dense run   step 0 ------------- S0 -------------------------- S
    upcycled                          \\-> cut into experts -------- S

So what goes on, goes on: batch S0 + 1 is the one that the dense model gets, the cosine of the
learning rate is that of a run of S steps, and AdamW keeps its means m and v for everything that is
as it was (attention, norms, embedding). For the router and the experts they are 0, as at the start
of a run. AdamW counts S0 steps, so it does not correct that start: the first updates of the experts
are half as long as usual, and after some twenty steps all is as usual.

The dense run keeps its last checkpoint only, so its first S0 steps are done once more to be cut:
everything random is a function of seed and step, so the bits are the same.

Paper:    Qwen2 Technical Report, 2.2.2, Expert Initialization.
Differs:  the report does not say what became of AdamW's means and of the learning rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_device, to_numpy
from ..model.atomic_folder import recover
from ..model.config import QwenConfig
from ..model.init import init_params
from ..model.upcycling import upcycle
from ..params import Params
from ..training.adamw import AdamWState, adamw_init, adamw_step
from ..training.pretrain import pretrain, train_step
from ..training.resume import describe_run, last_checkpoint, load_run, read_training
from ..training.run_folder import save_run
from ..training.settings import PretrainSettings
from .moe_settings import MoeSettings, Run
from .moe_text import SourcedText

UPCYCLING = 2  # last word of a seed: 0 and 1 are first numbers, see fresh_params
ROUNDS = 12
Dense = Callable[[], tuple[Params, AdamWState]]  # trains up to S0


def run_config(run: Run, settings: MoeSettings, text: SourcedText) -> QwenConfig:
    """Return the model of a run."""
    return settings.config(
        text.tokenizer.vocab_size,
        sparse=run.sparse,
        balance=run.balance,
        renormalised=run.renormalised,
    )


def fresh_params(run: Run, settings: MoeSettings, text: SourcedText) -> Params:
    """Draw the first numbers of a run from scratch."""
    rng = np.random.default_rng([settings.seed, int(run.again)])
    return init_params(run_config(run, settings, text), rng)


def train(
    out: Path,
    run: Run,
    settings: MoeSettings,
    text: SourcedText,
    dense: Dense,
    *,
    progress: bool = True,
    device: str = "cpu",
) -> Params:
    """Train a run to its end; one that is finished is only read.

    Args:
        out: folder of the study; the run is in runs/NAME, the start of an upcycled one in
            starts/NAME.
        run: one of RUNS.
        settings: of the study.
        text: what it reads.
        dense: trains the dense model up to the step at which it is cut; called only if needed.
        progress: show a bar.
        device: "cpu" or "cuda".

    Returns:
        The trained parameters.
    """
    folder, config = out / "runs" / run.name, run_config(run, settings, text)
    training = settings.training()
    if run.upcycled:
        recover(start_folder(out, run) / "checkpoint")
        if last_checkpoint(start_folder(out, run)) is None:
            cut_into_experts(out, run, settings, text, *dense())
        if last_checkpoint(folder) is None:
            params, state, kept = load_start(out, run)
            save_run(folder, config, params, state, kept, text.tokenizer)
    return pretrain(
        config,
        text.rows,
        folder,
        training,
        validation_rows=text.validation_rows,
        params=None if run.upcycled else fresh_params(run, settings, text),
        tokenizer=text.tokenizer,
        progress=progress,
        plot=False,
        device=device,
    )


def start_folder(out: Path, run: Run) -> Path:
    """Return where the first checkpoint of an upcycled run is kept."""
    return out / "starts" / run.name


def load_start(out: Path, run: Run) -> tuple[Params, AdamWState, dict[str, Any]]:
    """Return parameters, AdamW's state and training.json of an upcycled run's first checkpoint."""
    found = load_run(start_folder(out, run), "float32")
    assert found is not None  # train has made it
    return found


def receipt_of(out: Path, run: Run) -> dict[str, Any]:
    """Return how far the outputs moved when the dense model was cut; see model/upcycling.py."""
    receipt: dict[str, Any] = read_training(start_folder(out, run) / "checkpoint")["receipt"]
    return receipt


def train_dense(
    run: Run, settings: MoeSettings, text: SourcedText, device: str = "cpu"
) -> tuple[Params, AdamWState]:
    """Do the first S0 steps of the dense run once more: parameters and state, bit for bit."""
    config, s = run_config(run, settings, text), settings.training()
    params = to_device(fresh_params(run, settings, text), device)
    state = adamw_init(params)
    while state["step"] < settings.upcycle_step:
        step(params, state, config, text, s)
    return params, state


def step(
    params: Params, state: AdamWState, config: QwenConfig, text: SourcedText, s: PretrainSettings
) -> None:
    """Do one step of training, in place."""
    grads, row = train_step(params, state, config, text.rows, s)
    adamw_step(
        params,
        grads,
        state,
        lr=row["lr"],
        beta1=s.beta1,
        beta2=s.beta2,
        eps=s.eps,
        weight_decay=s.weight_decay,
    )


def cut_into_experts(
    out: Path,
    run: Run,
    settings: MoeSettings,
    text: SourcedText,
    params: Params,
    state: AdamWState,
) -> None:
    """Write the first checkpoint of an upcycled run from the dense model at step S0.

    The router has a random row for each expert: a copy of the dense network is F / Fe experts, more
    than the K that are chosen, so a router that knows copies only would never choose some of them.
    """
    s = settings
    experts, _, receipt = upcycle(
        to_device(params, "cpu"),
        s.config(text.tokenizer.vocab_size, sparse=False),
        num_experts=s.num_experts,
        num_experts_per_tok=s.num_experts_per_tok,
        moe_intermediate_size=s.moe_intermediate_size,
        shared_expert_intermediate_size=s.shared_expert_intermediate_size,
        norm_topk_prob=run.renormalised,
        router_aux_loss_coef=s.router_aux_loss_coef,
        reinitialised=run.reinitialised,
        router="random",
        rng=np.random.default_rng([s.seed, UPCYCLING]),
        probe_ids=text.validation_rows[:: max(1, len(text.validation_rows) // 16), :-1],
    )
    start = adamw_init(experts)
    start["step"] = state["step"]
    for key in experts.keys() & params.keys():
        start["m"][key], start["v"][key] = (to_numpy(state[part][key]) for part in ("m", "v"))
    config, folder = run_config(run, settings, text), start_folder(out, run)
    about = describe_run(config, s.training(), text.rows, text.validation_rows)
    about["receipt"] = receipt.to_dict()
    folder.mkdir(parents=True, exist_ok=True)
    save_run(folder, config, experts, start, about, text.tokenizer)


def time_steps(
    models: Mapping[str, tuple[QwenConfig, Params]], settings: MoeSettings, text: SourcedText
) -> dict[str, float]:
    """Return how many seconds of the processor a training step of each model takes.

    The models take turns, so that a busy machine is busy for all; the fastest of ROUNDS steps each.
    """
    s = settings.training()
    states = {}
    for name, (config, params) in models.items():
        params = {key: w.copy() for key, w in params.items()}
        states[name] = (config, params, adamw_init(params))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, (config, params, state) in states.items():
            start = time.process_time()
            step(params, state, config, text, s)
            seconds[name].append(time.process_time() - start)
    return {name: min(values) for name, values in seconds.items()}
