"""The paper's tone describer: Audio-Reasoner (arXiv 2503.02318) says how a response sounds, blind to its words.

A reasoning audio LLM of Qwen2-Audio's architecture. It is told to ignore what is said, because a judge that hears tone
in words is what the stages are there to prevent (paper, section 3.2; v2: "tone description"). Its reply has a fixed
form, <THINK>...</THINK><RESPONSE>tone</RESPONSE>; one that has not is no tone, which is a status and never a score.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_paras2s.audio import resample
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.models.pretrained import load_pretrained, one_line, token_ids
from lightning_paras2s.types import Audio, Style

# The words that the model was trained with (its repository's README).
SYSTEM = (
    "You are an audio deep-thinking model. Upon receiving a question, please respond in two parts: <THINK> and "
    "<RESPONSE>. The <THINK> section should be further divided into four parts: <PLANNING>, <CAPTION>, <REASONING>, "
    "and <SUMMARY>."
)
QUESTION = (  # ours: the paper prints none
    "What is the speaker's tone of voice? Strictly ignore what is said: the words must not change your answer. Listen "
    "step by step to pitch, energy, speed, rhythm and voice quality, and conclude from the sound alone. Answer with "
    "one or two words, such as understanding, reassuring, apologetic, professional, supportive, confident, cheerful, "
    "empathetic, excited, calm, neutral or flat."
)
PARSER_VERSION = 1
PROMPT_SHA = hashlib.sha256(f"{PARSER_VERSION}\n{SYSTEM}\n{QUESTION}".encode()).hexdigest()
MARKS = ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")  # of the prompt
MAX_WORDS = 12
TAG = re.compile(r"</?(?:THINK|PLANNING|CAPTION|REASONING|SUMMARY|RESPONSE)>")


class Tone(NamedTuple):
    """A description; `text` is None unless `status` is ok (no_response, several_responses, empty, too_long)."""

    text: str | None
    raw: str
    status: str = "ok"


class AudioReasoner(StyleRecognizer):
    """See the module's docstring. It describes responses; it has no labels for queries.

    Args:
        path: folder of the weights (Qwen2-Audio's classes in transformers).
        processor: folder of Qwen2-Audio's processor, where `path` has none.
        device: where it computes: cuda, cuda:1, cpu.
        dtype: bfloat16 or float32.
        batch_size: recordings a forward pass.
        max_tokens: of a reply, its reasoning included (the paper's tool: 2048).
    """

    def __init__(
        self,
        path: InputPath,
        processor: InputPath | None = None,
        device: str = "cuda",
        dtype: str = "bfloat16",
        batch_size: int = 8,
        max_tokens: int = 2048,
    ) -> None:
        for folder in filter(None, (path, processor)):
            if not Path(folder).is_dir():
                raise UserError(f"Audio-Reasoner must be the folder of its weights; got {folder}; fetch it or mend it")
        from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

        with one_line(processor or path):
            self.processor = AutoProcessor.from_pretrained(processor or path, local_files_only=True)
        token_ids(self.processor.tokenizer, list(MARKS))
        self.processor.tokenizer.padding_side = "left"  # replies begin at one place
        model = load_pretrained(Qwen2AudioForConditionalGeneration, path, getattr(torch, dtype))
        self.model = model.to(device).eval()
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.name = f"audio-reasoner-{PARSER_VERSION}-{PROMPT_SHA[:8]}/{Path(path).name}-greedy{max_tokens}"

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        """The tone as it is described; None where the reply can't be read."""
        if role != "response":
            raise UserError(f"Audio-Reasoner describes responses; got role {role!r}; use gold labels or PolyTone's")
        return [Style(tone=tone.text) for tone in self.describe(audios)]

    def describe(self, audios: list[Audio]) -> list[Tone]:
        """The tone of each recording (its first 30 s), with the whole reply."""
        spans = [slice(start, start + self.batch_size) for start in range(0, len(audios), self.batch_size)]
        return [parse_tone(reply) for span in spans for reply in self._replies(audios[span])]

    @torch.inference_mode()
    def _replies(self, audios: list[Audio]) -> list[str]:
        rate = self.processor.feature_extractor.sampling_rate
        inputs = self.processor(
            text=[chat_prompt()] * len(audios),
            audio=[resample(audio, rate).samples for audio in audios],
            sampling_rate=rate,
            return_tensors="pt",
            padding=True,
        ).to(self.model.device)
        inputs["input_features"] = inputs["input_features"].to(self.model.dtype)
        made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        return self.processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def chat_prompt() -> str:
    """Qwen2-Audio's chat with one recording."""
    audio = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    asked = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{audio}{QUESTION}<|im_end|>\n"
    return asked + "<|im_start|>assistant\n"


def parse_tone(reply: str) -> Tone:
    """The one <RESPONSE> behind the thoughts, of at most a dozen words; any other form is a status, never a guess."""
    _, thought, answer = reply.rpartition("</THINK>")
    found = re.findall(r"<RESPONSE>(.*?)</RESPONSE>", answer, re.DOTALL)
    if not thought or not found:
        return Tone(None, reply, "no_response")
    if len(found) > 1 or len(re.findall("<RESPONSE>", reply)) > 1:
        return Tone(None, reply, "several_responses")
    text = " ".join(TAG.sub(" ", found[0]).split()).strip(" .\"'")
    if not text:
        return Tone(None, reply, "empty")
    if len(text.split()) > MAX_WORDS:
        return Tone(None, reply, "too_long")
    return Tone(text.lower(), reply)
