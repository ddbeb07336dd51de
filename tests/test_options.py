"""Help, typos and missing files are answered from the source alone: quickly, and as the real parsers would."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lightning_paras2s import cli
from lightning_paras2s.errors import UserError
from lightning_paras2s.running import source
from lightning_paras2s.running.check import check, similar, split
from lightning_paras2s.running.named import moved
from lightning_paras2s.running.options import CALLBACKS, COMMANDS, STAGES, options_of
from lightning_paras2s.running.pages import class_page, command_page
from lightning_paras2s.running.source import Option, class_index, class_options, entries, reachable, subclasses
from lightning_paras2s.running.yaml_files import read_yaml

ROOT = Path(__file__).parents[1]
EVERY = [option for command in (*COMMANDS, *STAGES) for option in options_of(command)]
NAMEABLE = reachable([*EVERY, *(Option("", ast.Name(base)) for base in source.OUTSIDE)])


def names(options: tuple[Option, ...], prefix: str = "") -> set[str]:
    return {n for o in options for n in (names(o.group, f"{o.name}.") if o.group else {prefix + o.name})}


def dests(parser, groups: tuple[str, ...] = ()) -> set[str]:
    """A real parser's options, but for those that only ask for help, and parts of one that is a class."""
    found = {action.dest for action in parser._actions}
    whole = {d for d in found if not d.endswith(".help") and d not in ("help", *groups)}
    return {d for d in whole if d.rpartition(".")[0] not in whole or d.split(".")[0] in groups}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "doctor"])  # which starts without jsonargparse
def test_options_are_the_real_parsers(command):
    parser = cli.parser_of(command, cli.load_command(command))
    assert names(options_of(command)) == dests(parser)


def test_options_are_the_real_parsers_when_a_stage_is_trained():
    from lightning_paras2s.running.fit import StageCLI

    found = {}

    class Stop(Exception):
        pass

    class Caught(StageCLI):
        def parse_arguments(self, parser, args):
            found.update(self._subcommand_parsers)
            raise Stop

    with pytest.raises(Stop):
        Caught(["fit"])
    for stage in STAGES:
        real = dests(found[stage], ("trainer", *CALLBACKS)) - {"step_seed.seed"}  # linked to seed_everything
        assert names(options_of(stage)) - {"check"} == real, stage  # which the command line takes off


@pytest.mark.parametrize("name", NAMEABLE)
def test_constructor_options_are_those_that_python_sees(name):
    import inspect

    module = class_index()[name][0][0]
    cls = getattr(import_module(module), name)
    told = class_options(name)
    if told is not None:
        signature = inspect.signature(cls.__init__ if isinstance(cls, type) and not issubclass(cls, tuple) else cls)
        seen = [p for p in signature.parameters if p not in ("self", "args", "kwargs")]
        assert [o.name for o in told] == seen


@pytest.mark.parametrize("command", [*COMMANDS, *STAGES])
def test_every_option_of_a_command_has_help(command):
    assert [o.name for o in options_of(command) if not o.help.strip()] == []


@pytest.mark.parametrize("name", NAMEABLE)
def test_every_option_of_a_class_that_yaml_can_name_has_help(name):
    assert [o.name for o in class_options(name) or () if not o.help.strip()] == []


def test_classes_that_yaml_can_name_are_all_found():
    # one of each seam of the design, and what a callback and a nested option name
    some = "GRPOModule DualStreamDataModule TinySpeechLM KimiAudio EmbeddedJudge Whisper Probe OpenAITTS ScriptedLLM"
    assert {*some.split(), "CommandSystem", "Sampling", "PerStream", "Patience"} <= set(NAMEABLE)


def test_help_is_read_alike_by_the_real_parser():
    """jsonargparse's own reader of docstrings finds the entries that ours finds."""
    from docstring_parser import parse

    for name in NAMEABLE:
        node = source.names_in(class_index()[name][0][0]).get(name)
        doc = ast.get_docstring(node) or ""
        theirs = {p.arg_name: " ".join((p.description or "").split()) for p in parse(doc).params}
        assert {k: " ".join(v.split()) for k, v in entries(doc).items()} == theirs, name


@pytest.mark.parametrize("command", [*COMMANDS, *STAGES])
def test_pages_fit_80_columns(command):
    page = command_page(command)
    assert max(len(line) for line in page.splitlines() if " " in line.strip()) <= 80
    assert all(f"--{name} " in page or f"--{name}\n" in page for name in names(options_of(command)))


def test_page_of_a_class_reads_like_a_reference():
    page = class_page("GRPOModule", "model")
    assert "--model.group_size int = 8\n    G, responses a query." in page
    assert "--model.reward CLASS  (required)" in page and "JudgeReward" in page
    assert all(o.help.split()[0] in page for o in class_options("GRPOModule"))


def test_names_are_told_when_a_class_is_a_guess():
    with pytest.raises(UserError) as told:
        check("evaluate", ["--systems.x", "NoSuchSystem"])
    assert all(name in str(told.value) for name in subclasses("S2SSystem"))
    with pytest.raises(UserError, match=r"must be a Judge: .*EmbeddedJudge.*did you mean EmbeddedJudge\?"):
        check("evaluate", ["--judge", "EmbededJudge"])
    with pytest.raises(UserError, match=r"--model must be a LightningModule: .*did you mean GRPOModule\?"):
        check("fit", ["--model", "GRPOModul"])
    with pytest.raises(UserError, match=r"--systems.x must be a S2SSystem: .*did you mean OpenAIAudioSystem\?"):
        check("evaluate", ["--systems.x.class_path", "OpenAISystem"])
    with pytest.raises(UserError, match="got lightning_paras2s.judging.judges.EmbededJudge; did you mean lightning"):
        check("evaluate", ["--judge", "lightning_paras2s.judging.judges.EmbededJudge"])


OWN = """
from lightning_paras2s.judging.judges import Judge
class QuietJudge(Judge):
    def judge(self, query, response): ...
class Reader: ...
"""


@pytest.mark.parametrize(
    "path, told",
    [
        ("own_judges.loud.QuietJudg", "own_judges.loud has no QuietJudg; in it: QuietJudge, Reader; did you mean "
         "own_judges.loud.QuietJudge?"),
        ("own_judges.lod.QuietJudge", "own_judges has no lod; in it: broken, loud; did you mean "
         "own_judges.loud.QuietJudge?"),
        ("own_judge.loud.QuietJudge", "there is no module own_judge here; did you mean own_judges.loud.QuietJudge?"),
        ("nowhere.QuietJudge", "); start where its file lies"),
        ("own_judges.loud.Reader", "must name a Judge; got own_judges.loud.Reader, which is none; derive it (class "
         "Reader(Judge))"),
        ("own_judges.broken.QuietJudge", "but own_judges.broken ends with ModuleNotFoundError: No module named "
         "'no_such_package'; mend it"),
    ],
)  # fmt: skip
def test_own_class_is_told_from_what_could_be_imported(path, told, tmp_path, monkeypatch):
    (tmp_path / "own_judges").mkdir()
    (tmp_path / "own_judges/loud.py").write_text(OWN)
    (tmp_path / "own_judges/broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError) as error:
        check("evaluate", ["--judge", path])
    assert str(error.value).endswith(told) and len(str(error.value)) < 250
    check("evaluate", ["--judge", "own_judges.loud.QuietJudge"])


def test_option_is_told_when_it_was_nearly_right():
    with pytest.raises(UserError, match=r"GRPOModule has no option --model.G; did you mean --model.group_size"):
        check("fit", ["--config", str(ROOT / "configs/grpo.yaml"), "--model.G", "4"])
    with pytest.raises(UserError, match="mine has no option --dryrun; did you mean --dry_run"):
        check("mine", ["--dryrun", "true"])
    with pytest.raises(UserError, match="trainer has no option --trainer.max_step; did you mean --trainer.max_steps"):
        check("fit", ["--trainer.max_step", "3"])
    with pytest.raises(UserError, match="TinySpeechLM has no option --model.policy.depth"):
        check("fit", ["--config", str(ROOT / "configs/grpo.yaml"), "--model.policy.init_args.depth", "3"])
    with pytest.raises(UserError, match="an argument must be an option"):
        check("mine", ["there"])


def test_option_is_found_by_the_symbol_that_its_help_gives():
    options = (Option("group_size", help="G, responses a query."), Option("gpu", help="which."))
    assert similar("G", options)[0] == "group_size"


def test_file_is_told_when_a_config_has_the_typo(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {class_path: SFTModule, init_args: {learning_rate: 1}}\n")
    with pytest.raises(UserError, match="no option model.learning_rate in .*a.yaml"):
        check("fit", ["--config", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("model: [unclosed\n")
    with pytest.raises(UserError, match="b.yaml must be YAML"):
        check("fit", ["--config", str(tmp_path / "b.yaml")])


def test_value_is_told_when_it_is_no_choice():
    with pytest.raises(UserError, match=r"--format must be one of rich, markdown, csv, json; got 'markdwn'.*markdown"):
        check("leaderboard", ["--runs", "[.]", "--format", "markdwn"])


@pytest.mark.parametrize("value", ["nan", ".nan", "-.NaN"])
def test_number_is_told_when_it_is_none(value):
    """A cap of nan dollars is none: nothing is above it."""
    with pytest.raises(UserError, match="--llm.max_usd must be a number; got "):
        check("mine", ["--llm", "OpenAIChat", f"--llm.max_usd={value}"])


def test_file_is_missed_before_anything_is_imported(tmp_path):
    with pytest.raises(UserError, match="--manifest must be a file or folder that is there; got nowhere.jsonl"):
        check("evaluate", ["--manifest", "nowhere.jsonl"])
    check("leaderboard", ["--runs", f"[{tmp_path}]"])


PATHS = [(c, [], f"--{o.name}", o) for c in COMMANDS for o in options_of(c) if o.holds("InputPath")]
PATHS += [
    (command, [f"--{where}", name], f"--{where}.{o.name}", o)
    for command, where, base in (
        ("fit", "model", "LightningModule"),
        ("fit", "data", "LightningDataModule"),
        ("evaluate", "systems.x", "S2SSystem"),
        ("evaluate", "judge", "Judge"),
        ("evaluate", "transcriber", "Transcriber"),
        ("evaluate", "recognizer", "StyleRecognizer"),
    )
    for name in subclasses(base)
    for o in class_options(name) or ()
    if o.holds("InputPath")
]


@pytest.mark.parametrize("idle", [[], ["--check"]])
@pytest.mark.parametrize("command, before, option, declared", PATHS)
def test_every_path_that_an_option_names_must_be_there(command, before, option, declared, idle):
    """With --check, too, which ends in exit code 0 otherwise."""
    value = "nowhere/x"
    if declared.holds("dict"):
        value = "{a: nowhere/x}"
    elif declared.holds("list") or declared.holds("Sequence"):
        value = "[nowhere/x]"
    with pytest.raises(UserError, match=f"^{option}.* must be a file or folder that is there; got nowhere/x; "):
        check(command, [*before, option, value, *idle])


@pytest.mark.parametrize("command, before, option, declared", PATHS)
def test_a_path_that_must_be_there_is_not_null(tmp_path, monkeypatch, command, before, option, declared):
    """It was built with None, and ended in a traceback of whoever opened it."""
    for path in ("runs/bench/test", "checkpoints"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "runs/bench/test/queries.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    if declared.takes_null or declared.default == "":
        check(command, [*before, option, "null"])
        return
    for value in ("null", "[null]") if declared.holds("list") or declared.holds("Sequence") else ("null",):
        with pytest.raises(UserError, match=f"^{option} must be a file or folder that is there; got null; name"):
            check(command, [*before, option, value])
    check(command, [*before, option, "null", option, str(tmp_path)])  # another one in its place


@pytest.mark.parametrize("name", ["gpt-4.1", "a", "a.b.c"])
def test_a_system_whose_name_holds_dots_is_checked_as_any(tmp_path, name):
    (tmp_path / "q.jsonl").touch()
    for system, told in (("{class_path: RecordedSystem, init_args: {responses: nowhere}}", "got nowhere; "),
                         ("{class_path: RecordedSystem, init_args: {responses: null}}", "got null; "),
                         ("{class_path: nopkg.mine.System}", "there is no module nopkg here")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            check("evaluate", ["--manifest", str(tmp_path / "q.jsonl"), "--systems", f"{{{name}: {system}}}"])


def test_an_empty_list_of_paths_is_no_path(tmp_path):
    """`arena --battles`, as docs/systems.md has it, was refused: "--runs must be a file ...; got ()"."""
    (tmp_path / "battles.jsonl").touch()
    check("arena", ["--battles", str(tmp_path / "battles.jsonl"), "--out", str(tmp_path / "out")])


def test_sweep_names_the_command_that_makes_its_queries(tmp_path, monkeypatch):
    config = str(ROOT / "configs/sweeps/beta.yaml")
    monkeypatch.chdir(tmp_path)
    made = "`python -m lightning_paras2s synthesize --out runs/bench/test --split test` makes it"
    with pytest.raises(UserError, match=f"--manifest must be .*; got runs/bench/test/queries.jsonl; {made}"):
        check("sweep", ["--config", config])


def test_stage_is_built_and_not_run_when_it_is_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stage = ["fit", "--config", str(ROOT / "configs/grpo.yaml"), "--check"]
    cli.main(stage)
    assert cli.CHECKED in capsys.readouterr().out and not any(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="2"):
        cli.main([*stage, "--model.init_from", "none.safetensors"])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("error: --model.init_from must be a file or folder that is there")


def test_new_path_is_told_for_a_class_of_an_old_run():
    """Every class path in the dumps of the code before the move is there still, or its new path is told."""
    assert moved("lightning_paras2s.asr.TinyTranscriber") == "lightning_paras2s.hearing.transcribers.TinyTranscriber"
    assert moved("lightning_paras2s.hearing.transcribers.TinyTranscriber") is None and moved("torch.nn.Linear") is None
    with pytest.raises(UserError, match="got lightning_paras2s.bench.filters.Emotion2Vec; write lightning_paras2s"):
        check("evaluate", ["--recognizer", "lightning_paras2s.bench.filters.Emotion2Vec"])


def test_class_that_changes_takes_no_other_options_along():
    tree = check("fit", ["--config", str(ROOT / "configs/grpo.yaml"), "--model.reward", "ToneReward"])
    assert tree["model"]["init_args"]["reward"] == "ToneReward"


def test_a_config_almost_right_is_told_the_nearest_names():
    with pytest.raises(UserError, match="must be a file or the name of one; got 'grop.yaml'; did you mean grpo.yaml"):
        cli.resolve_config("grop.yaml")
    with pytest.raises(UserError, match="must be a file or one of .*, grpo.yaml, .*; got 'x'$"):
        cli.resolve_config("x")


def test_a_weight_that_is_no_number_is_told_both_ways_to_write_one():
    with pytest.raises(UserError, match=r"for both streams, or one for each: {text: 1.0, audio: 1.0}; got 'abc'"):
        check("fit", ["--config", str(ROOT / "configs/grpo.yaml"), "--model.beta", "abc"])


def test_a_tab_in_yaml_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("model:\n\tbeta: 1\n")
    with pytest.raises(UserError, match="must be YAML; .* indent with spaces, not with tabs$"):
        check("fit", ["--config", str(tmp_path / "a.yaml")])


def test_arguments_come_in_pairs():
    pairs = [(one.key, one.value) for one in split(["--a", "1", "--b=2", "--json", "--d", "-3"], frozenset())]
    assert pairs == [("a", "1"), ("b", "2"), ("json", None), ("d", "-3")]
    alone = split(["--dry_run", "--out", "x"], frozenset({"dry_run"}))
    assert [(one.key, one.value) for one in alone] == [("dry_run", None), ("out", "x")]
    asked = ["--config", cli.resolve_config("sweeps/start.yaml"), "--dry_run", "--step_seconds", "60"]
    asked += ["--manifest", "made"]
    assert cli.checked("sweep", asked) == [*asked[:3], "true", *asked[3:]]


QUICK = [
    *([command, "--help"] for command in (*COMMANDS, *STAGES)),
    ["fit", "--model.help", "GRPOModule"],
    ["fit", "--config", "grpo.yaml", "--model.G", "4"],
    ["fit", "--config", "nowhere.yaml"],
    ["evaluate", "--config", "evaluate.yaml", "--manifest", "nowhere.jsonl"],
]


def test_reference_page_is_current():
    done = subprocess.run([sys.executable, "docs/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_answers_need_no_heavy_import_when_nothing_is_run():
    """One process asks all; torch and Lightning alone take seconds, so neither may be imported."""
    code = f"""
import contextlib, io, sys
from lightning_paras2s.cli import main
for argv in {json.dumps(QUICK)}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(argv)
        except SystemExit as stop:
            assert stop.code == 2, argv
        else:
            assert '--help' in argv or '--model.help' in argv, argv
print([m for m in ('torch', 'lightning', 'transformers', 'scipy', 'jsonargparse') if m in sys.modules])
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 2 * len(QUICK)  # 2 s each, and far less


def test_a_dict_that_is_given_whole_replaces_a_configs(tmp_path):
    """As the real parser does; an entry of one's own, of a dict that was replaced, was looked for, and is not run."""
    path = tmp_path / "evaluate.yaml"
    old = {"class_path": "PolicySystem", "init_args": {"policy": "gone.safetensors", "processor": "TinyProcessor"}}
    path.write_text(yaml.safe_dump({"manifest": str(path), "systems": {"old": old}, "judge": "EmbeddedJudge"}))
    mine = {"class_path": "CommandSystem", "init_args": {"command": "cat"}}
    config = ["--config", str(path)]
    tree = check("evaluate", [*config, "--systems", json.dumps({"mine": mine})])
    assert tree["systems"] == {"mine": mine}
    with pytest.raises(UserError, match=r"must be a file or folder that is there; got gone\.safetensors"):
        check("evaluate", [*config, "--systems.mine", json.dumps(mine)])
    tree = check("evaluate", [*config, "--systems.mine", json.dumps(mine), "--systems.old.policy", str(path)])
    assert set(tree["systems"]) == {"old", "mine"} and tree["systems"]["old"]["init_args"]["policy"] == str(path)
    # an entry that both name keeps what only the first one says of it
    again = {"old": {"init_args": {"policy": str(path)}}}
    tree = check("evaluate", [*config, "--systems", json.dumps(again)])
    assert tree["systems"] == {"old": {**old, "init_args": {**old["init_args"], "policy": str(path)}}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trainer:\n  max_steps: 3\nseed_everything: 1\ntrainer:\n  devices: 1\n", "trainer twice"),
        ("model:\n  class_path: GRPOModule\n  init_args:\n    lr: 0.1\n    mu: 1\n    lr: 0.2\n", "lr twice"),
        ("trainer: {max_steps: 3, devices: 1, max_steps: 5}\n", "max_steps twice"),
    ],
)
def test_a_config_says_each_thing_once(tmp_path, text, told):
    """YAML's loaders take the last of two, and what stood under the first is gone."""
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"must be YAML; got {told}"):
        check("fit", ["--config", str(path)])
    path.write_text("a: &a {lr: 1, mu: 2}\nb: &b {<<: *a, lr: 3}\nc: {<<: *b, mu: 4}\nd: {<<: *b, mu: 5}\n")
    merged = {"a": {"lr": 1, "mu": 2}, "b": {"lr": 3, "mu": 2}, "c": {"lr": 3, "mu": 4}, "d": {"lr": 3, "mu": 5}}
    assert read_yaml(str(path)) == merged
