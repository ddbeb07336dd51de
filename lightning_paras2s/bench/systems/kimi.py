"""`KimiSystem`: Kimi-Audio under test, as released or trained (paper, section 5).

Query speech -> GLM-4 codes and Whisper features -> both streams -> flow matching and BigVGAN -> 24 kHz speech.

By default samples are drawn at a temperature alone, as the policy is trained. `Sampling(512, 0.0, 0.8, audio_top_k=10)`
draws as the released demo does (its repetition penalties are 1, which is none).
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lightning_paras2s.bench.systems.base import Answer, S2SSystem, digest
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import read_config
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.kimi.prompt import check_context, pad_prompts, speech_prompt
from lightning_paras2s.models.kimi.text import KimiText
from lightning_paras2s.models.kimi.tokenizer import KimiTokenizer, ReleasedTokenizer
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Sampling
from lightning_paras2s.types import Audio, Query

EDGE = 1 << 16  # bytes of each end of a file that its fingerprint covers


@dataclass(frozen=True)
class Parts:
    policy: KimiAudio
    tokenizer: KimiTokenizer
    text: KimiText


class KimiSystem(S2SSystem):
    """See the module's docstring. Weights are read when the first answer is asked for.

    Args:
        path: folder of Kimi-Audio as released; its encoders, detokenizer and text tokenizer serve every policy.
        glm4_path: folder of glm-4-voice-tokenizer.
        policy: folder of trained weights (`runs/paper_grpo/version_0/policy`); None = those of `path`.
        sampling: temperatures, cuts and step limit, 12.5 steps a second; text greedy and audio at 0.8 are the release's
            own, and its demo cuts at `audio_top_k: 10`.
        seed: with query and sample decides the noise.
        device: `auto` is the GPU if there is one.
        dtype: of the policy's weights, `bfloat16` or `float32`.
    """

    def __init__(
        self,
        path: str,
        glm4_path: str,
        policy: str | None = None,
        sampling: Sampling = Sampling(512, 0.0, 0.8),
        seed: int = 0,
        device: str = "auto",
        dtype: str = "bfloat16",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device must be there; got {device!r} without CUDA; set device: cpu or use a GPU machine")
        self.path, self.glm4_path, self.policy = path, glm4_path, policy or path
        self.sampling, self.seed, self.device, self.dtype = sampling, seed, device, dtype
        self.config = read_config(self.policy)
        if read_config(path) != self.config:
            raise UserError(f"{policy} must be trained from {path}; their configs differ; give the folder it came from")
        folders = {folder: fingerprint(folder) for folder in (path, glm4_path, self.policy)}
        self.config_sha = digest([type(self).__name__, sampling, seed, dtype, sorted(folders.values())], [])

    @cached_property
    def parts(self) -> Parts:
        policy = KimiAudio(self.policy, self.config, dtype=self.dtype).to(self.device).eval().requires_grad_(False)
        return Parts(policy, load_tokenizer(self.path, self.glm4_path, self.dtype, self.device), KimiText(self.path))

    def check(self, queries: list[Query], seconds: list[float]) -> None:
        for query, length in zip(queries, seconds, strict=True):
            check_context(self.config, query.id, length, self.sampling.max_steps)

    @torch.no_grad()
    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        self.check(queries, [audio.seconds for audio in audios])
        parts, started = self.parts, time.perf_counter()
        heard = parts.tokenizer.listen(audios, self.device)
        prompt = pad_prompts(self.config, [speech_prompt(self.config, *row) for row in heard])
        noise = torch.stack([self._noise(query, sample) for query in queries])
        answers = self._answers(parts, parts.policy.generate(prompt, self.sampling, noise))
        latency = {"total_seconds": (time.perf_counter() - started) / len(queries)}
        return [Answer(audio, text, status, latency) for audio, text, status in answers]

    def _noise(self, query: Query, sample: int) -> Tensor:
        """[2, steps], of this query and sample alone."""
        key = hashlib.sha256(f"{self.seed}/{query.id}/{sample}".encode()).digest()[:7]
        return torch.rand(2, self.sampling.max_steps, generator=torch.Generator().manual_seed(int.from_bytes(key)))

    def _answers(self, parts: Parts, completion: Completion) -> list[tuple[Audio, str, str]]:
        """Speech, words and status of each row; the detokenizer takes all rows at once."""
        tokens, actions, finished = completion.tokens.cpu(), completion.actions.cpu(), completion.finished.tolist()
        codes = [row[AUDIO][acts[AUDIO]] for row, acts in zip(tokens, actions, strict=True)]
        wav, counts = parts.tokenizer.decode(
            torch.nn.utils.rnn.pad_sequence(codes, batch_first=True), torch.tensor([len(c) for c in codes])
        )
        wav, rate = wav.float().cpu().numpy(), parts.tokenizer.sample_rate
        audios = [Audio(row[:n], rate) for row, n in zip(wav, counts.tolist(), strict=True)]
        texts = [parts.text.decode(row[TEXT][acts[TEXT]].tolist()) for row, acts in zip(tokens, actions, strict=True)]
        return [(a, t, "ok" if done else "truncated") for a, t, done in zip(audios, texts, finished, strict=True)]


@lru_cache(1)
def load_tokenizer(path: str, glm4_path: str, dtype: str, device: str) -> KimiTokenizer:
    """Shared by the systems of a run: encoders and detokenizer are the same for every policy."""
    return ReleasedTokenizer(path, glm4_path, dtype).to(device)


def fingerprint(folder: str) -> str:
    """Short hash of a folder of weights: names, sizes, and both ends of each file (19 GB need not be read through)."""
    if not Path(folder).is_dir():
        raise UserError(f"weights must be in a folder; got {folder}; fetch them or check the path")
    whole = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        size = path.stat().st_size
        whole.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            whole.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            whole.update(file.read(EDGE))
    return whole.hexdigest()[:16]
