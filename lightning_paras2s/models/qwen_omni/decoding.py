"""Decoding of Qwen2.5-Omni: thinker and talker in step, many responses at once.

Axes: R = B*G rows, P prompt positions, T steps, h the thinker's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_paras2s.models.kimi.attention import positions_of
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling

if TYPE_CHECKING:
    from lightning_paras2s.models.qwen_omni.lm import QwenOmni

LOOK_EVERY = 8  # steps between two looks at whether any row still writes or speaks: each waits for a GPU


class OmniRollout:
    """The state of one `generate` call. A row runs until both its text and its speech have ended."""

    def __init__(
        self, model: QwenOmni, prompt: Prompt, sampling: Sampling, noise: Tensor | None, group_size: int
    ) -> None:
        from lightning_paras2s.models.kimi.cache import KeyValueCache

        self.model, self.sampling = model, sampling
        rows, steps, device = len(prompt) * group_size, sampling.max_steps, prompt.tokens.device
        width = prompt.tokens.shape[2]
        layers = (model.thinker.config.num_hidden_layers, model.talker.config.num_hidden_layers)
        self.caches = [KeyValueCache(count, width + 1 + steps) for count in layers]
        heard, known = model.prompt_embeddings(prompt)
        states = model.think(heard, prompt.mask, positions_of(prompt.mask), self.caches[TEXT])
        before, mask = model.talker_prompt(prompt, states, known)
        model.talk(before, mask, positions_of(mask), self.caches[AUDIO])
        for cache in self.caches:
            cache.repeat(group_size)
        self.state = states[:, -1].repeat_interleave(group_size, 0)  # [R, h]
        self.masks = [m.repeat_interleave(group_size, 0) for m in (prompt.mask, mask)]
        self.noise = torch.zeros(rows, 2, steps, device=device) if noise is None else noise.to(device)
        blanks = torch.tensor([model.streams.text_blank, model.streams.audio_blank], device=device)
        self.tokens = blanks[None, :, None].repeat(rows, 1, steps)
        self.actions = torch.zeros(rows, 2, steps, dtype=torch.bool, device=device)
        self.logps = torch.zeros(rows, 2, steps, device=device)
        self.open = [torch.ones(rows, dtype=torch.bool, device=device) for _ in range(2)]  # writing, speaking
        self.end = torch.full((rows,), steps, device=device)  # the step from which the talker hears no more words

    def choose(self, stream: int, step: int, state: Tensor) -> Tensor:
        """Sample a stream's tokens of a step, [R]; forced tokens stay blank."""
        sampled, model = self.open[stream], self.model
        ids, logps = model.draw(state, stream, self.noise[:, stream, step], self.sampling)
        ids = torch.where(sampled, ids, self.tokens[:, stream, step])
        self.tokens[:, stream, step], self.actions[:, stream, step] = ids, sampled
        self.logps[:, stream, step] = torch.where(sampled, logps, 0.0)
        self.open[stream] = sampled & ~model.ends(stream, ids)
        return ids

    def extend(self, stream: int) -> tuple[Tensor, Tensor]:
        """Mask and positions of one more position a row: [R, L + 1], [R, 1]."""
        old = self.masks[stream]
        self.masks[stream] = torch.cat([old, old.new_ones(len(old), 1)], 1)
        return self.masks[stream], old.sum(1, keepdim=True)

    def run(self) -> Completion:
        model, steps = self.model, self.tokens.shape[2]
        writing, codes = True, torch.full_like(self.end, model.talker.codec_bos_token)
        reply = torch.zeros_like(self.state)
        for step in range(steps):
            if writing:
                words = self.choose(TEXT, step, self.state)
                ended = self.actions[:, TEXT, step] & ~self.open[TEXT]
                self.end = torch.where(ended, max(step, 1), self.end)
                known = model.thinker.embed_tokens(words)
                self.state = model.think(known[:, None], *self.extend(TEXT), self.caches[TEXT])[:, 0]
                reply = self.state + known
            x = model.told(reply[:, None], self.end, step) + model.talker.get_input_embeddings()(codes)[:, None]
            codes = self.choose(AUDIO, step, model.talk(x, *self.extend(AUDIO), self.caches[AUDIO])[:, 0])
            if step % LOOK_EVERY == 0:
                writing = bool(self.open[TEXT].any())
                if not writing and not bool(self.open[AUDIO].any()):
                    break
        return Completion(self.tokens, self.actions, ~(self.open[TEXT] | self.open[AUDIO]), self.logps)
