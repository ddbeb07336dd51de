"""Levels of capability as tags: what hearing an item asks for, by the roadmap towards superhuman speech understanding
(SAGI, Bu et al., arXiv 2410.13268, section 2).

1 words; 2 the sound (loudness, pitch, speed, where it comes from); 3 what the sound means (who speaks, the emotion, the
place); 4 an expert's knowledge of sounds (a cough's cause); 5 all of them together in one task.

The first table holds the roadmap's own tasks. The second is ours: how other corpora name what they ask for.
"""

from __future__ import annotations

import re

from lightning_paras2s.bench.corpora.rows import CorpusItem

TASKS = {
    1: ("language identification", "automatic speech recognition", "auto lyrics transcription", "hallucination rate"),
    2: ("volume perception", "pitch perception", "binaural effect perception"),
    3: ("ambient noise detection", "acoustic scene classification", "speaker age prediction",
        "speaker gender recognition", "speech emotion recognition", "cappella emotion recognition",
        "emotional intensity perception", "emotion translation", "singing detection"),
    4: ("covid 19 risk detection", "cough type classification", "cough origin diagnosis", "cough severity assessment",
        "lung risk screening"),
    5: ("spoken english coach", "voice detective"),
}  # fmt: skip
WORDS = {
    4: r"disease|diagnos\w*|cough",
    3: r"emo|emotions?|underemotion|genemotion|empathy|sarcasm|sarcastic|age|gender|accent|dialect|speaker|scene|"
    r"humou?r|intent\w*",
    2: r"pitch|volume|loudness|speed|pauses?|rhythm|stress\w*|intonation|prosody|duration",
    1: r"transcri\w*|asr|repeat|language",
}
LABELS = ("task_name", "task")  # in which corpora tell it


def task_level(task: str) -> int | None:
    """The level of a task by its name, 1 to 5; None where neither table has it.

    A name that only holds a word of the second table has the highest level of those words.
    """
    name = " ".join(re.sub(r"[^a-z0-9]+", " ", task.lower().replace("'s", "")).split())
    for level, tasks in TASKS.items():
        if name in tasks:
            return level
    return next((level for level, words in WORDS.items() if re.search(rf"\b(?:{words})\b", name)), None)


def item_level(item: CorpusItem) -> int | None:
    """The level of a corpus's item: by the task that it names, else by its subset."""
    named = [str(item.labels[label]) for label in LABELS if item.labels.get(label)]
    found = [task_level(name) for name in (*named, item.subset)]
    return next((level for level in found if level), None)
