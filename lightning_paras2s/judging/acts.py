"""What does a response do? A small, readable text classifier: comforts, celebrates, asks for a guardian, apologises,
... or nothing of the kind.

TF-IDF of words, word pairs and word beginnings, then multinomial logistic regression, fitted (scikit-learn) on the
*training* reply frames alone, their subject slot filled with training subjects, with the errors that a small
transcriber makes. At run time: numpy and one file. `python -m lightning_paras2s.judging.acts` fits it and prints its
accuracy on held-out frames and subjects.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from safetensors import SafetensorError, safe_open

from lightning_paras2s.data.embedded import authored, frames, lexicon
from lightning_paras2s.errors import OneLineErrors, UserError, tell_in_one_line
from lightning_paras2s.hearing.phones import pronounce, sound
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.rubric import GENERIC, GIBBERISH, OTHER, STOPWORDS, is_broken, names_topic
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.running.shipped import weights_file

FORMAT = "acts-3"
SLOT = "{subject}"
TOPIC, TOPIC_WORD = "_", "subjectword"
STEM = 3


class Act(NamedTuple):
    """What a reply does, the classifier's confidence in it, and the shares of known words and of known word pairs."""

    name: str
    confidence: float
    known_words: float
    known_pairs: float


class ActClassifier:
    """Transcript -> act.

    Args:
        path: file written by `fit`.
        min_confidence: below it, a reply's act is unclear: gibberish.
        min_known_words: below this share of words that are known or the query's own, a reply is gibberish.
        min_known_pairs: below this share of neighbours in an order known from training texts (half by the words
            themselves, half with content words alike), a reply is a heap of words: gibberish.
        min_mass: of probability on the query's factor and "generic"; below it the reply answers another factor.
    """

    def __init__(
        self,
        path: str | Path,
        min_confidence: float = 0.4,
        min_known_words: float = 0.6,
        min_known_pairs: float = 0.5,
        min_mass: float = 0.05,
    ) -> None:
        self.limits = (min_confidence, min_known_words, min_known_pairs, min_mass)
        self.acts, self.terms, self.lexicon, self.pairs, tensors = _load(Path(path))
        self.idf, self.weights, self.bias = tensors["idf"], tensors["weights"], tensors["bias"]

    def probabilities(self, words: list[str]) -> np.ndarray:
        """[acts], sums to 1; `words` with the topic masked."""
        index = [self.terms[t] for t in terms(words) if t in self.terms]
        vector = np.zeros(len(self.terms))
        np.add.at(vector, index, 1.0)
        vector *= self.idf
        logits = self.weights @ (vector / max(np.linalg.norm(vector), 1e-12)) + self.bias
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()

    def classify(self, transcript: str, factor: str, query_text: str) -> Act:
        """The most likely act among the factor's styles and "generic"; "other" if nearly all probability lies on other
        factors."""
        heard = plain_words(transcript)
        words = mask_topic(heard, query_text)
        known_words = sum(w == TOPIC or w in self.lexicon for w in words) / max(1, len(words))
        known_pairs = self.known_pairs(words)
        name, confidence, mass = self.likeliest(words, factor)
        repeats = len(words) >= 4 and len(set(words)) / len(words) < 0.6
        low = any(got < limit for got, limit in zip((confidence, known_words, known_pairs), self.limits, strict=False))
        if len(words) < 2 or repeats or low or is_broken(heard):
            name = GIBBERISH
        elif mass < self.limits[3]:
            name = OTHER
        return Act(name, confidence, known_words, known_pairs)

    def likeliest(self, words: list[str], factor: str) -> tuple[str, float, float]:
        """The act of the factor's that these words are most likely to be, be they nonsense or not; how likely among
        them, and their share of all probability. `words` with the topic masked."""
        odds = dict(zip(self.acts, self.probabilities(words).tolist(), strict=True))
        candidates = {a: p for a, p in odds.items() if a == GENERIC or a.startswith(f"{factor}:")}
        mass = sum(candidates.values())
        name = max(candidates, key=candidates.__getitem__)
        return name, candidates[name] / max(mass, 1e-12), mass

    def known_pairs(self, words: list[str]) -> float:
        """Share of neighbours that training texts hold in this order: mean over word pairs and pairs of word
        classes."""
        found = neighbours(words)
        return sum(0.5 * (pair in self.pairs) + 0.5 * (word_class(pair) in self.pairs) for pair in found) / len(found)


def neighbours(words: list[str]) -> list[str]:
    """Adjacent pairs, with the sentence's beginning and end."""
    return [f"{a} {b}" for a, b in zip(["<", *words], [*words, ">"], strict=True)]


def word_class(pair: str) -> str:
    """A pair with its content words alike: "the #"."""
    return " ".join(w if w in STOPWORDS or w in ("<", ">", TOPIC) else "#" for w in pair.split())


def mask_topic(words: list[str], query_text: str) -> list[str]:
    """The query's content words (or nearly: see `names_topic`) become one token, because what a reply does is not what
    it is about."""
    return [TOPIC if w not in STOPWORDS and names_topic(query_text, w) else w for w in words]


def terms(words: list[str]) -> list[str]:
    """Words, adjacent pairs of words, and the first letters of longer words (gentleman and gentlemen share "~gen")."""
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
    return words + pairs + [f"~{word[:STEM]}" for word in words if len(word) > STEM]


def act_name(frame: dict[str, str]) -> str:
    return GENERIC if frame["factor"] == GENERIC else f"{frame['factor']}:{frame['style']}"


def add_noise(words: list[str], random: np.random.Generator, confused: float = 0.12, drop: float = 0.03) -> list[str]:
    """The embedded transcriber's errors: words become others of its lexicon that sound like them, or are lost."""
    heard = []
    for word in words:
        if random.random() < drop:
            continue
        near = sounding_like(word) if random.random() < confused else ()
        # The nearer, the likelier: the smaller of two draws.
        heard.append(near[int(random.integers(len(near), size=2).min())] if near else word)
    return heard


@functools.lru_cache(maxsize=10_000)
def sounding_like(word: str, count: int = 12) -> tuple[str, ...]:
    """The words of the embedded lexicon that sound most like a word, nearest first."""
    spoken = _spoken_lexicon()
    found = process.extract(sound(pronounce(word)), spoken, scorer=Levenshtein.normalized_similarity, limit=count + 1)
    return tuple(near for _, _, near in found if near != word)


@functools.lru_cache
def _spoken_lexicon() -> dict[str, str]:
    return {word: sound(pronounce(word)) for word in lexicon() if pronounce(word)}


class Example(NamedTuple):
    """A reply as heard, the query that it answers, and the act that it is."""

    words: list[str]
    query: dict
    act: str


def examples(split: str, repeats: int, noise: float, seed: int) -> list[Example]:
    """Each of the split's frames `repeats` times (generic ones four times as often), about the subjects of random
    queries of the split."""
    random = np.random.default_rng(seed)
    queries = authored(split)
    made = []
    for frame in frames():
        if frame["split"] != split:
            continue
        fitting = [q for q in queries if frame["factor"] in (q["factor"], GENERIC)] or queries
        for _ in range(repeats * (4 if frame["factor"] == GENERIC else 1)):
            query = fitting[random.integers(len(fitting))]
            words = plain_words(frame["frame"].replace(SLOT, query["subject"]))
            words = add_noise(words, random) if random.random() < noise else words
            made.append(Example(words, query, act_name(frame)))
    return made


def unstyled() -> list[list[str]]:
    """More examples of "generic": every fourth thing that a training user says; it answers to no style."""
    return [mask_topic(plain_words(q["text"]), q["subject"]) for q in authored("train")][::4]


def known_neighbours(sentences: list[list[str]]) -> set[str]:
    """Word pairs of the sentences, and pairs of word classes that occur at least three times."""
    found = [pair for words in sentences for pair in neighbours(words)]
    classes = Counter(map(word_class, found))
    return set(found) | {pair for pair, count in classes.items() if count >= 3}


def fit(path: str | Path, repeats: int = 20, regularisation: float = 10.0, seed: int = 0) -> None:
    """Fit on the training split and write the file, whole or not at all."""
    from safetensors.numpy import save_file
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    heard = examples("train", repeats, 0.5, seed)
    vectorizer = TfidfVectorizer(analyzer=terms, min_df=5)
    replies = [mask_topic(e.words, e.query["text"]) for e in heard]
    plain = unstyled()
    vectors = vectorizer.fit_transform(replies + plain)
    model = LogisticRegression(C=regularisation, max_iter=300, class_weight="balanced")
    model.fit(vectors, [e.act for e in heard] + [GENERIC] * len(plain))
    clean = [
        mask_topic(plain_words(f["frame"].replace(SLOT, TOPIC_WORD)), TOPIC_WORD)
        for f in frames()
        if f["split"] == "train"
    ]
    clean += [plain_words(q["text"]) for q in authored("train")]
    header = {
        "format": FORMAT,
        "acts": model.classes_.tolist(),
        "terms": vectorizer.get_feature_names_out().tolist(),
        "lexicon": sorted({w for words in clean for w in words}),
        "pairs": sorted(known_neighbours(clean)),
    }
    tensors = {"idf": vectorizer.idf_, "weights": model.coef_, "bias": model.intercept_}
    halves = {k: np.ascontiguousarray(v, np.float16) for k, v in tensors.items()}
    with written_whole(Path(path)) as part:
        save_file(halves, part, metadata={"header": json.dumps(header)})


def accuracy(
    path: str | Path, split: str = "test", noise: float = 0.0, repeats: int = 20, seed: int = 1
) -> dict[str, float]:
    """Share of right acts on the split's frames and subjects, by factor and over all; the judge's own decision
    (`classify`).

    "scrambled" is the share of the same replies that is called gibberish when their words are put in random order.
    """
    classifier, random = ActClassifier(path), np.random.default_rng(seed)
    right: dict[str, list[bool]] = {"all": [], "scrambled": []}
    for heard, query, act in examples(split, repeats, noise, seed):
        got = classifier.classify(" ".join(heard), query["factor"], query["text"]).name == act
        right.setdefault(act.partition(":")[0], []).append(got)
        right["all"].append(got)
        scrambled = classifier.classify(" ".join(random.permutation(heard)), query["factor"], query["text"]).name
        right["scrambled"].append(scrambled == GIBBERISH)
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()} | {"n": len(right["all"])}


def _load(path: Path) -> tuple[list[str], dict[str, int], frozenset[str], frozenset[str], dict[str, np.ndarray]]:
    path = weights_file(path, "the act classifier must be an existing file")
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            tensors = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"the act classifier must be a whole safetensors file; got {path} ({error}); fit it again"
        ) from None
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} must hold an act classifier of format {FORMAT}; got {header.get('format', 'none')}; fit it again"
        )
    index = {term: i for i, term in enumerate(header["terms"])}
    return header["acts"], index, frozenset(header["lexicon"]), frozenset(header["pairs"]), tensors


def main() -> None:
    class Parser(OneLineErrors, argparse.ArgumentParser):
        pass

    parser = Parser(description=__doc__)
    parser.add_argument("--path", default="checkpoints/embedded/acts.safetensors")
    parser.add_argument("--only-measure", action="store_true")
    options = parser.parse_args()
    if Path(options.path).suffix != ".safetensors":
        raise UserError(f"--path must be a .safetensors file; got {options.path}; name one")
    if not options.only_measure:
        fit(options.path)
    report = {
        f"test, {noise:.0%} of replies with transcription noise": accuracy(options.path, "test", noise)
        for noise in (0.0, 0.5, 1.0)
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    tell_in_one_line(main)
