"""What the study of alignment saw: claims, what we measured, and verdicts computed from numbers.

A difference of two policies counts where alignment_numbers.py calls it sure. The other limits are
ours:

    in format       at least 0.9 of the answers
    ranked well     at least 0.9 of the held-out clean pairs
    bounded         a divergence from SFT of at most 20 nats an answer with every seed
    nothing         less than 5 % of what SFT's loss on text of pretraining lies above base's

Paper:    Qwen Technical Report, 3.1 to 3.2.2 and Table 4; Qwen2 Technical Report, Post-training.
Origin:   Gao et al. 2022, arXiv:2210.10760 (without a leash the learnt reward rises, the true one
          falls).
"""

from __future__ import annotations

from collections.abc import Iterable

from .alignment_numbers import AlignmentNumbers, Difference, difference
from .alignment_settings import BY_NAME
from .alignment_world import BEST
from .findings import AGREES, DISAGREES, PARTLY, UNDECIDED, Finding

FORMAT, RANKED, BOUND, NOTHING = 0.9, 0.9, 20.0, 0.05
LIMITS = (
    f"'In format' is {FORMAT:.0%} of the answers; a reward model ranks well from {RANKED:.0%} of "
    f"the held-out pairs on; KL is bounded up to {BOUND:g} nats an answer with every seed; "
    f"'nothing' is less than {NOTHING:.0%} of the rise that SFT brought. These limits are ours."
).replace("%", " %")
TIMES_PTX = ("ptx_small", "ptx", "ptx_large")


def findings(n: AlignmentNumbers) -> list[Finding]:
    """Return claims, what we measured, and the verdicts."""
    makers = (_sft, _reward, _pmp, _ppo, _no_kl, _weak_kl, _value_clip, _warmup, _top_p, _tax,
              _ptx, _dpo, _online)  # fmt: skip
    return [make(n) for make in makers]


def _vote(signs: Iterable[int]) -> str:
    """Return the verdict of several comparisons; one against another is agreement in part."""
    signs = list(signs)
    if all(sign > 0 for sign in signs):
        return AGREES
    if any(sign > 0 for sign in signs):
        return PARTLY
    return DISAGREES if any(sign < 0 for sign in signs) else UNDECIDED


def _sft(n: AlignmentNumbers) -> Finding:
    base, sft = n.mean("base", "formed"), n.values("sft", "formed")
    return Finding(
        "SFT makes a base model answer in the format of a chat.",
        "3.1: said, without numbers",
        f"answers that end, are a sentence and on topic: {n.percent('base', 'formed')} base, "
        f"{n.percent('sft', 'formed')} SFT; that end: {n.percent('base', 'ended')} and "
        f"{n.percent('sft', 'ended')}",
        AGREES if sft.min() >= FORMAT else PARTLY if sft.min() > base else DISAGREES,
    )


def _reward(n: AlignmentNumbers) -> Finding:
    values = n.values("pmp_rm", "accuracy")
    return Finding(
        "A reward model learns which of two answers is better.",
        "Table 4: 74.8 % on Qwen's own helpful pairs, with people's labels",
        f"{n.percent('pmp_rm', 'accuracy')} of held-out pairs without noise; trained on labels of "
        f"which {n.percent('pmp_rm', 'flipped')} are wrong",
        AGREES if values.min() >= RANKED else PARTLY if values.min() > 0.5 else DISAGREES,
    )


def _pmp(n: AlignmentNumbers) -> Finding:
    tuned, first = (n.difference("pmp_rm", other, "accuracy") for other in ("pmp", "rm_alone"))
    return Finding(
        "PMP on many coarse pairs first, then tuning on fewer clean ones.",
        "3.2.1, Table 4: tuning after PMP gives +12.1 points on the pairs of its own kind. A model "
        "without PMP is not shown",
        f"PMP {n.percent('pmp', 'accuracy')}; tuning gives {_points(tuned)}. Without PMP "
        f"{n.percent('rm_alone', 'accuracy')}: PMP gives {_points(first)}",
        _vote([tuned.sure, first.sure]),
    )


def _points(gap: Difference) -> str:
    return f"{100 * gap.mean:+.1f} (± {100 * gap.error:.1f}) points"


def _ppo(n: AlignmentNumbers) -> Finding:
    gain, most = n.difference("ppo", "sft", "true"), n.values("ppo", "kl").max()
    return Finding(
        "PPO makes answers better than SFT's, and stays near it.",
        "3.2.2 and 3.3: people prefer the RLHF model",
        f"true reward {n.text('sft', 'true')} SFT, {n.text('ppo', 'true')} PPO: {gain.text()}; "
        f"largest KL of a seed {most:.1f} nats an answer",
        AGREES
        if gain.sure > 0 and most <= BOUND
        else PARTLY
        if gain.sure > 0
        else UNDECIDED
        if gain.sure == 0
        else DISAGREES,
    )


def _no_kl(n: AlignmentNumbers) -> Finding:
    learnt, true, kl = (n.difference("no_kl", "ppo", key) for key in ("learnt", "true", "kl"))
    return Finding(
        "Without KL the learnt reward is won and the true one lost.",
        "Gao et al. 2022; the report only names its coefficient, 0.04",
        f"no KL less PPO: learnt {learnt.text()}, true {true.text()}, KL {kl.text(1)}. Flattery in "
        f"{n.percent('no_kl', 'flattery')} of the answers, wrong names in "
        f"{_wrong(n, 'no_kl')}; PPO {n.percent('ppo', 'flattery')} and {_wrong(n, 'ppo')}",
        _vote([learnt.sure, -true.sure]),
    )


def _wrong(n: AlignmentNumbers, name: str) -> str:
    return f"{100 * (1 - n.mean(name, 'on_topic')):.0f} %"


def _weak_kl(n: AlignmentNumbers) -> Finding:
    sft, ppo = (n.difference("weak_kl", other, "true") for other in ("sft", "ppo"))
    steps, values = n.looks("weak_kl", "held_out_true")
    means = values.mean(axis=0)
    best = int(means.argmax())
    return Finding(
        "A KL coefficient of 0.04 is enough.",
        "3.2.2: used; how large the rewards were is not said",
        f"true reward with 0.04: {sft.text()} against SFT, {ppo.text()} against 0.2. On the way it "
        f"was {means[best]:.2f} after {steps[best]:.0f} rollouts and {means[-1]:.2f} at the end; "
        f"KL {n.text('weak_kl', 'kl', 1)}",
        _vote([sft.sure, 1 if ppo.sure >= 0 else -1]),
    )


def _value_clip(n: AlignmentNumbers) -> Finding:
    true = n.difference("ppo", "no_value_clip", "true")
    late = _late_difference(n, "no_value_clip", "ppo", "explained_variance")
    share = n.looks("ppo", "value_clip_fraction")[1].mean()
    return Finding(
        "The value loss needs its clip, 0.15.",
        "3.2.2: the clip is named, without numbers for it alone",
        f"the clip acts on {share:.0%} of the tokens. With it instead of without: true "
        f"{true.text()}; without it the values explain {late.text()} more of the returns' variance "
        "in the second half".replace("%", " %"),
        _vote([true.sure, -late.sure]),
    )


def _late_difference(n: AlignmentNumbers, one: str, other: str, key: str) -> Difference:
    """Return one minus other of a curve, mean over its second half, seed by seed."""
    halves = []
    for name in (one, other):
        values = n.looks(name, key)[1]
        halves.append(values[:, values.shape[1] // 2 :].mean(axis=1))
    return difference(halves[0] - halves[1])


def _warmup(n: AlignmentNumbers) -> Finding:
    true, learnt = (n.difference("ppo", "no_warmup", key) for key in ("true", "learnt"))
    steps = n.facts["settings"]["value_warmup_steps"]
    return Finding(
        "The value model learns alone first: a policy that follows a fresh one follows noise.",
        "3.2.2: 50 steps, said to make the policy adapt",
        f"{steps} of the steps, which the policy then has less; with them instead of without: true "
        f"{true.text()}, learnt {learnt.text()}",
        _vote([true.sure]),
    )


def _top_p(n: AlignmentNumbers) -> Finding:
    entropy = n.difference("ppo", "top_p_1", "entropy")
    early = difference(n.early("ppo", "held_out_learnt") - n.early("top_p_1", "held_out_learnt"))
    return Finding(
        "Sampling with top-p 0.9 instead of 1: slightly lower entropy, and reward rises faster.",
        "3.2.2: said, without numbers",
        f"0.9 less 1: entropy {entropy.text(3)} nats a token; learnt reward in the first half "
        f"{early.text()}",
        _vote([-entropy.sure, early.sure]),
    )


def _tax(n: AlignmentNumbers) -> Finding:
    sft = n.difference("sft", "base", "loss")
    more = n.tax("ppo")
    return Finding(
        "With KL alone, PPO costs no more of what pretraining taught.",
        "3.2.2: KL penalty alone suffices outside of code and maths",
        f"loss on held-out text of pretraining, nats a token: SFT less base {sft.text(3)}, PPO "
        f"less SFT {more.text(3)}",
        DISAGREES if more.sure > 0 else AGREES if more.sure < 0 else UNDECIDED,
    )


def _ptx(n: AlignmentNumbers) -> Finding:
    rise = n.difference("sft", "base", "loss").mean
    taxes = {name: n.difference(name, "ppo", "loss") for name in TIMES_PTX}
    rewards = {name: n.difference(name, "ppo", "true") for name in TIMES_PTX}
    little = abs(taxes["ptx_small"].mean) < NOTHING * abs(rise)
    parts = (
        f"{BY_NAME[name].changes['ptx_coef']:g}: loss {taxes[name].text(3)}, true "
        f"{rewards[name].text()}"
        for name in TIMES_PTX
    )
    return Finding(
        "A pretraining gradient lowers the alignment tax; its coefficient must not be too large, "
        "which hurts alignment, nor too small, which does nothing.",
        "3.2.2: said, without the coefficient",
        f"against PPO, by coefficient: {'; '.join(parts)}",
        _vote([-taxes["ptx"].sure, -rewards["ptx_large"].sure, 1 if little else -1]),
    )


def _dpo(n: AlignmentNumbers) -> Finding:
    sft, ppo = (n.difference("dpo", other, "true") for other in ("sft", "ppo"))
    return Finding(
        "DPO learns from the pairs without a reward model.",
        "Qwen2 4.3: used, without a comparison",
        f"true reward {n.text('dpo', 'true')}: {sft.text()} against SFT, {ppo.text()} against PPO; "
        f"KL {n.text('dpo', 'kl', 1)} nats an answer, PPO {n.text('ppo', 'kl', 1)}",
        _vote([sft.sure]),
    )


def _online(n: AlignmentNumbers) -> Finding:
    gap = n.difference("online", "dpo", "true")
    return Finding(
        "Online DPO, on the best and worst of answers of its own, gets further than offline.",
        "Qwen2 4.3: after the offline stage; without numbers. Ours is instead of it",
        f"true reward {n.text('online', 'true')}: {gap.text()} against DPO; KL "
        f"{n.text('online', 'kl', 1)}",
        _vote([gap.sure]),
    )


def seen(n: AlignmentNumbers) -> list[str]:
    """Return what was seen, in plain sentences."""
    best = max(BY_NAME, key=lambda name: n.mean(name, "true"))
    return [
        f"True reward, of at most {BEST:g}: base {n.text('base', 'true')}, SFT "
        f"{n.text('sft', 'true')}, PPO {n.text('ppo', 'true')}, DPO {n.text('dpo', 'true')}. The "
        f"highest of all is that of {BY_NAME[best].label}: {n.text(best, 'true')}.",
        f"PPO's answers have {n.text('ppo', 'kind')} kind words instead of "
        f"{n.text('sft', 'kind')}, {n.text('ppo', 'rude')} rude ones instead of "
        f"{n.text('sft', 'rude')}, and name the right person and thing in "
        f"{n.percent('ppo', 'named')} instead of {n.percent('sft', 'named')}. Entropy falls "
        f"from {n.text('sft', 'entropy')} to {n.text('ppo', 'entropy')} nats a token, different "
        f"words in all answers from {n.mean('sft', 'words'):.0f} to "
        f"{n.mean('ppo', 'words'):.0f}.",
        f"Loss on text of pretraining: base {n.text('base', 'loss', 3)}, SFT "
        f"{n.text('sft', 'loss', 3)}, PPO {n.text('ppo', 'loss', 3)}, {BY_NAME['ptx'].label} "
        f"{n.text('ptx', 'loss', 3)}, DPO {n.text('dpo', 'loss', 3)}.",
    ]
