"""Sample and judge responses at scale (paper, section 4.2: K = 32 a query): `predict --config preferences.yaml`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.vocabulary import TextVocab
from lightning_paras2s.models.speech_lm import Sampling, SpeechLM
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.modules.policy import initial_policy, place
from lightning_paras2s.modules.preferences import build_preferences
from lightning_paras2s.modules.rewards import Reward


class SampleModule(L.LightningModule):
    """Draws K responses a query from a policy, judges them, and keeps them as the reward model's data.

    Each rank writes shards of its own, `folder/{train,val}-{rank}/`, and goes on where it stopped.

    Args:
        policy, tokenizer, reward, vocabulary: build the parts.
        init_from: the policy's weights (.safetensors); None = those that it brings.
        samples: K.
    """

    def __init__(
        self,
        policy: Callable[[], SpeechLM],
        tokenizer: Callable[[], SpeechTokenizer],
        reward: Callable[[], Reward],
        folder: str,
        init_from: str | None = None,
        vocabulary: Callable[[], TextVocab] = TextVocab,
        samples: int = 32,
        sampling: Sampling = Sampling(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.build, self.init_from = (policy, tokenizer, reward, vocabulary), init_from
        self.folder, self.samples, self.sampling, self.seed = Path(folder), samples, sampling, seed
        self.policy: SpeechLM | None = None

    def configure_model(self) -> None:
        if self.policy is None:
            policy, tokenizer, reward, vocabulary = self.build
            self.policy = initial_policy(policy, self.init_from, self.seed)
            place(self, self.policy)
            self.tokenizer, self.reward, self.vocabulary = tokenizer().eval(), reward(), vocabulary()

    def predict_step(self, batch: DualStreamBatch, batch_idx: int, dataloader_idx: int = 0) -> int:
        folder = self.folder / f"{('train', 'val')[dataloader_idx]}-{self.global_rank}"
        seed = self.seed + 7919 * (self.global_rank * 2 + dataloader_idx)
        parts = (self.policy, self.tokenizer, self.vocabulary, self.reward)
        build_preferences(*parts, [batch], folder, self.samples, self.sampling, seed, first_step=batch_idx)
        return len(batch) * self.samples
