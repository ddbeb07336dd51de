"""The policy's seam: a dual-stream speech language model (paper Eq. 2; the interface that `TinySpeechLM` and
`KimiAudio` share).

Two token streams run in step on axis S: TEXT = 0 and AUDIO = 1. At each response step n the action is the pair
(audio, text). Forced tokens (audio blanks during the delay, text blanks after text EOS) are not actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_paras2s.errors import UserError, check_least, no_shards

TEXT, AUDIO = 0, 1


@dataclass(frozen=True)
class Prompt:
    """A left-padded batch of query tokens.

    Attributes:
        tokens: [B, 2, P], int64.
        mask: [B, P], bool, True = a real position.
        features: [B, P, F], continuous query features (0 where there are none), or None.
        features_mask: [B, P], bool, True = `features` counts here, or None.
    """

    tokens: Tensor
    mask: Tensor
    features: Tensor | None = None
    features_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, function) -> Prompt:
        """The same prompt with `function` applied to each tensor."""
        return Prompt(
            *(None if t is None else function(t) for t in (self.tokens, self.mask, self.features, self.features_mask))
        )

    def to(self, device: torch.device | str) -> Prompt:
        return self.map(lambda t: t.to(device))

    def repeat(self, group_size: int) -> Prompt:
        """Each row G times, copies adjacent: [B*G, ...]."""
        return self.map(lambda t: t.repeat_interleave(group_size, 0))

    def rows(self, index: Tensor | slice) -> Prompt:
        return self.map(lambda t: t[index])


@dataclass(frozen=True)
class Completion:
    """A right-padded batch of response tokens.

    Attributes:
        tokens: [B, 2, T], int64; blanks after the end.
        actions: [B, 2, T], bool, True = sampled (or, in a demonstration, to be learned): not forced, not padding.
        logps: [B, 2, T], the sampler's log-probabilities, 0 where `actions` is False; None for demonstrations.
        finished: [B], bool, True = ended by audio EOS and not by the step limit.
    """

    tokens: Tensor
    actions: Tensor
    finished: Tensor
    logps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def steps(self) -> Tensor:
        """[B, T], bool, True = a step with at least one action."""
        return self.actions.any(1)

    def to(self, device: torch.device | str) -> Completion:
        logps = None if self.logps is None else self.logps.to(device)
        return Completion(self.tokens.to(device), self.actions.to(device), self.finished.to(device), logps)

    def check_drawn(self) -> Completion:
        """Itself.

        Raises:
            UserError: a token was drawn from what is no distribution: it is any token.
        """
        if self.logps is not None and bool(self.logps.isnan().any()):
            raise UserError(
                "a policy's log-probabilities must be numbers; got NaN where it drew an answer; its weights are "
                "damaged, or its type is too narrow: fetch or train it again, or set dtype: float32"
            )
        return self

    def rows(self, index: Tensor | slice) -> Completion:
        logps = None if self.logps is None else self.logps[index]
        return Completion(self.tokens[index], self.actions[index], self.finished[index], logps)

    def trim(self) -> Completion:
        """Without the steps after the longest row's end."""
        length = int(self.steps.any(0).nonzero().max()) + 1 if bool(self.steps.any()) else 1
        logps = None if self.logps is None else self.logps[..., :length]
        return replace(self, tokens=self.tokens[..., :length], actions=self.actions[..., :length], logps=logps)


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: at a temperature, then among the `top_k` likeliest tokens, then among the fewest that
    hold `top_p` of what is left.

    Temperatures apply to sampling and to `SpeechLM.logps` alike, so that the two never differ. The cuts are for
    evaluation alone: `logps` refuses them.

    Args:
        max_steps: most steps of a response.
        text_temperature: of the text stream; 0 = the likeliest token.
        audio_temperature: of the audio stream; 0 = the likeliest token.
        text_top_k: number of the likeliest tokens that the text stream chooses among; 0 = all.
        audio_top_k: number of the likeliest tokens that the audio stream chooses among; 0 = all.
        text_top_p: probability that the fewest likeliest tokens of the text stream must hold; 1 = all tokens.
        audio_top_p: probability that the fewest likeliest tokens of the audio stream must hold; 1 = all tokens.

    Raises:
        UserError: no step, a temperature below 0, or a cut that leaves nothing or more than there is.
    """

    max_steps: int = 128
    text_temperature: float = 1.0
    audio_temperature: float = 1.0
    text_top_k: int = 0
    audio_top_k: int = 0
    text_top_p: float = 1.0
    audio_top_p: float = 1.0

    def __post_init__(self) -> None:
        check_least("sampling.max_steps", self.max_steps, 1, "change it")
        for stream in ("text", "audio"):
            if not 0 <= (value := getattr(self, f"{stream}_temperature")) < inf:
                raise UserError(
                    f"sampling.{stream}_temperature must be above 0, or 0 for the likeliest token; got {value}; "
                    "change it"
                )
        for name, value in (("text_top_k", self.text_top_k), ("audio_top_k", self.audio_top_k)):
            if value < 0:
                raise UserError(f"sampling.{name} must be 0 (all tokens) or above; got {value}; change it")
        for name, value in (("text_top_p", self.text_top_p), ("audio_top_p", self.audio_top_p)):
            if not 0 < value <= 1:
                raise UserError(f"sampling.{name} must be above 0 and at most 1 (all tokens); got {value}; change it")

    def __repr__(self) -> str:
        """Only what departs from no cuts beside steps and temperatures: it names what answers depend on (`digest`)."""
        given = [f"{name}={getattr(self, name)!r}" for name in ("max_steps", "text_temperature", "audio_temperature")]
        given += [f"{name}={value!r}" for name, value in self.cuts().items()]
        return f"Sampling({', '.join(given)})"

    def of(self, stream: int) -> tuple[float, int, float]:
        """Temperature, top-k and top-p of a stream."""
        if stream == TEXT:
            return self.text_temperature, self.text_top_k, self.text_top_p
        return self.audio_temperature, self.audio_top_k, self.audio_top_p

    def greedy(self) -> Sampling:
        """Always the most likely token, which needs no noise."""
        return replace(self, text_temperature=0.0, audio_temperature=0.0)

    def cuts(self) -> dict[str, float]:
        """The cuts that are on."""
        every = {"text_top_k": self.text_top_k, "audio_top_k": self.audio_top_k}
        found = {name: value for name, value in every.items() if value}
        shares = {"text_top_p": self.text_top_p, "audio_top_p": self.audio_top_p}
        return found | {name: value for name, value in shares.items() if value != 1}

    def check_noise(self, noise: Tensor | None) -> None:
        """
        Raises:
            UserError: something is drawn, and there is no noise to draw it by.
        """
        if noise is None and (self.text_temperature or self.audio_temperature):
            raise UserError(
                "sampling must have noise unless both temperatures are 0; got None; pass sampling_noise(...)"
            )

    def check_scorable(self) -> None:
        """Log-probabilities are those of the whole distribution at a temperature.

        Raises:
            UserError: a cut is on, so that samples would come from another distribution.
        """
        for name, value in self.cuts().items():
            raise UserError(
                f"sampling.{name} must be off where samples are scored (training), since log-probabilities are of all "
                f"tokens; got {value}; leave it to evaluation"
            )


@dataclass(frozen=True)
class Streams:
    """The special ids of both streams and the audio delay in steps."""

    text_blank: int
    text_eos: int
    audio_blank: int
    audio_eos: int
    delay: int


@dataclass(frozen=True)
class Logps:
    """Log-probability of each action and entropy of its distribution, both [B, 2, T], 0 where there is no action."""

    values: Tensor
    entropy: Tensor


class SpeechLM(nn.Module, ABC):
    """A dual-stream speech language model."""

    streams: Streams

    @abstractmethod
    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits of each response step: text [B, T, V_text], audio [B, T, V_audio].

        Entry t predicts `completion.tokens[:, :, t]` from the prompt and the steps before t. If `completion` has G
        times as many rows
        as `prompt`, each prompt serves G adjacent rows.
        """

    @abstractmethod
    def generate(
        self, prompt: Prompt, sampling: Sampling, noise: Tensor | None = None, group_size: int = 1
    ) -> Completion:
        """Sample `group_size` responses a prompt, [B*G] rows, copies of a prompt adjacent; the prompt is prefilled
        once.

        Args:
            noise: uniforms in [0, 1), [B*G, 2, max_steps]; each token is drawn from its own uniform by inverse CDF,
                so samples depend on nothing else. May be None if both temperatures are 0.
        """

    @abstractmethod
    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        """Log-probabilities of `completion` under this model at `sampling`'s temperatures; differentiable."""

    @abstractmethod
    def reference(self) -> SpeechLM:
        """A frozen model that equals this one now (a copy, or the same weights with the adapter off). Not a
        submodule."""

    def positions(self, prompt: int, steps: int, group_size: int) -> int:
        """That `logps` runs for a prompt of so many and its G answers, padding and all: each has a copy of the prompt.

        A model that reads a prompt once for its whole group overrides it.
        """
        return group_size * (prompt + steps)

    def materialize(self) -> None:
        """Read weights that the constructor left for `shard` to read; nothing to do for most models."""

    def shard(self, mesh: DeviceMesh) -> None:
        """Split the weights over the ranks of `mesh` (FSDP2), in place."""
        raise no_shards(self)


def sampling_noise(seed: int, step: int, rows: int, max_steps: int) -> Tensor:
    """Uniforms of the *global* batch, [rows, 2, max_steps]; slice the rows by rank.

    A function of (seed, step) alone, so samples depend on no rank count, micro-batch or order, and a resume needs no
    saved state.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.rand(rows, 2, max_steps, generator=generator)
