"""Which of our six tones a described tone is: "warm and reassuring", as Audio-Reasoner and chat models say it.

An ear of our own says one of `TONES`; a describer says what it likes. Words that fit two tones stand under both: they
tell neither from the other.
"""

from __future__ import annotations

from lightning_paras2s.hearing.words import plain_words

TONE_WORDS: dict[str, frozenset[str]] = {
    "neutral": frozenset("neutral flat plain even factual matter informative professional monotone".split()),
    "cheerful": frozenset(
        "cheerful happy joyful upbeat bright friendly pleased delighted warm lively playful amused positive".split()
    ),
    "excited": frozenset("excited enthusiastic thrilled energetic amazed surprised delighted lively eager".split()),
    "empathetic": frozenset(
        "empathetic empathic sympathetic compassionate understanding caring concerned comforting gentle tender "
        "considerate supportive sad sorrowful warm".split()
    ),
    "calm": frozenset(
        "calm reassuring soothing steady relaxed composed patient comforting gentle quiet serene confident".split()
    ),
    "apologetic": frozenset("apologetic sorry regretful remorseful contrite".split()),
}
DENIED = frozenset("not no without hardly barely lacking un non".split())


def agrees(wanted: str, heard: str) -> bool:
    """Whether a tone that was heard, one of ours or a description, is the wanted one of `TONES`. A description that
    denies something ("not cheerful") agrees with nothing."""
    words = set(plain_words(heard))
    return bool(words & TONE_WORDS[wanted]) and not words & DENIED
