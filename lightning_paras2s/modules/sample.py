"""Sample and judge responses at scale (paper, section 4.2: K = 32 a query): `predict --config preferences.yaml`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_paras2s.data.completions import KeptCompletion
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.judged import sample_batch
from lightning_paras2s.data.made_from import Recipe, claim, made_from
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.data.swapped import Draw
from lightning_paras2s.data.written import WrittenAnswers
from lightning_paras2s.errors import InputPath, UserError, check_least
from lightning_paras2s.judging.rewards import Reward
from lightning_paras2s.models.speech_lm import Sampling, SpeechLM
from lightning_paras2s.modules.objective import check_sampling
from lightning_paras2s.modules.training import initial_policy, place, require_suited
from lightning_paras2s.running.logs import replace_jsonl, say
from lightning_paras2s.running.ranks import mean_over_ranks, meet
from lightning_paras2s.types import append_jsonl, read_jsonl

SPLITS = ("train", "val")  # the order of the data module's loaders


class SampleModule(L.LightningModule):
    """Draws K responses a query from a policy, judges them, and keeps them as the reward model's data.

    Each rank writes shards of its own, `folder/{train,val}-{rank}/`; at the end rank 0 writes
    `folder/{train,val}.jsonl`, all shards' samples in the order of their ids, each once. Any number of ranks draws the
    same samples. Killed and started again, also with other ranks, it draws only what no shard holds. So it does where a
    judge failed on all answers to a query (an outage, replies of a Batch API that are still to come), which is told.

    Args:
        policy: builds the policy; what it hears and says goes through the data module's processor.
        reward: judges each response: any `Reward`.
        folder: to write: manifests and recordings.
        init_from: the policy's weights (.safetensors); None = those that it brings.
        samples: K.
        others: queries of its batch beside its own that each training response is judged for, as far as the batch has
            so many and `draw` repeats none; held-out responses are judged for their own alone.
        written: adds written answers to the training queries, see `Recipe`; null = none.
        sampling: temperatures and longest response of the samples.
        keep_tokens: write the samples' tokens, too, to `folder/{train,val}_completions.jsonl`: for rejection sampling.
        seed: with a query's id decides its samples; null follows `seed_everything`.
        draw: how the other queries are drawn: "distinct" gives each response `others` of them; "repeated" may draw one
            more than once, which counts once (of 12 about nine remain): the shipped reward model's data were drawn so.
    """

    def __init__(
        self,
        policy: Callable[[], SpeechLM],
        reward: Callable[[], Reward],
        folder: str,
        init_from: InputPath | None = None,
        samples: int = 32,
        others: int = 0,
        written: WrittenAnswers | None = None,
        sampling: Sampling = Sampling(),
        keep_tokens: bool = False,
        seed: int | None = None,
        draw: Draw = "repeated",
    ) -> None:
        super().__init__()
        check_sampling(sampling)
        check_least("model.samples", samples, 1, "change it")
        check_least("model.others", others, 0, "change it")
        self.build, self.init_from = (policy, reward), init_from
        self.recipe = Recipe(samples, sampling, seed or 0, others, written, keep_tokens, draw)
        self.folder, self.sampling = Path(folder), sampling
        self.policy: SpeechLM | None = None

    def configure_model(self) -> None:
        if self.policy is None:
            policy, reward = self.build
            self.policy = initial_policy(policy, self.init_from, self.recipe.seed)
            place(self, self.policy, self.recipe.seed)
            self.reward = reward()
            self.reward_sha = self.reward.config_sha  # before it is used: some parts read their weights when asked

    def on_predict_start(self) -> None:
        """Queries that a run before this one is done with, in whatever shard.

        Raises:
            UserError: it made their answers from something else; or the policy's ids are not the processor's.
        """
        require_suited(self, self.policy)
        self.reward.to(self.device)
        self.finished = {split: finished_queries(self.folder, split) for split in SPLITS}
        self.asked: dict[str, set[str]] = {split: set() for split in SPLITS}
        made = made_from(self.policy, self.trainer.datamodule.processor, self.reward_sha, self.recipe)
        begun = any(path.stat().st_size for split in SPLITS for path in self.folder.glob(f"{split}-*/*.jsonl"))
        claim(self.folder, made, begun, self.trainer.is_global_zero)

    def predict_step(self, batch: DualStreamBatch, batch_idx: int, dataloader_idx: int = 0) -> int:
        if self.trainer.received_sigterm:  # Lightning's loop over predictions, unlike its others, doesn't look
            raise SIGTERMException
        split = SPLITS[dataloader_idx]
        self.asked[split].update(query.id for query in batch.queries)
        if all(query.id in self.finished[split] for query in batch.queries):
            return 0
        parts = (self.policy, self.trainer.datamodule.processor, self.reward)
        recipe = replace(self.recipe, seed=self.recipe.seed + 7919 * dataloader_idx)
        if split != "train":
            recipe = replace(recipe, others=0, written=None)
        sample_batch(*parts, batch, self.folder / f"{split}-{self.global_rank}", recipe)
        return len(batch) * recipe.samples

    def on_predict_end(self) -> None:
        """
        Raises:
            UserError: no answer to any query of a split was scored.
        """
        meet()
        self.trainer.strategy.barrier("all ranks have written their shards")
        if self.trainer.is_global_zero:
            for split in SPLITS:
                merge(self.folder, split)
        self.trainer.strategy.barrier("what was scored is one file")
        for split in SPLITS:
            left = self.asked[split] - finished_queries(self.folder, split)
            share = mean_over_ranks(torch.tensor(float(len(left)), device=self.device))
            count = round(float(share) * self.trainer.world_size)
            tell_unscored(self.folder / f"{split}.jsonl", count, self.trainer.is_global_zero)


def tell_unscored(scored: Path, queries: int, aloud: bool) -> None:
    """Say of how many queries no answer was scored; `scored` is the file of the split's answers that were.

    Args:
        aloud: of several processes one speaks.

    Raises:
        UserError: it is not there.
    """
    if not queries:
        return
    told = f"of {queries} queries no answer was scored; look at the judge; started again, they are asked for once more"
    if not scored.is_file():
        raise UserError(f"{scored} must hold an answer that was scored; {told}")
    if aloud:
        say(f"{scored}: {told}")


def shards(folder: Path, split: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{split}-*") if path.is_dir())


def finished_queries(folder: Path, split: str) -> set[str]:
    """Ids in the shards' `done.txt`; a half line that a kill left is not among them."""
    texts = [path.read_text() for shard in shards(folder, split) if (path := shard / "done.txt").is_file()]
    return {line.strip() for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")}


def merge(folder: Path, split: str) -> None:
    """Write `folder/{split}.jsonl`, whole or not at all: each judged sample of the shards once, by query and sample."""
    found: dict[tuple[str, str, int], Preference] = {}
    for shard in shards(folder, split):
        append_jsonl(shard / "preferences.jsonl", [])  # mends a half line
        for row in read_jsonl(shard / "preferences.jsonl", Preference):
            paths = {k: f"{shard.name}/{getattr(row, k)}" for k in ("query_audio", "response_audio")}
            found.setdefault((row.query_id, row.answers, row.sample), replace(row, **paths))
    write_sorted(folder / f"{split}.jsonl", found)
    kept: dict[tuple[str, int], KeptCompletion] = {}
    for path in [path for shard in shards(folder, split) if (path := shard / "completions.jsonl").is_file()]:
        append_jsonl(path, [])
        kept |= {(row.query_id, row.sample): row for row in read_jsonl(path, KeptCompletion)}
    write_sorted(folder / f"{split}_completions.jsonl", kept)


def write_sorted(path: Path, rows: dict) -> None:
    """Records in the order of their keys, whole or not at all; none, no file."""
    if rows:
        replace_jsonl(path, [rows[key] for key in sorted(rows)])
