"""Group relative policy optimization of a dual-stream policy (paper, Eq. 3-4; GRPO: arXiv 2402.03300).

Optimization is manual, because one rollout serves `mu` passes. The policy stays in eval mode, so that sampling and
training see the same distribution. `trainer.max_steps` counts optimizer steps: mu * minibatches a rollout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.vocabulary import TextVocab
from lightning_paras2s.losses import PerStream, group_advantages, grpo_loss, loss_denominator
from lightning_paras2s.models.speech_lm import Completion, Prompt, Sampling, SpeechLM, sampling_noise
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.modules.grpo_metrics import Means, logp_gap, reward_metrics, rollout_metrics
from lightning_paras2s.modules.policy import adamw, initial_policy, set_learning_rate, warmup_cosine
from lightning_paras2s.modules.rewards import Reward, SpokenResponse, speak
from lightning_paras2s.runs import run_dir
from lightning_paras2s.types import UserError


@dataclass(frozen=True)
class Rollout:
    """What one update learns from: the prompts of B queries, B*G completions, and what they sound like."""

    prompt: Prompt
    completion: Completion
    responses: list[SpokenResponse]

    def queries(self, index: Tensor) -> tuple[Prompt, Completion, Tensor]:
        """Some of the queries with their whole groups: prompts, completions, and the completions' rows."""
        group_size = len(self.completion) // len(self.prompt)
        rows = (index[:, None] * group_size + torch.arange(group_size, device=index.device)).flatten()
        return self.prompt.rows(index), self.completion.rows(rows), rows


class GRPOModule(L.LightningModule):
    """Improves a policy on its own spoken answers. Defaults are the paper's (appendix A.6) where no source is named.

    Args:
        policy, tokenizer, reward, vocabulary: build the parts; `reward` may be any `Reward`.
        init_from: the supervised policy's weights (.safetensors); also the reference's.
        group_size: G, responses a query.
        beta: weight of the KL to the reference, of the pair or per stream.
        lr: reached after `warmup_steps` updates, then constant.
        clip_low, clip_high: the paper prints none; 0.2 is PPO's (arXiv 1707.06347).
        ratio, normalizer, kl, unbiased_kl, weights: see `losses.grpo_loss`.
        scale: of advantages, see `losses.group_advantages`.
        drop_zero_variance: leave out queries whose responses all got the same reward (DAPO, arXiv 2503.14476);
            False = they still feel the KL.
        mu: passes over each rollout; minibatches: optimizer steps a pass.
        micro_batch_tokens: most tokens (prompt and responses, padded) a forward pass; 0 = a minibatch at once.
        sampling: of the rollouts, and of all log-probabilities.
        rollout_seed: with the step's number decides all rollouts.
        max_unscored: the run stops if a larger share of a rollout's rewards is NaN.
    """

    def __init__(
        self,
        policy: Callable[[], SpeechLM],
        tokenizer: Callable[[], SpeechTokenizer],
        reward: Callable[[], Reward],
        vocabulary: Callable[[], TextVocab] = TextVocab,
        init_from: str | None = None,
        group_size: int = 8,
        beta: float | PerStream = 0.2,
        lr: float = 5e-4,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        max_grad_norm: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        ratio: str = "joint",
        normalizer: str = "response",
        kl: str = "k3",
        unbiased_kl: bool = False,
        weights: PerStream = PerStream(),
        scale: str = "std",
        drop_zero_variance: bool = False,
        mu: int = 1,
        minibatches: int = 1,
        micro_batch_tokens: int = 0,
        sampling: Sampling = Sampling(),
        rollout_seed: int = 0,
        max_unscored: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_options(group_size, mu, minibatches)
        self.automatic_optimization = False
        self.build, self.init_from, self.seed = (policy, tokenizer, reward, vocabulary), init_from, seed
        self.group_size, self.sampling, self.rollout_seed, self.max_unscored = (
            group_size,
            sampling,
            rollout_seed,
            max_unscored,
        )
        self.lr, self.warmup_steps, self.weight_decay, self.betas = lr, warmup_steps, weight_decay, betas
        self.scale, self.drop_zero_variance, self.max_grad_norm = scale, drop_zero_variance, max_grad_norm
        self.mu, self.minibatches, self.micro_batch_tokens = mu, minibatches, micro_batch_tokens
        self.objective = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "ratio": ratio}
        self.objective |= {"normalizer": normalizer, "kl": kl, "unbiased_kl": unbiased_kl, "weights": weights}
        self.policy: SpeechLM | None = None
        self.seconds: dict[str, float] = {}

    def configure_model(self) -> None:
        if self.policy is not None:
            return
        policy, tokenizer, reward, vocabulary = self.build
        self.policy = initial_policy(policy, self.init_from, self.seed)
        # Kept out of the module tree, so out of checkpoints: a resumed run makes them anew from the same files.
        self.__dict__["reference"] = self.policy.reference()
        if self.device_mesh is not None:
            for model in (self.policy, self.reference):
                model.shard(self.device_mesh["data_parallel"])
        self.__dict__["tokenizer"] = tokenizer().eval().requires_grad_(False)
        self.reward, self.vocabulary = reward(), vocabulary()

    def on_fit_start(self) -> None:
        self.reference.to(self.device)
        self.tokenizer.to(self.device)

    def configure_optimizers(self) -> Optimizer:
        return adamw(self.policy.parameters(), self.lr, self.weight_decay, self.betas)

    def training_step(self, batch: DualStreamBatch, batch_idx: int) -> None:
        """One step of the algorithm: rollout, rewards, advantages, log-probabilities, loss and update, log."""
        self.policy.eval()
        started = time.perf_counter()
        rollout = self.rollout(batch)
        rewards = self.rewards(batch, rollout)
        advantages = group_advantages(rewards, self.group_size, self.scale)
        old_logps, ref_logps, gap = self.fixed_logps(rollout)
        means = Means()
        for index in self.minibatch_queries(rewards, advantages):
            self.update(rollout, index, rewards, advantages, old_logps, ref_logps, means)
        self.seconds["step"] = time.perf_counter() - started
        self.log_step(rollout, rewards, means.read() | gap)

    @property
    def ranks(self) -> tuple[int, int]:
        """This rank and how many there are."""
        return self.trainer.global_rank, self.trainer.world_size

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    @torch.no_grad()
    def rollout(self, batch: DualStreamBatch) -> Rollout:
        """Sample G responses a query; each rank takes its rows of the global batch's noise."""
        self.seconds = {}
        (rank, world_size), rows = self.ranks, len(batch) * self.group_size
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        noise = sampling_noise(self.rollout_seed, step, rows * world_size, self.sampling.max_steps)
        with self.timed("rollout"):
            mine = noise[rank * rows : (rank + 1) * rows].to(self.device)
            completion = self.policy.generate(batch.prompt, self.sampling, mine, self.group_size)
        with self.timed("decode"):
            responses = speak(completion, self.tokenizer, self.vocabulary, self.reward.needs_audio)
        return Rollout(batch.prompt, completion, responses)

    @torch.no_grad()
    def rewards(self, batch: DualStreamBatch, rollout: Rollout) -> Tensor:
        """[B*G], NaN = unscored.

        Raises:
            UserError: too many are unscored.
        """
        with self.timed("reward"):
            rewards = self.reward.score(batch, rollout.responses).to(self.device)
        unscored = float((~rewards.isfinite()).float().mean())
        if unscored > self.max_unscored:
            raise UserError(
                f"at most {self.max_unscored:.0%} of a rollout's responses may be unscored; got {unscored:.0%} at step "
                f"{self.trainer.fit_loop.epoch_loop.total_batch_idx}; look at the reward, or raise model.max_unscored"
            )
        return rewards

    @torch.no_grad()
    def fixed_logps(self, rollout: Rollout) -> tuple[Tensor | None, Tensor, dict[str, Tensor]]:
        """Log-probabilities under the sampler and the reference, [B*G, 2, T], and the sampler's gap to decoding.

        Exactly on-policy (one update a rollout) the sampler's are the update's own, detached: None.
        """
        everything = torch.arange(len(rollout.prompt), device=self.device)
        with self.timed("logps"):
            ref_logps = torch.cat(
                [self.logps(self.reference, rollout, part)[0] for part in self.micro_batches(rollout, everything)]
            )
            if self.mu * self.minibatches == 1:
                return None, ref_logps, {}
            old_logps = torch.cat(
                [self.logps(self.policy, rollout, part)[0] for part in self.micro_batches(rollout, everything)]
            )
        return old_logps, ref_logps, logp_gap(old_logps, rollout.completion)

    def logps(self, model: SpeechLM, rollout: Rollout, index: Tensor) -> tuple[Tensor, Tensor]:
        prompt, completion, _ = rollout.queries(index)
        logps = model.logps(prompt, completion, self.sampling)
        return logps.values, logps.entropy

    def minibatch_queries(self, rewards: Tensor, advantages: Tensor) -> Iterator[Tensor]:
        """The queries of each optimizer step, mu times over; none if nothing was scored or nothing is left."""
        useful = rewards.isfinite().view(-1, self.group_size).any(1)
        if self.drop_zero_variance:
            useful &= (advantages != 0).view(-1, self.group_size).any(1)
        left = useful.nonzero().flatten()
        for _ in range(self.mu if len(left) else 0):
            shuffled = left[torch.randperm(len(left)).to(left.device)] if self.minibatches > 1 else left
            yield from (part for part in shuffled.tensor_split(self.minibatches) if len(part))

    def micro_batches(self, rollout: Rollout, index: Tensor) -> list[Tensor]:
        """Cut queries into runs of whole groups within the token budget; a single group may exceed it."""
        prompt, completion = rollout.prompt.tokens.shape[-1], rollout.completion.tokens.shape[-1]
        each = prompt + self.group_size * completion
        return list(index.split(max(1, self.micro_batch_tokens // each) if self.micro_batch_tokens else len(index)))

    def update(
        self,
        rollout: Rollout,
        index: Tensor,
        rewards: Tensor,
        advantages: Tensor,
        old_logps: Tensor | None,
        ref_logps: Tensor,
        means: Means,
    ) -> None:
        """One optimizer step on some of the rollout's queries; the gradient does not depend on the micro-batching."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        # Unscored responses are not learned from at all: they feel no KL either.
        scored = rewards.isfinite()[:, None, None]
        rows = rollout.queries(index)[2]
        normalizer, max_steps = self.objective["normalizer"], self.sampling.max_steps
        denominator = self.mean_over_ranks(loss_denominator(rollout.completion.actions[rows], normalizer, max_steps))
        with self.timed("update"):
            for part in self.micro_batches(rollout, index):
                _, completion, rows = rollout.queries(part)
                logps, entropy = self.logps(self.policy, rollout, part)
                old = logps.detach() if old_logps is None else old_logps[rows]
                actions = completion.actions & scored[rows]
                result = grpo_loss(
                    logps, old, ref_logps[rows], advantages[rows], actions, denominator=denominator, **self.objective
                )
                self.manual_backward(result.loss)
                means.add(result, entropy, completion, logps if old_logps is None else None)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            set_learning_rate(optimizer.optimizer, self.lr * warmup_cosine(self.global_step, self.warmup_steps, 0))
            optimizer.step()
        means.add_scalar("grad_norm", norm)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Ranks average their gradients, so their share of the global denominator is its mean."""
        return value if self.ranks[1] == 1 else self.trainer.strategy.reduce(value.to(self.device), reduce_op="mean")

    def log_step(self, rollout: Rollout, rewards: Tensor, update: dict[str, Tensor]) -> None:
        metrics = (
            reward_metrics(rewards, self.group_size) | rollout_metrics(rollout.completion, rollout.responses) | update
        )
        tokens = rollout.completion.actions.sum() / self.seconds["step"]
        metrics |= {"tokens_per_second": tokens, "lr": self.optimizers().param_groups[0]["lr"]}
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(rewards))
        self.log_dict({f"seconds/{name}": value for name, value in self.seconds.items()}, batch_size=len(rewards))
        self.__dict__["last_rollout"] = (rollout, rewards)  # for callbacks that show samples

    @torch.no_grad()
    def validation_step(self, batch: DualStreamBatch, batch_idx: int) -> None:
        """One greedy answer a query, scored by the same reward."""
        self.policy.eval()
        greedy = replace(self.sampling, text_temperature=0.0, audio_temperature=0.0)
        noise = sampling_noise(self.rollout_seed, batch_idx, len(batch), greedy.max_steps).to(self.device)
        completion = self.policy.generate(batch.prompt, greedy, noise)
        rewards = self.reward.score(batch, speak(completion, self.tokenizer, self.vocabulary, self.reward.needs_audio))
        scored = rewards.isfinite()
        self.log("val/unscored", (~scored).float().mean(), batch_size=len(batch), sync_dist=True)
        self.log("val/eos_rate/audio", completion.finished.float().mean(), batch_size=len(batch), sync_dist=True)
        if scored.any():
            self.log("val/reward", rewards[scored].mean(), batch_size=int(scored.sum()), sync_dist=True)

    def on_train_end(self) -> None:
        folder = run_dir(self.trainer)
        if folder is not None and self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            self.policy.save(folder / "policy.safetensors")


def check_options(group_size: int, mu: int, minibatches: int) -> None:
    if group_size < 2:
        raise UserError(
            f"group_size must be at least 2, because a response is judged against its group; got {group_size}"
        )
    if mu < 1 or minibatches < 1:
        raise UserError(f"mu and minibatches must be at least 1; got {mu} and {minibatches}")
