"""`HeadedLM`: what policies share whose streams each have an output matrix, of which they may draw some rows."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.lora import AdapterOff
from lightning_paras2s.models.sampling import draw
from lightning_paras2s.models.selective import Ranges, legal, matmul_fp32, selective_logps
from lightning_paras2s.models.sharding import unsharded
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Logps, Prompt, Sampling, SpeechLM


class HeadedLM(SpeechLM):
    """A policy with a head a stream; neither in decoding nor in training are all of its logits made."""

    lora_rank: int  # 0 = no adapters: all weights train
    rollout: type  # of (model, prompt, sampling, noise, group_size); its `run` gives the completion

    @abstractmethod
    def head(self, stream: int) -> tuple[Tensor, Ranges]:
        """The stream's output matrix [V, h] and the ids that it may draw."""

    @abstractmethod
    def check_prompt(self, prompt: Prompt, steps: int) -> None:
        """Context, ids and features are this model's, or one line says what is not."""

    @torch.no_grad()
    def generate(
        self, prompt: Prompt, sampling: Sampling, noise: Tensor | None = None, group_size: int = 1
    ) -> Completion:
        """See `SpeechLM.generate`. The result is as long as its longest row."""
        sampling.check_noise(noise)
        self.check_prompt(prompt, sampling.max_steps)
        with unsharded(self):
            return self.rollout(self, prompt, sampling, noise, group_size).run().trim().check_drawn()

    def reference(self) -> SpeechLM:
        return AdapterOff(self) if self.lora_rank else copy.deepcopy(self).requires_grad_(False).eval()

    def draw(self, state: Tensor, stream: int, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """One legal token a row and its log-probability: state [B, h] -> [B], [B]."""
        weight, ranges = self.head(stream)
        kind = state.device.type
        if torch.is_autocast_enabled(kind):  # as `selective_logps` does: operands are rounded, logits are not
            state, weight = (t.to(torch.get_autocast_dtype(kind)) for t in (state, weight))
        with torch.autocast(kind, enabled=False):
            logits = torch.cat([matmul_fp32(state, weight[start:end].T) for start, end in ranges], 1)
        choice, logps = draw(logits, uniform, *sampling.of(stream))
        ids = torch.cat([torch.arange(start, end, device=state.device) for start, end in ranges])[choice]
        return ids, logps

    def score(self, states: Sequence[Tensor], completion: Completion, sampling: Sampling) -> Logps:
        """Log-probabilities of a completion's actions from the states [R, n, h] of each stream that predict them; a
        stream's n may end with its last action.
        """
        values, entropies = [], []
        for stream, hidden in enumerate(states):
            weight, ranges = self.head(stream)
            where = completion.actions[:, stream]
            ids = completion.tokens[:, stream][where]
            chosen, entropy = selective_logps(
                hidden[where[:, : hidden.shape[1]]], weight, ids, ranges, sampling.of(stream)[0]
            )
            values.append(torch.zeros(where.shape, device=where.device).index_put((where,), chosen))
            entropies.append(torch.zeros(where.shape, device=where.device).index_put((where,), entropy))
        return Logps(torch.stack(values, 1), torch.stack(entropies, 1))

    def check_actions(self, completion: Completion) -> None:
        """
        Raises:
            UserError: an action is no id that its stream may draw.
        """
        for stream, name in ((TEXT, "text"), (AUDIO, "audio")):
            ranges = self.head(stream)[1]
            ids = completion.tokens[:, stream][completion.actions[:, stream]]
            bad = ids[~legal(ids, ranges)]
            if len(bad):
                raise UserError(
                    f"actions of the {name} stream must be ids in {ranges}; got {bad[:5].tolist()}; make the answers "
                    "with this model's processor, or take its own"
                )


def check_room(length: int, room: int) -> None:
    """
    Raises:
        UserError: prompt and response are longer than the model's context.
    """
    if length > room:
        raise UserError(
            f"prompt and response together must fit in {room} positions; got {length}; "
            "shorten the query or lower sampling.max_steps"
        )
