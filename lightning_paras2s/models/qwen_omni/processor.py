"""`QwenOmniProcessor`: Qwen2.5-Omni's ears, chat template, words and voice around `QwenOmni`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lightning_paras2s.data.dialogue import Dialogue
from lightning_paras2s.data.dual_stream import DualStreamBatch, pad_prompts
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.models.pretrained import one_line, token_ids
from lightning_paras2s.models.processor import RawItem, RawProcessor
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.models.qwen_omni.memory import check_card
from lightning_paras2s.models.qwen_omni.released import base_of, load_speaker, read_omni_config
from lightning_paras2s.models.qwen_omni.scorer import AUDIO_MARKS, MAX_SECONDS, SHORTEST_SECONDS, audio_tokens
from lightning_paras2s.models.qwen_omni.voice import OmniEars, OmniVoice
from lightning_paras2s.models.remembered import remembered
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion
from lightning_paras2s.speaking.codec import SpokenResponse, speak
from lightning_paras2s.turns import Turn

# without it, the release does not speak (its model card)
SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)


class QwenOmniProcessor(RawProcessor):
    """Qwen2.5-Omni's ears, words and voice, as released; each is read when it is first needed.

    A prompt's text stream is the chat template; its audio stream holds nothing but, at its last position, the text
    token by which the talker knows its speaker. Earlier turns are messages of the template: a user's recording where
    there is one, else the words; an assistant's words, as the release's own demo keeps them.

    Args:
        path: folder of Qwen2.5-Omni.
        speaker: whose voice answers: Chelsie, Ethan (or another of the folder's `spk_dict.pt`).
        system: what the model is told before the query; the release's words, without which it does not speak.
        dtype: of the ears; the voice is float32, as released.
        seed: of the voice's noise.
        ode_points: of the voice's flow matching; the release's 10. Fewer cost less and sound worse.
    """

    name, rate = "QwenOmni", 25.0

    def __init__(
        self,
        path: InputPath,
        speaker: str = "Chelsie",
        system: str = SYSTEM,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        seed: int = 0,
        ode_points: int = 10,
    ) -> None:
        self.path, self.speaker, self.system, self.dtype = path, speaker, system, dtype
        self.seed, self.ode_points = seed, ode_points

    @cached_property
    def config(self):
        return read_omni_config(self.path)

    @property
    def ears(self) -> OmniEars:
        return load_ears(self.path, self.dtype)

    @property
    def voice(self) -> OmniVoice:
        return load_voice(self.path, self.speaker, self.seed, self.ode_points)

    @cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        with one_line(self.path):
            return AutoTokenizer.from_pretrained(self.path, local_files_only=True)

    @cached_property
    def template(self) -> tuple[list[int], list[int], list[int]]:
        """Token ids before and after a query's speech, and of its begin, placeholder and end."""
        before = f"<|im_start|>system\n{self.system}<|im_end|>\n<|im_start|>user\n"
        after = "<|im_end|>\n<|im_start|>assistant\n"
        marks = token_ids(self.tokenizer, ["<|im_start|>", "<|im_end|>", *AUDIO_MARKS])[2:]
        if marks[1] != self.config.thinker_config.audio_token_id:
            raise UserError(
                f"{self.path} must have one id for {AUDIO_MARKS[1]}; got {marks[1]} in its tokenizer and "
                f"{self.config.thinker_config.audio_token_id} in its config; is the tokenizer another model's?"
            )
        return (*(self.tokenizer.encode(part, add_special_tokens=False) for part in (before, after)), marks)

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        return {name: getattr(self, name) for name in ("speaker", "system", "dtype", "seed", "ode_points")}

    def fits(self, policy: str) -> None:
        other = read_omni_config(base_of(policy))
        for part in ("thinker_config", "talker_config"):
            mine, theirs = (shapes(getattr(config, part)) for config in (self.config, other))
            if mine != theirs:
                raise UserError(
                    f"{policy} must be trained from {self.path}; their configs differ in {part}; give the folder it "
                    "came from"
                )

    def check(self, dialogues: list[Dialogue], labelled: bool, max_steps: int) -> None:
        before, after, marks = self.template
        talker, voice = self.config.talker_config, self.config.token2wav_config.dit_config
        room = min(self.config.thinker_config.text_config.max_position_embeddings, talker.max_position_embeddings)
        if max_steps * voice.repeats > voice.max_position_embeddings:
            most = voice.max_position_embeddings // voice.repeats
            raise UserError(f"sampling.max_steps must be at most {most} codes of this voice; got {max_steps}; lower it")
        for d in dialogues:
            name, seconds = d.query.id if d.query else "", d.user.seconds
            if labelled and d.agent is not None:
                raise UserError(
                    f"recorded answers can't be demonstrations of Qwen2.5-Omni, whose encoder of speech was never "
                    f"released; got one of {name!r}; train on its own best answers (rejection sampling)"
                )
            check_seconds(seconds, repr(name))
            said = sum(self.turn_length(turn, name) for turn in d.turns)
            length = len(before) + said + len(after) + 3 + audio_tokens(int(seconds * 100) + 1) + max_steps
            if length > room:
                raise UserError(
                    f"query and answer together must fit in {room} positions; got {length} for {name!r} "
                    f"({seconds:.0f} s, 25 a second, and {max_steps} steps); shorten the query or lower max_steps"
                )

    @torch.no_grad()
    def to_device(self, loaded: list[RawItem], device: torch.device) -> DualStreamBatch:
        audios = [item.audio for item in loaded]
        spoken = [turn.sound for item in loaded for turn in item.turns if heard_in(turn)]
        rows = iter(self.ears.to(device)([*audios, *spoken]))
        heard = [next(rows) for _ in audios]
        before = [[(turn, next(rows) if heard_in(turn) else None) for turn in item.turns] for item in loaded]
        blanks = (self.template[0][0], self.config.talker_config.tts_codec_mask_token_id)
        made = [self.prompt(row, blanks[AUDIO], said) for row, said in zip(heard, before, strict=True)]
        prompt = pad_prompts(made, blanks)
        return DualStreamBatch(prompt, None, [item.query for item in loaded if item.query], audios)

    def prompt(
        self, heard: Tensor, blank: int, turns: Sequence[tuple[Turn, Tensor | None]] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """heard [T, h] -> tokens [2, P], features [P, h], where they count [P]; `turns` were said before, each with
        what was heard of it [., h], if anything was."""
        before, after, (begin, speech, end) = self.template
        if turns:
            said = [i for turn, sound in turns for i in self.message(turn, 0 if sound is None else len(sound))]
            opened = len(self.opening)
            before = [*before[:-opened], *said, *before[-opened:]]
        ids = [*before, begin, *[speech] * len(heard), end, *after]
        tokens = torch.full((2, len(ids)), blank, device=heard.device)
        tokens[TEXT] = torch.tensor(ids, device=heard.device)
        tokens[AUDIO, -1] = load_speaker(self.path, self.speaker)[0]
        where = tokens[TEXT] == speech
        features = heard.new_zeros(len(ids), heard.shape[1])
        features[where] = torch.cat([*(sound for _, sound in turns if sound is not None), heard])
        return tokens, features, where

    @cached_property
    def opening(self) -> list[int]:
        """Token ids that open a user's message."""
        return self.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)

    def message(self, turn: Turn, heard: int) -> list[int]:
        """Token ids of an earlier turn, of which `heard` positions are speech; 0: its words stand there."""
        begin, speech, end = AUDIO_MARKS
        said = f"{begin}{speech * heard}{end}" if heard else turn.text.strip()
        text = f"<|im_start|>{turn.role}\n{said}<|im_end|>\n"
        return self.tokenizer.encode(text, add_special_tokens=False)

    def turn_length(self, turn: Turn, name: str) -> int:
        """Positions of an earlier turn.

        Raises:
            UserError: it lasts too long or too short, or its words hold a mark of the template.
        """
        if heard_in(turn):
            check_seconds(turn.seconds, f"an earlier turn of {name!r}")
            return len(self.message(turn, audio_tokens(int(turn.seconds * 100) + 1)))
        if marks := [mark for mark in self.tokenizer.get_added_vocab() if mark in turn.text]:
            raise UserError(f"an earlier turn's text must be words alone; got {marks[0]} before {name!r}; take it out")
        return len(self.message(turn, 0))

    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        voice = self.voice.to(completion.tokens.device) if decode_audio else None
        return speak(completion, voice, lambda ids: self.tokenizer.decode(ids, skip_special_tokens=True))

    def load_policy(self, path: str, device: str = "cuda", dtype: str = "bfloat16") -> QwenOmni:
        check_card(read_omni_config(base_of(path)), dtype, device)
        return QwenOmni(path, dtype=dtype).to(device).eval().requires_grad_(False)


def heard_in(turn: Turn) -> bool:
    """Is an earlier turn in the prompt as it sounded?"""
    return turn.role == "user" and turn.sound is not None


def check_seconds(seconds: float, name: str) -> None:
    if not SHORTEST_SECONDS <= seconds <= MAX_SECONDS:
        raise UserError(
            f"a query must last {SHORTEST_SECONDS} to {MAX_SECONDS} s; got {seconds:.2f} s of {name}; cut or drop it"
        )


def shapes(config) -> dict:
    """What a config says of its weights: numbers and their kind, not where or how it was saved."""
    values = config.to_dict()
    parts = {name: v for name, v in values.items() if isinstance(v, int | float | dict | list) and name[0] != "_"}
    return {name: v for name, v in parts.items() if name not in ("audio_config", "vision_config", "use_cache")}


@remembered(2)
def load_ears(path: str, dtype: str) -> OmniEars:
    """Shared by all processors of a run: ears don't train."""
    return OmniEars(path, read_omni_config(path), getattr(torch, dtype))


@remembered(2)
def load_voice(path: str, speaker: str, seed: int, ode_points: int) -> OmniVoice:
    return OmniVoice(path, read_omni_config(path), speaker, seed, ode_points)
