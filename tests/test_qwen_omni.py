"""The Qwen2.5-Omni reward model on a tiny random thinker: batching, padding, what trains, and that it learns."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sounds import hiss, tone
from tiny_models import write_omni
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni import scorer as qwen_omni
from lightning_paras2s.models.qwen_omni.scorer import (
    GUIDELINE,
    QwenOmniScorer,
    TrainedOmniScorer,
    audio_tokens,
    mel_batch,
)
from lightning_paras2s.modules.reward import score_loss
from lightning_paras2s.types import Audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("omni")
    write_omni(path)
    return str(path)


@pytest.fixture
def scorer(folder, monkeypatch):
    """With a short guideline: a byte is a token here, and the real one is 6,000 bytes."""
    monkeypatch.setattr(qwen_omni, "GUIDELINE", "Fit?")
    torch.manual_seed(1)
    return QwenOmniScorer(folder, lora_rank=4, dtype="float32").eval()


def test_mel_and_mask_equal_the_stock_extractors():
    """Qwen2.5-Omni's processor uses transformers' WhisperFeatureExtractor with 128 bands and fixed padding."""
    audios = [tone(300, 0.5004), tone(200, 1.3)]
    stock = WhisperFeatureExtractor(feature_size=128, chunk_length=4)
    wanted = stock([a.samples for a in audios], sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    mel, mask = mel_batch(audios)
    frames = mask.shape[1]
    assert torch.equal(mask.sum(1), wanted["attention_mask"].sum(1).long())
    keep = mask.bool()[:, None].expand_as(mel)
    assert (mel - wanted["input_features"][..., :frames])[keep].abs().max() < 1e-5


@pytest.mark.parametrize(("frames", "tokens"), [(100, 25), (101, 25), (103, 26), (50, 12)])
def test_audio_tokens_follow_two_strides_of_two(frames, tokens):
    assert audio_tokens(frames) == tokens


def test_prompt_holds_the_guideline_and_both_audios_in_order(scorer):
    ids, mask = scorer.prompts([3, 2, 1, 1])
    text = scorer.tokenizer.decode(ids[0])
    assert text.startswith(
        f"<|im_start|>system\n{qwen_omni.GUIDELINE}<|im_end|>\n<|im_start|>user\nQuery speech:<|audio_bos|><|AUDIO|>"
    )
    assert text.endswith(
        "<|audio_eos|>Response speech:<|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>Score 1-5:<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert mask.sum(1).tolist() == [ids.shape[1], ids.shape[1] - 3]
    assert "Continuation Fitness" in GUIDELINE and "{user}" not in GUIDELINE


@torch.no_grad()
def test_a_pair_scores_the_same_alone_or_in_a_batch_and_no_audio_is_nan(scorer):
    queries = [tone(200, 0.5), tone(300, 1.1), tone(250, 0.7), tone(500, 0.3)]
    responses = [tone(400, 1.3), tone(100, 0.4), Audio(np.zeros(0, np.float32), 24_000), tone(440, 0.9)]
    together = scorer.score_logits(queries, responses)
    for row in (0, 1, 3):
        alone = scorer.score_logits([queries[row]], [responses[row]])[0]
        assert (alone - together[row]).abs().max() < 1e-4  # another length of the padded batch
    assert together[2].isnan().all()
    scores = scorer(queries, responses)
    assert scores[2].isnan() and ((scores > 1) & (scores < 5))[[0, 1, 3]].all()
    assert not torch.allclose(scorer.score_logits([responses[0]], [queries[0]])[0], together[0], atol=1e-4)


def test_a_batch_of_which_nothing_can_be_scored_has_a_gradient_of_nothing(scorer):
    logits = scorer.score_logits([tone(200, 0.5)] * 2, [tone(200, 0.05)] * 2)
    assert logits.shape == (2, 5) and logits.isnan().all()
    score_loss(logits, torch.tensor([1.0, 4.0])).backward()
    trained = [p for p in scorer.parameters() if p.requires_grad]
    assert all(p.grad is None or not p.grad.any() for p in trained) and any(p.grad is not None for p in trained)


@torch.no_grad()
def test_logits_are_the_thinkers_own_at_the_digits(scorer, folder):
    mel, mask = mel_batch([tone(200, 0.5), tone(400, 0.8)])
    ids, attended = scorer.prompts([audio_tokens(int(n)) for n in mask.sum(1)])
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    whole = thinker(input_ids=ids, attention_mask=attended, input_features=mel, feature_attention_mask=mask).logits
    digits = [scorer.tokenizer.convert_tokens_to_ids(d) for d in "12345"]
    got = scorer.score_logits([tone(200, 0.5)], [tone(400, 0.8)])
    assert (got[0] - whole[0, -1, digits]).abs().max() < 1e-5


def test_adapters_alone_train_and_the_loss_falls(scorer, tmp_path, folder):
    """Tones score 5, noise 1: a few steps of cross-entropy (base of 5 classes: log 5 = 1.61) must tell
    them apart.
    """
    queries, responses = [tone(220, 0.4)] * 4, [tone(150, 0.4), hiss(0), tone(180, 0.4), hiss(1)]
    target = torch.tensor([4, 0, 4, 0])
    names = [n for n, p in scorer.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 7 and all(".lora_" in n and "audio_tower" not in n for n in names)
    frozen = {n: p.clone() for n, p in scorer.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam([p for p in scorer.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(scorer.score_logits(queries, responses), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < 0.8 < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in scorer.named_parameters() if not p.requires_grad)
    with torch.no_grad():
        scores = scorer(queries, responses)
        assert scores[0] > 4 > 2 > scores[1]
        scorer.save(tmp_path / "scorer.safetensors")
        again = TrainedOmniScorer(tmp_path / "scorer.safetensors")
        assert torch.equal(again(queries, responses), scores)


def test_gradients_are_the_same_when_blocks_are_recomputed(folder, monkeypatch):
    monkeypatch.setattr(qwen_omni, "GUIDELINE", "Fit?")
    grads = []
    for recompute in (False, True):
        torch.manual_seed(1)
        model, calls = QwenOmniScorer(folder, 4, dtype="float32", gradient_checkpointing=recompute), []
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        layer = qwen_omni.parts(model.thinker)[1].layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.nn.functional.cross_entropy(model.score_logits([hiss(0)], [hiss(1)]), torch.tensor([3])).backward()
        assert len(calls) == 1 + recompute
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert all(g.any() for g in grads[0].values())
    assert all(torch.allclose(g, grads[1][n], atol=1e-6) for n, g in grads[0].items())


def test_errors_are_one_clear_line(scorer, tmp_path):
    with pytest.raises(UserError, match="folder of Qwen2.5-Omni; got /nowhere"):
        QwenOmniScorer("/nowhere")
    with pytest.raises(UserError, match="at most 300 s; got 301 s"):
        mel_batch([Audio(np.zeros(301 * 16_000, np.float32), 16_000)])
    path = tmp_path / "adapters.safetensors"
    with pytest.raises(UserError, match="must be an existing"):
        TrainedOmniScorer(path)
    scorer.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="must be a whole safetensors file"):
        TrainedOmniScorer(path)
    tensors = load_file(tmp_path / path.name) if path.write_bytes(whole) else {}
    with safe_open(path, "pt") as file:
        header = file.metadata()
    name = sorted(tensors)[0]
    save_file(tensors | {name: torch.ones(4, 3)}, path, metadata=header)
    with pytest.raises(UserError, match=r"must hold .*lora_A.* \(4, \d+\); got \(4, 3\)"):
        TrainedOmniScorer(path)
    save_file(tensors, path, metadata={"class": "TinyScorer"})
    with pytest.raises(UserError, match="must hold a QwenOmniScorer; got TinyScorer"):
        TrainedOmniScorer(path)
