"""`TinyScorer`: the embedded distilled reward model (paper, section 4.2): query and response speech in, five score
classes out.

As Qwen2.5-Omni brings pre-trained ears and words to the paper's reward model, this one hears through the frozen
embedded transcriber and style recogniser; a small transformer over the words of both recordings learns the judge's
scores. No label goes in, and no text but what is heard. What a query is about (which factor) it reads from a bag of
words and word pairs (as fastText does, arXiv 1607.01759): a transformer alone does not find that in 2,000 texts
(docs/log.md, seventh round).
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_paras2s.audio import Recording
from lightning_paras2s.data.embedded import lexicon
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.recognizers import HEADS, StyleNetwork
from lightning_paras2s.hearing.transcribers import CTCNetwork, pad_acoustics, phone_logps, read
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.running.origins import file_sha
from lightning_paras2s.running.shipped import weights_file
from lightning_paras2s.types import FACTORS, Audio

PAD, UNKNOWN = 0, 1
MAX_WORDS = 32
PAIRS, GIST = 4096, 32  # buckets of word pairs; width of the bag
WHOLE = sum(len(values) for values in HEADS.values()) + 2
REMEMBERED = 200_000  # recordings: a reward model's data are heard once and read many times


class Heard(NamedTuple):
    """Of one recording: its words, and as a whole [WHOLE] the probabilities of every style and tone, how sure the
    transcriber is of its symbols (mean log-probability) and the length (log seconds); whether it holds no sample."""

    words: tuple[str, ...]
    whole: Tensor
    empty: bool = False


class Ears(nn.Module):
    """Hears recordings with frozen networks, and remembers what it heard.

    The networks hear one after another: in a batch, a recording's end would depend on the padding behind it. Words are
    read from what they say of all of them at once, which takes a quarter of the time.
    """

    def __init__(self, transcriber: CTCNetwork, style: StyleNetwork) -> None:
        super().__init__()
        self.transcriber, self.style = transcriber.eval(), style.eval()
        self.requires_grad_(False)
        self.remembered: dict[bytes | Path, Heard] = {}

    def train(self, mode: bool = True) -> Ears:
        return super().train(False)

    def forward(self, audios: list[Audio]) -> list[Heard]:
        keys = [recording_key(audio) for audio in audios]
        new = {key: audio for key, audio in zip(keys, audios, strict=True) if key not in self.remembered}
        if len(self.remembered) + len(new) > REMEMBERED:
            new = dict(zip(keys, audios, strict=True))
            self.remembered.clear()
        self.remembered.update(zip(new, self._hear(list(new.values())), strict=True))
        return [self.remembered[key] for key in keys]

    @torch.no_grad()
    def _hear(self, audios: list[Audio]) -> list[Heard]:
        phones, wholes = [], []
        for audio in audios:
            if audio.seconds < 0.1:  # too short to hear: counts as a tenth of a second of silence
                audio = Audio(np.zeros(1600, np.float32), 16_000)
            # In full precision whatever the trainer's: what is remembered must not depend on who asked first.
            with torch.autocast("cpu", enabled=False):
                frames, lengths = pad_acoustics([audio])
                logits = self.transcriber(frames)
                phones += phone_logps(logits, lengths)
                best = logits.float().log_softmax(-1).amax(-1)
                styles = self.style(frames, torch.tensor(lengths))
                probabilities = torch.cat([styles[name][0].softmax(-1) for name in HEADS])
            wholes.append(torch.cat([probabilities, best.mean()[None], torch.tensor([audio.seconds]).log()]).float())
        texts = [tuple(text.split()[:MAX_WORDS]) for text in read(phones)]
        empty = [not len(audio.samples) for audio in audios]
        return [Heard(*one) for one in zip(texts, wholes, empty, strict=True)]


def recording_key(audio: Audio) -> bytes | Path:
    """By which what was heard of a recording is remembered."""
    if isinstance(audio, Recording):
        return audio.path
    return hashlib.blake2b(audio.samples.tobytes(), digest_size=16).digest()


class TinyScorer(ResponseScorer):
    """See the module's docstring.

    Args:
        transcriber: weights of the ear for words; looked for beside the scorer's own file when it is loaded.
        style: weights of the ear for style; likewise.
        width: of every layer.
        layers: of the transformer.
        heads: attention heads a layer.
    """

    def __init__(
        self,
        transcriber: InputPath = "checkpoints/embedded/transcriber.safetensors",
        style: InputPath = "checkpoints/embedded/style.safetensors",
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.settings = {"width": width, "layers": layers, "heads": heads}
        self.files = {"transcriber": weights_file(transcriber), "style": weights_file(style)}
        self.settings |= {name: file.name for name, file in self.files.items()}
        self.ears = Ears(load_module(CTCNetwork, transcriber), load_module(StyleNetwork, style))
        self.body = ScorerBody(width, layers, heads)

    @property
    def untrained(self) -> bool:
        """A norm's first weights are all 1, and the first step moves them."""
        return bool((self.body.norm.weight == 1).all())

    def save(self, path: str | Path) -> None:
        """With its ears beside it, where they are looked for.

        Raises:
            UserError: others lie there under their names: the scorer would be read with those.
        """
        places = {file: Path(path).parent / file.name for file in self.files.values()}
        for file, beside in places.items():
            if beside.exists() and file_sha(beside) != file_sha(file):
                raise UserError(
                    f"a scorer is saved beside its ears; got another {beside} than {file}; move it, or save elsewhere"
                )
        self.body.settings |= {name: self.settings[name] for name in self.files}
        save_module(self.body, path)
        for file, beside in places.items():
            if not beside.exists():
                with written_whole(beside) as part:
                    shutil.copyfile(file, part)

    def score_logits(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        heard = self.ears([*queries, *responses])
        of_queries, of_responses = heard[: len(queries)], heard[len(queries) :]
        logits = self.body(of_queries, of_responses)
        empty = torch.tensor([response.empty for response in of_responses], device=logits.device)
        return logits.masked_fill(empty[:, None], float("nan"))

    def factor_logits(self, queries: list[Audio]) -> Tensor:
        return self.body.factor(self.body.gist(self.ears(queries)))


class TrainedScorer(TinyScorer):
    """A `TinyScorer` with the weights of a file, for configs; its ears are looked for beside it.

    Args:
        path: weights (.safetensors); by default those that are shipped.
    """

    def __init__(self, path: InputPath = "checkpoints/embedded/scorer.safetensors") -> None:
        body = load_module(ScorerBody, path)
        sizes = {name: body.settings[name] for name in ("width", "layers", "heads")}
        super().__init__(*(str(Path(path).parent / body.settings[name]) for name in ("transcriber", "style")), **sizes)
        self.body = body


class ScorerBody(nn.Module):
    """Transformer encoder over [whole, query words, response words] -> 5 logits.

    Words are those of the training texts, others are unknown; whether a word occurs in the other recording too is told
    beside it (so an unknown topic can be seen to be named).

    Args:
        dropout, unknown: in training; share of words that it replaces by the unknown one.
        forgotten: in training; share of the bag's words and pairs that it leaves out.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        transcriber: str = "transcriber.safetensors",
        style: str = "style.safetensors",
        dropout: float = 0.1,
        unknown: float = 0.1,
        forgotten: float = 0.3,
    ) -> None:
        super().__init__()
        self.settings = {"width": width, "layers": layers, "heads": heads, "dropout": dropout, "unknown": unknown}
        self.settings |= {"transcriber": transcriber, "style": style, "forgotten": forgotten}
        self.ids = {word: i + 2 for i, word in enumerate(lexicon(("train",)))}
        self.unknown, self.forgotten = unknown, forgotten
        self.words = nn.Embedding(len(self.ids) + 2, width)
        self.shared = nn.Embedding(2, width)
        self.place = nn.Embedding(2 * MAX_WORDS, width)  # of the query's words, then of the response's
        self.whole = nn.Sequential(nn.Linear(2 * WHOLE, width), nn.GELU(), nn.Linear(width, width))
        self.bag = nn.EmbeddingBag(len(self.ids) + 2 + PAIRS, GIST, mode="sum")
        self.factor = nn.Linear(GIST, len(FACTORS))
        self.about = nn.Linear(GIST + len(FACTORS), width)
        for table in (self.words, self.shared, self.place, self.bag):
            nn.init.normal_(table.weight, std=0.3)
        layer = nn.TransformerEncoderLayer(width, heads, 3 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, queries: list[Heard], responses: list[Heard]) -> Tensor:
        """B pairs -> [B, 5]."""
        rows = [self._read(*pair) for pair in zip(queries, responses, strict=True)]
        longest = max(len(row[0]) for row in rows)
        device = self.head.weight.device
        ids, shared, places = (
            torch.tensor([row[i] + [0] * (longest - len(row[i])) for row in rows], device=device).view(len(rows), -1)
            for i in range(3)
        )
        mask = torch.tensor([[False] * (1 + len(row[0])) + [True] * (longest - len(row[0])) for row in rows])
        if self.training:
            ids = ids.masked_fill((torch.rand(ids.shape, device=device) < self.unknown) & (ids > 0), UNKNOWN)
        whole = torch.stack([torch.cat([q.whole, r.whole]) for q, r in zip(queries, responses, strict=True)])
        gist = self.gist(queries)
        about = torch.cat([gist, self.factor(gist).softmax(-1)], -1)
        first = (self.whole(whole.to(device)) + self.about(about)).unsqueeze(1)
        hidden = self.words(ids.long()) + self.shared(shared.long()) + self.place(places.long())
        hidden = self.body(torch.cat([first, hidden], 1), src_key_padding_mask=mask.to(device))
        return self.head(self.norm(hidden[:, 0])).float()

    def gist(self, queries: list[Heard]) -> Tensor:
        """What the queries are about: means over their words and word pairs, [B, GIST]."""
        bags = [self._features(query.words) for query in queries]
        weights = torch.cat([torch.full((len(bag),), 1 / max(1, len(bag))) for bag in bags])
        if self.training:
            weights = weights * (torch.rand(weights.shape) >= self.forgotten)
        starts = torch.tensor([0, *map(len, bags)]).cumsum(0)[:-1]
        flat = torch.tensor([feature for bag in bags for feature in bag], dtype=torch.long)
        device = self.bag.weight.device
        return self.bag(flat.to(device), starts.to(device), weights.to(device, self.bag.weight.dtype))

    def _features(self, words: tuple[str, ...]) -> list[int]:
        """Rows of the bag's table: of each word, then of each pair with the sentence's edges."""
        first = len(self.ids) + 2
        pairs = (zlib.crc32(f"{a} {b}".encode()) % PAIRS for a, b in pairwise(["<", *words, ">"]))
        return [*(self.ids.get(word, UNKNOWN) for word in words), *(first + pair for pair in pairs)]

    def _read(self, query: Heard, response: Heard) -> tuple[list[int], list[int], list[int]]:
        """Ids, whether the other one has the word, places; of the query's words, then the response's."""
        words = [*query.words, *response.words]
        others = [set(response.words)] * len(query.words) + [set(query.words)] * len(response.words)
        places = [*range(len(query.words)), *range(MAX_WORDS, MAX_WORDS + len(response.words))]
        shared = [int(word in other) for word, other in zip(words, others, strict=True)]
        return [self.ids.get(word, UNKNOWN) for word in words], shared, places
