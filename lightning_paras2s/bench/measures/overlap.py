"""Words that an answer shares with published good answers, as SD-Eval counts them (arXiv 2406.13340): BLEU by sacrebleu
(Post, WMT 2018, arXiv 1804.08771) and ROUGE by rouge-score (Lin, 2004).

Both need `pip install 'lightning_paras2s[measures]'`, and neither downloads anything.

What a voice says has neither capitals nor punctuation, so both sides are plain lower-case words before they are
compared (sacrebleu's tokenizer "none"), and of a script without spaces each character is one: rouge-score's own
tokenizer drops all but a-z and 0-9, and would give a Chinese answer 0. A figure therefore differs from one of written
text with its punctuation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_units, word_error_rate

ORDERS = 4
ROUGE = ("rouge1", "rouge2", "rougeL")


class Bleu(NamedTuple):
    """Attributes:
    score: 0..100, of this answer alone.
    counts: the sums that BLEU of a whole set is made of: sys_len, ref_len, and correct and total n-grams of each order.
    """

    score: float
    counts: dict[str, float]


def tokens(text: str) -> list[str]:
    """Plain words; each character of a script without spaces by itself."""
    return plain_units(text)


def sentence_bleu(answer: str, references: Sequence[str]) -> Bleu:
    """BLEU of one answer, of the n-gram orders that it is long enough for (sacrebleu's `effective_order`), an order
    without a match smoothed (its `exp`).

    Args:
        answer: text, or a transcript.
        references: good answers; an n-gram counts as often as in the one that has it most.

    Raises:
        UserError: no reference has a word, or sacrebleu is missing.
    """
    found = _bleu().sentence_score(" ".join(tokens(answer)), [" ".join(words) for words in _worded(references)])
    counts = {"sys_len": found.sys_len, "ref_len": found.ref_len}
    counts |= {f"correct{n}": count for n, count in enumerate(found.counts, 1)}
    counts |= {f"total{n}": count for n, count in enumerate(found.totals, 1)}
    return Bleu(float(found.score), {name: float(count) for name, count in counts.items()})


def corpus_bleu(rows: Sequence[Mapping[str, float]]) -> float:
    """BLEU of a whole set, 0..100, from the sums of its answers' counts; NaN of none.

    Args:
        rows: `Bleu.counts` of each answer.
    """
    if not rows:
        return float("nan")
    sums = {name: int(sum(row[name] for row in rows)) for name in rows[0]}
    correct, total = ([sums[f"{kind}{n}"] for n in range(1, ORDERS + 1)] for kind in ("correct", "total"))
    lengths = {"sys_len": sums["sys_len"], "ref_len": sums["ref_len"]}
    return float(type(_bleu()).compute_bleu(correct, total, **lengths, smooth_method="exp").score)


def rouge(answer: str, references: Sequence[str]) -> dict[str, float]:
    """F1 of shared words (rouge1), pairs of words (rouge2) and the longest common subsequence (rougeL), 0..1, each by
    the reference that is best for it.

    Args:
        answer: text, or a transcript.
        references: good answers.

    Raises:
        UserError: no reference has a word, or rouge-score is missing.
    """
    _worded(references)
    found = _rouge().score_multi([text for text in references if tokens(text)], answer)
    return {name: float(found[name].fmeasure) for name in ROUGE}


def wording_errors(words: str, answer: str) -> float:
    """How far an answer is from the words that were asked for: the word error rate, at least 0, may pass 1; in a script
    without spaces each character is a word (URO-Bench's error rate for Chinese)."""
    return word_error_rate(words, answer)


def check_installed(package: str, measure: str) -> None:
    """Refuse a measure whose package is missing, before anything is asked."""
    if find_spec(package) is None:
        raise UserError(
            f"the measure {measure} needs the package {package}; got none; pip install 'lightning_paras2s[measures]'"
        )


def _worded(references: Sequence[str]) -> list[list[str]]:
    found = [words for text in references if (words := tokens(text))]
    if not found:
        raise UserError(f"an answer is compared with references that have words; got {list(references)!r:.80}")
    return found


@lru_cache(maxsize=1)
def _bleu() -> Any:
    check_installed("sacrebleu", "bleu")
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="none", force=True, effective_order=True)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    check_installed("rouge_score", "rouge")
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Plain(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return tokens(text)

    return RougeScorer(list(ROUGE), tokenizer=Plain())
