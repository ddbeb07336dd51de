"""`DualStreamDataModule`: the two streams on a hand-written example, batches, and manifests that are wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_paras2s.audio import write_audio
from lightning_paras2s.data import sources as dialogues
from lightning_paras2s.data.datamodule import BucketedLoader, DualStreamDataModule
from lightning_paras2s.data.dialogue import Dialogue, Utterance
from lightning_paras2s.data.embedded import reply_frames, text_queries
from lightning_paras2s.data.preferences import PreferenceDataModule
from lightning_paras2s.data.sources import (
    Demonstrations,
    DialogueSource,
    ManifestDialogues,
    UnlabelledQueries,
    demonstrated_queries,
)
from lightning_paras2s.data.speech import SpeechDataModule
from lightning_paras2s.data.spoken import hear
from lightning_paras2s.data.written import WrittenAnswers
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import CTCNetwork
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.models.tiny.processor import TinyProcessor, encode_all
from lightning_paras2s.models.tiny.streams import AudioIds, Example, build_completion, build_prompt, collate
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer
from lightning_paras2s.models.tiny.vocabulary import BLANK, EOS, TextVocab
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Audio, Query, Style

VOCAB, IDS = TextVocab(), AudioIds(10)
THE, HOUSE, SAD = (VOCAB.index[w] for w in ("the", "house", "sad"))


def test_audio_marks_follow_the_codes():
    assert [IDS.blank, IDS.eos, IDS.user_start, IDS.user_end, IDS.assistant_start] == [10, 11, 12, 13, 14]


def test_prompt_layout_on_a_hand_written_example():
    """Codes 3 1 4 and the words "the house": start, speech, end, words, the task at the assistant's mark.

    text : .   .  .  .  .   the  house  echo
    audio: 12  3  1  4  13  -    -      14
    """
    features = torch.arange(6.0).view(3, 2)
    tokens, placed, mask = build_prompt(IDS, VOCAB, torch.tensor([3, 1, 4]), features, "The house.", "echo")
    assert tokens[AUDIO].tolist() == [12, 3, 1, 4, 13, 10, 10, 14]
    assert tokens[TEXT].tolist() == [BLANK] * 5 + [THE, HOUSE, VOCAB.task("echo")]
    assert mask.tolist() == [False, True, True, True, False, False, False, False]
    assert torch.equal(placed[1:4], features) and not placed[[0, 4, 5, 6, 7]].any()


def test_prompt_layout_when_there_is_no_speech():
    tokens, placed, mask = build_prompt(
        IDS, VOCAB, torch.zeros(0, dtype=torch.long), torch.zeros(0, 2), "sad the house", "read"
    )
    assert tokens[AUDIO].tolist() == [12, 13, 10, 10, 10, 14] and not mask.any() and placed.shape == (6, 2)
    assert tokens[TEXT].tolist() == [BLANK, BLANK, SAD, THE, HOUSE, VOCAB.task("read")]


def test_prompt_layout_when_nothing_was_understood():
    tokens, _, mask = build_prompt(IDS, VOCAB, torch.tensor([3, 1]), torch.zeros(2, 2), "")
    assert tokens[AUDIO].tolist() == [12, 3, 1, 13, 14] and mask.tolist() == [False, True, True, False, False]
    assert tokens[TEXT].tolist() == [BLANK] * 4 + [VOCAB.task("chat")]


def test_completion_layout_on_a_hand_written_example():
    """Words at codes 0 and 3, five codes, delay 2: eight steps.

    text : the   .     .  house EOS  .    .    .      (blanks after EOS are forced)
    audio: -     -     7  8     9    7    8    end    (the delay is forced)
    """
    tokens, actions = build_completion(IDS, VOCAB, torch.tensor([7, 8, 9, 7, 8]), "The house!", (0, 3), 2)
    assert tokens[TEXT].tolist() == [THE, BLANK, BLANK, HOUSE, EOS, BLANK, BLANK, BLANK]
    assert tokens[AUDIO].tolist() == [10, 10, 7, 8, 9, 7, 8, 11]
    assert actions[TEXT].tolist() == [True] * 5 + [False] * 3
    assert actions[AUDIO].tolist() == [False] * 2 + [True] * 6


def test_completion_spells_words_that_the_vocabulary_lacks():
    """Three letters from step 0 on push the second word, whose onset is 1, to step 3."""
    tokens, _ = build_completion(IDS, VOCAB, torch.tensor([1] * 6), "xqz house", (0, 1), 1)
    letters = [VOCAB.index[piece] for piece in ("^x", "+q", "+z")]
    assert tokens[TEXT].tolist() == [*letters, HOUSE, EOS, BLANK, BLANK, BLANK]
    assert VOCAB.decode(tokens[TEXT].tolist()) == "xqz house"


@pytest.mark.parametrize("words", ["the house xqz", "the house of a xqzxqzxqz", "xqz"])
def test_words_begin_before_their_onsets_where_they_would_not_fit_behind_them(words):
    steps = len(VOCAB.encode(words))
    for spare in (0, 1, 4):
        codes, count = torch.ones(steps + spare - 1, dtype=torch.long), len(words.split())
        onsets = tuple(len(codes) * word // count for word in range(count))  # as of a recording
        tokens, actions = build_completion(IDS, VOCAB, codes, words, onsets, 1)
        assert VOCAB.decode(tokens[TEXT].tolist()) == words
        assert (tokens[TEXT] == EOS).sum() == 1 and actions[TEXT, tokens[TEXT].tolist().index(EOS)]


def test_completion_ends_its_text_when_the_audio_is_too_short():
    tokens, actions = build_completion(IDS, VOCAB, torch.tensor([5]), "the house the house", (0, 1, 2, 3), 1)
    assert tokens[TEXT].tolist() == [THE, HOUSE, EOS] and actions.all(1).tolist() == [True, False]


def test_collate_pads_prompts_left_and_completions_right():
    def example(codes: list[int]) -> Example:
        found = torch.tensor(codes)
        prompt = build_prompt(IDS, VOCAB, found, torch.ones(len(codes), 2), "the")
        return Example(*prompt, *build_completion(IDS, VOCAB, found, "the", (0,), 1))

    batch = collate([example([1, 2, 3]), example([4])])
    assert batch.prompt.tokens.shape == (2, 2, 7) and batch.prompt.mask.sum(1).tolist() == [7, 5]
    assert batch.prompt.mask[1].tolist() == [False, False, True, True, True, True, True]
    assert batch.prompt.tokens[1, AUDIO, 2:].tolist() == [12, 4, 13, 10, 14] and not batch.prompt.features[1, :3].any()
    assert batch.completion.tokens[1, AUDIO].tolist() == [10, 4, 11, 10, 10]
    assert batch.completion.actions[1, AUDIO].tolist() == [False, True, True, False, False]
    assert batch.completion.tokens[1, TEXT].tolist() == [THE, EOS, BLANK, BLANK, BLANK]


class Lengths(list):
    """Items that are their own index, with lengths."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(range(len(lengths)))
        self.lengths = lengths


def bucketed(seed: int = 1, batch_size: int = 4, count: int = 30, **ranks) -> BucketedLoader:
    loader = BucketedLoader(Lengths([7 * i % 100 for i in range(count)]), list, batch_size, seed, **ranks)
    return loader


def test_order_is_a_function_of_seed_and_epoch():
    first, again, other = bucketed(), bucketed(), bucketed(seed=2)
    epochs = [[list(first) for _ in range(2)], [list(again) for _ in range(2)], [list(other) for _ in range(2)]]
    assert epochs[0] == epochs[1] != epochs[2] and epochs[0][0] != epochs[0][1]


def test_batches_are_whole_of_like_length_and_repeat_nothing():
    loader = bucketed(count=402)
    batches = list(loader)
    assert len(batches) == len(loader) == 100 and {len(b) for b in batches} == {4}
    assert len({i for batch in batches for i in batch}) == 400
    spreads = [np.ptp([loader.items.lengths[i] for i in batch]) for batch in batches]
    # Noise of 12 and 4 neighbours among 402 over 0..99 (one apart): at most 12 + a few; unsorted, about 60.
    assert np.mean(spreads) < 15


def test_bucketed_order_when_resumed_in_the_middle_of_an_epoch():
    whole = list(bucketed())
    cut = bucketed()
    head = [batch for batch, _ in zip(cut, range(3), strict=False)]
    rest = bucketed()
    rest.load_state_dict({"epoch": 0, "taken": 3 * rest.total, "size": rest.total})
    assert head + list(rest) == whole


def test_ranks_share_every_bucketed_batch():
    ranks = [list(bucketed(rank=r, world_size=2)) for r in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 30 // 8
    assert not {i for b in ranks[0] for i in b} & {i for b in ranks[1] for i in b}


def test_queries_for_rl_have_no_demonstrations():
    demonstrated = {q.id for q in demonstrated_queries(1.0)}
    few = {q.id for q in demonstrated_queries(0.2)}
    left = {q.id for i, q in enumerate(text_queries("train")) if i % 2}
    assert few < demonstrated and not demonstrated & left
    assert demonstrated | left == {q.id for q in text_queries("train")}
    assert len(few) == round(0.2 * len(demonstrated))
    assert UnlabelledQueries().renditions == 1


def test_queries_whose_demonstrations_were_not_shown_are_for_rl_too(monkeypatch):
    monkeypatch.setattr(dialogues, "spoken_queries", lambda pairs, *_: pairs)
    every, half = ({q.id for q, _ in UnlabelledQueries(demonstrated=d).dialogues("train", "")} for d in (0.2, 1.0))
    assert half == {q.id for i, q in enumerate(text_queries("train")) if i % 2}
    assert every == {q.id for q in text_queries("train")} - {q.id for q in demonstrated_queries(0.2)}


def test_some_styles_may_be_asked_in_more_recordings(monkeypatch):
    monkeypatch.setattr(dialogues, "spoken_queries", lambda pairs, *_: pairs)
    once, more = (UnlabelledQueries(r) for r in (1, {"emotion": 2, "adult": 3}))
    counts, plain = (Counter((q.factor, s) for q, s in u.dialogues("train", "")) for u in (more, once))
    assert counts == {
        key: n * {"emotion": 2, "age": 3 if key[1] == "adult" else 1}.get(key[0], 1) for key, n in plain.items()
    }
    assert len(more.dialogues("val", "")) == len(once.dialogues("val", ""))
    with pytest.raises(UserError, match="renditions must be .*got adults"):
        UnlabelledQueries({"adults": 2})


def test_a_short_run_speaks_no_more_queries_than_it_asks_for(monkeypatch):
    spoken = []
    monkeypatch.setattr(dialogues, "spoken_queries", lambda pairs, *_: spoken.append(len(pairs)) or pairs)
    every, some = (UnlabelledQueries(limit=limit).dialogues("train", "") for limit in (0, 100))
    assert some == every[:100] and spoken == [len(every), 100]
    assert len(UnlabelledQueries(limit=100).dialogues("val", "")) == 2 * len(text_queries("val"))
    with pytest.raises(UserError, match="limit must be 0 .*got -1"):
        UnlabelledQueries(limit=-1)


class TwoDialogues(DialogueSource):
    """One user's question and the agent's answer, with a transcript or without."""

    def __init__(self, transcript: str | None) -> None:
        self.transcript = transcript

    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]:
        voice = EspeakSynthesizer()
        asked = voice.synthesize("We sold the house.", Style(emotion="sad"), "en-US+m3", 1)
        answer = voice.speak_as_agent("I am sorry about the house.", "calm")
        user = Utterance(
            hear(asked), "We sold the house.", Style(emotion="sad"), (), (asked.samples * 32767).astype(np.int16)
        )
        onsets = tuple(onset // 640 for onset in answer.onsets)
        agent = Utterance(hear(answer.audio), "I am sorry about the house.", Style(tone="calm"), onsets)
        query = Query(f"q-{split}", "p", "emotion", "train", user.text, {"emotion": "sad"}, "home", "")
        return [Dialogue("chat", self.transcript, user, agent, query)] * 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    TinyTokenizer((4, 3), width=8).save(folder / "tokenizer.safetensors")
    save_module(CTCNetwork(8, 1), folder / "transcriber.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in ("tokenizer", "transcriber")}


def first_batch(weights, transcript: str | None, **options):
    processor = TinyProcessor(weights["tokenizer"], options.pop("transcriber", None))
    module = DualStreamDataModule(TwoDialogues(transcript), processor, batch_size=2, **options)
    module.setup()
    return next(iter(module.train_dataloader()))


def test_batch_holds_answers_when_labelled(weights):
    batch = first_batch(weights, "we sold the house")
    text = batch.prompt.tokens[0, TEXT]
    assert VOCAB.decode([int(i) for i in text if i != EOS]) == "we sold the house"
    codes = batch.completion.tokens[0, AUDIO][batch.completion.actions[0, AUDIO]]
    assert codes[-1] == AudioIds(12).eos and (codes[:-1] < 12).all()
    assert VOCAB.decode(batch.completion.tokens[0, TEXT].tolist()) == "i am sorry about the house"
    assert batch.completion.finished.all() and not batch.completion.actions[0, AUDIO, :2].any()


def test_answers_are_dropped_when_unlabelled(weights):
    batch = first_batch(weights, "we sold the house", labelled=False)
    assert batch.completion is None and len(batch.audios) == 2 and batch.queries[0].id == "q-train"


def test_transcripts_come_from_the_transcriber_when_the_source_has_none(weights):
    batch = first_batch(weights, None, transcriber=weights["transcriber"], labelled=False)
    assert "we sold the house" not in VOCAB.decode(batch.prompt.tokens[0, TEXT].tolist())  # it is untrained
    with pytest.raises(UserError, match="need the processor's transcriber; got none"):
        first_batch(weights, None)


def test_codes_are_those_of_the_tokenizer(weights):
    """Up to the half precision of cached acoustics, which can tip a number over to the next level."""
    tokenizer = TinyTokenizer.load(weights["tokenizer"])
    user = TwoDialogues(None).dialogues("train", "")[0].user
    codes = encode_all(tokenizer, [user, None, user])
    wav = torch.from_numpy(user.audio.samples)[None]
    direct, counts = tokenizer.encode(wav, torch.tensor([wav.shape[1]]))
    assert len(codes[1]) == 0 and len(codes[0]) == int(counts)
    assert (codes[0] == direct[0]).float().mean() > 0.95


def record(number: int, **changes) -> dict:
    row = {"id": f"q{number}", "pair_id": "p", "factor": "emotion", "split": "train", "text": "We sold the house."}
    return {**row, "styles": {"emotion": "sad"}, "topic": "home", "audio": "a.wav", **changes}


def manifest(folder: Path, lines: list[str]) -> str:
    write_audio(folder / "a.wav", Audio(0.1 * np.ones(8000, np.float32), 16_000))
    path = folder / "queries.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("shuffled", ["", "styles", "queries"])
def test_demonstrations_when_answers_are_dealt_out(shuffled, monkeypatch):
    """An answer fits its query's style always, by chance, or next to never; its subject is kept but among queries."""
    monkeypatch.setattr(dialogues, "corpus", lambda lines, cache_dir: lines)
    found = Demonstrations(0.2, renditions=2, exchanged=0.0, shuffled=shuffled).dialogues("train", "")
    by_text = {query.text: query for query in text_queries("train")}
    fits, names = [], []
    for dialogue in found:
        query = by_text[dialogue.user.text]
        style = getattr(dialogue.user.style, query.factor)
        frames = reply_frames("train", query.factor, style)
        fits.append(dialogue.agent.text in {frame.format(subject=query.subject) for frame in frames})
        names.append(query.subject in dialogue.agent.text)
    low, high = {"": (1.0, 1.0), "styles": (0.4, 0.6), "queries": (0.0, 0.05)}[shuffled]
    assert low <= np.mean(fits) <= high
    assert np.mean(names) < 0.05 if shuffled == "queries" else np.mean(names) > 0.95


def test_shuffled_fails_when_it_is_unknown():
    with pytest.raises(UserError, match="queries, styles or empty; got 'all'"):
        Demonstrations(shuffled="all")


@pytest.mark.parametrize(
    "made",
    [
        lambda: Demonstrations(share=20),  # of a hundred; each query was taken twenty times
        lambda: Demonstrations(share=-0.2),
        lambda: Demonstrations(exchanged=90),
        lambda: UnlabelledQueries(demonstrated=1.5),
        lambda: PreferenceDataModule("a.jsonl", "b.jsonl", lowest=50),
        lambda: SpeechDataModule(decoded=-0.5),
        lambda: WrittenAnswers(None, own_subject=85),
    ],
)
def test_a_share_is_no_percentage(made):
    with pytest.raises(UserError, match="is a share, from 0 to 1; got"):
        made()


def test_manifest_gives_queries_without_answers(tmp_path):
    found = ManifestDialogues(manifest(tmp_path, [json.dumps(record(1)), json.dumps(record(2))])).dialogues("train", "")
    assert [d.query.id for d in found] == ["q1", "q2"] and found[0].agent is None and found[0].transcript is None
    assert len(found[0].user.audio.samples) == 8000 and found[0].user.seconds == 0.5


@pytest.mark.parametrize(
    "second, must",
    [
        ("{not json", "queries.jsonl:2: each line must be one JSON object; got"),
        ("[1, 2]", "queries.jsonl:2: each line must be one JSON object; got list"),
        (json.dumps({k: v for k, v in record(2).items() if k != "audio"}), "queries.jsonl:2: a query must have audio"),
        (json.dumps(record(2, mood="sad")), "queries.jsonl:2: unknown field mood"),
        (json.dumps(record(1)), "queries.jsonl:2: id 'q1' was already used on line 1"),
        (
            json.dumps(record(2, split="Test")),
            "queries.jsonl:2: the split of 'q2' must be one of train, val, test; got",
        ),
        (json.dumps(record(2, audio="none.wav")), "queries.jsonl:2: audio must be an existing file; got"),
        (json.dumps(record(2, styles={"emotion": "bored"})), "queries.jsonl:2: a style's emotion must be one of"),
    ],
)
def test_manifest_fails_with_its_line_number(tmp_path, second, must):
    path = manifest(tmp_path, [json.dumps(record(1)), second])
    with pytest.raises(UserError) as caught:
        ManifestDialogues(path).dialogues("train", "")
    assert must in str(caught.value) and "\n" not in str(caught.value)


def test_a_recorded_answer_that_its_text_does_not_fit_is_refused(tmp_path):
    """Half a second holds 12 codes and a delay of 2: of 40 words the last 26 were left out in silence."""
    answers = tmp_path / "answers.jsonl"
    given = ManifestDialogues(manifest(tmp_path, [json.dumps(record(1))]), answers=str(answers))
    for words, fits in ((14, True), (40, False)):
        answers.write_text(json.dumps({"query_id": "q1", "system": "a", "audio": "a.wav", "text": "the " * words}))
        if fits:
            TinyProcessor().check(given.dialogues("train", ""), True, 0)
            continue
        with pytest.raises(UserError, match="an answer's text must fit beside its speech, in 15 tokens; got 40"):
            TinyProcessor().check(given.dialogues("train", ""), True, 0)


def test_manifest_fails_when_it_is_missing_or_empty(tmp_path):
    with pytest.raises(UserError, match="must be an existing JSON-lines file"):
        ManifestDialogues(str(tmp_path / "none.jsonl")).dialogues("train", "")
    with pytest.raises(UserError, match="at least one query; got none"):
        ManifestDialogues(manifest(tmp_path, [])).dialogues("train", "")
