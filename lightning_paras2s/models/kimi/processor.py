"""`KimiProcessor`: Kimi-Audio's encoders, detokenizer and words around `KimiAudio`. The encoders run on the rank's own
device, once a query whatever G is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_paras2s.data.dialogue import Dialogue
from lightning_paras2s.data.dual_stream import DualStreamBatch, pad_completions, pad_prompts
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.models.kimi.config import KimiConfig, read_config
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.kimi.prompt import (
    CODE_RATE,
    Piece,
    check_context,
    demonstration,
    response_steps,
    speech_prompt,
    spoken_answer,
    spoken_turn,
    turn_length,
    written_turn,
)
from lightning_paras2s.models.kimi.released import load_codes, load_detokenizer, load_features
from lightning_paras2s.models.kimi.text import KimiText
from lightning_paras2s.models.kimi.tokenizer import KimiTokenizer
from lightning_paras2s.models.processor import RawItem, RawProcessor
from lightning_paras2s.models.remembered import remembered
from lightning_paras2s.models.speech_lm import Completion
from lightning_paras2s.speaking.codec import SpokenResponse, speak
from lightning_paras2s.turns import Turn


class Released(NamedTuple):
    """What ears and voice are made of: the options of `KimiProcessor`, where each is explained."""

    path: str
    glm4_path: str
    dtype: str
    seed: int
    ode_points: int | None
    chunk_codes: int | None


class KimiProcessor(RawProcessor):
    """Kimi-Audio's encoders, detokenizer and words, as released; each is read when it is first needed.

    Earlier turns stand in the prompt as the release puts them there: a user's recording, an assistant's recording with
    its words; the words alone, where nobody recorded them.

    Args:
        path: folder of Kimi-Audio.
        glm4_path: folder of glm-4-voice-tokenizer.
        dtype: of the feature encoder and of flow matching, as released; codes and vocoder are float32.
        seed: of the detokenizer's noise.
        ode_points: of flow matching; None = the release's 30. Fewer cost less and sound worse: at 30, the detokenizer
            is more than half of a GRPO step (`plan`).
        chunk_codes: codes a call of the detokenizer; None = the release's 30, of which each call computes a look-ahead
            of 12 in vain. Longer chunks cost less and are not what a listener of the stream hears; at least 13.
    """

    name, rate = "KimiAudio", CODE_RATE

    def __init__(
        self,
        path: InputPath,
        glm4_path: InputPath,
        dtype: str = "bfloat16",
        seed: int = 0,
        ode_points: int | None = None,
        chunk_codes: int | None = None,
    ) -> None:
        self.path, self.glm4_path = path, glm4_path
        self.released = Released(path, glm4_path, dtype, seed, ode_points, chunk_codes)

    @cached_property
    def config(self) -> KimiConfig:
        return read_config(self.path)

    @property
    def ears(self) -> KimiTokenizer:
        return load_ears(self.released)

    @property
    def voice(self) -> KimiTokenizer:
        return load_voice(self.released)

    @cached_property
    def text(self) -> KimiText:
        return KimiText(self.path)

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path, self.glm4_path)

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        return {k: v for k, v in self.released._asdict().items() if k not in ("path", "glm4_path")}

    def fits(self, policy: str) -> None:
        if read_config(policy) != self.config:
            raise UserError(
                f"{policy} must be trained from {self.path}; their configs differ; give the folder it came from"
            )

    def check(self, dialogues: list[Dialogue], labelled: bool, max_steps: int) -> None:
        for d in dialogues:
            shown = response_steps(self.config, d.agent.seconds) if labelled and d.agent is not None else 0
            before = sum(turn_length(self.config, t, len(self.text.encode(t.text.strip()))) for t in d.turns)
            check_context(self.config, d.query.id if d.query else "", d.user.seconds, max(shown, max_steps), before)

    @torch.no_grad()
    def to_device(self, loaded: list[RawItem], device: torch.device) -> DualStreamBatch:
        blanks = (self.config.blank, self.config.blank)
        ears, audios = self.ears.to(device), [item.audio for item in loaded]
        heard = ears.listen(audios, device)
        before = self.pieces([item.turns for item in loaded], heard[0][1], device)
        rows = [speech_prompt(self.config, *one, said) for one, said in zip(heard, before, strict=True)]
        prompt = pad_prompts(rows, blanks)
        completion, answers = None, [item.answer for item in loaded if item.answer is not None]
        if answers:
            spoken = ears.codes([audio for audio, _ in answers], device)
            texts = [self.text.encode(text) for _, text in answers]
            made = [demonstration(self.config, codes.cpu(), text) for codes, text in zip(spoken, texts, strict=True)]
            completion = pad_completions(made, blanks).to(device)
        return DualStreamBatch(prompt, completion, [item.query for item in loaded if item.query], audios)

    def pieces(self, dialogues: Sequence[Sequence[Turn]], features: Tensor, device: torch.device) -> list[list[Piece]]:
        """The earlier turns of each prompt, heard at once; `features` [., F] tell type, device and F."""
        spoken = [turn for turns in dialogues for turn in turns if turn.sound is not None]
        users, agents = ([t.sound for t in spoken if t.role == role] for role in ("user", "assistant"))
        heard = iter(self.ears.listen(users, device) if users else [])
        codes = iter(self.ears.codes(agents, device) if agents else [])

        def piece(turn: Turn) -> Piece:
            if turn.sound is not None and turn.role == "user":
                return spoken_turn(self.config, *next(heard))
            words = self.text.encode(turn.text.strip())
            if turn.sound is not None:
                return spoken_answer(self.config, next(codes), words, features)
            start = self.config.user_start if turn.role == "user" else self.config.assistant_start
            return written_turn(self.config, start, words, features)

        return [[piece(turn) for turn in turns] for turns in dialogues]

    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        voice = self.voice.to(completion.tokens.device) if decode_audio else None
        return speak(completion, voice, self.text.decode)

    def load_policy(self, path: str, device: str = "cuda", dtype: str = "bfloat16") -> KimiAudio:
        return KimiAudio(path, read_config(path), dtype=dtype).to(device).eval().requires_grad_(False)


# Shared by all processors of a run: they are the same for every policy.


@remembered(1)
def load_ears(released: Released) -> KimiTokenizer:
    """A tokenizer that only hears.

    Raises:
        UserError: naming a file that is missing or damaged, or a tensor that does not fit.
    """
    folder, kind = Path(released.path), getattr(torch, released.dtype)
    glm4 = load_codes(Path(released.glm4_path))
    whisper = load_features(folder / "whisper-large-v3").to(kind)
    return KimiTokenizer(glm4, whisper, None, read_config(folder), released.seed).eval().requires_grad_(False)


@remembered(1)
def load_voice(released: Released) -> KimiTokenizer:
    """A tokenizer that only speaks; raises as `load_ears`."""
    folder, kind = Path(released.path), getattr(torch, released.dtype)
    changes = {"ode_points": released.ode_points, "chunk_codes": released.chunk_codes}
    voice = load_detokenizer(folder, kind, changes)
    return KimiTokenizer(None, None, voice, read_config(folder), released.seed).eval().requires_grad_(False)
