"""The games of an arena: which responses meet, in both orders, and what a pairwise judge hears in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_paras2s.audio import read_audio, seconds_of
from lightning_paras2s.bench.pairs.runs import about
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.pair_judges import FORMAT, OUTCOMES, PROMPT, Heard, Outcome, PairJudge
from lightning_paras2s.running.logs import Log, half_line, record_key, replace_jsonl, say
from lightning_paras2s.running.origins import file_sha, inputs_of
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.chat import AUDIO_TOKENS_A_SECOND, CHARACTERS_A_TOKEN
from lightning_paras2s.servers.parts import AUDIO_RATE
from lightning_paras2s.servers.spending import VERDICT_TOKENS, expected_usd
from lightning_paras2s.types import Battle, Query, Response, append_jsonl, read_jsonl

ORDERS = ("ab", "ba")  # who was heard first
HEARD_VERDICTS = tuple(dict.fromkeys(OUTCOMES.values()))
BATCH = 16  # games whose recordings are in memory


class Game(NamedTuple):
    """Two systems' responses to a query, heard in an order."""

    query_id: str
    a: str
    b: str
    audio_a: Path
    audio_b: Path
    order: str

    def key(self, judge: str) -> tuple[str, ...]:
        return self.query_id, self.a, self.b, self.order, judge


def draw(runs: Sequence[str], count: int | None, seed: int) -> list[Game]:
    """All pairs of systems at each query, or `count` of them drawn evenly; each in both orders."""
    found: dict[str, dict[str, Path]] = {}
    require_same_queries(runs)
    for (query, system), place in places_of(runs).items():
        found.setdefault(query, {})[system] = place
    pairs = [(q, a, b) for q, systems in sorted(found.items()) for a, b in combinations(sorted(systems), 2)]
    if not pairs:
        raise UserError(f"runs must hold responses of two systems to a query; got none in {', '.join(runs)}")
    if count is not None and count < 1:
        raise UserError(f"games must be at least 1; got {count}")
    order = np.random.default_rng(seed).permutation(len(pairs))[:count]
    chosen = [pairs[i] for i in sorted(order)]
    return [Game(q, a, b, found[q][a], found[q][b], order) for q, a, b in chosen for order in ORDERS]


def places_of(runs: Sequence[str]) -> dict[tuple[str, str], Path]:
    """(query, system as the arena calls it) -> the recording of its answer, of those that the summaries are about."""
    held = {run: Log(Path(run)).read("responses", Response) for run in runs}
    kept = {run: about(run, [r.id for r in rows]) for run, rows in held.items()}
    held = {run: [r for r in rows if r.id in kept[run]] for run, rows in held.items()}
    names = own_names({run: {r.system for r in rows} for run, rows in held.items()})
    rows = [(run, r) for run, found in held.items() for r in found if r.status == "ok" and r.audio and r.sample == 0]
    return {(r.query_id, names[run, r.system]): Path(run) / r.audio for run, r in rows}


def own_names(systems: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], str]:
    """(run, system) -> its name in the arena, with the run where several runs hold a system of that name."""
    counts = Counter(name for names in systems.values() for name in names)
    return {
        (run, name): f"{name} ({run})" if counts[name] > 1 else name for run, names in systems.items() for name in names
    }


def require_same_queries(runs: Sequence[str]) -> None:
    """Refuse answers of two runs to queries of one id that were other recordings or texts."""
    known: dict[str, tuple[str, dict[str, str]]] = {}
    for run in runs:
        log = Log(Path(run))
        for row in log.read("responses", Response):
            inputs = log.origins.of("responses", row, "audio", "text", "turns")
            before, first = known.setdefault(row.query_id, (run, inputs))
            if first and inputs and first != inputs:
                raise UserError(
                    f"runs must answer the same queries to be compared; {row.query_id!r} is another recording or text "
                    f"in {run} than in {before}; evaluate them on one manifest"
                )


def price(judge: PairJudge, games: Sequence[Game], manifest: str) -> dict[str, Any]:
    """What a judge is asked for that hears all games, and what that would cost, in USD."""
    root, queries = Path(manifest).parent, queries_of(games, manifest)
    turns = {name: heard_turns(queries[name], root).turns for name in {game.query_id for game in games}}
    before = {name: sum(turn.seconds for turn in said) for name, said in turns.items()}
    places = {place for game in games for place in places_heard(game, queries[game.query_id], root)}
    lengths = {place: seconds_of(place) for place in places}
    seconds = sum(lengths[place] for game in games for place in places_heard(game, queries[game.query_id], root))
    audio = (seconds + sum(before[game.query_id] for game in games)) * AUDIO_TOKENS_A_SECOND
    text = len(games) * len(PROMPT + FORMAT) / CHARACTERS_A_TOKEN
    usd = expected_usd(getattr(judge, "llm", None), text + audio, len(games) * VERDICT_TOKENS, audio)
    return {"dry_run": True, "pairs": len(games) // len(ORDERS), "judgements": len(games), "judge": judge.name,
            "usd": round(usd, 2)}  # fmt: skip


def queries_of(games: Sequence[Game], manifest: str) -> dict[str, Query]:
    """Id -> query, of the manifest that must hold those of the games."""
    queries = {q.id: q for q in read_jsonl(manifest, Query)}
    if unknown := sorted({game.query_id for game in games} - queries.keys()):
        raise UserError(f"{manifest} must hold the queries of the runs; {unknown[0]!r} is missing; check the manifest")
    return queries


def play(folder: Path, judge: PairJudge, games: list[Game], manifest: str) -> tuple[list[Battle], dict]:
    """Let the judge hear the games that FOLDER/battles.jsonl lacks; what it could not judge is in failures.jsonl.

    Returns:
        The games' battles, and {"judging": the judge's name, what became of its judgements, and their cost in USD}.
    """
    path = folder / "battles.jsonl"
    if path.is_file() and half_line(path):
        say(f"{path} ended in the middle of a line: that line is dropped, and its game heard again")
        append_jsonl(path, [])
    root, queries = Path(manifest).parent, queries_of(games, manifest)
    inputs = inputs_of_games(games, queries, root, judge)
    log, held = Log(folder), read_jsonl(path, Battle) if path.is_file() else []
    if stale := log.stale("battles", held, lambda b: inputs.get(record_key(b))):
        held = [b for b in held if record_key(b) not in stale]
        replace_jsonl(path, held)
    done = {record_key(b) for b in held}
    missing = [game for game in games if game.key(judge.name) not in done]
    statuses, usd, failures = Counter({"held": len(games) - len(missing)}), 0.0, []
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        outcomes = judge.compare([heard(game, queries[game.query_id], root) for game in part])
        check_outcomes(judge, outcomes, len(part))
        pairs = list(zip(part, outcomes, strict=True))
        made = [battle(g, o.verdict, judge.name) for g, o in pairs if o.verdict is not None]
        log.append("battles", made, [inputs[record_key(b)] for b in made])
        failures += [failure(g, o) for g, o in pairs if o.verdict is None]
        statuses.update(o.status for o in outcomes)
        usd += sum(o.usage.get("cost_usd", 0.0) for o in outcomes)
    replace_jsonl(folder / "failures.jsonl", failures)
    wanted = {game.key(judge.name) for game in games}
    played = [b for b in (read_jsonl(path, Battle) if path.is_file() else []) if record_key(b) in wanted]
    if not played:
        raise UserError(f"the judge must reach a verdict in some game; got {dict(statuses)}; see failures.jsonl")
    return played, {"judging": {"judge": judge.name, "statuses": dict(statuses), "usd": round(usd, 6)}}


def inputs_of_games(
    games: list[Game], queries: dict[str, Query], root: Path, judge: PairJudge
) -> dict[tuple, dict[str, str]]:
    """What each game's battle is made from: three recordings, the judge, and earlier turns where there are any."""
    asked = {game.query_id: inputs_of(queries[game.query_id], root) for game in games}
    shas = {place: file_sha(place) for place in {place for game in games for place in (game.audio_a, game.audio_b)}}
    which = {"judge": part_sha(judge)}
    return {
        game.key(judge.name): {"query": asked[game.query_id]["audio"], "a": shas[game.audio_a], "b": shas[game.audio_b]}
        | {name: value for name, value in asked[game.query_id].items() if name == "turns"}
        | which
        for game in games
    }


def places_heard(game: Game, query: Query, root: Path) -> tuple[Path, Path, Path]:
    """The recordings of a game, in the order in which they are heard."""
    first, second = (game.audio_a, game.audio_b) if game.order == "ab" else (game.audio_b, game.audio_a)
    return root / query.audio, first, second


def heard(game: Game, query: Query, root: Path) -> Heard:
    sounds = [read_audio(place, AUDIO_RATE) for place in places_heard(game, query, root)]
    return Heard(*sounds).after(heard_turns(query, root).turns)


def check_outcomes(judge: PairJudge, outcomes: Sequence[Outcome], games: int) -> None:
    """Refuse what is no outcome of a game: a judge hears places, and "a" would win whichever place it had."""
    if len(outcomes) != games:
        raise UserError(f"{type(judge).__name__}.compare must give an outcome a game; got {len(outcomes)} for {games}")
    if (strange := next((o.verdict for o in outcomes if o.verdict not in (*HEARD_VERDICTS, None)), None)) is not None:
        raise UserError(
            f"{type(judge).__name__}'s verdict must be one of {', '.join(HEARD_VERDICTS)} (in the order heard), or "
            f"None with a status; got {strange!r}"
        )


def battle(game: Game, verdict: str, judge: str) -> Battle:
    """first and second, as heard, become a and b."""
    winners = dict(zip(("first", "second"), game.order, strict=True))
    return Battle(game.query_id, game.a, game.b, game.order, winners.get(verdict, verdict), judge)


def failure(game: Game, outcome: Outcome) -> dict[str, str]:
    return {
        "query_id": game.query_id,
        "a": game.a,
        "b": game.b,
        "order": game.order,
        "status": outcome.status,
        "raw": outcome.raw,
    }
