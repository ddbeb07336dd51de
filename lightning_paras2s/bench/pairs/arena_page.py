"""An arena as one HTML file that one can listen to: the standings, and games with the query, both answers and the
verdict. It makes no request; the audio lies in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.pairs.play import places_of
from lightning_paras2s.bench.pairs.runs import clustered
from lightning_paras2s.bench.template import filled, template
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.types import Battle, Query, read_jsonl

WORDS = {"a": "{a} won", "b": "{b} won", "both_good": "both good", "both_bad": "both bad"}
PAGE_RATE = 16_000
Met = tuple[str, str, str]  # query, and two systems in order of their names


def write_page(
    path: Path, games: Sequence[Battle], runs: Sequence[str], manifest: str, result: dict[str, Any], count: int
) -> dict[str, Any]:
    """Write the page whole or not at all; -> its path, how many games and clips it has, and its bytes.

    Raises:
        UserError: count is not above 0, or no game's answers can be heard.
    """
    from lightning_paras2s.bench.listening import turns_html

    if count < 1:
        raise UserError(f"page_games must be at least 1; got {count}")
    queries = {q.id: q for q in read_jsonl(manifest, Query)}
    places = places_of(runs)
    met = meetings(games)
    playable = {m: v for m, v in met.items() if m[0] in queries and all((m[0], name) in places for name in m[1:])}
    cards, clips = [], 0
    for meeting in spread(playable, count):
        query = queries[meeting[0]]
        answers = [places[query.id, name] for name in meeting[1:]]
        players = [player(sound) for sound in (Path(manifest).parent / query.audio, *answers)]
        clips += sum(one.startswith("<audio") for one in players)
        before = turns_html(query.turns, lambda place: player(Path(manifest).parent / place))
        cards.append(card(query, meeting, playable[meeting], players, before))
    if not clips:
        raise UserError(f"a page needs games whose queries and answers can be heard; got none in {', '.join(runs)}")
    fill = {"__TABLE__": standings(result), "__ABOUT__": escape(about(result, len(met))), "__GAMES__": "\n".join(cards)}
    replace_file(path, filled(template("pairs/arena.html", 1000), fill))
    return {"path": str(path), "games": len(cards), "clips": clips, "bytes": path.stat().st_size}


def meetings(games: Sequence[Battle]) -> dict[Met, list[str]]:
    """Each meeting of two systems at a query, with the verdicts in words: one, or one an order and judge."""
    met: dict[Met, list[str]] = defaultdict(list)
    for g in games:
        first, second = sorted((g.a, g.b))
        met[g.query_id, first, second].append(WORDS[g.verdict].format(a=g.a, b=g.b))
    return dict(met)


def spread(met: dict[Met, list[str]], count: int) -> list[Met]:
    """At most `count`, in turn of each two systems and verdict."""
    groups: dict[tuple, list[Met]] = defaultdict(list)
    for meeting in sorted(met):
        groups[*meeting[1:], tuple(sorted(met[meeting]))].append(meeting)
    longest = max((len(group) for group in groups.values()), default=0)
    turns = [group[i] for i in range(longest) for _, group in sorted(groups.items()) if i < len(group)]
    return sorted(turns[:count])


def player(path: Path) -> str:
    from lightning_paras2s.bench.listening import encode

    try:
        sound = encode(read_audio(path, PAGE_RATE), "mp3")
    except UserError:  # its place is shown instead
        return f'<p class="file">{escape(str(path))} can\'t be heard</p>'
    return f'<audio controls preload="none" src="{sound}"></audio>'


def card(query: Query, meeting: Met, verdicts: list[str], players: list[str], before: str = "") -> str:
    about = f"{query.factor}: {query.label}" if query.label else query.factor
    tags = [tag for tag in (query.level, about) if tag]
    told = "".join(f"<span>{escape(tag)}</span>" for tag in tags)
    said = verdicts[0] if len(set(verdicts)) == 1 else "judges or orders differ: " + "; ".join(verdicts)
    answers = zip(meeting[1:], players[1:], strict=True)
    sides = "".join(f"<section><h3>{escape(name)}</h3>{sound}</section>" for name, sound in answers)
    return (
        f'<article><h2>{escape(query.text or query.id)}</h2><p class="tags">{told}</p>{before}{players[0]}'
        f'<div class="sides">{sides}</div><details><summary>verdict</summary><p>{escape(said)}</p></details></article>'
    )


def about(result: dict[str, Any], met: int) -> str:
    """In a line or two: how many games, whether all systems have a common scale, and whether the order mattered."""
    told = [f"{result['games']} battles of {met} meetings over {result['queries']} queries."]
    told.append(f"{clustered(result['clusters']).capitalize()}.")
    if len(result["groups"]) > 1:
        groups = "; ".join(", ".join(group) for group in result["groups"])
        told.append(f"These groups never met and have no common scale: {groups}.")
    chances = result["equal_p"] if isinstance(result["equal_p"], list) else [result["equal_p"]]
    known = [p for p in chances if p is not None]
    told += [f"If all systems were equal, strengths would differ so much with p = {p:.2g}." for p in known]
    if bias := result["position_bias"]:
        told.append(f"Of {bias['pairs']} pairs heard in both orders, who was first won both times in {bias['first']}, "
                    f"who was second in {bias['second']}.")  # fmt: skip
    return " ".join(told)


def standings(result: dict[str, Any]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("system", "group", "strength", "95 %", "Elo", "won", "lost", "ties"))
    rows = []
    for row in result["systems"]:
        ends = "not known" if None in row["ci95"] else " to ".join(f"{end:.0f}" for end in row["ci95"])
        strength = f"{row['strength']:.0f}" if row["bounded"] else "no bound"
        cells = (escape(row["system"]), row["group"], strength, ends, f"{row['elo']:.0f}", row["wins"],
                 row["losses"], row["both_good"] + row["both_bad"])  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
