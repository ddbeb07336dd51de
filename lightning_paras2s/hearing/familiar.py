"""Does an ear know this speech? The embedded transcriber was raised on eSpeak's voices alone: of another voice it hears
other words, all of them wrong, and a judge would call every answer a mismatch.

How sure its network is of the symbols that it writes tells the two apart: `CONFIDENCE` is the least that one in a
hundred recordings of the training voices falls below (docs/results.md has the rates of false alarms and misses).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_paras2s.audio import is_silent, read_audio
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.types import Response

TRIED = 16  # answers of a system that are listened to before it is judged
RATE = 16_000


def check_familiar(responses: Sequence[Response], root: Path, transcriber: Transcriber) -> None:
    """Refuse systems whose voice the transcriber does not know, before anything is judged.

    Raises:
        UserError: more than half of the first `TRIED` audible answers of a system are strange to it.
    """
    for system in dict.fromkeys(row.system for row in responses):
        rows = [row for row in responses if row.system == system and row.audio][:TRIED]
        audios = [a for row in rows if not is_silent(a := read_audio(root / row.audio, RATE))]
        strange = sum(transcriber.strange(audios))
        if 2 * strange > len(audios):
            raise UserError(
                f"a transcriber must know the speech that it hears; {transcriber.name} knows eSpeak's voices alone; "
                f"{strange} of the first {len(audios)} answers of {system!r} are in another voice, or in none; give an "
                "ear for any speech (--transcriber FasterWhisper), or go on without scores for such answers "
                "(--foreign_speech allow), or judge what is heard (--foreign_speech judge)"
            )
