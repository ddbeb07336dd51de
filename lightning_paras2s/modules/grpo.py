"""Group relative policy optimization of a dual-stream policy (paper, Eq. 3-4; GRPO: arXiv 2402.03300).

Optimization is manual, because one rollout serves `mu` passes. The policy stays in eval mode, so that sampling and
training see the same distribution. `trainer.max_steps` counts optimizer steps: mu * minibatches a rollout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import Reward
from lightning_paras2s.losses import (
    PerStream,
    check_objective,
    group_advantages,
    grpo_loss,
    loss_denominator,
    masked_mean,
)
from lightning_paras2s.models.sharding import sync_gradients
from lightning_paras2s.models.speech_lm import Sampling, SpeechLM, sampling_noise
from lightning_paras2s.modules.grpo_metrics import Means, logp_gap, reward_metrics, rollout_metrics
from lightning_paras2s.modules.rollouts import MicroBatch, Rollout, check_cuts, cut, minibatches_of, useful_queries
from lightning_paras2s.modules.training import (
    adamw,
    clip_gradients,
    export,
    initial_policy,
    place,
    set_learning_rate,
    warmup_cosine,
)
from lightning_paras2s.running.ranks import mean_over_ranks, metrics_over_ranks, most_over_ranks


class GRPOModule(L.LightningModule):
    """Improves a policy on its own spoken answers. Defaults are the paper's (appendix A.6) where no source is named.

    Args:
        policy: builds the policy; what it hears and says goes through the data module's processor.
        reward: builds the `Reward`.
        init_from: the supervised policy's weights (.safetensors); also the reference's.
        group_size: G, responses a query.
        beta: weight of the KL to the reference, of the pair or per stream.
        lr: reached after `warmup_steps` updates, then constant or, with `lr_decay`, half a cosine to a tenth over
            `trainer.max_steps`.
        clip_low, clip_high: the paper prints none; 0.2 is PPO's (arXiv 1707.06347).
        ratio, normalizer, kl, unbiased_kl, weights: see `losses.grpo_loss`.
        scale: of advantages, see `losses.group_advantages`.
        drop_zero_variance: leave out queries whose responses all got the same reward (DAPO, arXiv 2503.14476);
            False = they still feel the KL.
        mu: passes over each rollout; minibatches: optimizer steps a pass.
        micro_batch_tokens: most tokens (prompt and responses, padded) a forward pass; 0 = a minibatch at once.
        sync_every_micro_batch: sharded gradients are summed over ranks after each micro-batch and not once a step:
            more traffic, but no whole float32 gradient on each rank (4 bytes a trained weight).
        sampling: of the rollouts, and of all log-probabilities.
        state_bits: 32, or 8 for an optimizer of less memory, see `policy.adamw`.
        rollout_seed: with the step's number decides all rollouts.
        max_unscored: the run stops if a larger share of a rollout's rewards is NaN.
    """

    def __init__(
        self,
        policy: Callable[[], SpeechLM],
        reward: Callable[[], Reward],
        init_from: str | None = None,
        group_size: int = 8,
        beta: float | PerStream = 0.2,
        lr: float = 5e-4,
        warmup_steps: int = 0,
        lr_decay: bool = False,
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
        sync_every_micro_batch: bool = False,
        sampling: Sampling = Sampling(),
        state_bits: int = 32,
        rollout_seed: int = 0,
        max_unscored: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_cuts(group_size, mu, minibatches)
        self.automatic_optimization = False
        self.build, self.init_from, self.seed = (policy, reward), init_from, seed
        self.group_size, self.sampling = group_size, sampling
        self.rollout_seed, self.max_unscored = rollout_seed, max_unscored
        self.lr, self.warmup_steps, self.lr_decay = lr, warmup_steps, lr_decay
        self.weight_decay, self.betas = weight_decay, betas
        self.scale, self.drop_zero_variance, self.max_grad_norm = scale, drop_zero_variance, max_grad_norm
        self.mu, self.minibatches, self.micro_batch_tokens = mu, minibatches, micro_batch_tokens
        self.sync_every_micro_batch, self.state_bits = sync_every_micro_batch, state_bits
        self.objective = {"clip_low": clip_low, "clip_high": clip_high, "beta": beta, "ratio": ratio}
        self.objective |= {"normalizer": normalizer, "kl": kl, "unbiased_kl": unbiased_kl, "weights": weights}
        check_objective(ratio, normalizer, kl, scale)
        self.policy: SpeechLM | None = None
        self.seconds: dict[str, float] = {}

    def configure_model(self) -> None:
        if self.policy is not None:
            return
        policy, reward = self.build
        self.policy = initial_policy(policy, self.init_from, self.seed)
        # Kept out of the module tree, so out of checkpoints: a resumed run makes them anew from the same files.
        self.__dict__["reference"] = self.policy.reference()
        for model in (self.policy, self.reference):
            place(self, model)
        self.reward = reward()

    def on_fit_start(self) -> None:
        self.reference.to(self.device)
        self.reward.to(self.device)

    def configure_optimizers(self) -> Optimizer:
        return adamw(self.policy.parameters(), self.lr, self.weight_decay, self.betas, self.state_bits)

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

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    @torch.no_grad()
    def rollout(self, batch: DualStreamBatch) -> Rollout:
        """Sample G responses a query; each rank takes its rows of the global batch's noise."""
        self.seconds = {}
        rank, world_size, rows = self.global_rank, self.trainer.world_size, len(batch) * self.group_size
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        noise = sampling_noise(self.rollout_seed, step, rows * world_size, self.sampling.max_steps)
        with self.timed("rollout"):
            mine = noise[rank * rows : (rank + 1) * rows].to(self.device)
            completion = self.policy.generate(batch.prompt, self.sampling, mine, self.group_size)
        with self.timed("decode"):
            responses = self.trainer.datamodule.processor.speak(completion, self.reward.needs_audio)
        return Rollout(batch.prompt, completion, responses)

    @torch.no_grad()
    def rewards(self, batch: DualStreamBatch, rollout: Rollout) -> Tensor:
        """[B*G], NaN = unscored.

        Raises:
            UserError: too many are unscored.
        """
        with self.timed("reward"):
            rewards = self.reward.score(batch, rollout.responses).to(self.device)
        unscored = float(mean_over_ranks((~rewards.isfinite()).float().mean()))
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
            parts = self.micro_batches(rollout, everything)
            ref_logps = self.all_logps(self.reference, rollout, parts)
            if self.mu * self.minibatches == 1:
                return None, ref_logps, {}
            old_logps = self.all_logps(self.policy, rollout, parts)
        return old_logps, ref_logps, logp_gap(old_logps, rollout.completion)

    def all_logps(self, model: SpeechLM, rollout: Rollout, parts: list[MicroBatch]) -> Tensor:
        found = [(self.logps(model, rollout, part.queries)[0], part.counts) for part in parts]
        return torch.cat([logps for logps, counts in found if counts])

    def logps(self, model: SpeechLM, rollout: Rollout, index: Tensor) -> tuple[Tensor, Tensor]:
        prompt, completion, _ = rollout.queries(index)
        logps = model.logps(prompt, completion, self.sampling)
        return logps.values, logps.entropy

    def minibatch_queries(self, rewards: Tensor, advantages: Tensor) -> Iterator[Tensor]:
        """The queries of each optimizer step, mu times over; no step if no rank has anything to learn from.

        All ranks take the same number of steps: one that has fewer queries left takes part with none.
        """
        left = useful_queries(rewards, advantages, self.group_size, self.drop_zero_variance)
        return minibatches_of(left, most_over_ranks(len(left), self.device), self.mu, self.minibatches)

    def micro_batches(self, rollout: Rollout, index: Tensor) -> list[MicroBatch]:
        """Cut queries within the token budget, on all ranks into as many parts: each is a collective pass."""
        needed = rollout.parts_needed(len(index), self.micro_batch_tokens)
        return cut(index, most_over_ranks(needed, self.device))

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
        # Ranks average their gradients, so their share of the global denominator is its mean.
        denominator = mean_over_ranks(loss_denominator(rollout.completion.actions[rows], normalizer, max_steps))
        with self.timed("update"):
            parts, loss = self.micro_batches(rollout, index), torch.zeros((), device=self.device)
            for i, (part, counts) in enumerate(parts, 1):
                sync_gradients(self.policy, self.sync_every_micro_batch or i == len(parts))
                _, completion, rows = rollout.queries(part)
                logps, entropy = self.logps(self.policy, rollout, part)
                old = logps.detach() if old_logps is None else old_logps[rows]
                actions = completion.actions & scored[rows] & counts
                result = grpo_loss(
                    logps, old, ref_logps[rows], advantages[rows], actions, denominator=denominator, **self.objective
                )
                self.manual_backward(result.loss)
                loss += result.loss.detach()
                if counts:
                    means.add(result, entropy, completion, logps if old_logps is None else None)
            norm = clip_gradients(self.policy, self.max_grad_norm)
            total_steps = self.trainer.max_steps if self.lr_decay else 0
            share = warmup_cosine(self.global_step, self.warmup_steps, total_steps)
            set_learning_rate(optimizer.optimizer, self.lr * share)
            optimizer.step()
        means.add_scalar("loss", loss)
        means.add_scalar("grad_norm", norm)

    def log_step(self, rollout: Rollout, rewards: Tensor, update: dict[str, Tensor]) -> None:
        """Metrics of the global batch; seconds are this rank's."""
        update["tokens_per_second"] = self.trainer.world_size * rollout.completion.actions.sum() / self.seconds["step"]
        update["lr"] = torch.tensor(float(self.optimizers().param_groups[0]["lr"]))
        metrics = reward_metrics(self.all_gather(rewards).flatten(), self.group_size)
        metrics |= metrics_over_ranks(rollout_metrics(rollout.completion, rollout.responses) | update)
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
        responses = self.trainer.datamodule.processor.speak(completion, self.reward.needs_audio)
        rewards = self.reward.score(batch, responses)
        scored = rewards.isfinite()
        self.log("val/unscored", (~scored).float().mean(), batch_size=len(batch), sync_dist=True)
        self.log("val/eos_rate/audio", completion.finished.float().mean(), batch_size=len(batch), sync_dist=True)
        if scored.any() or self.trainer.world_size > 1:  # all ranks or none must meet
            self.log("val/reward", masked_mean(rewards, scored), batch_size=int(scored.sum()), sync_dist=True)

    def on_train_end(self) -> None:
        export(self, self.policy, "policy.safetensors")
