"""`judge_table`: which parts does a judge need? The ablation of ParaS2S v2 (its judges B1, O1, O2, O5, O6), small.

The paper compares judges with people. There are no human ratings here, so the reference is *construction*
(`constructed.py`). Judges hear recordings of query and reply and know none of it. The reference and the judges in
stages share their rules; so the table tells what is lost by hearing (labels, tone, words), not whether the rules agree
with people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_paras2s.bench.diagnostics.constructed import TEXTS, Constructed, construct
from lightning_paras2s.bench.people.reliability import CORRELATIONS, bias, correlation, mean_absolute_error
from lightning_paras2s.bench.people.resampling import correlation_gain
from lightning_paras2s.bench.summary import rounded
from lightning_paras2s.data.spoken import corpus_audio
from lightning_paras2s.errors import InputPath, UserError, check_choice
from lightning_paras2s.hearing.polytone import PolyToneRecognizer
from lightning_paras2s.hearing.recognizers import AcousticStyleRecognizer, StyleNetwork, StyleRecognizer
from lightning_paras2s.hearing.transcribers import CTCNetwork, TinyTranscriber, pad_acoustics
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging.judges import EmbeddedJudge, Judge
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.tiny.scorer import TrainedScorer
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import FACTORS, Audio, Evidence, Style

JUDGES = ("end_to_end", "control", "polytone", "gold", "gold_tone")  # in the paper's order, worst first
# Pearson with people, mean over the factors; v2's, known to us from digests
PAPER = {"end_to_end": 0.618, "control": 0.701, "polytone": 0.723, "gold": 0.757, "gold_tone": 0.776}


@dataclass(frozen=True)
class Recorded:
    """A constructed item with its two recordings, and what was heard in the reply."""

    item: Constructed
    query: Audio
    response: Audio
    evidence: Evidence


def judge_table(
    polytone: str = "checkpoints/embedded/polytone",
    control: str = "checkpoints/embedded/polytone-control",
    texts: Literal["neutral", "suggestive"] = "neutral",
    n: int = 12,
    training: int = 12,
    scorer: InputPath | None = None,
    transcriber: InputPath = "checkpoints/embedded/transcriber.safetensors",
    style: InputPath = "checkpoints/embedded/style.safetensors",
    acts: InputPath = "checkpoints/embedded/acts.safetensors",
    seed: int = 0,
) -> dict[str, Any]:
    """Agreement of five judges with replies whose right score is known by construction (no human rated them).

    Args:
        polytone: prefix of the analysers' weights.
        control: prefix of the control analysers' weights.
        texts: neutral (the benchmark's queries) or suggestive (words that suggest a style, spoken in all styles).
        n: test texts a factor; each is spoken in several styles and answered in seven ways.
        training: training texts a factor, on whose replies the end-to-end judge is fitted where it has no weights.
        scorer: weights of a `TrainedScorer` as the end-to-end judge; without, a small regression on pooled hearing.
        transcriber: weights of the judges' ear for words.
        style: weights of their ear for style.
        acts: weights of their classifier of what a reply does.
        seed: of texts, voices and replies.
    """
    check_choice("texts", texts, TEXTS)
    if n < 2 or training < 2:
        raise UserError(f"there must be two texts a factor or more, to test and to train on; got {n}, {training}")
    ears = TinyTranscriber(transcriber, batch_size=1), AcousticStyleRecognizer(style, batch_size=1)
    test = record(construct(texts, n, "test", seed), *ears)
    labellers = {
        name: PolyToneRecognizer(path, transcriber) for name, path in (("polytone", polytone), ("control", control))
    }
    scores = stage_scores(test, EmbeddedJudge(acts), labellers)
    if scorer is None:
        train = record(construct(texts, training, "train", seed), *ears)
        scores["end_to_end"] = PooledHearing(transcriber, style).fit(train, seed).score(test)
    else:
        scores["end_to_end"] = trained_scores(scorer, test)
    return {
        **table(test, scores),
        "texts": texts,
        "end_to_end": scorer or f"pooled hearing, fitted on {len(train)} constructed training replies",
        "reference": "guideline as rules on known act, tone and style; no human ratings",
        "n": len(test),
        "paper_pearson": PAPER,
    }


def record(items: list[Constructed], transcriber: TinyTranscriber, recognizer: StyleRecognizer) -> list[Recorded]:
    """Speak queries and replies, and hear the replies."""
    agent, queries, made = EspeakSynthesizer(), {}, []
    for item in items:
        if item.query.id not in queries:
            queries[item.query.id] = corpus_audio([item.spoken.line])[0]
        response = agent.speak_as_agent(item.text, item.tone).audio
        words, tone = transcriber.transcribe([response])[0], recognizer.recognize([response], "response")[0].tone or ""
        evidence = Evidence(f"{item.kind}/{item.query.id}/0", words, word_error_rate(item.text, words), tone, tone)
        made.append(Recorded(item, queries[item.query.id], response, evidence))
    return made


def stage_scores(rows: list[Recorded], judge: Judge, labellers: dict[str, StyleRecognizer]) -> dict[str, NDArray]:
    """Judge in stages with gold labels and no tone (told that it is neutral), with gold labels and tone, and with each
    labeller's labels and tone; NaN = no score."""
    gold = [Style(**r.item.query.styles) for r in rows]
    toneless = [replace(r.evidence, tone="neutral", tone_raw="neutral") for r in rows]
    found = {"gold": _judge(judge, rows, gold, toneless)}
    found["gold_tone"] = _judge(judge, rows, gold, [r.evidence for r in rows])
    for name, labeller in labellers.items():
        labels = {r.item.query.id: r.query for r in rows}
        labels = {query: labeller.recognize([audio], "query")[0] for query, audio in labels.items()}
        found[name] = _judge(judge, rows, [labels[r.item.query.id] for r in rows], [r.evidence for r in rows])
    return found


def _judge(judge: Judge, rows: list[Recorded], styles: list[Style], evidence: list[Evidence]) -> NDArray:
    verdicts = [judge.judge(r.item.query, s, e) for r, s, e in zip(rows, styles, evidence, strict=True)]
    return np.array([np.nan if v.score is None else v.score for v in verdicts])


class PooledHearing:
    """An end-to-end judge in small: gradient boosting on what the embedded ears hear of query and reply, averaged over
    time. It is given neither label, tone nor transcript."""

    def __init__(self, transcriber: str, style: str) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.transcriber = load_module(CTCNetwork, transcriber).eval()
        self.style = load_module(StyleNetwork, style).eval()
        self.model = HistGradientBoostingRegressor(max_iter=150, max_leaf_nodes=8, min_samples_leaf=10)

    def features(self, rows: list[Recorded]) -> NDArray:
        """[rows, F]: of query and of reply, mean and deviation of the phones' probabilities and of the style
        network's frames, and its labels' probabilities."""
        pooled: dict[int, NDArray] = {}
        for audio in (a for r in rows for a in (r.query, r.response)):
            if id(audio) not in pooled:
                pooled[id(audio)] = self._pool(audio)
        return np.stack([np.concatenate([pooled[id(r.query)], pooled[id(r.response)]]) for r in rows])

    @torch.no_grad()
    def _pool(self, audio: Audio) -> NDArray:
        frames, lengths = pad_acoustics([audio])
        heard = self.transcriber(frames)[0].softmax(-1), self.style.body(self.style.stem(frames.transpose(1, 2)))[0].T
        labels = [logits[0].softmax(-1) for logits in self.style(frames, torch.tensor(lengths)).values()]
        return torch.cat([*(part.mean(0) for part in heard), *(part.std(0) for part in heard), *labels]).numpy()

    def fit(self, rows: list[Recorded], seed: int) -> PooledHearing:
        self.model.set_params(random_state=seed)
        self.model.fit(self.features(rows), [r.item.score for r in rows])
        return self

    def score(self, rows: list[Recorded]) -> NDArray:
        return np.clip(self.model.predict(self.features(rows)), 1, 5)


def trained_scores(path: str, rows: list[Recorded]) -> NDArray:
    """Expected scores of the distilled reward model."""
    scorer = TrainedScorer(path).eval()
    with torch.no_grad():
        return torch.cat([scorer([r.query], [r.response]) for r in rows]).numpy()


def table(rows: list[Recorded], scores: dict[str, NDArray]) -> dict[str, Any]:
    """Agreement of each judge with the reference over the replies that every judge scored; clustered by text."""
    reference = np.array([r.item.score for r in rows])
    texts = np.array([r.item.query.pair_id for r in rows])
    factors = np.array([r.item.query.factor for r in rows])
    common = np.isfinite(np.stack([scores[name] for name in JUDGES])).all(0)
    judges = {}
    for name in JUDGES:
        x, y = scores[name][common], reference[common]
        pearson, spearman = (correlation(x, y, texts[common], kind) for kind in ("pearson", "spearman"))
        judges[name] = {
            "pearson": rounded(pearson.value),
            "pearson_ci95": [rounded(pearson.low), rounded(pearson.high)],
            "spearman": rounded(spearman.value),
            "spearman_ci95": [rounded(spearman.low), rounded(spearman.high)],
            "mae": rounded(mean_absolute_error(x, y)),
            "bias": rounded(bias(x, y)),
            "n_failed": int((~np.isfinite(scores[name])).sum()),
            "pearson_by_factor": {
                f: rounded(CORRELATIONS["pearson"](x[factors[common] == f], y[factors[common] == f])) for f in FACTORS
            },
        }
    order = sorted(JUDGES, key=lambda name: judges[name]["pearson"] or 0.0)
    gains = {
        f"{better} - {worse}": pearson_gain(
            scores[better][common], scores[worse][common], reference[common], texts[common]
        )
        for better, worse in (("polytone", "control"), ("gold_tone", "polytone"), ("gold_tone", "gold"))
    }
    return {
        "judges": judges,
        "order": order,
        "papers_order": all(is_worse(judges[a]["pearson"], judges[b]["pearson"]) for a, b in pairwise(JUDGES)),
        "gains": gains,
        "n_common": int(common.sum()),
    }


def is_worse(one: float | None, other: float | None) -> bool:
    """Of two correlations; equal or unknown ones are in no order."""
    return one is not None and other is not None and one < other


def pearson_gain(a: NDArray, b: NDArray, reference: NDArray, texts: NDArray) -> dict[str, Any]:
    """How much better judge a correlates than judge b, on the same replies, with an interval clustered by text."""
    pearson = CORRELATIONS["pearson"]
    first, second = (lambda rows, x=x: pearson(x[rows], reference[rows]) for x in (a, b))
    every, ends = np.arange(len(a)), correlation_gain(first, second, texts.tolist())
    return {"value": rounded(first(every) - second(every)), "ci95": [rounded(end) for end in ends]}
