"""PolyTone: how texts and styles are paired, what the analysers hear, and that pairing decides what they learn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import quiet_trainer

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries.duplicates import near_duplicates
from lightning_paras2s.data.embedded import subjects, text_queries
from lightning_paras2s.data.suggestive import (
    LABELS,
    PROBE,
    VOICES,
    confounded,
    every_style,
    frames,
    neutral_texts,
    polytone,
    probe_texts,
    suggestive_texts,
)
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.polytone import (
    NOTHING,
    AnalyserRecognizer,
    PolyToneRecognizer,
    WordAnalyser,
    analyser_path,
    word_bucket,
)
from lightning_paras2s.hearing.recognizers import HEADS, StyleRecognizer
from lightning_paras2s.hearing.words import plain_words as words
from lightning_paras2s.modules.analyzers import PolyToneModule, targets
from lightning_paras2s.modules.labelled import (
    Labelled,
    ManifestStyles,
    PolyToneDataModule,
    load_heard,
    one_style_a_text,
    save_heard,
)
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES
from lightning_paras2s.types import STYLES, Audio, Query, Style, to_json

SHIPPED = Path(__file__).parents[1] / "checkpoints/embedded"


def test_labels_are_those_of_the_style_recogniser():
    assert LABELS == {name: values for name, values in HEADS.items() if name != "tone"}


def test_sentences_of_test_when_compared_with_train():
    """No sentence is shared, but every style's test sentences use words that its training sentences use, and that no
    other style of the factor uses as often: else words could not mislead."""
    for factor, styles in LABELS.items():
        for style in styles:
            train, test = frames("train", factor, style), frames("test", factor, style)
            assert len(train) == 12 and len(test) == 7 and not set(train) & set(test)
            assert all(f.count("{subject}") == 1 for f in train + test)
            own = Counter(w for f in train for w in words(f.replace("{subject}", "")))
            others = Counter(w for s in styles if s != style for f in frames("train", factor, s) for w in words(f))
            for frame in test:
                assert any(own[w] > others[w] for w in words(frame.replace("{subject}", ""))), frame


def cues(factor: str, style: str) -> set[str]:
    """Words that the training sentences of a style have more often than those of the factor's other styles."""
    own = Counter(w for f in frames("train", factor, style) for w in words(f))
    others = Counter(w for s in LABELS[factor] if s != style for f in frames("train", factor, s) for w in words(f))
    return {w for w in own if own[w] > others[w]}


def test_sentences_of_the_probe_suggest_and_are_not_nearly_alike_to_those_before():
    """By the stated method of the text set (60 % of the words, or all but one); the slot {subject} counts for nothing.
    What they are about is no subject of any split, but for the cues themselves (a boss, a school)."""
    styles = [(factor, style) for factor in LABELS for style in LABELS[factor]]
    before = [f.replace("{subject}", "") for key in styles for split in ("train", "test") for f in frames(split, *key)]
    before += [q.text for split in ("train", "val", "test") for q in text_queries(split)]
    said = {w for key in styles for f in frames("train", *key) for w in words(f)}
    probe = [t for factor in LABELS for t in probe_texts(factor)]
    fresh = sorted({t.text for t in probe})
    assert [(i, j) for i, j in near_duplicates(before + fresh) if i < len(before) <= j] == []
    one_word = {s for s in subjects() if " " not in s} - said
    assert [t for t in fresh if set(words(t)) & one_word] == []
    assert all(cues(t.factor, t.suggested) & set(words(t.text)) for t in probe if t.suggested)
    counts = Counter((t.factor, t.suggested) for t in probe)
    assert counts == {(f, s): 10 if f == "emotion" or not s else 20 for f in LABELS for s in (*LABELS[f], "")}


def test_voices_of_the_probe_are_in_no_training_or_validation():
    variants = {v.espeak.split("+")[1] for split in ("train", "val") for v in QUERY_VOICES[split].values()}
    assert not {v.espeak.split("+")[1] for v in VOICES[PROBE].values()} & variants
    sizes = {v.shorten for split in QUERY_VOICES for v in QUERY_VOICES[split].values() if v.age == "child"}
    assert not {v.shorten for v in VOICES[PROBE].values() if v.age == "child"} & sizes
    for s in every_style(probe_texts("gender")[:4] + probe_texts("age")[:4], PROBE, 0):
        assert getattr(VOICES[PROBE][s.line.voice], s.text.factor) == s.style


def test_subjects_of_test_texts_are_the_test_splits():
    subjects = {q.subject for q in text_queries("test")}
    assert all(t.subject in subjects and t.subject in t.text for t in suggestive_texts("age", 5, "test", 0))
    assert all(t.suggested == "" and len(t.styles) == 2 for t in neutral_texts("emotion", 4, "test", 0))


def test_pairing_when_polytone_and_when_confounded():
    texts = suggestive_texts("emotion", 6, "train", 0)
    apart, one = polytone(texts, 3, "train", 0), confounded(texts, 3, "train", 0)
    assert Counter(s.text.id for s in apart) == Counter(s.text.id for s in one) == {t.id: 3 for t in texts}
    for text in texts:
        assert len({s.style for s in apart if s.text == text}) == 3
        assert {s.style for s in one if s.text == text} == {text.suggested}
    assert len({s.line.seed for s in one}) == len(one)  # renditions differ
    whole = every_style(texts[:2], "test", 0)
    assert [s.style for s in whole] == 2 * list(LABELS["emotion"])
    assert all(s.line.voice in QUERY_VOICES["test"] for s in whole)


def test_polytone_words_tell_nothing_when_counted():
    """Of many draws a style falls on the suggested one as often as chance says: 3 of 7 texts, standard error .01."""
    texts = suggestive_texts("emotion", 300, "train", 0)
    agree = np.mean([s.style == s.text.suggested for s in polytone(texts, 3, "train", 0)])
    assert abs(agree - 1 / 7) < 0.03


def test_gender_and_age_are_spoken_by_fitting_voices():
    for factor in ("age", "gender"):
        for s in every_style(suggestive_texts(factor, 2, "test", 0), "test", 0):
            assert getattr(QUERY_VOICES["test"][s.line.voice], factor) == s.style


def sounds(count: int, high: bool, seed: int = 0) -> list[np.ndarray]:
    """Acoustics whose upper half of bands is loud or soft."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        row = random.normal(0, 0.3, (40 + 4 * int(random.integers(5)), 66))
        row[:, 32:64] += 0.25 if high else -0.25
        rows.append(row.astype(np.float16))
    return rows


def labelled(said: dict[bool, str], count: int = 40) -> list[Labelled]:
    """Sarcastic = high; `said` gives the words of either sound ("" = half of them each)."""
    rows = []
    for high in (False, True):
        for i, acoustics in enumerate(sounds(count, high, int(high))):
            text = said[high] or ("thank you", "oh great")[i % 2]
            heard = NOTHING._replace(acoustics=acoustics, words=text)
            rows.append(Labelled(heard, "sarcasm", STYLES["sarcasm"][int(high)]))
    return rows


def fitted(rows: list[Labelled]) -> WordAnalyser:
    torch.manual_seed(0)
    analyser = WordAnalyser("sarcasm", 8, 1)
    optimizer = torch.optim.Adam(analyser.parameters(), 0.01)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(analyser([r.heard for r in rows]), targets(rows)).backward()
        optimizer.step()
    return analyser.eval()


def test_words_are_learnt_when_they_go_with_the_style_and_not_when_they_are_apart():
    """The same network and sounds: the words alone speak for a style only where they were its own in training."""

    def margin(analyser: WordAnalyser) -> float:
        with torch.no_grad():
            sarcastic, sincere = analyser.read(["oh great", "thank you"]) @ torch.tensor([-1.0, 1.0])
        return float(sarcastic - sincere)

    together = margin(fitted(labelled({False: "thank you", True: "oh great"})))
    apart = margin(fitted(labelled({False: "", True: ""})))
    assert together > 1 and abs(apart) < together / 2


def test_analyser_is_deaf_to_words_when_it_has_no_buckets():
    torch.manual_seed(0)
    rows = sounds(2, True)
    deaf, hearing = WordAnalyser("age", 8, 1, buckets=0).eval(), WordAnalyser("age", 8, 1).eval()
    torch.nn.init.normal_(hearing.words.weight)
    say = lambda analyser, text: analyser([NOTHING._replace(acoustics=r, words=text) for r in rows])  # noqa: E731
    assert torch.equal(say(deaf, "my mom"), say(deaf, "my boss"))
    assert not torch.equal(say(hearing, "my mom"), say(hearing, "my boss"))
    assert torch.isfinite(say(hearing, "")).all()


def test_words_say_the_sum_of_their_weights_over_the_root_of_their_number():
    """With gain 2: (w1 + w2 + w1 + w1) / sqrt(4) * 2 = 3 w1 + w2; no words say nothing."""
    analyser = WordAnalyser("age", 8, 1, buckets=64, word_gain=2.0)
    torch.nn.init.normal_(analyser.words.weight)
    one, two = (analyser.words.weight[word_bucket(w, 64)] for w in ("mom", "bank"))
    assert torch.allclose(analyser.read(["mom bank mom mom", ""]), torch.stack([3 * one + two, 0 * one]), atol=1e-5)


def test_analyser_when_saved_and_loaded(tmp_path):
    from lightning_paras2s.models.checkpoint import load_module

    analyser = WordAnalyser("emotion", 8, 1).eval()
    torch.nn.init.normal_(analyser.words.weight, std=0.1)
    analyser.save(analyser_path(tmp_path / "x", "emotion"))
    again = load_module(WordAnalyser, tmp_path / "x-emotion.safetensors").eval()
    heard = [NOTHING._replace(acoustics=row, words="oh no") for row in sounds(3, False)]
    # Kept in half precision: 11 bits of each weight.
    assert torch.allclose(analyser(heard), again(heard), atol=2e-2) and again.factor == "emotion"


def test_word_bucket_is_known():
    """CRC-32 of "123456789" is cbf43926 (the check value of the standard)."""
    assert word_bucket("123456789", 512) == 0xCBF43926 % 512


def test_heard_when_kept_on_disk(tmp_path):
    heard = [NOTHING._replace(acoustics=row, words=f"word {i}") for i, row in enumerate(sounds(3, True))]
    save_heard(tmp_path / "h.npz", heard)
    for a, b in zip(heard, load_heard(tmp_path / "h.npz"), strict=True):
        assert a.words == b.words and np.array_equal(a.acoustics, b.acoustics)


class Deaf(StyleRecognizer):
    """Always calm."""

    name = "deaf-1"

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        return [Style(tone="calm") for _ in audios]


class Loud(AnalyserRecognizer):
    def listen(self, audio: Audio):
        return NOTHING._replace(acoustics=np.zeros((8, 66), np.float16))


def test_recogniser_when_asked_for_labels_and_for_tones():
    silence = [Audio(np.zeros(1600, np.float32), 16_000)]
    analysers = {f: WordAnalyser(f, 8, 1) for f in ("age", "gender")}
    both = Loud("polytone-1/x", analysers, Deaf())
    style = both.recognize(silence, "query")[0]
    assert style.age in STYLES["age"] and style.gender in STYLES["gender"] and style.emotion is None
    assert both.recognize(silence, "response")[0].tone == "calm" and both.name == "polytone-1/x+deaf-1"
    with pytest.raises(UserError, match="labels queries only"):
        Loud("polytone-1/x", analysers, None).recognize(silence, "response")


def test_error_when_a_factor_or_an_arrangement_is_unknown():
    with pytest.raises(UserError, match="factor must be one of .*; got 'mood'"):
        WordAnalyser("mood")
    with pytest.raises(UserError, match="arrangement must be one of polytone, confounded; got 'both'"):
        PolyToneDataModule("both")


def manifest(folder: Path, first: int = 0) -> Path:
    """Three contrast pairs, numbered from `first`, with a tenth of a second of audio each."""
    rows = []
    for pair in range(first, first + 3):
        for half, style in enumerate(STYLES["sarcasm"]):
            name = f"{pair}-{half}.wav"
            write_audio(folder / name, Audio(np.full(1600, 0.01 * (2 * pair + half), np.float32), 16_000))
            rows.append(Query(f"{pair}-{half}", f"p{pair}", "sarcasm", "train", "Nice.", {"sarcasm": style}, "t", name))
    path = folder / "queries.jsonl"
    path.write_text("".join(to_json(row) + "\n" for row in rows))
    return path


def test_manifest_styles_when_read(tmp_path):
    path, val = str(manifest(tmp_path / "train")), str(manifest(tmp_path / "val", 3))
    data = ManifestStyles(path, val, factors=("sarcasm",), batch_size=4)
    data.setup()
    batches = list(data.train_dataloader())
    assert sorted(len(b) for b in batches) == [2, 4]
    assert sorted(row.style for b in batches for row in b) == 3 * ["sarcastic"] + 3 * ["sincere"]
    assert {len(row.heard.samples) for b in batches for row in b} == {1600}
    one = ManifestStyles(path, val, "confounded", ("sarcasm",))
    one.setup()
    assert [q.pair_id for q in one.train] == ["p0", "p1", "p2"] and len(one.val) == 6
    assert one_style_a_text(one.train) == one.train
    with pytest.raises(UserError, match="must hold queries of age; got none"):
        ManifestStyles(path, path, factors=("age",)).setup()


def test_manifest_styles_keep_to_the_recordings_of_their_own_manifest(tmp_path):
    """Both manifests name `x.wav`: a tenth of a second to train on, and two of validation."""
    paths = {}
    for number, split in enumerate(("train", "val"), 1):
        audio = Audio(np.full(1600 * number, 0.1, np.float32), 16_000)
        write_audio(tmp_path / split / "x.wav", audio)
        row = Query(f"{split}-q", f"{split}-p", "sarcasm", split, "Nice.", {"sarcasm": "sincere"}, "t", "x.wav")
        paths[split] = tmp_path / split / "queries.jsonl"
        paths[split].write_text(to_json(row) + "\n")
    data = ManifestStyles(*map(str, paths.values()))
    data.setup()
    loaders = data.train_dataloader(), data.val_dataloader()
    assert [len(row.heard.samples) for loader in loaders for batch in loader for row in batch] == [1600, 3200]


def test_manifest_styles_when_the_benchmark_would_be_trained_on(tmp_path):
    path, val = manifest(tmp_path / "train"), manifest(tmp_path / "val", 3)
    path.write_text(path.read_text().replace('"train"', '"test"'))
    with pytest.raises(UserError, match="to train on must not be of the split test; got '0-0'"):
        ManifestStyles(str(path), str(val)).setup()


def test_factors_without_recordings_are_refused(tmp_path):
    """Their analysers would be exported with the weights that they were built with."""
    paths = [str(manifest(tmp_path / "train")), str(manifest(tmp_path / "val", 3))]
    module = PolyToneModule(lambda factor: torch.nn.Linear(1, 1), ("sarcasm", "age"), export=str(tmp_path / "p"))
    with pytest.raises(UserError, match="must be those of the recordings, sarcasm; got sarcasm, age; "):
        quiet_trainer(1, tmp_path).fit(module, ManifestStyles(*paths))
    assert not list(tmp_path.glob("p-*"))


def test_manifest_styles_when_training_and_validation_share_queries(tmp_path):
    paths = [str(manifest(tmp_path / split)) for split in ("train", "val")]
    with pytest.raises(UserError, match="training and validation must not share queries; got '0-0' in both"):
        ManifestStyles(*paths).setup()


def test_one_style_a_text_when_two_factors_use_one_pair_id():
    """Two pairs: one half of each stays."""
    about = {"emotion": ("sad", "happy"), "sarcasm": ("sincere", "sarcastic")}
    rows = [Query(s, "p1", f, "train", "Nice.", {f: s}, "t", "x.wav") for f, styles in about.items() for s in styles]
    assert sorted(q.factor for q in one_style_a_text(rows)) == ["emotion", "sarcasm"]


def test_shipped_analysers_hear_unseen_voices():
    """The pair of analysers of each factor hears unseen voices better than chance."""
    from lightning_paras2s.bench.diagnostics.leakage import named, split_set
    from lightning_paras2s.bench.diagnostics.voice_or_words import AGREE, macro_mean
    from lightning_paras2s.data.spoken import corpus_audio

    spoken = split_set(1, 1, factors=("gender", "age"))
    recognizer = PolyToneRecognizer(str(SHIPPED / "polytone"), str(SHIPPED / "transcriber.safetensors"))
    rows = named(spoken, recognizer.recognize(corpus_audio([s.line for s in spoken]), "query"))
    assert macro_mean([rows], AGREE)["value"] > 0.6


def test_config_of_the_control_differs_from_polytones_in_nothing_but_the_pairing():
    import yaml

    control = yaml.safe_load((Path(__file__).parents[1] / "configs/controls/polytone_control.yaml").read_text())
    assert set(control) == {"trainer", "model", "data"}
    assert set(control["data"]["init_args"]) == {"arrangement"} and set(control["model"]["init_args"]) == {"export"}
    assert set(control["trainer"]) == {"logger"} and set(control["trainer"]["logger"]["init_args"]) == {"name"}
