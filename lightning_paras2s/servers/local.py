"""A chat model on this machine, by transformers: a judge, a miner and a test of neutrality without a bill."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_paras2s.batches import by_length
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.models.pretrained import load_pretrained, one_line
from lightning_paras2s.models.sampling import OwnDraws
from lightning_paras2s.running.origins import sha, weights_sha
from lightning_paras2s.servers.chat import ChatLLM, sample_names
from lightning_paras2s.servers.parts import Conversation
from lightning_paras2s.servers.replies import Reply


class TransformersChat(ChatLLM):
    """Any chat model of transformers in a local folder, with its own chat template, many conversations at a time.

    At temperature 0 the same conversations get the same replies. In bfloat16 a reply's last bits may depend on the
    others of its batch; `batch_size: 1` rules that out. Above 0 each conversation is sampled alone, from `seed` and
    its words, and one that comes again in the same call, or under another sample's name, gets another sample.

    Args:
        path: folder of the model and its tokenizer; weights are read when the first reply is asked for.
        temperature: of the replies; 0 = the likeliest token each time.
        max_tokens: most tokens of a reply.
        batch_size: conversations at a time, of like length.
        device: where it computes; `auto` is the GPU if there is one.
        dtype: of the weights.
        seed: of samples at a temperature above 0.
    """

    def __init__(
        self,
        path: InputPath,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        batch_size: int = 8,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        seed: int = 0,
    ) -> None:
        if not (Path(path) / "config.json").is_file():
            raise UserError(f"the chat model must be a local folder; got {path} without config.json; fetch it")
        if temperature < 0 or max_tokens < 1 or batch_size < 1:
            raise UserError(
                "temperature must be 0 or above, max_tokens and batch_size at least 1; got "
                f"{temperature}, {max_tokens} and {batch_size}; change them"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device must be there; got {device!r} without CUDA; set device: cpu or use a GPU machine")
        self.path, self.device, self.dtype, self.seed = path, device, dtype, seed
        self.temperature, self.max_tokens, self.batch_size = temperature, max_tokens, batch_size
        self.name = f"{Path(path).resolve().name}-{weights_sha(Path(path))[:8]}-{dtype}"
        if temperature:
            self.name += f"-t{temperature:g}-s{seed}"

    @property
    def config_sha(self) -> str:
        """Of all that its replies depend on but the conversation, weights read or not."""
        return sha(self.name, self.max_tokens)

    @cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        with one_line(self.path):
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True, padding_side="left")
        if not tokenizer.chat_template:
            raise UserError(f"{self.path} must have a chat template; its tokenizer has none; take a chat model")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def model(self):
        from transformers import AutoModelForCausalLM

        model = load_pretrained(AutoModelForCausalLM, self.path, getattr(torch, self.dtype))
        return model.to(self.device).eval().requires_grad_(False)

    def complete(self, conversations: list[Conversation], samples: Sequence[str] | None = None) -> list[Reply]:
        prompts = [self.prompt(conversation) for conversation in conversations]
        names = sample_names([str(prompt) for prompt in prompts], samples)
        replies: dict[int, Reply] = {}
        for index in by_length([len(prompt) for prompt in prompts], 1 if self.temperature else self.batch_size):
            first = index[0]  # the only one, where samples differ
            written = self.write([prompts[i] for i in index], f"{self.seed}/{names[first]}/{prompts[first]}")
            replies |= {i: self.reply(prompts[i], row) for i, row in zip(index, written, strict=True)}
        return [replies[i] for i in range(len(prompts))]

    def prompt(self, conversation: Conversation) -> list[int]:
        """Token ids of a conversation, up to where the model is to go on.

        Raises:
            UserError: it holds speech, which a model of text can't hear, or leaves no room for a reply.
        """
        for message in conversation:
            if any(part.get("type") != "text" for part in message["content"] if isinstance(part, dict)):
                raise UserError(f"{self.name} reads text alone; got a message with speech; take a model that hears")
        said = [{"role": m["role"], "content": words(m["content"])} for m in conversation]
        text = self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room is not None and len(ids) + self.max_tokens > room:
            raise UserError(
                f"conversation and reply must fit in {room} tokens; got {len(ids)} and max_tokens {self.max_tokens}; "
                "lower max_tokens or take a model of a longer context"
            )
        return ids

    @torch.no_grad()
    def write(self, prompts: list[list[int]], key: str) -> list[Tensor]:
        """What follows each prompt, [T] each, padded."""
        width, fill = max(map(len, prompts)), self.tokenizer.pad_token_id
        ids = torch.tensor([[fill] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        # cuts and penalties that the folder's own settings may hold are off
        options: dict[str, Any] = {"do_sample": bool(self.temperature), "repetition_penalty": 1.0, "top_k": 0}
        options |= {"top_p": 1.0, "temperature": self.temperature or 1.0, "pad_token_id": fill}
        with OwnDraws(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])):
            out = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=self.max_tokens, **options)
        return list(out[:, width:].cpu())

    def reply(self, prompt: list[int], written: Tensor) -> Reply:
        ends = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id} | set(ends if isinstance(ends, list) else [ends])
        at = next((i for i, token in enumerate(written.tolist()) if token in ends), None)
        ids = written.tolist()[:at]
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        if at is None:
            return Reply(None, "truncated", usage, message=text[:500])
        return Reply(text, "ok", usage) if text else Reply(None, "empty", usage)


def words(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
