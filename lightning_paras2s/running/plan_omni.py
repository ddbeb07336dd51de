"""`plan` of Qwen2.5-Omni on one card: a stage's config -> memory, seconds, hours and dollars, the judge's included."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError, check_least
from lightning_paras2s.running.cost import Efficiency, Memory, Work
from lightning_paras2s.running.cost_judges import SCORERS, Listener, arguments, chat, short, whisper
from lightning_paras2s.running.cost_omni import (
    CODE_RATE,
    CONTEXT,
    EARS,
    OMNI_3B,
    OMNI_7B,
    Omni,
    OmniWork,
    Stack,
    answer_seconds,
    largest_omni_batch,
    learn_seconds,
    omni_memory,
)
from lightning_paras2s.running.gpus import FILLED, GPU

SPEECH_RATE = 25.0  # tokens a second of speech that is heard
GUIDELINE = 1150  # tokens, of the scorer's prompt
TEMPLATE = 60  # tokens of a prompt beside its speech
ANSWERS = 8  # judged a query, where a config does not say
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Terms:
    """What a config does not say.

    Attributes:
        size: queries of the set that a stage goes over once.
        prompt: tokens of a query with its template.
        total_steps: of a stage whose config gives no number.
        rollout_parts: of GRPO.
    """

    gpu: GPU
    size: int = 1000
    prompt: int = 210
    total_steps: int = 1000
    efficiency: Efficiency = Efficiency()
    rollout_parts: int = 1


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs of a card.

    Attributes:
        seconds: of one step, by part.
        steps: of the stage.
        room: bytes of the card.
        judge_usd: what a judge elsewhere is paid.
        micro_batch_tokens: the most that fits, as `model.micro_batch_tokens` counts it; 0 where the stage has none.
    """

    stage: str
    model: str
    memory: Memory
    seconds: dict[str, float]
    steps: int
    room: float
    judge_usd: float = 0.0
    micro_batch_tokens: int = 0

    @property
    def fits(self) -> bool:
        return self.memory.peak <= FILLED * self.room

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) * self.steps / 3600


def plan_stage(values: dict[str, Any], terms: Terms) -> StagePlan:
    """
    Raises:
        UserError: another stage, or another policy than Qwen2.5-Omni.
    """
    return PLANS[stage_of(values)](values, terms)


def stage_of(values: dict[str, Any]) -> str:
    stage = "evaluate" if "systems" in values else short(values.get("model") or "")
    if stage not in PLANS:
        raise UserError(f"plan of one card knows {', '.join(PLANS)}; got {stage or 'none'}; name such a config")
    return stage


def plan_grpo(values: dict[str, Any], terms: Terms) -> StagePlan:
    model, omni = arguments(values["model"]), omni_of(arguments(values["model"])["policy"])
    work = work_of(values, terms, model.get("group_size", 8), parts=model.get("rollout_parts", terms.rollout_parts))
    w, largest = work.work, largest_omni_batch(omni, terms.gpu, work)
    budget = model.get("micro_batch_tokens", 0)
    at_once = min(w.queries, max(1, budget // w.query_tokens) if budget else w.queries)
    seconds = answer_seconds(omni, terms.gpu, work, terms.efficiency)
    seconds |= learn_seconds(omni, terms.gpu, work, terms.efficiency)
    steps = steps_of(values, terms.total_steps)
    memory = omni_memory(omni, work, at_once * w.group_size)
    paid = work.listener.usd * w.rows * steps
    most = largest // w.group_size * w.query_tokens
    return StagePlan("GRPO", name_of(omni), memory, seconds, steps, terms.gpu.memory, paid, most)


def plan_sft(values: dict[str, Any], terms: Terms) -> StagePlan:
    """As if each query had an answer that is good enough."""
    omni, work = omni_of(arguments(values["model"])["policy"]), work_of(values, terms, 1, samples=False)
    seconds = learn_seconds(omni, terms.gpu, work, terms.efficiency)
    return StagePlan(
        "SFT",
        name_of(omni),
        omni_memory(omni, work, work.work.rows),
        seconds,
        math.ceil(terms.size / work.work.queries),
        terms.gpu.memory,
    )


def plan_samples(values: dict[str, Any], terms: Terms) -> StagePlan:
    model, omni = arguments(values["model"]), omni_of(arguments(values["model"])["policy"])
    work = work_of(values, terms, model.get("samples", 32), trains="")
    seconds = answer_seconds(omni, terms.gpu, work, terms.efficiency)
    steps = math.ceil(terms.size / work.work.queries)
    paid = work.listener.usd * work.work.group_size * terms.size
    return StagePlan("samples", name_of(omni), omni_memory(omni, work, 0), seconds, steps, terms.gpu.memory, paid)


def plan_evaluate(values: dict[str, Any], terms: Terms) -> StagePlan:
    """All of its systems are policies, which are on the card together until all have answered, and then go."""
    systems = [arguments(s) for s in values["systems"].values()]
    omni, given = omni_of({"init_args": {"path": systems[0]["processor"]["init_args"]["path"]}}), systems[0]
    steps = most_steps(given, 128)
    listener = listener_of(values, steps / CODE_RATE)
    shape = Work(given.get("rows", 32), 1, terms.prompt, steps, 0, BYTES[given.get("dtype", "float32")])
    work = OmniWork(shape, "", points_of(given), listener, copies=len(systems))
    seconds = answer_seconds(omni, terms.gpu, work, terms.efficiency)
    batches = math.ceil(terms.size / shape.queries) * len(systems)
    memory, paid = omni_memory(omni, work, 0), listener.usd * terms.size * len(systems)
    parts = memory.kept | {"policy": 0.0, "judge": 0.0}
    answers = memory.phases["rollout"] | {"policies": memory.kept["policy"]}
    phases = memory.phases | {"rollout": answers, "judging": {"judge": listener.bytes}}
    return StagePlan("evaluate", name_of(omni), Memory(parts, phases), seconds, batches, terms.gpu.memory, paid)


def plan_reward(values: dict[str, Any], terms: Terms) -> StagePlan:
    """`QwenOmniScorer` on the judged answers to each query."""
    scorer, data = arguments(arguments(values["model"])["scorer"]), arguments(values["data"])
    omni, rank = omni_of({"init_args": scorer}), scorer.get("lora_rank", 16)
    check_least("data.batch_size", data.get("batch_size", 32), 1, "change it")
    recompute, state = scorer.get("gradient_checkpointing", False), arguments(values["model"]).get("state_bits", 32)
    heard = (terms.prompt - TEMPLATE) / SPEECH_RATE + 10  # an answer of 10 s
    tokens = data.get("batch_size", 32) * (GUIDELINE + SPEECH_RATE * heard)
    adapters = omni.thinker.lora(rank) * (8 + 2 * (4 if state == 32 else 1))
    kept = {"scorer": float(BYTES[scorer.get("dtype", "bfloat16")] * (omni.words + EARS)), "context": CONTEXT}
    update = {"activations": tokens * omni.thinker.activation_bytes(recompute, True)}
    flops = 2.0 * (2 + recompute) * tokens * omni.thinker.weights
    seconds = {"update": flops / (terms.gpu.flops * terms.efficiency.matmul)}
    pairs = terms.size * ANSWERS
    memory = Memory(kept | {"trained_state": float(adapters)}, {"update": update})
    steps = math.ceil(pairs / data.get("batch_size", 32))
    return StagePlan("reward model", name_of(omni), memory, seconds, steps, terms.gpu.memory)


def most_steps(holder: dict[str, Any], otherwise: int) -> int:
    """Of an answer, by a holder's `sampling`, whose options stand alone or under a class's name."""
    given = holder.get("sampling") or {}
    return (given.get("init_args") or given).get("max_steps", otherwise)


def steps_of(values: dict[str, Any], otherwise: int) -> int:
    """Of a stage; `otherwise` where its config gives no number: -1 is Lightning's "without end"."""
    given = (values.get("trainer") or {}).get("max_steps", -1)
    if given != -1:
        check_least("trainer.max_steps", given, 1, "change it")
    return otherwise if given == -1 else given


PLANS: dict[str, Callable[[dict[str, Any], Terms], StagePlan]] = {
    "SampleModule": plan_samples,
    "SFTModule": plan_sft,
    "RewardModule": plan_reward,
    "GRPOModule": plan_grpo,
    "evaluate": plan_evaluate,
}


def work_of(
    values: dict[str, Any], terms: Terms, group_size: int, samples: bool = True, trains: str = "both", parts: int = 1
) -> OmniWork:
    """One step of a stage that has a policy."""
    model, data = arguments(values["model"]), arguments(values["data"])
    policy, steps, reward = arguments(model["policy"]), most_steps(model, 512), model.get("reward", "")
    work = Work(
        queries=data.get("batch_size", 32),
        group_size=group_size,
        prompt=terms.prompt,
        steps=steps,
        lora_rank=policy.get("lora_rank", 0),
        weight_bytes=BYTES[policy.get("dtype", "float32")],
        recompute=policy.get("gradient_checkpointing", False),
        updates=model.get("mu", 1) * model.get("minibatches", 1),
        state_bits=model.get("state_bits", 32),
        parts=parts,
        overlap=model.get("overlap", "auto") != "never",
    )
    if trains:
        work.check_trained()
    trains = trains and policy.get("trains", trains)
    speaks = samples and short(reward) not in ("TokenCountReward", "TextJudgeReward")
    listener = listener_of(arguments(reward) | {"reward": short(reward)}, steps / CODE_RATE)
    return OmniWork(work, trains, points_of(data), listener, samples, speaks)


def points_of(holder: dict[str, Any]) -> int:
    """Of flow matching, by the processor that a data module or a system holds."""
    return arguments(holder.get("processor", "")).get("ode_points", 10)


def listener_of(given: dict[str, Any], seconds: float) -> Listener:
    """Who scores an answer of so many seconds, by a reward's or an evaluation's options."""
    if given.get("reward") in SCORERS:
        path = arguments(given["scorer"]).get("base") or "7B"
        omni = omni_of({"init_args": {"path": path}})
        tokens = GUIDELINE + SPEECH_RATE * (6 + seconds)
        return Listener(bytes=2.0 * (omni.words + EARS), flops=2.0 * tokens * omni.thinker.weights)
    judge, ear = given.get("judge", ""), given.get("transcriber", "")
    return whisper(ear, seconds) + chat(judge)


def omni_of(policy: str | dict[str, Any]) -> Omni:
    """The sizes that a policy's folder states, or where it is not here, those of the released 3B and 7B by its name."""
    path = Path(arguments(policy).get("path", ""))
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        path = Path(json.loads(adapter.read_text())["base_model_name_or_path"])
    if (file := path / "config.json").is_file():
        try:
            return omni_from(json.loads(file.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            got = f"{type(error).__name__}: {error}"
            raise UserError(f"{file} must state the sizes of a Qwen2.5-Omni; got {got}; fetch it again") from None
    for size, omni in (("3B", OMNI_3B), ("7B", OMNI_7B)):
        if size in str(path).upper():
            return omni
    raise UserError(f"the policy's path must be a folder of Qwen2.5-Omni, or name 3B or 7B; got {path}; fetch it")


def omni_from(config: dict[str, Any]) -> Omni:
    """By a release's config.json. A thinker alone, which a scorer may be, is taken to have the 7B's talker."""
    thinker, talker = (config.get("thinker_config") or config)["text_config"], config.get("talker_config")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    stacks = []
    for given in filter(None, (thinker, talker)):
        size = given.get("head_dim") or given["hidden_size"] // given["num_attention_heads"]
        stacks.append(Stack(*(given[name] for name in names), size))
    return Omni(*[*stacks, OMNI_7B.talker][:2], thinker["vocab_size"], (talker or {}).get("vocab_size", 8448))


def name_of(omni: Omni) -> str:
    return {OMNI_3B: "3B", OMNI_7B: "7B"}.get(omni, f"{omni.weights / 1e9:.1f} G weights")


def stage_lines(made: StagePlan, card: str, usd_per_hour: float) -> list[str]:
    """One stage for a person."""
    lines = [f"{made.stage} of Qwen2.5-Omni {made.model} on 1 x {card}", f"{'GB':28}"]
    lines += [f"  {name:26} {value / 1e9:8.1f}" for name, value in made.memory.parts().items() if value >= 5e7]
    fits = "fits" if made.fits else "does NOT fit, a tenth left to the allocator"
    lines += [f"  {'peak, of the phases one':26} {made.memory.peak / 1e9:8.1f} of {made.room / 1e9:.0f}: {fits}"]
    lines += ["seconds a step"] + [f"  {name:26} {value:8.2f}" for name, value in made.seconds.items() if value]
    lines += [f"  {'total':26} {sum(made.seconds.values()):8.2f}"]
    if made.micro_batch_tokens:
        lines += [f"model.micro_batch_tokens may be {made.micro_batch_tokens}"]
    paid = f", {made.hours * usd_per_hour:.2f} US dollars for the card" if usd_per_hour else ""
    judge = f", {made.judge_usd:.2f} for the judge" if made.judge_usd else ""
    return [*lines, f"{made.steps} steps: {made.hours:.2f} hours{paid}{judge}", ""]


def summary_lines(stages: list[StagePlan], usd_per_hour: float) -> list[str]:
    """All stages in one table (Markdown's, for a page)."""
    lines = ["| stage | model | GB | seconds a step | steps | hours | card, USD | judge, USD |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for s in stages:
        step, mark = sum(s.seconds.values()), "" if s.fits else " (too much)"
        cells = [s.stage, s.model, f"{s.memory.peak / 1e9:.1f} of {s.room / 1e9:.0f}{mark}", f"{step:.1f}"]
        cells += [str(s.steps), f"{s.hours:.2f}", f"{s.hours * usd_per_hour:.2f}", f"{s.judge_usd:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
