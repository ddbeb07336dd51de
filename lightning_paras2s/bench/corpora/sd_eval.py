"""SD-Eval (arXiv 2406.13340): 7,303 utterances in four views: emotion, accent, age, background sound.

ROOT/data/test-{emo,acc,age,env}.json, a list of utt_id, wav_path, transcript, info (a *string*), dataset_name and
target, five of {reply, reply_emotion} (reply_emotion in test-emo only); the recordings lie in ROOT/audio_data or ROOT
(seen: the repository at c05529b, whose test-emo has 1,289 rows, test-age 1,014, test-env 690; test-acc was not
retrievable, its rows are read as the others).

Traps: the recordings are of eight corpora that the user fetches; MEAD's are .m4a, to be turned into the .wav that the
table names. reply_emotion is written as joy and as Joy. The same words are said in several emotions, and by child and
adult: these share a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import found, json_rows
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import STYLES

LICENSE = "CC BY-NC 4.0"
VIEWS = {"test-emo": "emotion", "test-acc": "", "test-age": "age", "test-env": ""}
FIELDS = ("utt_id", "wav_path", "transcript", "info", "target")


def read(root: Path) -> Iterator[Row]:
    folder = root / "data" if (root / "data").is_dir() else root
    tables = [folder / f"{view}.json" for view in VIEWS if (folder / f"{view}.json").is_file()]
    if not tables:
        raise UserError(f"root must hold data/test-emo.json or another of {', '.join(VIEWS)}; got none in {root}")
    audio = root / "audio_data" if (root / "audio_data").is_dir() else root
    for path in tables:
        factor = VIEWS[path.stem]
        for row in json_rows(path, FIELDS):
            label = str(row["info"]).strip().lower()
            known = factor and label in STYLES[factor]
            text = " ".join(str(row["transcript"]).split())
            moods = [str(one["reply_emotion"]).lower() for one in row["target"] if one.get("reply_emotion")]
            yield Row(
                name=str(row["utt_id"]),
                subset=path.stem,
                text=text,
                audio=found(audio, row["wav_path"]),
                styles={factor: label} if known else {},
                pair=text.lower() if known else "",
                references=tuple(str(one["reply"]) for one in row["target"]),
                labels={
                    "info": row["info"],
                    "dataset_name": row.get("dataset_name", ""),
                    "reply_emotions": moods,
                },
            )
