"""The paper's reward model: Qwen2.5-Omni's thinker with LoRA hears query and response and scores their fit (section
4.2, A.11.5).

The score is the expectation over the five digit tokens at the last position, renormalised among themselves; no other
logit is made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_paras2s.audio import resample
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.judging.rubric import PROMPT
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.models.checkpoint import load_tensors, write_tensors
from lightning_paras2s.models.log_mel import HOP, SAMPLE_RATE, log_mel
from lightning_paras2s.models.lora import LINEAR, add_lora
from lightning_paras2s.models.pretrained import load_pretrained, one_line, token_ids
from lightning_paras2s.models.sharding import shard_blocks, whole
from lightning_paras2s.types import Audio

# A regex, since the audio tower has q_proj and v_proj of its own; both trees that transformers has had are named.
LORA_TARGETS = rf"model\.(language_model\.)?{LINEAR}"
OUTER = re.compile(r"^model\.(language_model\.)?")  # where the language model lies in the thinker
SPEAKING_PARTS = ("talker.", "token2wav.")  # of the whole Omni, which a score does not need
GUIDELINE = PROMPT.partition("The information of the user:")[0].strip()
MAX_SECONDS = 300
SHORTEST_SECONDS = 0.1
SILENCE = Audio(np.zeros(16_000, np.float32), 16_000)
AUDIO_MARKS = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")


class QwenOmniScorer(ResponseScorer):
    """See the module's docstring.

    Args:
        path: folder of Qwen2.5-Omni (or of its thinker alone).
        lora_rank: of the adapters on the language model's linear layers; all else is frozen.
        lora_alpha: the adapters' output is scaled by alpha / rank.
        dtype: of the frozen weights, `bfloat16` or `float32`.
        gradient_checkpointing: recompute blocks in the backward pass.
    """

    def __init__(
        self,
        path: InputPath,
        lora_rank: int = 16,
        lora_alpha: float = 32.0,
        dtype: str = "bfloat16",
        gradient_checkpointing: bool = False,
    ) -> None:
        from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

        super().__init__()
        if not (Path(path) / "config.json").is_file():
            raise UserError(
                f"the reward model must be the folder of Qwen2.5-Omni; got {path}; fetch it or mend model.scorer.path"
            )
        self.settings = {"path": path, "lora_rank": lora_rank, "lora_alpha": lora_alpha, "dtype": dtype}
        with one_line(path):
            self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.thinker = load_pretrained(
            Qwen2_5OmniThinkerForConditionalGeneration, path, getattr(torch, dtype), SPEAKING_PARTS
        )
        parts(self.thinker)[0].visual = None  # it sees nothing: 0.7 G weights less
        # without its head the thinker gives hidden states, so that only the logits that count are made
        self.head, self.thinker.lm_head = self.thinker.lm_head.requires_grad_(False), nn.Identity()
        add_lora(self.thinker, self.thinker, LORA_TARGETS, lora_rank, lora_alpha)
        if gradient_checkpointing:
            self.thinker.gradient_checkpointing_enable({"use_reentrant": False})
        self.digits = token_ids(self.tokenizer, list("12345"))
        self.marks = token_ids(self.tokenizer, list(AUDIO_MARKS))
        asked = f"<|im_start|>system\n{GUIDELINE}<|im_end|>\n<|im_start|>user\nQuery speech:"
        pieces = (asked, "Response speech:", "Score 1-5:<|im_end|>\n<|im_start|>assistant\n")
        self.pieces = [self.tokenizer.encode(p, add_special_tokens=False) for p in pieces]
        self.train()  # as built by `from_pretrained` it is not, and blocks would not be recomputed

    def score_logits(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        weight = self.head.weight
        heard = [q.seconds >= SHORTEST_SECONDS and r.seconds >= SHORTEST_SECONDS for q, r in zip(queries, responses)]
        scores = torch.full((len(heard), 5), torch.nan, device=weight.device)
        # all audios in reading order: query and response of the first row, of the second, ...
        audios = [a for q, r, h in zip(queries, responses, heard) if h for a in (q, r)]
        # Where no row can be scored, silence is read and not scored: the ranks of a sharded model must all pass through
        # it, and the loss of such a batch needs a gradient, 0.
        mel, mask = mel_batch(audios or [SILENCE, SILENCE])
        ids, attended = self.prompts([audio_tokens(int(n)) for n in mask.sum(1)])
        hidden = self.thinker(
            input_ids=ids.to(weight.device),
            attention_mask=attended.to(weight.device),
            input_features=mel.to(weight),
            feature_attention_mask=mask.to(weight.device),
            use_cache=False,
        ).logits[:, -1]
        with torch.autocast(weight.device.type, enabled=False):  # five logits cost nothing and differ in the last bits
            logits = (hidden.float() @ weight[self.digits].float().T)[: sum(heard)]
        return scores.index_put((torch.tensor(heard, device=weight.device).nonzero()[:, 0],), logits)

    def prompts(self, counts: list[int]) -> tuple[Tensor, Tensor]:
        """Tokens of the audios, two a row -> left-padded ids [B, L] and their mask."""
        begin, audio, end = self.marks
        before, between, after = self.pieces
        rows = []
        for query, response in zip(counts[::2], counts[1::2]):
            speech = [[begin, *[audio] * n, end] for n in (query, response)]
            rows.append(before + speech[0] + between + speech[1] + after)
        width = max(map(len, rows))
        fill = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
        return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])

    def shard(self, mesh: DeviceMesh) -> None:
        """Split the language model's blocks, then the rest, over the ranks of `mesh` (FSDP2), in place."""
        dtype = getattr(torch, self.settings["dtype"])
        shard_blocks(self, parts(self.thinker)[1].layers, mesh, dtype, ("score_logits",))
        self.to(mesh.device_type)

    def adapters(self) -> dict[str, nn.Parameter]:
        """What trains, by its name within the language model, `layers.0...`, which no release of transformers moves."""
        named = parts(self.thinker)[1].named_parameters()
        return {name: p for name, p in named if ".lora_" in name}

    def save(self, path: str | Path) -> None:
        """The adapters alone, with the settings; the base stays where it is. Sharded: all ranks call, one writes."""
        tensors = {n: whole(p).cpu().contiguous() for n, p in self.adapters().items()}
        if dist.is_initialized() and dist.get_rank() > 0:
            return
        write_tensors(path, tensors, {"class": QwenOmniScorer.__name__, "settings": json.dumps(self.settings)})


class TrainedOmniScorer(QwenOmniScorer):
    """A `QwenOmniScorer` with the adapters of a file; `base` is the folder of Qwen2.5-Omni if it has moved.

    Args:
        path: the adapters' weights (.safetensors).
        base: folder of Qwen2.5-Omni, if it has moved since.
    """

    def __init__(self, path: InputPath, base: InputPath | None = None) -> None:
        if not Path(path).is_file():
            raise UserError(
                f"the scorer's adapters must be an existing .safetensors file; got {path}; train them or check the path"
            )
        header, found = load_tensors(Path(path))
        tensors = {OUTER.sub("", name): tensor for name, tensor in found.items()}
        if header.get("class") != QwenOmniScorer.__name__:
            got = header.get("class", "no class")
            raise UserError(f"{path} must hold a {QwenOmniScorer.__name__}; got {got}; choose another file")
        super().__init__(**json.loads(header["settings"]) | ({"path": base} if base else {}))
        adapters = self.adapters()
        for name in sorted(adapters.keys() | tensors.keys()):
            wanted, got = (tuple(found[name].shape) if name in found else None for found in (adapters, tensors))
            if wanted != got:
                raise UserError(f"{path} must hold {name} {wanted}; got {got}; is it another base's?")
        with torch.no_grad():
            for name, parameter in adapters.items():
                parameter.copy_(tensors[name])
        self.eval()


def parts(thinker: nn.Module) -> tuple[nn.Module, nn.Module]:
    """What holds the towers for sound and sight, and the language model: up to transformers 5.21 the thinker itself and
    its `model`, then its `model` and what is in it.
    """
    inner = thinker.model
    return (inner, inner.language_model) if "language_model" in dict(inner.named_children()) else (thinker, inner)


def mel_batch(audios: list[Audio]) -> tuple[Tensor, Tensor]:
    """Log-mel [N, 128, T] at 100 frames/s and its mask [N, T] (int64): a frame is real if it begins within the
    speech.
    """
    wavs = [torch.from_numpy(np.array(resample(a, SAMPLE_RATE).samples)).float() for a in audios]
    for wav in wavs:
        if len(wav) > MAX_SECONDS * SAMPLE_RATE:
            raise UserError(
                f"speech to be scored must last at most {MAX_SECONDS} s; got {len(wav) / SAMPLE_RATE:.0f} s; cut it"
            )
    # zeros after the longest too, as the released extractor's fixed length gives: its last frames look beyond the end
    width = (max(map(len, wavs)) // HOP + 4) * HOP
    padded = torch.stack([F.pad(w, (0, width - len(w))) for w in wavs])
    mask = torch.arange(width // HOP)[None] * HOP < torch.tensor([len(w) for w in wavs])[:, None]
    frames = int(mask.sum(1).max())
    return log_mel(padded)[..., :frames], mask[:, :frames].long()


def audio_tokens(frames: int) -> int:
    """Tokens of `frames` mel frames, 25 a second: two strides of 2."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1
