"""PolyTone analysers on pre-trained encoders, with tiny random instances of the same classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_paras2s.data.suggestive import LABELS
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.polytone import NOTHING, analyser_path
from lightning_paras2s.modules.analyzers import PolyToneModule, targets
from lightning_paras2s.modules.labelled import Labelled
from lightning_paras2s.types import STYLES, Audio


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    """Tiny random instances of the pre-trained encoders' classes."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model, WhisperConfig, WhisperModel

    folder, small = tmp_path_factory.mktemp("encoders"), {"vocab_size": 16, "num_hidden_layers": 2}
    torch.manual_seed(0)
    whisper = WhisperConfig(
        vocab_size=16, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80, max_source_positions=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    wav2vec = Wav2Vec2Config(
        **small, hidden_size=16, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8), conv_kernel=(10, 4),
        conv_stride=(160, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    WhisperModel(whisper).save_pretrained(folder / "whisper")
    Wav2Vec2Model(wav2vec).save_pretrained(folder / "wav2vec2")
    return {"WhisperAnalyser": str(folder / "whisper"), "Wav2Vec2Analyser": str(folder / "wav2vec2")}


@pytest.mark.parametrize("name", ["WhisperAnalyser", "Wav2Vec2Analyser"])
def test_encoder_analyser_when_saved_and_loaded(name, encoders, tmp_path):
    from lightning_paras2s.hearing.encoder_recognizer import ANALYSERS, EncoderRecognizer, load_analyser

    analyser = ANALYSERS[name]("emotion", encoders[name], lora_rank=2).eval()
    trained = {n for n, p in analyser.named_parameters() if p.requires_grad}
    assert {"mixture", "head.weight", "head.bias"} < trained and all(".lora_" in n for n in trained if "." in n[5:])
    random = np.random.default_rng(0)
    heard = [NOTHING._replace(samples=random.normal(0, 0.1, n).astype(np.float32)) for n in (8000, 500, 16_000)]
    with torch.no_grad():
        logits = analyser(heard)
        alone = torch.cat([analyser([one]) for one in heard])
        for p in analyser.parameters():
            if p.requires_grad:
                p.add_(0.1)
        moved = analyser(heard)
    assert logits.shape == (3, 7) and torch.allclose(logits, alone, atol=1e-4)  # a row is its own
    analyser.save(tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.allclose(load_analyser(tmp_path / "a.safetensors").eval()(heard), moved, atol=1e-5)
    style = EncoderRecognizer({"emotion": str(tmp_path / "a.safetensors")}, device="cpu")
    labels = style.recognize([Audio(h.samples, 16_000) for h in heard], "query")
    assert [label.emotion for label in labels] == [LABELS["emotion"][i] for i in moved.argmax(-1)]
    with pytest.raises(UserError, match="must hold its analyser; got emotion's"):
        EncoderRecognizer({"age": str(tmp_path / "a.safetensors")}, device="cpu")


def test_encoder_analyser_learns_when_its_module_is_trained(encoders, tmp_path):
    """High and low tones: the adapters, mixture and head of the tiny wav2vec 2.0 tell them apart after a few steps."""
    import lightning as L
    from torch.utils.data import DataLoader

    from lightning_paras2s.hearing.encoder_recognizer import Wav2Vec2Analyser, load_analyser

    time = np.arange(8000) / 16_000
    rows = []
    for index in range(8):
        tone = np.sin(2 * np.pi * (150, 1500)[index % 2] * time + index).astype(np.float32)
        rows.append(Labelled(NOTHING._replace(samples=tone), "sarcasm", STYLES["sarcasm"][index % 2]))
    module = PolyToneModule(
        lambda factor: Wav2Vec2Analyser(factor, encoders["Wav2Vec2Analyser"], lora_rank=2),
        ("sarcasm",), lr=0.03, warmup_steps=1, export=str(tmp_path / "polytone"),
    )  # fmt: skip
    trainer = L.Trainer(
        max_steps=30, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows, 8, collate_fn=list))
    kept = load_analyser(analyser_path(tmp_path / "polytone", "sarcasm")).eval()
    with torch.no_grad():
        assert (kept([r.heard for r in rows]).argmax(-1) == targets(rows)).float().mean() > 0.9
