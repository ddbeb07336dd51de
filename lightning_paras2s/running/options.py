"""The options of each command and stage, read from the source (`source.py`)."""

from __future__ import annotations

import ast
from dataclasses import replace

from lightning_paras2s.running.source import Option, arguments, class_options, entries, find, function_options

PROGRAM = "python -m lightning_paras2s"
STAGES = {
    "fit": "train a stage: --config sft.yaml, reward.yaml, grpo.yaml, ...",
    "validate": "measure a stage's validation metrics",
    "test": "measure a stage's test metrics",
    "predict": "run a stage's model over its data",
}
COMMANDS = {
    "bench": "lightning_paras2s.bench.chain:bench",
    "mine": "lightning_paras2s.bench.queries.mine:mine",
    "synthesize": "lightning_paras2s.bench.queries.synthesize:synthesize",
    "filter": "lightning_paras2s.bench.queries.filters:filter",
    "deal": "lightning_paras2s.bench.queries.deal:deal",
    "demonstrate": "lightning_paras2s.bench.queries.demonstrate:demonstrate",
    "chain": "lightning_paras2s.running.chain:chain",
    "evaluate": "lightning_paras2s.bench.evaluate:evaluate",
    "audit": "lightning_paras2s.bench.audit:audit",
    "leaderboard": "lightning_paras2s.bench.leaderboard:leaderboard",
    "headline": "lightning_paras2s.bench.headline:headline",
    "skills": "lightning_paras2s.bench.skills:skills",
    "report": "lightning_paras2s.bench.report:report",
    "arena": "lightning_paras2s.bench.pairs.arena:arena",
    "annotate": "lightning_paras2s.bench.people.annotate:annotate",
    "serve": "lightning_paras2s.serving.serve:serve",
    "import_speech": "lightning_paras2s.bench.queries.real_speech:import_speech",
    "voicebench": "lightning_paras2s.bench.corpora.voicebench_scores:voicebench",
    "agreement": "lightning_paras2s.bench.people.agreement:agreement",
    "plan": "lightning_paras2s.running.plan:plan",
    "sweep": "lightning_paras2s.sweeping.sweep:sweep",
    "leakage": "lightning_paras2s.bench.diagnostics.leakage:leakage",
    "judge_table": "lightning_paras2s.bench.diagnostics.judge_table:judge_table",
    "doctor": "lightning_paras2s.running.doctor:doctor",
}
TRAINER = ("lightning.pytorch.trainer.trainer", "Trainer")
# Callbacks of every run, each with options under its name.
CALLBACKS = {
    "checkpoint": "lightning_paras2s.running.checkpoints:RunCheckpoint",
    "step_seed": "lightning_paras2s.running.runs:StepSeed",
    "end_together": "lightning_paras2s.running.ranks:EndTogether",
    "end_on_term": "lightning_paras2s.running.terminated:EndOnTerm",
    "progress": "lightning_paras2s.modules.callbacks:StageProgress",
    "share_cores": "lightning_paras2s.running.trainer:ShareCores",
}
LINKED = {"step_seed": ("seed",)}  # set from elsewhere: seed_everything
GIVEN = ("self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")

CONFIG = Option("config", help="a YAML file of these options; given several times, a later one wins where they differ")
PRINTED = Option("print_config", default="", help="print all options as one YAML file, and run nothing")
SWITCHES = (
    Option("json", default="", help="print the result as one JSON object, last, instead of a table"),
    Option("check", default="", help="build what the options name, and run nothing"),
)
CHECK = SWITCHES[1]
SEED = Option("seed_everything", ast.Name("int"), "0", "seed of every random choice of the run")
MODEL = Option("model", ast.Name("LightningModule"), help="the stage, by its class's name")
DATA = Option("data", ast.Name("LightningDataModule"), help="its data, by its class's name")


def options_of(command: str) -> tuple[Option, ...]:
    """All that one may type after a command, but for --help."""
    if command in STAGES:
        return stage_options(command)
    found = function_options(*COMMANDS[command].split(":"))
    if command == "doctor":  # nothing is built
        return (SWITCHES[0], *found)
    # `plan` reads a training config itself
    shared = () if any(o.name == "config" for o in found) else (replace(CONFIG, default="null"), PRINTED)
    return (*shared, *SWITCHES, *found)


def stage_options(stage: str) -> tuple[Option, ...]:
    module, name = TRAINER
    _, trainer = find(module, name)
    method = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == stage)
    calls = [o for o in arguments(method, entries(ast.get_docstring(method)), module) if o.name not in GIVEN]
    groups = [Option("trainer", group=class_options(name, module), help="of Lightning's Trainer", default="")]
    for key, target in CALLBACKS.items():
        options = class_options(*reversed(target.split(":")))
        kept = tuple(o for o in options if o.name not in LINKED.get(key, ()))
        if not kept:
            continue
        groups.append(Option(key, group=kept, help=f"of {target.split(':')[1]}", default=""))
    return (replace(CONFIG, default="null"), PRINTED, CHECK, SEED, MODEL, DATA, *groups, *calls)
