"""What the embedded ears hear of a corpus is kept on disk, and heard anew where anything that decides it differs."""

import numpy as np
import pytest
import torch

from lightning_paras2s.data.dialogue import Utterance
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing import transcribers
from lightning_paras2s.hearing.transcribers import CTCNetwork
from lightning_paras2s.models.tiny import processor
from lightning_paras2s.models.tiny.processor import cached_texts, transcribe_all
from lightning_paras2s.types import Style


def speech(seed: int) -> Utterance:
    acoustics = np.random.default_rng(seed).normal(size=(40 + 4 * seed, 66)).astype(np.float16)
    return Utterance(acoustics, "told", Style(), ())


@pytest.fixture
def heard(monkeypatch):
    """Calls of the transcriber."""
    calls = []

    def transcribe(network, utterances):
        calls.append(len(utterances))
        return transcribe_all(network, utterances)

    monkeypatch.setattr(processor, "transcribe_all", transcribe)
    return calls


def network(seed: int = 0) -> CTCNetwork:
    torch.manual_seed(seed)
    return CTCNetwork(width=16, blocks=1).eval().requires_grad_(False)


def test_a_second_run_reads_what_the_first_heard(tmp_path, heard):
    spoken = [speech(1), None, speech(2), speech(3)]
    first = cached_texts(network(), spoken, tmp_path)
    assert first == transcribe_all(network(), spoken) and first[1] == "" and any(first)
    assert cached_texts(network(), spoken, tmp_path) == first and heard == [4]


def test_other_weights_speech_or_reading_are_heard_anew(tmp_path, heard, monkeypatch):
    spoken = [speech(1), speech(2)]
    cached_texts(network(), spoken, tmp_path)
    cached_texts(network(1), spoken, tmp_path)
    cached_texts(network(), [speech(2), speech(1)], tmp_path)
    cached_texts(network(), [speech(1), None], tmp_path)
    monkeypatch.setattr(processor, "reading_sha", lambda: "another lexicon")
    cached_texts(network(), spoken, tmp_path)
    assert heard == [2] * 5


def test_the_hash_of_the_reading_is_of_the_words_their_use_and_the_source(monkeypatch):
    first = transcribers.reading_sha()
    shas = {first}
    for changed in ("spelt", "counts", "pairs"):
        lexicon = transcribers.Lexicon(["one", "two"], [["one", "two"]])
        transcribers.reading_sha.cache_clear()
        if changed == "spelt":
            lexicon = transcribers.Lexicon(["one"], [["one"]])
        elif changed == "counts":
            lexicon.counts["one"] += 1
        else:
            lexicon.pairs["two", "one"] += 1
        monkeypatch.setattr(transcribers, "embedded_lexicon", lambda lexicon=lexicon: lexicon)
        shas.add(transcribers.reading_sha())
    transcribers.reading_sha.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(transcribers.Path, "read_bytes", lambda path: b"another source")
    shas.add(transcribers.reading_sha())
    transcribers.reading_sha.cache_clear()
    monkeypatch.undo()
    assert len(shas) == 5 and transcribers.reading_sha() == first


def test_nothing_to_hear_needs_no_transcriber(tmp_path):
    assert cached_texts(None, [], tmp_path) == []
    with pytest.raises(UserError, match="give the weights of a transcriber"):
        cached_texts(None, [speech(1)], tmp_path)
