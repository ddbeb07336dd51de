"""The cost model of Qwen2.5-Omni on one card: bytes and seconds of every stage, from sizes and peak rates alone.

Arithmetic, not measurement, by the rules of `cost.py`, and these:

- thinker and talker decode in step, block by block without CUDA graphs: a step takes at least `BLOCK_SECONDS` a block,
  a usual time of Python and launches; the thinker writes a token for every `CODES_A_WORD` codes;
- in training each answer has its own copy of the prompt, and adapters keep float32 copies of one block's inputs;
- the voice is float32 and speaks an answer at a time: Runge-Kutta's four evaluations a step, each twice for guidance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lightning_paras2s.running.cost import Blocks, Efficiency, Memory, Work
from lightning_paras2s.running.cost_judges import BLOCK_SECONDS, Listener
from lightning_paras2s.running.cost_parts import cut, rollout_seconds
from lightning_paras2s.running.gpus import FILLED, GPU

CODES_A_WORD = 10  # five tokens of text a second
CODE_RATE = 50.0
EARS = 639_647_232  # weights of the audio tower
CONTEXT = 0.6e9  # bytes of CUDA's context and workspaces


@dataclass(frozen=True)
class Stack(Blocks):
    """A stack of blocks, and the last norm."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int

    @property
    def weights(self) -> int:
        return self.layers * self.layer + self.hidden

    def activation_bytes(self, recompute: bool, lora: bool) -> float:
        """Kept for the backward pass of a token: of one block all, and of the others what recomputing begins with."""
        block = 2.0 * (34 * self.hidden + 3 * self.inner)
        if lora:
            block += 4.0 * (5 * self.hidden + self.heads * self.head_size + self.inner)
        return 2 * 2.0 * self.hidden * self.layers + block if recompute else self.layers * block


@dataclass(frozen=True)
class Omni:
    """Thinker without ears and eyes, and talker. Heads and embeddings are not tied."""

    thinker: Stack
    talker: Stack
    vocab: int
    codes: int = 8448

    @property
    def words(self) -> int:
        return self.thinker.weights + 2 * self.vocab * self.thinker.hidden

    @property
    def speech(self) -> int:
        """With its table and head of codes, and its way in from the thinker's width."""
        width, hidden = self.thinker.hidden, self.talker.hidden
        return self.talker.weights + self.codes * (width + hidden) + width * hidden + hidden

    @property
    def weights(self) -> int:
        return self.words + self.speech

    @property
    def kv_bytes(self) -> int:
        return self.thinker.kv_bytes + self.talker.kv_bytes

    def trained(self, trains: str, rank: int) -> int:
        """Weights that learn."""
        found = {"thinker": (self.thinker, self.words), "talker": (self.talker, self.speech)}
        parts = [pair for name, pair in found.items() if trains in (name, "both")]
        return sum(stack.lora(rank) if rank else whole for stack, whole in parts)


OMNI_3B = Omni(Stack(2048, 11008, 36, 16, 2, 128), Stack(896, 4864, 24, 14, 2, 64), 151936)
OMNI_7B = Omni(Stack(3584, 18944, 28, 28, 4, 128), Stack(896, 18944, 24, 12, 4, 128), 152064)


@dataclass(frozen=True)
class Voice:
    """token2wav in float32: flow matching at 100 frames a second, then BigVGAN."""

    weights: int = 449_051_264
    flow: int = 329_412_352  # that each frame is multiplied by: without table and embedding of the time
    vocoder_flops: float = 1.89e11  # a second of speech
    frames: int = 100
    bytes: float = 0.6e9  # of one answer's activations

    def flops(self, points: int) -> float:
        """Of a second of speech, with so many points of flow matching."""
        return self.frames * 8 * (points - 1) * 2 * self.flow


@dataclass(frozen=True)
class OmniWork:
    """One step: what `Work` does not say.

    Attributes:
        trains: the half that learns, or "" = nothing does.
        points: of flow matching.
        listener: who scores the answers.
        samples, speaks: whether answers are drawn, and whether their codes are spoken.
        copies: policies on the card at once (`evaluate` keeps those that have answered).
    """

    work: Work
    trains: str = "both"
    points: int = 10
    listener: Listener = Listener()
    samples: bool = True
    speaks: bool = True
    copies: int = 1

    @property
    def words(self) -> int:
        return math.ceil(self.work.steps / CODES_A_WORD)

    @property
    def length(self) -> int:
        """Positions of the talker: prompt, its speaker's mark, and the codes."""
        return self.work.prompt + 1 + self.work.steps


def answer_seconds(
    omni: Omni, gpu: GPU, work: OmniWork, efficiency: Efficiency, voice: Voice = Voice()
) -> dict[str, float]:
    """Seconds of hearing, sampling, speaking and scoring one batch; `overlap` is what is hidden beside the rest."""
    w, rate = work.work, gpu.flops * efficiency.matmul
    shares = cut(w.queries, w.parts)
    parts = [replace(w, queries=round(s * w.queries)) for s in shares]
    flops = 2.0 * (2 * EARS + omni.weights) * w.queries * w.prompt  # the tower hears two positions a token
    sampled = {
        "prefill": [s * flops / rate for s in shares],
        "thinker": [work.words * decode_seconds(omni.thinker, omni.vocab, gpu, p, efficiency) for p in parts],
        "talker": [w.steps * decode_seconds(omni.talker, omni.codes, gpu, p, efficiency) for p in parts],
    }
    followed = {}
    if work.speaks:
        flow = voice.flops(work.points) / (gpu.float32 * efficiency.matmul)
        vocoder = voice.vocoder_flops / (gpu.float32 * efficiency.convolution)
        followed["voice"] = w.rows * w.steps / CODE_RATE * (flow + vocoder)
    followed["judge"] = w.rows * work.listener.seconds(gpu, efficiency)
    return rollout_seconds(sampled, followed, shares, w.overlap)


def decode_seconds(stack: Stack, ids: int, gpu: GPU, work: Work, efficiency: Efficiency) -> float:
    """Of one step of all rows: the weights and all rows' past are read once, or the launches are waited for."""
    weights, past = stack.weights + ids * stack.hidden, work.prompt + work.steps / 2
    read = 2 * weights + work.rows * past * stack.kv_bytes
    bound = max(read / gpu.bandwidth, 2 * weights * work.rows / gpu.flops) / efficiency.decode
    return max(bound, stack.layers * BLOCK_SECONDS)


def learn_seconds(omni: Omni, gpu: GPU, work: OmniWork, efficiency: Efficiency) -> dict[str, float]:
    """The reference's pass, where answers are drawn, the sampler's, where one is needed, and the updates: 2 passes with
    adapters or 3, and one more with recomputation.
    """
    w = work.work
    weights = omni.words * (w.prompt + work.words) + omni.speech * work.length
    a_pass = 2.0 * w.rows * weights / (gpu.flops * efficiency.matmul)
    made = {"ref_logps": a_pass * work.samples, "old_logps": a_pass * (work.samples and w.updates > 1)}
    return made | {"update": w.updates * ((2 if w.lora_rank else 3) + w.recompute) * a_pass}


def omni_memory(omni: Omni, work: OmniWork, rows: int, voice: Voice = Voice()) -> Memory:
    """Bytes of the card; `rows` answers are learned from at once."""
    w = work.work
    kept = {"policy": float(w.weight_bytes * omni.weights * work.copies)}
    kept |= {"ears": 2.0 * EARS, "context": CONTEXT, "judge": work.listener.bytes}
    phases = {}
    if work.samples:
        kept["voice"] = 4.0 * voice.weights if work.speaks else 0.0
        # while the prompts' keys and values are copied to their groups, both are there
        at_once = round(cut(w.queries, w.parts)[0] * w.queries)
        copied = at_once * (w.group_size + 1)
        phases["rollout"] = {"kv_cache": float(copied * work.length * omni.kv_bytes)}
        phases["waveform"] = {"activations": voice.bytes if work.speaks else 0.0}
        phases["rollout"] |= phases["waveform"] if w.overlap and at_once < w.queries else {}
    if work.trains:
        lora, trained = w.lora_rank > 0, omni.trained(work.trains, w.lora_rank)
        own = 4 if lora else w.weight_bytes
        moments = own if w.state_bits == 32 else 1
        # weight, gradient and moments of adapters; the weights themselves are the policy's
        kept["trained_state"] = float((own * (1 + lora) + 2 * moments) * trained)
        kept["reference"] = 0.0 if lora or not work.samples else float(w.weight_bytes * omni.weights)
        thinker = rows * (w.prompt + work.words) * omni.thinker.activation_bytes(w.recompute, lora)
        talker = rows * work.length * omni.talker.activation_bytes(w.recompute, lora)
        phases["update"] = {"thinker": thinker, "talker": talker, "head_chunks": 4 * 3.0 * 1024 * 8192}
    return Memory(kept, phases)


def largest_omni_batch(omni: Omni, gpu: GPU, work: OmniWork) -> int:
    """Answers that can be learned from at once, in whole groups; 0 if not one group fits."""
    room, group = FILLED * gpu.memory, work.work.group_size
    groups = range(work.work.queries, 0, -1)
    return next((n * group for n in groups if omni_memory(omni, work, n * group).peak <= room), 0)
