"""The audit: a recogniser and an ear that nothing was trained on or against; they tell whether a policy games its
judge.

The judge hears with networks that were trained here; the reward was trained on the judge. The audit hears with other
means:
`EGemapsRecognizer` is openSMILE's eGeMAPS functionals (Eyben et al. 2016) with logistic regression, fitted on original
speech only, and
`TemplateEar` has no training at all: it compares the cepstra of a response with renditions of texts, by dynamic time
warping.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from lightning_paras2s.audio import is_silent, read_audio, resample
from lightning_paras2s.data.embedded import agent_lines, query_lines
from lightning_paras2s.data.spoken import corpus_audio
from lightning_paras2s.errors import InputPath, UserError, tell_in_one_line
from lightning_paras2s.hearing.recognizers import HEADS, StyleRecognizer
from lightning_paras2s.models.signals import create_dct
from lightning_paras2s.models.tiny.features import MELS, log_mel
from lightning_paras2s.running.logs import Log
from lightning_paras2s.running.shipped import weights_file
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Audio, Response, Style


class EGemapsRecognizer(StyleRecognizer):
    """88 functionals of pitch, loudness, timbre and tempo -> one linear classifier a factor.

    Args:
        path: coefficients (JSON), written by `fit_egemaps`; by default those that are shipped.

    Raises:
        UserError: openSMILE (the extra `audit`) or the file is missing.
    """

    name = "egemaps-logistic-1"

    def __init__(self, path: InputPath = "checkpoints/embedded/audit.json") -> None:
        require_opensmile()
        coefficients = weights_file(path, "the audit's coefficients must be an existing file")
        self.heads = {
            name: {key: np.asarray(value) for key, value in head.items()}
            for name, head in json.loads(coefficients.read_text()).items()
        }

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        wanted = ["tone"] if role == "response" else [h for h in HEADS if h != "tone"]
        functionals = egemaps(audios)
        labels = {h: self._classify(functionals, self.heads[f"{role}/{h}"], HEADS[h]) for h in wanted}
        return [Style(**{h: labels[h][i] for h in wanted}) for i in range(len(audios))]

    def _classify(self, x: np.ndarray, head: dict[str, np.ndarray], values: tuple[str, ...]) -> list[str]:
        scores = (x - head["mean"]) / head["scale"] @ head["weight"].T + head["bias"]
        return [values[int(head["classes"][i])] for i in scores.argmax(1)]


def require_opensmile() -> None:
    if find_spec("opensmile") is None:
        raise UserError("the audit needs the package opensmile; got none; pip install 'lightning_paras2s[audit]'")


def egemaps(audios: list[Audio]) -> np.ndarray:
    """[B, 88] functionals; needs the extra `audit`."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    rows = []
    for audio in audios:
        samples = audio.samples if audio.seconds >= 0.2 else np.pad(audio.samples, (0, int(0.2 * audio.sample_rate)))
        rows.append(smile.process_signal(samples, audio.sample_rate).to_numpy()[0])
    return np.nan_to_num(np.stack(rows))


def fit_egemaps(path: str, size: int = 1500, seed: int = 900) -> dict[str, float]:
    """Fit the audit's classifiers on original training speech; -> accuracy on validation voices and texts, a head."""
    require_opensmile()
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    heads, accuracy = {}, {}
    for role, make in (("query", query_lines), ("response", agent_lines)):
        data = {s: make(n, seed + i, s, 0.0) for i, (s, n) in enumerate((("train", size), ("val", size // 5)))}
        x = {s: egemaps(corpus_audio(lines)) for s, lines in data.items()}
        for head in [h for h in HEADS if (h == "tone") == (role == "response")]:
            y = {
                s: np.array([HEADS[head].index(v) if (v := getattr(t.style, head)) else -1 for t in lines])
                for s, lines in data.items()
            }
            scaler = StandardScaler().fit(x["train"][y["train"] >= 0])
            fit = LogisticRegression(C=0.3, max_iter=2000)
            fit.fit(scaler.transform(x["train"][y["train"] >= 0]), y["train"][y["train"] >= 0])
            known = y["val"] >= 0
            accuracy[f"{role}/{head}"] = float(fit.score(scaler.transform(x["val"][known]), y["val"][known]))
            weight, bias, classes = fit.coef_, fit.intercept_, fit.classes_
            if len(classes) == 2:  # scikit-learn keeps one row for two classes
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            arrays = {"mean": scaler.mean_, "scale": scaler.scale_, "weight": weight, "bias": bias, "classes": classes}
            heads[f"{role}/{head}"] = {k: np.round(v, 5).tolist() for k, v in arrays.items()}
    Path(path).write_text(json.dumps(heads))
    return accuracy


class TemplateEar:
    """Intelligibility without a recogniser: is a response nearer to its own words than to others?

    A rendition of each text (neutral, another prosody than the response's tone) is compared with the response by
    dynamic time warping over mean-normalised cepstra. A response is understood if its own text is the nearest of all
    candidates.
    """

    name = "template-dtw-1"

    def __init__(self, distractors: list[str], count: int = 9, seed: int = 0) -> None:
        self.distractors, self.count, self.seed = distractors, count, seed
        self.synthesizer = EspeakSynthesizer()
        self._templates: dict[str, np.ndarray] = {}

    def understood(self, audios: list[Audio], texts: list[str]) -> list[bool]:
        """Whether each response's own text is nearest among `count` distractors of its length and itself (chance: 1 /
        (count + 1))."""
        return [
            self._understood(audio, text, index) for index, (audio, text) in enumerate(zip(audios, texts, strict=True))
        ]

    def _understood(self, audio: Audio, text: str, index: int) -> bool:
        if is_silent(audio) or not text.split():
            return False
        random = np.random.default_rng([self.seed, index])
        others = sorted({t for t in self.distractors if t != text}, key=lambda t: (abs(len(t) - len(text)), t))[
            : 5 * self.count
        ]
        chosen = [others[i] for i in random.permutation(len(others))[: self.count]]
        heard = cepstra(audio)
        own, *rest = (warp_distance(heard, self._template(t)) for t in [text, *chosen])
        return own < min(rest)

    def _template(self, text: str) -> np.ndarray:
        if text not in self._templates:
            self._templates[text] = cepstra(self.synthesizer.speak_as_agent(text, "neutral").audio)
        return self._templates[text]


def cepstra(audio: Audio) -> np.ndarray:
    """Audio -> [T, 12], mel cepstra 1..12 at 50 Hz, mean and variance normalised."""
    samples = torch.from_numpy(resample(audio, 16_000).samples.copy())
    samples = torch.nn.functional.pad(samples, (0, -len(samples) % 640))
    found = (log_mel(samples[None])[0, ::2] @ create_dct(13, MELS, "ortho"))[:, 1:].numpy()
    return (found - found.mean(0)) / (found.std(0) + 1e-5)


def warp_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Dynamic time warping distance of [T, D] and [U, D], per step of the shorter path bound (T + U)."""
    cost = np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0))
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    # Anti-diagonals: every cell of one depends only on the two before it.
    for diagonal in range(2, len(a) + len(b) + 1):
        i = np.arange(max(1, diagonal - len(b)), min(len(a), diagonal - 1) + 1)
        j = diagonal - i
        best = np.minimum(
            np.minimum(total[i - 1, j], total[i, j - 1]) + cost[i - 1, j - 1],
            total[i - 1, j - 1] + 2 * cost[i - 1, j - 1],
        )
        total[i, j] = best
    return float(total[len(a), len(b)] / (len(a) + len(b)))


def intelligibility(run: str, limit: int = 200) -> dict[str, dict[str, float]]:
    """Share of each system's responses in a folder of `evaluate` that `TemplateEar` understands, of how many, and what
    share it would by chance (a tenth, or more where fewer than ten texts were said). It has no interval: the folder
    doesn't say which responses are to one contrast pair, and so hang together."""
    responses = [r for r in Log(Path(run)).read("responses", Response) if r.status == "ok" and r.text]
    if not responses:
        raise UserError(f"a run must be a folder of `evaluate` with spoken answers; got {run}; finish it first")
    texts = sorted({r.text for r in responses if r.text})
    if len(texts) < 2:
        raise UserError(f"an ear for words tells texts apart; got {texts[0]!r} alone in {run}; nothing else was said")
    ear = TemplateEar(texts)
    chance = 1 / min(len(texts), ear.count + 1)
    result = {}
    for system in sorted({r.system for r in responses}):
        some = [r for r in responses if r.system == system][:limit]
        heard = ear.understood([read_audio(Path(run) / r.audio, 16_000) for r in some], [r.text or "" for r in some])
        result[system] = {"understood": sum(heard) / len(heard), "n": len(heard), "chance": chance}
    return result


def main() -> None:
    """`FOLDER of evaluate`: print how intelligible its responses are; `FILE.json`: fit the audit's recogniser there."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "checkpoints/embedded/audit.json")
    if len(sys.argv) > 2 or not (target.is_dir() or target.suffix == ".json"):
        got = " ".join(sys.argv[1:])
        raise UserError(f"the audit takes a folder of `evaluate` or a .json file to write; got {got!r}; check the path")
    print(json.dumps(intelligibility(str(target)) if target.is_dir() else fit_egemaps(str(target))))


if __name__ == "__main__":
    tell_in_one_line(main)
