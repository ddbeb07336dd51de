"""ParaS2SBench-open, text: its records, read whole and certified (docs/open_text.md; paper, appendices A.3 and A.11).

Certify a copy, exit code 2 where it has a fault: `python -m lightning_paras2s.data.open_text [FOLDER]`.
After an edit, `--write` renews the checksums of a set without another fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from lightning_paras2s.bench.queries.duplicates import alike, near_duplicates
from lightning_paras2s.bench.queries.styles import BANNED, TOPICS
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import FACTORS, SPLITS

VERSION = "1.2"
FOLDER = Path(__file__).parent / "open"
SUMS = "SHA256SUMS"
TARGETS = {"train": 500, "val": 40, "test": 300}  # prompts a factor (paper, Table 5, for test)
POSITIVE, NEGATIVE = ("happy", "surprised"), ("sad", "angry", "fear", "disgust")
CONTRASTS = {  # A.11.3 asks for opposite emotions: one of each kind
    "emotion": {frozenset((p, n)) for p in POSITIVE for n in NEGATIVE},
    "sarcasm": {frozenset(("sincere", "sarcastic"))},
    "age": {frozenset(("adult", "child"))},
    "gender": {frozenset(("male", "female"))},
}
WORDS = {"text": (7, 30), "subject": (1, 4), "good": (1, 12), "answer": (10, 25), "tone": (1, 2), "because": (1, 12)}
# The paper's 6.92 s a query over all sets (Table 5) at 2.5 words a second, 15 % either way; its synthetic ones have 5.
MEAN_WORDS = (14.7, 20.7)
MAX_FIRST_WORD = 0.12  # share of a split that may begin with one word
SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?]+(?=\s|$)")


@dataclass(frozen=True)
class Answer:
    """A reference answer: its words and the tone in which they are spoken."""

    text: str
    tone: str


@dataclass(frozen=True)
class OpenPrompt:
    """A text and the two styles in which it may be spoken, with what answers each well."""

    id: str
    factor: str
    split: str
    topic: str
    subject: str  # what it is about; no other prompt of the factor has it, in any split
    text: str
    styles: tuple[str, str]
    good: dict[str, str]  # style -> what a good answer does
    answers: dict[str, Answer]  # style -> a reference answer
    neutral_because: str


class Certificate(NamedTuple):
    """What a copy of the set holds.

    Attributes:
        version: of the set.
        splits: "factor.split" -> its figures.
        missing: what the full set has and this copy doesn't, one line each.
        faults: what must not be, one line each.
    """

    version: str
    splits: dict[str, dict[str, Any]]
    missing: list[str]
    faults: list[str]


def file_of(factor: str, split: str, folder: Path = FOLDER) -> Path:
    return folder / f"{factor}.{split}.jsonl"


def read_open(factor: str, split: str, folder: Path = FOLDER) -> list[OpenPrompt]:
    """The prompts of one factor and split.

    Raises:
        UserError: if the file is not there, or a line is no record.
    """
    path = file_of(factor, split, folder)
    if not path.is_file():
        raise UserError(f"the open text set must have {path.name}; {folder} has none; get the whole set")
    lines = path.read_bytes().splitlines()
    return [_prompt(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1)]


def _prompt(line: bytes, where: str) -> OpenPrompt:
    names = [field.name for field in fields(OpenPrompt)]
    try:
        record = json.loads(line)
        if set(record) != set(names):
            raise ValueError(f"fields {sorted(record)}")
        texts = [record[name] for name in names if name not in ("styles", "good", "answers")]
        texts += [*record["styles"], *record["good"].values()]
        answers = {style: Answer(**answer) for style, answer in record["answers"].items()}
        texts += [part for answer in answers.values() for part in (answer.text, answer.tone)]
        if not all(isinstance(text, str) and text == text.strip() for text in texts):
            raise ValueError("a value that is no trimmed text")
        return OpenPrompt(**{**record, "styles": tuple(record["styles"]), "answers": answers})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{where}: a line must be a record of {', '.join(names)}; got {error}; mend the line") from None


def prompt_faults(prompt: OpenPrompt) -> list[str]:
    """What must not be in one prompt, each with its id."""
    found = [f"the {what} has {n} words, must have {low} to {high}: {text!r}" for what, text in _parts(prompt)
             for n, (low, high) in [(len(text.split()), WORDS[what])] if not low <= n <= high]  # fmt: skip
    topics = {topic for names in TOPICS[prompt.factor].values() for topic in names}
    if prompt.topic not in topics:
        found.append(f"the topic must be one of the paper's; got {prompt.topic!r}")
    if len(prompt.styles) != 2 or frozenset(prompt.styles) not in CONTRASTS[prompt.factor]:
        found.append(f"the styles must be two that contrast; got {list(prompt.styles)}")
    if set(prompt.good) != set(prompt.styles) or set(prompt.answers) != set(prompt.styles):
        found.append("good and answers must have an entry a style")
    elif alike(*(answer.text for answer in prompt.answers.values())):
        found.append("the two reference answers must differ")
    if not 1 <= len(SENTENCE_END.findall(prompt.text)) <= 2 or prompt.text[-1] not in ".!?":
        found.append(f"the text must be one or two whole sentences: {prompt.text!r}")
    lower = f" {re.sub(r'[^a-z]+', ' ', prompt.text.lower())} "
    found += [f"the text must not say {word!r}" for word in BANNED[prompt.factor] if f" {word} " in lower]
    return [f"{prompt.id}: {fault}" for fault in found]


def _parts(prompt: OpenPrompt) -> list[tuple[str, str]]:
    parts = [("text", prompt.text), ("subject", prompt.subject), ("because", prompt.neutral_because)]
    parts += [("good", text) for text in prompt.good.values()]
    return parts + [(what, text) for a in prompt.answers.values() for what, text in (("answer", a.text), ("tone", a.tone))]  # fmt: skip # noqa: E501


def split_figures(prompts: Sequence[OpenPrompt]) -> dict[str, Any]:
    """Counts and diversity of one factor and split."""
    words = [re.findall(r"[a-z']+", prompt.text.lower()) for prompt in prompts]
    first, count = Counter(text[0] for text in words).most_common(1)[0]
    return {
        "prompts": len(prompts),
        "topics": dict(sorted(Counter(prompt.topic for prompt in prompts).items())),
        "contrasts": dict(sorted(Counter("/".join(prompt.styles) for prompt in prompts).items())),
        "mean_words": round(sum(len(prompt.text.split()) for prompt in prompts) / len(prompts), 2),
        "first_word": first,
        "first_word_share": round(count / len(prompts), 4),
        "distinct_first_words": len({text[0] for text in words}),
        "distinct_words": len({word for text in words for word in text}),
        "distinct_2": round(_distinct(words, 2), 4),
        "distinct_3": round(_distinct(words, 3), 4),
    }


def _distinct(texts: Iterable[list[str]], n: int) -> float:
    """Distinct n-grams a n-gram (Li et al., 2016, distinct-n)."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def split_faults(prompts: Sequence[OpenPrompt], factor: str, split: str) -> list[str]:
    """What must not be in one factor and split as a whole."""
    found = [f"{p.id}: an id must be {factor}-{split}-NNNN, in its own file" for p in prompts
             if not re.fullmatch(rf"{factor}-{split}-\d{{4}}", p.id) or (p.factor, p.split) != (factor, split)]  # fmt: skip # noqa: E501
    figures = split_figures(prompts)
    if figures["first_word_share"] > MAX_FIRST_WORD:
        share = figures["first_word_share"]
        found.append(f"{factor}.{split}: at most 12 % may begin with one word; {figures['first_word']!r} has {share}")
    if not MEAN_WORDS[0] <= figures["mean_words"] <= MEAN_WORDS[1]:
        found.append(f"{factor}.{split}: mean words must be within {MEAN_WORDS}; got {figures['mean_words']}")
    if split == "test":
        topics = {topic for names in TOPICS[factor].values() for topic in names}
        found += [f"{factor}.test: topic {t!r} must be present" for t in sorted(topics - set(figures["topics"]))]
    return found


def shared_faults(prompts: Sequence[OpenPrompt]) -> list[str]:
    """What must not be between prompts: the same id, a factor's subject twice, texts that are near duplicates."""
    ids = Counter(prompt.id for prompt in prompts)
    subjects = Counter((prompt.factor, prompt.subject.lower()) for prompt in prompts)
    found = [f"{name}: an id must be unique; {n} have it" for name, n in ids.items() if n > 1]
    found += [f"{f}: a subject must be unique; {n} have {subject!r}" for (f, subject), n in subjects.items() if n > 1]
    pairs = near_duplicates([prompt.text for prompt in prompts])
    return found + [f"{prompts[i].id}, {prompts[j].id}: texts must not be near duplicates" for i, j in pairs]


def certify(folder: Path = FOLDER) -> Certificate:
    """Read the whole set, check it and its checksums, and say what is missing.

    Raises:
        UserError: if nothing of the set is there, or a line is no record.
    """
    names = [(factor, split) for factor in FACTORS for split in SPLITS]
    present = {name: read_open(*name, folder) for name in names if file_of(*name, folder).is_file()}
    if not any(present.values()):
        raise UserError(f"a folder of the open text set must hold FACTOR.SPLIT.jsonl; got none in {folder}")
    missing = [f"{f}.{s}: {n} prompts of {TARGETS[s]}" for f, s in names if (n := len(present.get((f, s), []))) < TARGETS[s]]  # fmt: skip # noqa: E501
    whole = [prompt for prompts in present.values() for prompt in prompts]
    faults = [fault for prompt in whole for fault in prompt_faults(prompt)]
    faults += [fault for name, prompts in present.items() if prompts for fault in split_faults(prompts, *name)]
    faults += shared_faults(whole) + checksum_faults(folder)
    figures = {".".join(name): split_figures(prompts) for name, prompts in present.items() if prompts}
    return Certificate(VERSION, figures, missing, faults)


def checksums(folder: Path = FOLDER) -> str:
    """The text of SHA256SUMS, as `sha256sum --check` reads it."""
    paths = sorted(folder.glob("*.jsonl"))
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def checksum_faults(folder: Path) -> list[str]:
    """Files that are not as this version published them; the sums are those of the package, whatever the copy says."""
    published = set((FOLDER / SUMS).read_text().splitlines()) if (FOLDER / SUMS).is_file() else set()
    here = set(checksums(folder).splitlines())
    return [f"{line[66:]}: its checksum must be that of version {VERSION}" for line in sorted(here ^ published)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lightning_paras2s.data.open_text", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="the copy to certify; default: this one")
    parser.add_argument("--write", action="store_true", help="renew the checksums, if there is no other fault")
    options = parser.parse_args(arguments)
    try:
        certificate = certify(options.folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    faults = [fault for fault in certificate.faults if not (options.write and "its checksum" in fault)]
    if options.write and not faults:
        (options.folder / SUMS).write_text(checksums(options.folder))
    print(json.dumps(certificate._replace(faults=faults)._asdict(), indent=1))
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
