"""Real speech as queries (paper, section 3.1): importers of IEMOCAP, MELD and StyleTalk from the user's own copies.

The paper keeps utterances of at least five words with one of six emotions, whose style matters to the answer. That
last test (paralinguistic relevance) is not made here: A.3 compares the answers to two styles, a recording has one, and
the paper does not tell what it is held against. Its counts (709, 781) and durations can't be had by any obvious
selection of single utterances, so nothing is promised: the length is a parameter and all counts are reported. Nothing
of these corpora is redistributed here; tests use look-alike folders. Recordings without labels are imported by
`unlabelled.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from lightning_paras2s.bench.corpora.importing import CORPORA, Corpus, import_corpus
from lightning_paras2s.bench.queries.manifest import unheard, write_manifest
from lightning_paras2s.bench.queries.tables import rows_of
from lightning_paras2s.bench.queries.unlabelled import Limits, import_recordings
from lightning_paras2s.errors import InputPath, UserError, check_choice
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.voice_activity import VoiceActivity
from lightning_paras2s.running.logs import say
from lightning_paras2s.types import FACTORS, SPLITS, Query

MIN_WORDS = 5
IEMOCAP_EMOTIONS = {"hap": "happy", "sur": "surprised", "sad": "sad", "ang": "angry", "fea": "fear", "dis": "disgust"}
MELD_EMOTIONS = {
    "joy": "happy",
    "surprise": "surprised",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fear",
    "disgust": "disgust",
}
MELD_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
STYLETALK_EMOTIONS = {"cheerful": "happy", "sad": "sad", "unfriendly": "angry"}
TURN = re.compile(r"^\[\d+\.\d+ - \d+\.\d+\]\t(\S+)\t(\w+)\t")
LINE = re.compile(r"^(Ses\w+) \[[\d.-]+\]: (.*)$")
Found = tuple[Query | None, str]  # a query, or why there is none


def import_speech(
    corpus: Literal["recordings", "iemocap", "meld", "styletalk", "folder"] | Corpus,
    root: InputPath,
    out: str,
    split: str = "test",
    min_words: int = MIN_WORDS,
    excited: bool = False,
    transcriber: Transcriber | None = None,
    voice_activity: VoiceActivity | None = None,
    min_seconds: float = 1.0,
    max_seconds: float = 20.0,
    pause_seconds: float = 1.5,
) -> dict:
    """Write a manifest of recordings of real speech; -> counts of what was kept and what was not, and why.

    Audio paths are relative to the manifest's folder. What can't be used is counted and left out.

    Args:
        corpus: whose layout is read. recordings: your own of any kind, without labels: whatever holds speech is cut,
            written down and copied beside the manifest. folder: your own with labels, which stay where they are. From
            voicebench on, benchmarks and corpora of dialogues (docs/corpora.md): all their items are kept, with what
            else they say in OUT.items.jsonl.
        root: its folder (IEMOCAP_full_release; a MELD folder with data/MELD/*.csv and MELD.Raw as WAV; StyleTalk's).
            recordings: a folder (searched at any depth, unless a metadata.csv, .tsv or .jsonl in it lists what counts),
            a table (csv, tsv or jsonl with a column file, and text and speaker if they are known), or a folder that
            Hugging Face's datasets saved to disk.
            folder: recordings with metadata.csv, its columns file, text, and any of emotion, sarcasm, age, gender (the
            first that is filled in is the factor, unless the column factor names it), speaker, topic, pair (recordings
            of one text in two styles share it).
        out: manifest to write.
        split: IEMOCAP: sessions 1 and 2 are test, 3 to 5 train (paper). MELD: train, dev, test. StyleTalk: train, test.
            Your own: any of train, val, test.
        min_words: shorter utterances are left out (but for the corpora from voicebench on).
        excited: IEMOCAP's "exc" counts as happy.
        transcriber: recordings: writes down what a table doesn't tell; FasterWhisper of the extra ears by default.
        voice_activity: recordings: tells where somebody speaks; SileroVAD of the extra ears by default.
        min_seconds: recordings: shorter pieces are left out.
        max_seconds: recordings: a longer one is cut, at a pause if it has one; at most 60.
        pause_seconds: recordings: a longer pause always cuts, unless a table tells the words.
    """
    if corpus == "recordings":
        check_choice("a split", split, SPLITS)
        limits = Limits(min_words, min_seconds, max_seconds, pause_seconds)
        return import_recordings(Path(root), Path(out), split, limits, transcriber, voice_activity)
    readers: dict[str, Callable[[], Iterator[Found]]] = {
        "iemocap": lambda: iemocap(Path(root), split, excited),
        "meld": lambda: meld(Path(root), split),
        "styletalk": lambda: styletalk(Path(root), split),
        "folder": lambda: folder(Path(root), split),
    }
    if corpus in CORPORA:
        return import_corpus(corpus, Path(root), Path(out), split)
    check_choice("corpus", corpus, ["recordings", *readers, *CORPORA])
    counts: Counter[str] = Counter()
    kept: dict[str, Query] = {}
    for query, why in readers[corpus]():
        if query is not None and len(query.text.split()) < min_words:
            why = "few_words"
        elif query is not None and not Path(query.audio).is_file():
            why = "no_audio"
        elif query is not None and (query := with_own_id(query, kept)) is None:
            why = "duplicate"
        counts[why or "kept"] += 1
        if query is not None and not why:
            kept[query.id] = query
    if not kept:
        say(f"{root} holds no utterance to keep: {dict(counts)}; check root, split and min_words")
    write_manifest(Path(out), kept.values())
    by_style = Counter(q.styles[q.factor] for q in kept.values())
    sizes = Counter(Counter(q.pair_id for q in kept.values()).values())
    return {"manifest": out, "counts": dict(counts), "by_style": dict(by_style), "group_sizes": dict(sizes)}


def with_own_id(query: Query, kept: dict[str, Query]) -> Query | None:
    """The query, under an id that no other recording has (a/b.wav and a-b.wav would share theirs); None if this very
    recording is kept already."""
    if query.id not in kept:
        return query
    name = f"{query.id}-{sha256(query.audio.encode()).hexdigest()[:8]}"
    if kept[query.id].audio == query.audio or name in kept:
        return None
    return replace(query, id=name, pair_id=name if query.pair_id == query.id else query.pair_id)


def iemocap(root: Path, split: str, excited: bool = False) -> Iterator[Found]:
    """Turns of IEMOCAP. The speaker's sex is the letter of the *turn* (F019), not of the dialogue (Ses01F)."""
    emotions = IEMOCAP_EMOTIONS | ({"exc": "happy"} if excited else {})
    sessions = {"test": (1, 2), "train": (3, 4, 5)}.get(split)
    if sessions is None:
        raise UserError(f"IEMOCAP's split must be train or test; got {split!r}")
    for session in (root / f"Session{i}" for i in sessions):
        labels = session / "dialog/EmoEvaluation"
        if not labels.is_dir():
            raise UserError(f"root must be IEMOCAP_full_release with Session1 to Session5; got no {labels}")
        for path in sorted(p for p in labels.glob("*.txt") if not p.name.startswith(".")):
            texts = dict(iemocap_lines(session / "dialog/transcriptions" / path.name))
            for line in path.read_text(encoding="latin-1").splitlines():
                if match := TURN.match(line):
                    yield iemocap_turn(session, path.stem, match[1], emotions.get(match[2]), texts.get(match[1]), split)


def iemocap_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Turn and words; lines of breathing and laughter have no turn's name and are skipped. A dialogue without a
    transcript has none."""
    if not path.is_file():
        say(f"{path} is missing: its dialogue's turns have no text and are left out")
        return
    for line in path.read_text(encoding="latin-1").splitlines():
        if match := LINE.match(line):
            yield match[1], " ".join(match[2].split())


def iemocap_turn(session: Path, dialog: str, turn: str, emotion: str | None, text: str | None, split: str) -> Found:
    if emotion is None:
        return None, "other_emotion"
    if not text:
        return None, "no_text"
    sex = turn.split("_")[-1][0]
    audio = session / "sentences/wav" / dialog / f"{turn}.wav"
    styles = {"emotion": emotion, "age": "adult", "gender": {"F": "female", "M": "male"}[sex]}
    return real_query("iemocap", turn, split, text, styles, "", audio, f"{session.name}-{sex}", "IEMOCAP licence"), ""


def meld(root: Path, split: str) -> Iterator[Found]:
    """Utterances of MELD; its clips must have been turned from .mp4 into .wav beside them (ffmpeg)."""
    check_choice("MELD's split", split, MELD_FOLDERS)
    table = root / "data/MELD" / f"{split}_sent_emo.csv"
    folder = root / "MELD.Raw" / MELD_FOLDERS[split]
    for row in rows_of(table, ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")):
        emotion = MELD_EMOTIONS.get(row["Emotion"])
        if emotion is None:
            yield None, "other_emotion"
            continue
        name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        ours = "val" if split == "dev" else split
        text = plain(row["Utterance"])
        audio, styles, speaker = folder / f"{name}.wav", {"emotion": emotion}, row["Speaker"]
        yield real_query("meld", f"{split}-{name}", ours, text, styles, "", audio, speaker, "GPL-3.0"), ""


def styletalk(root: Path, split: str) -> Iterator[Found]:
    """StyleTalk: the same words in several styles; contrast groups of any size (eval.csv: 342 pairs, 18 triples)."""
    name = {"train": "train.csv", "test": "eval.csv"}.get(split)
    if name is None:
        raise UserError(f"StyleTalk's split must be train or test; got {split!r}")
    groups: dict[tuple[str, str], int] = {}
    for row in rows_of(root / name, ("diag_id", "curr_audio_id", "curr_text", "curr_emotion")):
        text = plain(re.sub(r"^\s*[AB]\s*:\s*", "", row["curr_text"]))  # without the "B: " of the dialogue
        group = groups.setdefault((row["diag_id"], text), len(groups))
        emotion = STYLETALK_EMOTIONS.get(row["curr_emotion"])
        if emotion is None:
            yield None, "other_emotion"
            continue
        item = row["curr_audio_id"].removesuffix(".wav")
        audio = root / "audio" / row["curr_audio_id"]
        query = real_query(
            "styletalk", item, split, text, {"emotion": emotion}, row["diag_id"], audio, "", "MIT (text)"
        )
        yield replace(query, pair_id=f"styletalk-{group:04d}"), ""


def folder(root: Path, split: str) -> Iterator[Found]:
    """Your own recordings, as metadata.csv beside them says."""
    check_choice("a split", split, SPLITS)
    for number, row in enumerate(rows_of(root / "metadata.csv", ("file", "text")), 2):
        if not set(FACTORS) & set(row):
            raise UserError(
                f"{root / 'metadata.csv'} must have a column of {', '.join(FACTORS)}; got "
                f"{', '.join(filter(None, row))}; recordings without labels are of the corpus `recordings`"
            )
        styles = {factor: row[factor].strip() for factor in FACTORS if (row.get(factor) or "").strip()}
        factor = (row.get("factor") or "").strip() or next(iter(styles), "")
        if factor not in styles:
            yield None, "no_style"
            continue
        if not Path(row["file"]).name:
            yield None, "no_audio"
            continue
        if (root / row["file"]).is_file() and unheard(root / row["file"]):
            yield None, "unheard"
            continue
        name = Path(row["file"]).with_suffix("").as_posix()
        audio, topic, speaker = root / row["file"], row.get("topic") or "", row.get("speaker") or ""
        query = real_query("folder", name, split, plain(row["text"]), styles, topic, audio, speaker, "")
        pair = (row.get("pair") or "").strip() or query.id
        try:
            query.style  # noqa: B018  raises for an unknown style
        except UserError as error:
            raise UserError(f"{root / 'metadata.csv'}:{number}: {error}") from None
        yield replace(query, factor=factor, pair_id=pair), ""


def real_query(
    corpus: str,
    name: str,
    split: str,
    text: str,
    styles: dict[str, str],
    topic: str,
    audio: Path,
    voice: str,
    license: str,
) -> Query:
    query_id = f"{corpus}-{name}".replace("/", "-")
    path = str(audio.resolve())
    return Query(query_id, query_id, "emotion", split, text, styles, topic, path, voice, source=corpus, license=license)


def plain(text: str) -> str:
    """Straight quotes and single spaces; MELD's files hold curly quotes, and \\x92 where they were decoded badly."""
    return " ".join(text.translate(str.maketrans({"’": "'", "‘": "'", "\x92": "'", "“": '"', "”": '"'})).split())
