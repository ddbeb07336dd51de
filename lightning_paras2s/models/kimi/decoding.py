"""Decoding of Kimi-Audio with fixed shapes: every step is the same operations on the same tensors, so that on a GPU one
CUDA graph replays it.

At the memory's limit a step in bfloat16 takes some 5 ms (docs/performance.md), and its two thousand kernels about as
long to launch one by one. So nothing in a step looks at a value on the host: the step's number is a tensor, keys and
values go to their place by index, and all of the buffers are attended to under a mask.

Axes: R = B*G rows, P prompt positions, T steps, h width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_paras2s.models.kimi.attention import positions_of
from lightning_paras2s.models.speech_lm import Completion, Prompt, Sampling, SpeechLM

WARM_UP = 2  # steps before a graph is captured: libraries allocate their workspaces
LOOK_EVERY = 8  # steps between two looks at whether any row still speaks: each waits for the GPU


class KimiRollout:
    """The state of one `generate` call; all tensors keep their place and shape from step to step."""

    def __init__(
        self, model: SpeechLM, prompt: Prompt, sampling: Sampling, noise: Tensor | None, group_size: int
    ) -> None:
        from lightning_paras2s.models.kimi.cache import KeyValueCache

        mask = prompt.mask.repeat_interleave(group_size, 0)
        rows, steps, device = len(mask), sampling.max_steps, mask.device
        self.model, self.sampling = model, sampling
        layers, width = len(model.model.layers) + len(model.model.mimo_layers), prompt.tokens.shape[2]
        self.cache = KeyValueCache(layers, width + steps)
        x = model.model.embed(prompt.tokens, prompt.features, prompt.features_mask)
        last = model.model(x, prompt.mask, positions_of(prompt.mask), self.cache)
        self.states = [h[:, -1].repeat_interleave(group_size, 0) for h in last]  # [R, h] each
        self.cache.repeat(group_size)
        self.cache.fix()
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.position = mask.sum(1, keepdim=True)  # [R, 1]
        hidden = torch.cat([~mask, mask.new_ones(rows, steps)], 1)
        self.mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)  # [R, P + T]
        self.tokens = torch.full((rows, 2, steps), model.config.blank, device=device)
        self.actions = torch.zeros(rows, 2, steps, dtype=torch.bool, device=device)
        self.logps = torch.zeros(rows, 2, steps, device=device)
        self.noise = torch.zeros(rows, 2, steps, device=device) if noise is None else noise.to(device)
        self.speaking = torch.ones(rows, dtype=torch.bool, device=device)
        self.writing = self.speaking.clone()

    def choose(self) -> None:
        """Sample both streams; forced tokens stay blank."""
        model, config = self.model, self.model.config
        sampled = (self.speaking & self.writing, self.speaking & (self.step >= model.streams.delay))
        uniform = self.noise.index_select(2, self.step).squeeze(2)  # [R, 2]
        for stream, state in enumerate(self.states):
            ids, logps = model.draw(state, stream, uniform[:, stream], self.sampling)
            ids = torch.where(sampled[stream], ids, config.blank)
            for target, value in (
                (self.tokens, ids),
                (self.actions, sampled[stream]),
                (self.logps, torch.where(sampled[stream], logps, 0.0)),
            ):
                target[:, stream].index_copy_(1, self.step, value.unsqueeze(1))
        text, audio = self.tokens.index_select(2, self.step).squeeze(2).unbind(1)
        self.writing &= text != config.text_eos
        self.speaking &= (audio != config.msg_end) & (audio != config.media_end)

    def advance(self) -> None:
        """Read the step's tokens."""
        self.mask.index_fill_(1, self.cache.place, 0.0)
        x = self.model.model.embed(self.tokens.index_select(2, self.step))
        found = self.model.model(x, self.mask[:, None, None], self.position, self.cache)
        for state, new in zip(self.states, found, strict=True):
            state.copy_(new[:, 0])
        for counter in (self.step, self.position, self.cache.place):
            counter += 1

    def run(self) -> Completion:
        steps = self.tokens.shape[2]
        step = Replayed(lambda: (self.choose(), self.advance()), self.tokens.device)
        with one_query(self.model.model):
            for number in range(1, steps):
                step()
                if number % LOOK_EVERY == 0 and not bool(self.speaking.any()):
                    break
            else:
                self.choose()
        return Completion(self.tokens, self.actions, ~self.speaking, self.logps)


class Replayed:
    """Calls `function`; on a GPU, after some calls, replays what it did as one CUDA graph.

    Not with several ranks: gathered weights need not lie where they lay at capture.
    """

    def __init__(self, function: Callable[[], object], device: torch.device) -> None:
        self.function, self.calls = function, 0
        self.captures = device.type == "cuda" and not dist.is_initialized()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        self.calls += 1
        if not self.captures or self.calls <= WARM_UP:
            self.function()
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            # Another thread may speak and score meanwhile (`modules/beside.py`): its calls are no errors here, and its
            # kernels don't end up in this graph, since streams of another priority come from another pool.
            options = {"stream": torch.cuda.Stream(priority=-1), "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self.graph, **options):  # records, and does nothing
                self.function()
        self.graph.replay()


@contextmanager
def one_query(trunk: nn.Module) -> Iterator[None]:
    """Attention of one new position a row: each key is read once for all query heads that share it.

    The stock functions copy keys and values out to all query heads when there is a mask, seven times the traffic.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("one_query", attend)
    config = trunk.layers[0].self_attn.config  # one object, shared by all blocks
    before, config._attn_implementation = config._attn_implementation, "one_query"
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_
) -> tuple[Tensor, None]:
    """query [R, H, 1, D]; key, value [R, K, S, D], H a multiple of K; mask [R, 1, 1, S], additive -> [R, 1, H, D]."""
    rows, heads, _, size = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], size)
    scores = (grouped @ key.transpose(-1, -2)).float() * scaling + mask
    seen = scores.softmax(-1).to(value.dtype) @ value  # [R, K, H / K, D]
    return seen.reshape(rows, 1, heads, size), None
