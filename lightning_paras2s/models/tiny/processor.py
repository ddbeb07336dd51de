"""`TinyProcessor`: the embedded family's ears, voice and words around `TinySpeechLM`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
import torch

from lightning_paras2s.audio import resample
from lightning_paras2s.batches import by_length
from lightning_paras2s.data.dialogue import Dialogue, Utterance
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.spoken import hear
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.transcribers import CTCNetwork, TinyTranscriber, read_ctc, reading_sha
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.remembered import remembered
from lightning_paras2s.models.speech_lm import Completion, SpeechLM
from lightning_paras2s.models.tiny.features import stack_acoustics
from lightning_paras2s.models.tiny.lm import TinySpeechLM
from lightning_paras2s.models.tiny.streams import AudioIds, Example, build_completion, build_prompt, collate, unspelt
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer, silence, stack_frames
from lightning_paras2s.models.tiny.vocabulary import TextVocab
from lightning_paras2s.running.files import write_arrays
from lightning_paras2s.speaking.codec import SpokenResponse, speak, through_codec
from lightning_paras2s.types import Audio

REMEMBERED = 256  # recordings: about 100 kB each
CODE_FRAMES = 4  # acoustic frames a code


class TinyProcessor(Processor):
    """The ears, the voice and the words of `TinySpeechLM`.

    Args:
        tokenizer: weights of the `TinyTokenizer`; by default those that are shipped.
        transcriber: weights of a `CTCNetwork` that gives the transcripts where a source has none (as Whisper does in
            the paper), by default those that are shipped; None = every source brings them.
        delay: audio delay in steps; the policy's.
    """

    name = "TinySpeechLM"
    speaks_alone = True

    def __init__(
        self,
        tokenizer: InputPath = "checkpoints/embedded/tokenizer.safetensors",
        transcriber: InputPath | None = "checkpoints/embedded/transcriber.safetensors",
        delay: int = 2,
    ) -> None:
        self.paths, self.delay = (tokenizer, transcriber), delay

    @cached_property
    def ears(self) -> Ears:
        return load_ears(*self.paths)

    @property
    def tokenizer(self) -> TinyTokenizer:
        return self.ears.tokenizer

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for path in self.paths if path)

    @property
    def settings(self) -> dict[str, str | int | float | None]:
        return {}  # `delay` shapes demonstrations alone

    def suits(self, policy: SpeechLM) -> None:
        codes = self.ears.ids.codes
        if policy.streams.audio_blank != codes:
            raise UserError(
                f"the policy's levels must make the {codes} codes of {self.paths[0]}; got "
                f"{policy.streams.audio_blank}; set them as the tokenizer's, or name the tokenizer it was trained with"
            )

        if (got := len(policy.text_table)) != len(TextVocab()):
            raise UserError(
                f"the policy must have the {len(TextVocab())} text ids of this version's words; got {got}, which would "
                "be other words; take a policy that this version trained"
            )

    def check(self, dialogues: list[Dialogue], labelled: bool, max_steps: int) -> None:
        vocab = TextVocab()
        for d in dialogues if labelled else []:
            if d.agent is not None and (word := unspelt(vocab, d.agent.text)):
                of = f" to {d.query.id!r}" if d.query else ""
                raise UserError(
                    f"an answer's words must be spelt with the letters a to z; got {word!r} in the one{of}; write it "
                    "out as the voice says it"
                )
            if d.agent is not None and not len(d.agent.acoustics):  # a recording
                room, needed = ceil(25 * d.agent.seconds) + self.delay, len(vocab.encode(d.agent.text))
                if needed > room:
                    raise UserError(
                        f"an answer's text must fit beside its speech, in {room} tokens; got {needed}: "
                        f"{d.agent.text!r:.60}; is the recording cut, or the text another's?"
                    )

    def prepare(self, dialogues: list[Dialogue], labelled: bool, cache_dir: str) -> TinyItems:
        return TinyItems(dialogues, self.ears, self.delay, labelled, cache_dir)

    def collate(self, items: list[Example]) -> DualStreamBatch:
        return collate(items)

    def to_device(self, loaded: DualStreamBatch, device: torch.device) -> DualStreamBatch:
        return loaded.to(device)

    def hear(self, audios: list[Audio]) -> list[Example]:
        samples = [np.asarray(audio.samples, np.float32).tobytes() for audio in audios]
        return [self.ears.remembered(*one) for one in zip(samples, (a.sample_rate for a in audios), strict=True)]

    def length(self, item: Example) -> int:
        return item.prompt.shape[1]

    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        return speak(completion, self.tokenizer if decode_audio else None, self.ears.vocab.decode)

    def through_codec(self, audios: list[Audio]) -> list[Audio]:
        return through_codec(audios, self.tokenizer)

    def load_policy(self, path: str, device: str = "cpu", dtype: str = "float32") -> TinySpeechLM:
        policy = TinySpeechLM.load(path)
        self.suits(policy)
        return policy.to(device, getattr(torch, dtype)).eval().requires_grad_(False)


class Ears:
    """What `TinyProcessor`s with the same weights share; each recording is heard once for all of them."""

    def __init__(self, tokenizer: str, transcriber: str | None) -> None:
        self.tokenizer = TinyTokenizer.load(tokenizer).requires_grad_(False)
        # One recording a pass: padding to a batch's longest could change what is heard.
        self.transcriber = TinyTranscriber(transcriber, batch_size=1) if transcriber else None
        self.vocab, self.ids = TextVocab(), AudioIds(self.tokenizer.vocab_size)
        self.remembered = remembered(REMEMBERED)(self.example)

    def example(self, samples: bytes, sample_rate: int) -> Example:
        if self.transcriber is None:
            raise no_transcriber()
        audio = Audio(np.frombuffer(samples, np.float32), sample_rate)
        transcript = self.transcriber.transcribe([audio])[0]
        wav = torch.from_numpy(resample(audio, self.tokenizer.sample_rate).samples.copy())[None]
        lengths = torch.tensor([wav.shape[-1]])
        codes, counts = self.tokenizer.encode(wav, lengths)
        count = int(counts[0])
        features = self.tokenizer.features(wav, lengths)[0, :count]
        prompt = build_prompt(self.ids, self.vocab, codes[0, :count], features, transcript)
        return Example(*prompt, audio=audio)


@remembered(4)
def load_ears(tokenizer: str, transcriber: str | None) -> Ears:
    return Ears(tokenizer, transcriber)


class TinyItems:
    """Dialogues with their codes and transcripts; an example is put together when it is asked for."""

    def __init__(
        self, dialogues: list[Dialogue], ears: Ears, delay: int, labelled: bool, cache_dir: str = "cache"
    ) -> None:
        self.dialogues, self.ears, self.delay, self.labelled = dialogues, ears, delay, labelled
        self.users = [None if d.user is None else heard(d.user) for d in dialogues]
        self.agents = [None if d.agent is None else heard(d.agent) for d in dialogues] if labelled else []
        self.user_codes = cached_codes(ears.tokenizer, self.users, cache_dir)
        self.agent_codes = cached_codes(ears.tokenizer, self.agents, cache_dir) if labelled else []
        silent = [i for i, d in enumerate(dialogues) if d.transcript is None]
        network = ears.transcriber.network if ears.transcriber else None
        found = dict(zip(silent, cached_texts(network, [self.users[i] for i in silent], cache_dir), strict=True))
        self.transcripts = [found.get(i, d.transcript or "") for i, d in enumerate(dialogues)]
        self.lengths = [self._length(i) for i in range(len(dialogues))]

    def _length(self, index: int) -> int:
        answer = len(self.agent_codes[index]) if self.labelled else 0
        return len(self.user_codes[index]) + len(self.transcripts[index].split()) + answer

    def answered(self, steps: Sequence[int]) -> list[int]:
        """Without them, as the shipped policies' batches were made."""
        return self.lengths

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> Example:
        dialogue, user, ears = self.dialogues[index], self.users[index], self.ears
        features = torch.zeros(0, ears.tokenizer.feature_size)
        if user is not None:
            features = stack_frames(torch.from_numpy(user.acoustics).float())
        codes, transcript = self.user_codes[index], self.transcripts[index]
        prompt = build_prompt(ears.ids, ears.vocab, codes, features, transcript, dialogue.task)
        audio = dialogue.user.audio if dialogue.query is not None and dialogue.user is not None else None
        if not self.labelled or dialogue.agent is None:
            return Example(*prompt, query=dialogue.query, audio=audio)
        agent, codes = self.agents[index], self.agent_codes[index]
        answer = build_completion(ears.ids, ears.vocab, codes, agent.text, agent.onsets, self.delay)
        return Example(*prompt, *answer, query=dialogue.query, audio=audio)


def heard(utterance: Utterance) -> Utterance:
    """With its acoustics, which those who spoke it know already; a recording's words begin evenly over its speech,
    which is a departure from eSpeak's onsets."""
    if len(utterance.acoustics):
        return utterance
    frames = hear(utterance.audio)
    words = len(utterance.text.split())
    onsets = tuple(len(frames) // CODE_FRAMES * word // words for word in range(words))
    return Utterance(frames, utterance.text, utterance.style, onsets)


def cached_codes(tokenizer: TinyTokenizer, utterances: list[Utterance | None], cache_dir: str) -> list[torch.Tensor]:
    """`encode_all`, kept on disk under a hash of the codec's weights and the speech."""
    if not utterances:
        return []
    path = Path(cache_dir) / f"codes-{sha_of(tokenizer, utterances)}.npz"
    if not path.is_file():
        codes = encode_all(tokenizer, utterances)
        write_arrays(path, codes=torch.cat(codes).numpy().astype(np.int32), counts=[len(c) for c in codes])
    with np.load(path) as kept:
        return list(torch.from_numpy(kept["codes"]).long().split(kept["counts"].tolist()))


def cached_texts(network: CTCNetwork | None, utterances: list[Utterance | None], cache_dir: str) -> list[str]:
    """`transcribe_all`, kept on disk under a hash of the transcriber's weights, its words and their reading, and the
    speech."""
    if not utterances:
        return []
    if network is None:
        raise no_transcriber()
    path = Path(cache_dir) / f"texts-{sha_of(network, utterances, reading_sha())}.npz"
    if not path.is_file():
        write_arrays(path, texts=np.array(transcribe_all(network, utterances), dtype=np.str_))
    with np.load(path) as kept:
        return kept["texts"].tolist()


def sha_of(network: torch.nn.Module, utterances: list[Utterance | None], more: str = "") -> str:
    digest = hashlib.blake2b(more.encode(), digest_size=8)
    for tensor in network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for utterance in utterances:
        digest.update(b"-" if utterance is None else utterance.acoustics.tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode_all(
    tokenizer: TinyTokenizer, utterances: list[Utterance | None], batch_size: int = 32
) -> list[torch.Tensor]:
    """Codes of each utterance, [T]; empty where there is none."""
    codes = [torch.zeros(0, dtype=torch.long)] * len(utterances)
    for index in batches_of(utterances, batch_size):
        found = tokenizer.quantise(with_silence([utterances[i] for i in index]))[1]
        for row, i in zip(found, index, strict=True):
            codes[i] = row[: len(utterances[i].acoustics) // 4].clone()
    return codes


@torch.no_grad()
def transcribe_all(network: CTCNetwork, utterances: list[Utterance | None], batch_size: int = 32) -> list[str]:
    """What the transcriber hears in each utterance."""
    texts = [""] * len(utterances)
    for index in batches_of(utterances, batch_size):
        logits = network(stack_acoustics([torch.from_numpy(utterances[i].acoustics).float() for i in index]))
        for text, i in zip(read_ctc(logits, [len(utterances[i].acoustics) for i in index]), index, strict=True):
            texts[i] = text
    return texts


def batches_of(utterances: list[Utterance | None], batch_size: int) -> list[list[int]]:
    """Batches of the indices of those that are there, the shortest first."""
    there = [i for i, u in enumerate(utterances) if u is not None]
    batches = by_length([len(utterances[i].acoustics) for i in there], batch_size)
    return [[there[place] for place in batch] for batch in batches]


def with_silence(utterances: list[Utterance]) -> torch.Tensor:
    """acoustics [B, T, 66], each with silence at its end."""
    rows, quiet = [torch.from_numpy(u.acoustics).float() for u in utterances], silence()
    longest = max(map(len, rows)) + len(quiet)
    return torch.stack([torch.cat([row, quiet[:1].expand(longest - len(row), -1)]) for row in rows])


def no_transcriber() -> UserError:
    return UserError(
        "queries without transcripts need the processor's transcriber; got none; give the weights of a transcriber"
    )
