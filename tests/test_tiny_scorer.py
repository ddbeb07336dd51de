"""`TinyScorer`: scores lie in 1..5, no audio is unscored, ears stay frozen, both recordings count."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_paras2s.audio import Recording, read_audio, write_audio
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import StyleNetwork
from lightning_paras2s.hearing.transcribers import CTCNetwork
from lightning_paras2s.judging.audio_judges import ScorerJudge
from lightning_paras2s.judging.pair_judges import ScorerPairJudge
from lightning_paras2s.judging.rewards import LikeliestScorerReward, ScorerReward
from lightning_paras2s.judging.scorer import ResponseScorer, expected_score, likeliest_score
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.models.tiny.scorer import WHOLE, Heard, TinyScorer, TrainedScorer
from lightning_paras2s.modules.reward import factor_loss
from lightning_paras2s.types import FACTORS, Audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ears")
    save_module(CTCNetwork(8, 1), folder / "transcriber.safetensors")
    save_module(StyleNetwork(8, 1), folder / "style.safetensors")
    return folder


@pytest.fixture
def scorer(folder) -> TinyScorer:
    torch.manual_seed(1)
    return TinyScorer(str(folder / "transcriber.safetensors"), str(folder / "style.safetensors"), 16, 1, 2).eval()


def sounds(*seconds: float) -> list[Audio]:
    return [
        Audio(0.1 * np.random.default_rng(i).standard_normal(int(s * 16_000)).astype(np.float32), 16_000)
        for i, s in enumerate(seconds)
    ]


def test_expected_score_on_worked_examples():
    """Uniform: (1 + 2 + 3 + 4 + 5) / 5. Weights 1, 3 on the scores 1, 5: (1 * 1 + 3 * 5) / 4."""
    two = torch.tensor([0.0, -1e9, -1e9, -1e9, np.log(3.0)])
    assert torch.allclose(
        expected_score(torch.stack([torch.zeros(5), two.float()])), torch.tensor([3.0, 4.0]), atol=1e-5
    )


def test_likeliest_score_on_worked_examples():
    """Half of the weight on 2, the rest spread over higher ones: the likeliest is 2, whatever the mean is."""
    logits = torch.tensor([[0.1, 0.5, 0.1, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1, 0.6], [torch.nan] * 5]).log()
    found = likeliest_score(logits)
    assert found[:2].tolist() == [2.0, 5.0] and found[2].isnan()


def test_likeliest_reward_ties_what_the_expected_tells_apart():
    class Sure(ResponseScorer):
        """The more surely a 4, the longer the answer."""

        def score_logits(self, queries, responses):
            return torch.stack([torch.tensor([0.0, 0.0, 0.0, r.seconds, 0.0]) for r in responses])

    query = Audio(np.ones(1600, np.float32), 16_000)

    class One(SimpleNamespace):
        def __len__(self):
            return 1

    batch = One(queries=[], audios=[query])
    answers = [SimpleNamespace(audio=audio, finished=True) for audio in sounds(1.0, 2.0)]
    expected, likeliest = (kind(Sure).score(batch, answers) for kind in (ScorerReward, LikeliestScorerReward))
    assert expected[0] < expected[1] < 4 and likeliest.tolist() == [4.0, 4.0]
    cut = SimpleNamespace(audio=sounds(1.0)[0], finished=False)
    assert LikeliestScorerReward(Sure).score(batch, [cut]).tolist() == [1.0]


def test_scores_lie_between_1_and_5(scorer):
    scores = scorer(sounds(1.0, 2.0), sounds(0.7, 1.5))
    assert scores.shape == (2,) and ((scores > 1) & (scores < 5)).all()


def test_no_audio_is_unscored_and_harms_no_other(scorer):
    empty = Audio(np.zeros(0, np.float32), 16_000)
    queries, responses = sounds(1.0, 1.0), sounds(1.0, 1.0)
    both = scorer(queries, [empty, responses[1]])
    assert both[0].isnan() and torch.isfinite(both[1])


def test_score_depends_on_both_recordings(scorer):
    a, b = sounds(1.0, 1.0)
    logits = scorer.score_logits([a, a, b], [a, b, a])
    assert not torch.allclose(logits[0], logits[1], atol=1e-4) and not torch.allclose(logits[0], logits[2], atol=1e-4)


def test_scores_are_permuted_when_the_batch_is(scorer):
    queries, responses = sounds(1.0, 1.0, 1.0), sounds(0.8, 0.8, 0.8)
    with torch.no_grad():
        scores = scorer(queries, responses)
        turned = scorer(queries[::-1], responses[::-1])
    assert torch.allclose(scores, turned.flip(0), atol=1e-5)


def test_ears_stay_frozen_and_the_body_learns(scorer):
    scorer.train()
    assert not scorer.ears.training and scorer.body.training
    torch.nn.functional.cross_entropy(scorer.score_logits(sounds(1.0), sounds(1.0)), torch.tensor([4])).backward()
    assert all(p.grad is None for p in scorer.ears.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scorer.body.parameters())


def test_body_learns_to_tell_two_responses_apart(scorer):
    """A long noise is a 5, a short one a 1: what the ears hear must reach the head. Learnt in 25 steps."""
    scorer.eval()  # no dropout
    query = sounds(0.6)
    long, short = sounds(2.0, 0.4)
    optimizer = torch.optim.AdamW(scorer.body.parameters(), 1e-2)
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(scorer.score_logits(query * 2, [long, short]), torch.tensor([4, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = scorer(query * 2, [long, short])
    assert scores[0] > 4 and scores[1] < 2


def test_bag_tells_what_a_query_is_about(scorer):
    """Four sentences, one a factor, learned in 60 steps; in evaluation nothing is left out, and an empty bag is 0."""
    words = ("we sold the house", "oh great a meeting", "can i go to bed late", "which suit do i wear")
    heard = [Heard(tuple(text.split()), torch.zeros(WHOLE)) for text in words]
    optimizer = torch.optim.Adam(scorer.body.parameters(), lr=0.05)
    scorer.train()
    for _ in range(60):
        optimizer.zero_grad()
        factor_loss(scorer.body.factor(scorer.body.gist(heard)), list(FACTORS)).backward()
        optimizer.step()
    scorer.eval()
    assert scorer.body.factor(scorer.body.gist(heard)).argmax(-1).tolist() == [0, 1, 2, 3]
    nothing = scorer.body.gist([Heard((), torch.zeros(WHOLE)), heard[0]])
    assert torch.equal(nothing[1:], scorer.body.gist(heard[:1])) and nothing.isfinite().all()


def test_a_recording_is_read_once_however_often_it_is_scored(scorer, tmp_path):
    paths = [tmp_path / "query.flac", tmp_path / "response.flac"]
    for path, audio in zip(paths, sounds(1.0, 1.5), strict=True):
        write_audio(path, audio)
    read = [read_audio(path, 16_000) for path in paths]
    wanted = scorer.score_logits(read[:1], read[1:])
    first = [Recording(path, 16_000) for path in paths]
    assert torch.equal(scorer.score_logits(first[:1], first[1:]), wanted)
    for path in paths:
        path.unlink()
    again = [Recording(path, 16_000) for path in paths]
    assert torch.equal(scorer.score_logits(again[:1], again[1:]), wanted)


def test_what_is_heard_of_a_recording_is_the_same_beside_others(folder):
    several = [*sounds(0.05, 1.3, 0.7, 2.0), Audio(np.zeros(0, np.float32), 16_000)]
    alone, together, pairs = (TinyScorer(*(str(folder / f"{e}.safetensors") for e in ("transcriber", "style"))).ears
                              for _ in range(3))  # fmt: skip
    wanted = [alone([audio])[0] for audio in several]
    for found in (together(several[::-1])[::-1], [*pairs(several[:2]), *pairs([*several[2:], several[0]])[:-1]]):
        for one, other in zip(found, wanted, strict=True):
            assert one.words == other.words and torch.equal(one.whole, other.whole) and one.empty == other.empty


def test_saved_scorer_is_loaded_from_a_folder_of_its_own(scorer, tmp_path):
    """That of a run, say, in which no ears lay."""
    scorer.save(tmp_path / "scorer.safetensors")
    loaded = TrainedScorer(str(tmp_path / "scorer.safetensors")).eval()
    scores = [s(sounds(1.0), sounds(1.0)) for s in (scorer, loaded)]
    assert torch.allclose(*scores, atol=5e-3)  # half precision


def test_saved_scorer_gives_the_same_scores_beside_its_ears(scorer, folder, tmp_path):
    for name in ("transcriber", "style"):
        shutil.copy(folder / f"{name}.safetensors", tmp_path)
    scorer.save(tmp_path / "scorer.safetensors")
    loaded = TrainedScorer(str(tmp_path / "scorer.safetensors")).eval()
    scores = [s(sounds(1.0), sounds(1.0)) for s in (scorer, loaded)]
    assert torch.allclose(*scores, atol=5e-3)  # half precision
    (tmp_path / "style.safetensors").unlink()
    with pytest.raises(UserError, match="must be an existing .safetensors file; got .*style.safetensors"):
        TrainedScorer(str(tmp_path / "scorer.safetensors")).eval()


def test_scorer_is_not_saved_beside_other_ears(scorer, folder, tmp_path):
    """It would be read with those, and score otherwise than it was trained to."""
    save_module(StyleNetwork(8, 1), tmp_path / "style.safetensors")
    with pytest.raises(UserError, match="a scorer is saved beside its ears; got another .*style.safetensors"):
        scorer.save(tmp_path / "scorer.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["style.safetensors"]


def test_scorer_that_nobody_trained_is_refused_where_it_would_score(folder, tmp_path):
    """One step with a gradient makes it another; what it learned is kept in its file."""
    ears = [str(folder / f"{ear}.safetensors") for ear in ("transcriber", "style")]
    judges = (ScorerReward, lambda s: ScorerJudge(s, "x"), lambda s: ScorerPairJudge(s, "x"))
    for judge in judges:
        with pytest.raises(UserError, match="must be trained; got a TinyScorer with random weights; .* TrainedScorer"):
            judge(lambda: TinyScorer(*ears, 16, 1, 2))
    scorer = TinyScorer(*ears, 16, 1, 2)
    step = torch.optim.AdamW(scorer.body.parameters(), lr=1e-2)
    scorer.score_logits(sounds(0.5), sounds(0.4)).log_softmax(-1)[0, 0].neg().backward()
    step.step()
    scorer.save(tmp_path / "scorer.safetensors")
    for judge in judges:
        judge(lambda: scorer)
        judge(lambda: TrainedScorer(str(tmp_path / "scorer.safetensors")))
    assert not TrainedScorer().untrained
