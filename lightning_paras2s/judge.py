"""Is the response a good fit, in content and tone? Judges read what was heard (paper Eq. 1, guideline A.11.5)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_paras2s.types import Evidence, Query, Style, Verdict


class Judge(ABC):
    """Scores the fit of a response to a query on the Likert scale 1..5."""

    name: str
    rubric_sha: str

    @abstractmethod
    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        """`style` holds the query's labels (gold or predicted); `evidence` is what was heard in the response.

        Never guesses: what can't be judged gets `score=None` and a status.
        """
