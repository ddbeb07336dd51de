"""The seam between speech and a policy's tokens: what differs between policy families outside of the network.

A policy family is a `SpeechLM` and its `Processor`. `DualStreamDataModule` owns files, loaders, order, ranks and
transfer, and asks the processor for the rest; stages and benchmark ask it what a completion says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lightning_paras2s.data.dialogue import Dialogue
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.speech_lm import Completion, SpeechLM
from lightning_paras2s.running.origins import sha, weights_sha
from lightning_paras2s.running.shipped import shipped
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Query


class Items(Protocol):
    """Dialogues that a processor has prepared: a sequence, and each one's length for batches of like length, in
    positions of the policy.
    """

    lengths: Sequence[float]

    def answered(self, steps: Sequence[int]) -> Sequence[float]:
        """The lengths with answers of so many steps beside them, which are learned as tokens."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Processor(ABC):
    """Waveform and text -> prompt, demonstration, padded batch; completion -> waveform and text.

    Its parts (encoders, codec, vocabulary) are read when they are first needed, so that a stage that only hears keeps
    no voice, and one that only speaks no ears.
    """

    name: str  # of the family
    speaks_alone = False  # whether a response's speech would depend on the others in its batch
    carries_turns = False  # whether a prompt has a place for what was said before (`Dialogue.turns`)

    def check(self, dialogues: list[Dialogue], labelled: bool, max_steps: int) -> None:  # noqa: B027
        """Refuse what can't be used, before any weight is read.

        Args:
            labelled: the answers count, which must fit behind the query, as must `max_steps` of the policy's own.

        Raises:
            UserError: naming the dialogue.
        """

    def check_turns(self, dialogues: list[Dialogue]) -> None:
        """Refuse a dialogue whose earlier turns a prompt would drop.

        Raises:
            UserError: naming it.
        """
        if not self.carries_turns and (found := next((d for d in dialogues if d.turns), None)) is not None:
            raise UserError(
                f"{self.name} hears one utterance; got {found.query.id!r} with {len(found.turns)} earlier turns; take "
                "queries without, or a family whose template has a place for them"
            )

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """The files and folders of weights whose content decides what is heard and spoken."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, str | int | float | None]:
        """All else that decides what is heard and spoken: speaker, prompt, seeds, types of weights."""

    @property
    def config_sha(self) -> str:
        """Short hash of all that what is heard and spoken depends on but the policy; the same at another path."""
        return sha(type(self).__name__, self.settings, [weights_sha(shipped(path)) for path in self.files])

    def fits(self, policy: str) -> None:  # noqa: B027
        """Refuse a policy's weights that are another family's or size, as far as can be told without reading them."""

    def suits(self, policy: SpeechLM) -> None:  # noqa: B027
        """Refuse a policy whose ids are not those that this processor writes and reads."""

    @abstractmethod
    def prepare(self, dialogues: list[Dialogue], labelled: bool, cache_dir: str) -> Items:
        """What is done once for all epochs; the results that are dear are kept in `cache_dir`."""

    @abstractmethod
    def collate(self, items: list[Any]) -> Any:
        """Prepared dialogues -> what a loader gives; on the CPU."""

    @abstractmethod
    def to_device(self, loaded: Any, device: torch.device) -> DualStreamBatch:
        """What a loader gave -> a padded batch on the rank's device."""

    @abstractmethod
    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        """What a listener gets of each completion."""

    @abstractmethod
    def load_policy(self, path: str, device: str, dtype: str) -> SpeechLM:
        """The family's policy with the weights of `path`, frozen, in eval mode."""

    @abstractmethod
    def hear(self, audios: list[Audio], turns: Sequence[tuple[Turn, ...]] = ()) -> list[Any]:
        """Recordings that someone asks now (the benchmark, a server) -> items for `collate`; `turns` were said before
        each, where any has some (and the family carries them)."""

    @abstractmethod
    def length(self, item: Any) -> float:
        """Of an item's prompt, so that items of like length go together."""

    def through_codec(self, audios: list[Audio]) -> list[Audio]:
        """What the policy's own voice would leave of recordings.

        Raises:
            UserError: the family has no encoder for its own codes.
        """
        raise UserError(f"written answers need a codec that encodes the agent's voice; got {self.name}, which has none")


@dataclass(frozen=True)
class RawItem:
    """Speech before it is heard."""

    audio: Audio
    query: Query | None = None
    answer: tuple[Audio, str] | None = None  # speech and text, for SFT
    turns: tuple[Turn, ...] = ()  # what was said before


@dataclass(frozen=True)
class RawItems:
    """Dialogues whose files are read when they are asked for."""

    dialogues: list[Dialogue]
    labelled: bool
    lengths: list[float]

    def __len__(self) -> int:
        return len(self.dialogues)

    def answered(self, steps: Sequence[int]) -> list[float]:
        return [length + more for length, more in zip(self.lengths, steps, strict=True)]

    def __getitem__(self, index: int) -> RawItem:
        d = self.dialogues[index]
        answer = (d.agent.audio, d.agent.text) if self.labelled and d.agent is not None else None
        return RawItem(d.user.audio, d.query, answer, d.turns)


class RawProcessor(Processor):
    """One whose ears run on the rank's own device: what a loader gives is speech."""

    carries_turns = True
    rate: float  # positions of a second of speech

    def prepare(self, dialogues: list[Dialogue], labelled: bool, cache_dir: str) -> RawItems:
        def seconds(d: Dialogue) -> float:
            answer = d.agent.seconds if labelled and d.agent is not None else 0.0
            return d.user.seconds + sum(t.seconds for t in d.turns) + answer

        return RawItems(dialogues, labelled, [self.rate * seconds(d) for d in dialogues])

    def collate(self, items: list[RawItem]) -> list[RawItem]:
        return items

    def hear(self, audios: list[Audio], turns: Sequence[tuple[Turn, ...]] = ()) -> list[RawItem]:
        return [RawItem(audio, turns=said) for audio, said in zip(audios, turns or [()] * len(audios), strict=True)]

    def length(self, item: RawItem) -> float:
        return self.rate * (item.audio.seconds + sum(turn.seconds for turn in item.turns))
