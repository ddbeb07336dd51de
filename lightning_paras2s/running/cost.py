"""The cost model of GRPO on Kimi-Audio: bytes and seconds from sizes and peak rates alone (docs/performance.md).

Arithmetic, not measurement: bounds by memory traffic and FLOPs, divided by stated efficiencies. Every figure follows
from the shapes of the models and these rules:

- a decode step reads all weights but the embedding once, and every row's keys and values: max(bytes / bandwidth,
  FLOPs / peak);
- a forward pass costs 2 FLOPs a weight and token, a backward pass twice that, recomputation one forward more;
- full fine-tuning keeps 16 bytes a weight (float32 weights, gradient, two Adam moments; 10 with 8-bit moments, 6 if
  weights and gradient are bfloat16 too), sharded; LoRA keeps the frozen weights, and 16 an adapter's;
- rollout, waveform reward, update and the sum of its gradients follow each other, so that the largest of the four adds
  to what is always kept; a rollout in parts is `cost_parts.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lightning_paras2s.errors import UserError, check_rounding
from lightning_paras2s.running.cost_parts import cut, rollout_seconds
from lightning_paras2s.running.gpus import FILLED, GPU

CODE_RATE = 12.5  # steps and codes a second
MEL_RATE = 50  # frames a second
LEAST = {"queries": 1, "group_size": 1, "prompt": 1, "steps": 1, "updates": 1, "parts": 1, "lora_rank": 0}  # of `Work`


class Blocks:
    """Qwen2 blocks of a shape: `hidden`, `inner`, `layers`, `heads`, `kv_heads`, `head_size`."""

    @property
    def layer(self) -> int:
        """Weights of a layer: attention with biases on q, k, v; three MLP matrices; two norms."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * self.hidden * q + 2 * self.hidden * kv + q + 2 * kv
        return attention + 3 * self.hidden * self.inner + 2 * self.hidden

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2

    def lora(self, rank: int) -> int:
        """Weights of rank-r adapters on the seven linear layers of every block."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        sides = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.inner)
        return self.layers * rank * sides


@dataclass(frozen=True)
class Shape(Blocks):
    """Of a policy with a shared trunk and a text and an audio branch; defaults are Kimi-Audio's."""

    hidden: int = 3584
    inner: int = 18944
    layers: int = 34
    heads: int = 28
    kv_heads: int = 4
    vocab: int = 168448
    adaptor_input: int = 5120
    text_ids: int = 152064
    audio_ids: int = 16386

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def adaptor(self) -> int:
        return self.adaptor_input * self.hidden + self.hidden**2 + 4 * self.hidden

    @property
    def outside(self) -> int:
        """Weights outside the layers: FSDP2's root, whole from a forward to its backward pass."""
        return 3 * self.vocab * self.hidden + self.adaptor + 2 * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.outside

    @property
    def decoded(self) -> int:
        """Weights that a decode step multiplies by when both heads are whole."""
        return self.layers * self.layer + 2 * self.vocab * self.hidden

    @property
    def sampled(self) -> int:
        """The same with the heads cut to the ids that each stream may draw, as `KimiAudio` decodes."""
        return self.layers * self.layer + (self.text_ids + self.audio_ids) * self.hidden


@dataclass(frozen=True)
class Speech:
    """What hears and speaks beside the policy, whole on every GPU: numbers of weights, as built by `KimiTokenizer` and
    `QwenOmniScorer`; codes and vocoder are float32, the rest bf16.
    """

    codes: int = 343_599_360
    features: int = 636_968_960
    flow: int = 1_584_023_120
    vocoder: int = 241_114_722
    scorer: int = 7_615_616_512 + 639_647_232  # language model, audio tower; the picture tower is dropped
    scorer_matrices: int = 6_525_618_176  # that each of its tokens is multiplied by
    guideline: int = 1150  # tokens
    flow_table: int = 16385 * 2304
    flow_memory: int = 2 * 16 * 2304 * 2  # bytes of keys and values a frame
    flow_frames: int = 900  # that are kept
    euler_steps: int = 29
    vocoder_flops: float = 1.64e11  # a second of speech
    repeated: float = 1.4  # frames that a chunk of 30 codes takes in for each that it puts out

    @property
    def encoders_bytes(self) -> float:
        return 4 * self.codes + 2 * self.features

    @property
    def detokenizer_bytes(self) -> float:
        return 2 * self.flow + 4 * self.vocoder

    @property
    def detokenizer_flops(self) -> float:
        """A second of speech: Euler steps over chunks with their look-ahead, and one pass more that is remembered."""
        return MEL_RATE * (self.repeated * self.euler_steps + 1) * 2 * (self.flow - self.flow_table)

    def scorer_flops(self, seconds: float) -> float:
        """One pair of query and response of together so many seconds, heard at 25 tokens a second."""
        return 2 * self.scorer_matrices * (self.guideline + 25 * seconds)


@dataclass(frozen=True)
class Work:
    """One GRPO step over all GPUs; the paper's B and G, and lengths of a short exchange (12 s of answer).
    `weight_bytes`: of the policy's own type, 4 (float32) or 2 (bfloat16). `parts`, `overlap`: of a rollout.
    """

    queries: int = 32
    group_size: int = 8
    prompt: int = 150
    steps: int = 157
    lora_rank: int = 0
    weight_bytes: int = 4
    recompute: bool = True
    updates: int = 1
    state_bits: int = 32
    sync_every_micro_batch: bool = False
    reward_model: bool = True
    parts: int = 1
    overlap: bool = True

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name} must be a whole number, at least {least}; got {value!r}; change it")

    @property
    def rows(self) -> int:
        return self.queries * self.group_size

    def check_trained(self) -> None:
        """Adapters are float32; other weights must move by steps of their own type."""
        if not self.lora_rank:
            check_rounding("bfloat16" if self.weight_bytes == 2 else "float32", self.state_bits)

    @property
    def query_tokens(self) -> int:
        """Of a prompt and its answers, as `SpeechLM.positions` has it for models whose answers have each a copy."""
        return self.group_size * (self.prompt + self.steps)

    @property
    def tokens(self) -> int:
        return self.queries * self.query_tokens


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak that are assumed; none was measured. `vocoder`: float32 convolutions of few channels, as a
    share of the bf16 peak; `convolution`: the same as a share of the float32 peak.
    """

    decode: float = 0.6
    matmul: float = 0.45
    vocoder: float = 0.05
    convolution: float = 0.3


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU by part: kept always, and while each phase of a step runs."""

    kept: dict[str, float]
    phases: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        return sum(self.kept.values()) + max(sum(parts.values()) for parts in self.phases.values())

    def parts(self) -> dict[str, float]:
        """All parts by name, those of a phase after its name."""
        return self.kept | {f"{p}: {name}": n for p, parts in self.phases.items() for name, n in parts.items()}


def decode_step(shape: Shape, gpu: GPU, rows: int, context: float, sliced: bool = True) -> float:
    """Least seconds of one step for `rows` responses on one GPU at a mean context of `context` tokens."""
    weights = shape.sampled if sliced else shape.decoded
    return max((2 * weights + rows * context * shape.kv_bytes) / gpu.bandwidth, 2 * weights * rows / gpu.flops)


def forward_flops(shape: Shape, tokens: float, context: float = 0.0) -> float:
    """Matrix products of `tokens` tokens, and attention to a mean of `context` earlier ones (4 h FLOPs a layer and
    pair).
    """
    return tokens * (2 * shape.decoded + 4 * shape.hidden * shape.layers * context)


def train_flops(shape: Shape, tokens: float, lora: bool, recompute: bool) -> float:
    """One update: 6 FLOPs a weight and token, 4 for LoRA (no weight gradients), 2 more with recomputation."""
    return forward_flops(shape, tokens) * ((2 if lora else 3) + recompute)


def seconds_a_step(
    shape: Shape, gpu: GPU, gpus: int, work: Work, efficiency: Efficiency, speech: Speech = Speech()
) -> dict[str, float]:
    """Seconds of one GRPO step by part, work spread evenly; `overlap` is what is hidden beside the rest, below 0."""
    shares, spoken = cut(math.ceil(work.queries / gpus), work.parts), work.steps / CODE_RATE
    rows, context, decoding = math.ceil(work.rows / gpus), work.prompt + work.steps / 2, work.steps / efficiency.decode
    rate = gpus * gpu.flops * efficiency.matmul
    gather = 0.0 if gpus == 1 else 2 * shape.parameters * (gpus - 1) / gpus / gpu.link
    pair = speech.scorer_flops((work.prompt + work.steps) / CODE_RATE) if work.reward_model else 0.0
    vocoder = speech.vocoder_flops / (gpus * gpu.flops * efficiency.vocoder)
    sampled = {
        "prefill": [s * forward_flops(shape, work.queries * work.prompt) / rate for s in shares],
        "decode": [decode_step(shape, gpu, math.ceil(rows * s), context) * decoding for s in shares],
        "unshard": [gather for _ in shares],
    }
    detokenizer = work.rows * spoken * (speech.detokenizer_flops / rate + vocoder)
    followed = {"detokenizer": detokenizer, "reward_model": work.rows * pair / rate}
    return rollout_seconds(sampled, followed, shares, work.overlap) | {
        "old_logps": (work.updates > 1) * forward_flops(shape, work.tokens) / rate,
        "ref_logps": forward_flops(shape, work.tokens) / rate,
        "update": work.updates * train_flops(shape, work.tokens, work.lora_rank > 0, work.recompute) / rate,
    }


def memory_of(shape: Shape, gpus: int, work: Work, rows: int, speech: Speech = Speech()) -> Memory:
    """Bytes a GPU while a micro-batch of `rows` responses is learned from.

    Activations are those of a bf16 block, 34 h + 3 inner values a token, or two copies of h a layer when recomputed.
    Full fine-tuning that sums gradients over ranks at the last micro-batch alone holds them whole until then. The
    backward pass begins with the heads: a float32 gradient of one, and both in bf16. It ends with the root, whose bf16
    gradient is summed over the ranks in float32.
    """
    lora, alone = work.lora_rank > 0, gpus == 1
    trained = shape.lora(work.lora_rank) if lora else shape.parameters
    responses = math.ceil(work.rows / gpus)
    at_once = math.ceil(responses * cut(math.ceil(work.queries / gpus), work.parts)[0])
    block = 34 * shape.hidden + 3 * shape.inner
    values = 2 * shape.hidden * shape.layers + block if work.recompute else shape.layers * block
    own = 4 if lora else work.weight_bytes  # adapters are float32
    moments = own if work.state_bits == 32 else 1
    kept = {
        "trained_state": 2.0 * (own + moments) * trained / gpus,
        "frozen_weights": work.weight_bytes * shape.parameters / gpus if lora else 0.0,
        "reference": 0.0 if lora else (own if alone else 2) * shape.parameters / gpus,
        "encoders": speech.encoders_bytes,
        "detokenizer": speech.detokenizer_bytes,
        "reward_model": 2.0 * speech.scorer if work.reward_model else 0.0,
    }
    rollout = {
        "weights": 0.0 if alone and work.weight_bytes == 2 else 2.0 * shape.parameters,
        "kv_cache": float(at_once * (work.prompt + work.steps) * shape.kv_bytes),
    }
    frames = min(speech.flow_frames, work.steps * MEL_RATE / CODE_RATE)
    waveform = {"detokenizer_cache": at_once * frames * speech.flow_memory}
    rollout |= waveform if work.overlap and at_once < responses else {}
    whole = 0 < rows < responses and not alone and not work.sync_every_micro_batch
    gradients = {
        "gathered": 0.0 if alone and work.weight_bytes == 2 else 2.0 * (shape.outside + 2 * shape.layer),
        "gradients": 4.0 * trained if whole else 0.0,
    }
    update = gradients | {
        "head_gradients": 0.0 if lora else (4.0 if alone else 8.0) * shape.vocab * shape.hidden,
        "activations": 2.0 * values * rows * (work.prompt + work.steps),
        "head_chunks": 4 * 3.0 * 1024 * 8192,
    }
    total = gradients | {"root_gradients": 0.0 if lora or alone else 6.0 * shape.outside}
    return Memory(kept, {"rollout": rollout, "waveform": waveform, "update": update, "sum": total})


def largest_micro_batch(shape: Shape, gpu: GPU, gpus: int, work: Work) -> int:
    """Responses a GPU can learn from at once; 0 if not even one fits."""
    room, responses = FILLED * gpu.memory, math.ceil(work.rows / gpus)
    fitting = (rows for rows in range(responses, 0, -1) if memory_of(shape, gpus, work, rows).peak <= room)
    return next(fitting, 0)
