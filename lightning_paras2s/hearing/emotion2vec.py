"""emotion2vec (Ma et al., 2024): the paper's classifier of a query's emotion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.audio import resample
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.types import Audio, Style

HEARD_RATE = 16_000  # Hz of the samples that it takes


class Emotion2Vec(StyleRecognizer):
    """emotion2vec through funasr (paper: Ma et al., 2024); needs the package funasr and the model's weights.

    Args:
        model: a name that funasr knows, or a folder.
        min_score: probability of the best emotion below which none is heard (the paper: "too low"; the value is ours).
        device: where it computes: cuda, cuda:1, cpu.
    """

    LABELS = {  # its English names -> ours; "other" and "unknown" are no emotion of ours
        "happy": "happy",
        "surprised": "surprised",
        "sad": "sad",
        "angry": "angry",
        "fearful": "fear",
        "disgusted": "disgust",
        "neutral": "neutral",
    }

    def __init__(self, model: str = "iic/emotion2vec_plus_large", min_score: float = 0.5, device: str = "cpu") -> None:
        try:
            from funasr import AutoModel
        except ImportError:
            raise UserError("Emotion2Vec needs the package funasr; got none; pip install funasr modelscope") from None
        self.name = f"{Path(model).name}-p{min_score:g}"
        self.model, self.min_score = AutoModel(model=model, device=device, disable_update=True), min_score

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        return [Style(emotion=best_emotion(*told, self.min_score)) for told in self._told(audios)]

    def emotions(self, audios: list[Audio]) -> list[dict[str, float]]:
        """As URO-Bench takes them: of nine emotions, those that are ours; the others' probability is lost."""
        return [probabilities(*told) for told in self._told(audios)]

    def _told(self, audios: list[Audio]) -> Iterator[tuple[list[str], list[float]]]:
        for audio in audios:
            samples = resample(audio, HEARD_RATE).samples
            result = self.model.generate(samples, granularity="utterance", extract_embedding=False)[0]
            yield result["labels"], result["scores"]


def best_emotion(labels: list[str], scores: list[float], min_score: float) -> str | None:
    """The most probable emotion of ours, or None if it is none or too improbable; labels are like "开心/happy"."""
    score, label = max(zip(scores, labels, strict=True))
    return next(iter(probabilities([label], [score])), None) if score >= min_score else None


def probabilities(labels: list[str], scores: list[float]) -> dict[str, float]:
    """Emotion of ours -> its probability."""
    named = [(Emotion2Vec.LABELS.get(label.split("/")[-1].strip("<> ")), float(score))
             for label, score in zip(labels, scores, strict=True)]  # fmt: skip
    return {emotion: score for emotion, score in named if emotion}
