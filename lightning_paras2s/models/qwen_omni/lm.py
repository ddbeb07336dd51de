"""Qwen2.5-Omni (arXiv 2503.20215) as a trainable dual-stream policy: transformers' own thinker and talker.

Text stream: the thinker's tokens. Audio stream: the talker's codes, 50 a second, each conditioned on the thinker's
hidden states and embeddings. The release runs one after the other, thinker first. Yet its talker, at code n, has heard
the words up to n and no more, so both run in step here and the distribution is the release's: at step n the thinker
writes token n, and then the talker, which hears it, speaks code n. Eq. 3's log-probability of a step is the sum of
both. When the text has ended the talker hears the mark of its end, then padding; text blanks are forced and masked, as
are audio blanks of a text that goes on when its speech has ended.

Departures from the release: a text that the step limit cuts is heard to its last token (theirs: the last is taken for
the end's mark), rows of a batch differ in length without a trace, and no penalty for repetition exists. The ears belong
to the processor, which gives their output as the prompt's features; they and the eyes do not train.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_paras2s.errors import InputPath, UserError, check_choice
from lightning_paras2s.models.heads import HeadedLM, check_room
from lightning_paras2s.models.kimi.attention import positions_of
from lightning_paras2s.models.lora import LINEAR, add_lora
from lightning_paras2s.models.qwen_omni.decoding import OmniRollout
from lightning_paras2s.models.qwen_omni.released import (
    HEAD,
    TALKER,
    WORDS,
    base_of,
    load_part,
    read_omni_config,
    read_tensors,
)
from lightning_paras2s.models.selective import Ranges, legal
from lightning_paras2s.models.sharding import shard_blocks
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Logps, Prompt, Sampling, Streams

if TYPE_CHECKING:
    from lightning_paras2s.models.kimi.cache import KeyValueCache

Trains = Literal["thinker", "talker", "both"]
LORA_TARGETS = {"thinker": rf"thinker\.{LINEAR}", "talker": rf"talker\.model\.{LINEAR}"}
LORA_TARGETS["both"] = rf"(thinker|talker\.model)\.{LINEAR}"


class QwenOmni(HeadedLM):
    """See the module's docstring.

    Args:
        path: folder of Qwen2.5-Omni; or of adapters that were trained on it, which are then part of the base, float32
            as they trained, and of the reference.
        lora_rank: 0 trains every weight of what `trains` names; r > 0 freezes them and trains rank-r adapters on all
            linear layers of its blocks.
        lora_alpha: scale of the adapters' output: alpha / r.
        trains: what learns: the thinker (what is said), the talker (how it is said), or both.
        talker_gradient: whether the codes' gradients go through the talker's input into the thinker, or are cut there.
        dtype: of the weights: float32, or bfloat16 as the release has them.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        export: what a trained policy is written as: peft's adapters, those that `path` brought included, or a whole
            folder as released (merged), in `dtype`: bfloat16 rounds most of a small update away, so judge the adapters.
            Training without adapters writes merged alone.
    """

    rollout = OmniRollout

    def __init__(
        self,
        path: InputPath,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        trains: Trains = "both",
        talker_gradient: Literal["through", "cut"] = "through",
        dtype: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool = False,
        export: Literal["adapter", "merged"] = "merged",
    ) -> None:
        from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as stock

        super().__init__()
        check_choice("trains", trains, ("thinker", "talker", "both"))
        check_choice("talker_gradient", talker_gradient, ("through", "cut"))
        check_choice("export", export, ("adapter", "merged"))
        check_choice("dtype", dtype, ("float32", "bfloat16"))
        self.path, self.base = str(path), base_of(path)
        if export == "adapter" and not lora_rank:
            raise UserError("export: adapter needs lora_rank above 0; got 0; set export: merged")
        self.lora_rank, self.lora_alpha, self.trains, self.export = lora_rank, lora_alpha, trains, export
        self.through = talker_gradient == "through"
        config, kind = read_omni_config(self.base), getattr(torch, dtype)
        self.config = config
        self.thinker = load_part(
            stock.Qwen2_5OmniThinkerTextModel, config.thinker_config.text_config, self.base, WORDS, kind
        )
        self.lm_head = nn.Linear(1, 1, bias=False)
        self.lm_head.weight = read_head(self.base, self.thinker.embed_tokens.weight, config.thinker_config)
        talker = stock.Qwen2_5OmniTalkerForConditionalGeneration
        self.talker = load_part(talker, config.talker_config, self.base, TALKER, kind)
        self.text_ends = text_ends(config, self.base)
        self.audio_ends = (self.talker.codec_pad_token, self.talker.codec_eos_token)
        blank = config.thinker_config.pad_token_id
        self.streams = Streams(
            self.text_ends[0] if blank is None else blank,
            self.text_ends[0],
            self.talker.codec_mask_token,
            self.talker.codec_eos_token,
            0,
        )
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            for model in (self.thinker, self.talker):
                model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.base != self.path:
            from lightning_paras2s.models.qwen_omni.export import load_peft

            load_peft(self, Path(path))
        if lora_rank:
            add_lora(self, self, LORA_TARGETS[trains], lora_rank, lora_alpha)
        else:
            self.talker.requires_grad_(trains != "thinker")
            self.thinker.requires_grad_(trains != "talker")
            self.lm_head.requires_grad_(trains != "talker")
        self.eval()

    def shard(self, mesh: DeviceMesh) -> None:
        """Split the blocks of both, then the rest, over the ranks of `mesh` (FSDP2), in place."""
        blocks = (*self.thinker.layers, *self.talker.model.layers)
        shard_blocks(self, blocks, mesh, self.lm_head.weight.dtype, ("logps", "generate"))
        self.to(mesh.device_type)

    def save(self, path: str | Path) -> None:
        """Write the folder `path` without its suffix: peft's adapters, or a checkpoint laid out as the release."""
        from lightning_paras2s.models.qwen_omni.export import save_adapters, save_merged

        write = save_adapters if self.export == "adapter" else save_merged
        write(self, Path(path).with_suffix(""))

    def head(self, stream: int) -> tuple[Tensor, Ranges]:
        """The stream's output matrix [V, h] and the ids that it may draw: the release forbids the codes' begin."""
        if stream == TEXT:
            return self.lm_head.weight, ((0, len(self.lm_head.weight)),)
        weight, begin = self.talker.codec_head.weight, self.talker.codec_bos_token
        return weight, ((0, begin), (begin + 1, len(weight)))

    def ends(self, stream: int, ids: Tensor) -> Tensor:
        """Which ids end the stream: bool, same shape."""
        return torch.isin(ids, torch.tensor((self.text_ends, self.audio_ends)[stream], device=ids.device))

    def prompt_embeddings(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """What the thinker hears, and what the talker is told of it, where speech is silent: [B, P, h] each."""
        known = self.thinker.embed_tokens(prompt.tokens[:, TEXT])
        if prompt.features is None:
            return known, known
        where = prompt.features_mask[..., None]
        return torch.where(where, prompt.features.to(known.dtype), known), torch.where(where, 0.0, known)

    def think(self, x: Tensor, mask: Tensor, positions: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """x [B, n, h], mask [B, all positions] -> normed states [B, n, h]."""
        return run(self.thinker, x, mask, positions, cache)

    def talk(self, x: Tensor, mask: Tensor, positions: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """x [B, n, h] of the thinker's width -> normed states of the talker's."""
        return run(self.talker.model, self.talker.thinker_to_talker_proj(x), mask, positions, cache)

    def talker_prompt(self, prompt: Prompt, states: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What stands before the first code: the prompt as the thinker understood it [B, P, h], and its speaker's mark:
        [B, P + 1, h] and the mask.
        """
        mark = self.thinker.embed_tokens(prompt.tokens[:, AUDIO, -1:])  # see `QwenOmniProcessor`
        codes = self.talker.get_input_embeddings().weight
        mark = mark + codes[self.talker.codec_pad_token]
        mask = torch.cat([prompt.mask, prompt.mask.new_ones(len(prompt), 1)], 1)
        return torch.cat([states + known, mark], 1), mask

    def told(self, reply: Tensor, end: Tensor, first: int = 0) -> Tensor:
        """What the talker hears from step `first` on, [R, n, h]: the words' states and embeddings `reply`, at step
        `end` [R] the mark of the text's end, then padding.
        """
        marks = torch.tensor([self.talker.text_eos_token, self.talker.text_pad_token], device=end.device)
        stop, padding = self.thinker.embed_tokens(marks)
        steps = torch.arange(first, first + reply.shape[1], device=end.device)[None, :, None]
        end = end[:, None, None]
        return torch.where(steps < end, reply, torch.where(steps == end, stop, padding))

    def text_end(self, completion: Completion) -> Tensor:
        """The step of each row's text EOS, at least 1 (the first word is always heard), or the number of steps: [R]."""
        text, steps = completion.tokens[:, TEXT], completion.tokens.shape[2]
        ended = self.ends(TEXT, text) & completion.actions[:, TEXT]
        at = torch.arange(steps, device=text.device).expand_as(text)
        return torch.where(ended, at, steps).amin(1).clamp(min=1)

    def response_states(self, prompt: Prompt, completion: Completion, words: int) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the states from which the first `words` text tokens and all codes are predicted, [R, words,
        h] and [R, T, the talker's width].
        """
        self.check_prompt(prompt, completion.tokens.shape[2])
        prompt = prompt.repeat(len(completion) // len(prompt))
        heard, known = self.prompt_embeddings(prompt)
        width, written = heard.shape[1], self.thinker.embed_tokens(completion.tokens[:, TEXT, :words])
        mask = torch.cat([prompt.mask, prompt.mask.new_ones(len(prompt), words)], 1)
        states = self.think(torch.cat([heard, written], 1), mask, positions_of(mask))
        understood, reply = states[:, :width], states[:, width:] + written
        if not self.through:
            understood, reply, known = understood.detach(), reply.detach(), known.detach()
        before, mask = self.talker_prompt(prompt, understood, known)
        steps = completion.tokens.shape[2]
        reply = torch.cat([reply, reply.new_zeros(len(reply), steps - words, reply.shape[2])], 1)
        codes = torch.nn.functional.pad(completion.tokens[:, AUDIO, :-1], (1, 0), value=self.talker.codec_bos_token)
        after = self.told(reply, self.text_end(completion)) + self.talker.get_input_embeddings()(codes)
        mask = torch.cat([mask, mask.new_ones(len(mask), steps)], 1)
        spoken = self.talk(torch.cat([before, after], 1), mask, positions_of(mask))
        return states[:, width - 1 : -1], spoken[:, -steps:]

    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """As `SpeechLM.forward`, but the audio logits of step t know the text of step t, too; ids that can't be drawn
        have logit -inf. For inspection: `logps` makes no [B, T, V] tensor.
        """
        outputs = []
        for stream, hidden in enumerate(self.response_states(prompt, completion, completion.tokens.shape[2])):
            weight, ranges = self.head(stream)
            logits = hidden.float() @ weight.float().T
            allowed = legal(torch.arange(len(weight), device=logits.device), ranges)
            outputs.append(logits.masked_fill(~allowed, -torch.inf))
        return outputs[TEXT], outputs[AUDIO]

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        sampling.check_scorable()
        self.check_actions(completion)
        written = completion.actions[:, TEXT].any(0).nonzero()
        words = int(written.max()) + 1 if len(written) else 1
        with recomputing(self):
            states = self.response_states(prompt, completion, words)
        return self.score(states, completion, sampling)

    def check_prompt(self, prompt: Prompt, steps: int) -> None:
        """Context, ids and features are this model's, or one line says what is not."""
        rooms = (model.max_position_embeddings for model in (self.thinker.config, self.talker.config))
        length, room = prompt.tokens.shape[2] + 1 + steps, min(rooms)
        check_room(length, room)
        if (highest := int(prompt.tokens[:, TEXT].max())) >= len(self.lm_head.weight):
            raise UserError(
                f"prompts must hold ids below {len(self.lm_head.weight)}; got {highest}; use this model's processor"
            )
        wanted = self.thinker.config.hidden_size
        if prompt.features is not None and prompt.features.shape[-1] != wanted:
            raise UserError(
                f"features must have {wanted} numbers a position; got {prompt.features.shape[-1]}; "
                "use this model's processor"
            )


def run(model: nn.Module, x: Tensor, mask: Tensor, positions: Tensor, cache: KeyValueCache | None) -> Tensor:
    """One of transformers' stacks of blocks on x [B, n, h], after what `cache` holds."""
    from lightning_paras2s.models.kimi.cache import cache_argument

    past = {} if cache is None else {cache_argument(type(model)): cache}
    return model(
        inputs_embeds=x, attention_mask=mask.long(), position_ids=positions, use_cache=cache is not None, **past
    ).last_hidden_state


@contextlib.contextmanager
def recomputing(policy: QwenOmni) -> Iterator[None]:
    """Blocks recompute in training mode alone, and a policy is in eval mode; nothing in them differs but that."""
    on = policy.gradient_checkpointing and torch.is_grad_enabled()
    if on:
        policy.train()
    try:
        yield
    finally:
        if on:
            policy.eval()


def read_head(folder: str, embedding: nn.Parameter, config) -> nn.Parameter:
    """The thinker's output matrix, [V, h]: its embedding itself where the config ties them and the folder has none."""
    found = read_tensors(folder, HEAD)
    if not found and config.tie_word_embeddings:
        return embedding
    got = tuple(found[HEAD].shape) if found else None
    if got != tuple(embedding.shape):
        raise UserError(
            f"{folder} must hold {HEAD} {tuple(embedding.shape)}; got {got}; fetch it again, or is it another model?"
        )
    return nn.Parameter(found[HEAD].to(embedding.dtype))


def text_ends(config, folder: str) -> tuple[int, ...]:
    """The ids that end a text, by the thinker's config, or else the chat's end in the tokenizer."""
    given = config.thinker_config.eos_token_id
    given = config.thinker_config.text_config.eos_token_id if given is None else given
    if given is None:
        from transformers import AutoTokenizer

        from lightning_paras2s.models.pretrained import one_line, token_ids

        with one_line(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        given = token_ids(tokenizer, ["<|im_end|>"])
    return tuple(given) if isinstance(given, list | tuple) else (given,)
