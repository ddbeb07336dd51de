"""Group relative policy optimization of a dual-stream policy (paper, Eq. 3-4; GRPO: arXiv 2402.03300).

Optimization is manual, because one rollout serves `mu` passes. The policy stays in eval mode, so that sampling and
training see the same distribution. `trainer.max_steps` counts optimizer steps: mu * minibatches a rollout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import InputPath, UserError, check_choice
from lightning_paras2s.judging.rewards import Reward, rewards_of
from lightning_paras2s.losses import (
    EVEN,
    Kl,
    Normalizer,
    PerStream,
    Ratio,
    Scale,
    group_advantages,
    loss_denominator,
)
from lightning_paras2s.models.sharding import sync_gradients
from lightning_paras2s.models.speech_lm import Completion, Sampling, SpeechLM, sampling_noise
from lightning_paras2s.modules.anchor import NO_ANCHOR, Anchor, shown_actions
from lightning_paras2s.modules.beside import Clock, Overlap, batch_rows, check_parts, in_parts, joined
from lightning_paras2s.modules.grpo_metrics import Means, logp_gap, reward_metrics, rollout_metrics
from lightning_paras2s.modules.objective import Experience, Objective, check_sampling
from lightning_paras2s.modules.rollouts import (
    MicroBatch,
    Rollout,
    check_cuts,
    check_idle,
    check_unscored,
    minibatches_of,
    useful_queries,
)
from lightning_paras2s.modules.training import Optimization, StageModule, initial_policy, place, require_suited
from lightning_paras2s.running.ranks import mean_over_ranks, meet, metrics_over_ranks, sum_over_ranks
from lightning_paras2s.speaking.codec import SpokenResponse


class GRPOModule(StageModule):
    """Improves a policy on its own spoken answers. The paper prints `group_size`, `beta` (appendix A.6) and
    `lr` (A.4); the joint ratio, k3 and the mean over a response's steps are its Eq. 3-4. Other defaults are ours, or of
    the source that is named.

    Args:
        policy: builds the policy; what it hears and says goes through the data module's processor.
        reward: builds what scores each response: any `Reward`.
        init_from: the supervised policy's weights (.safetensors); also the reference's.
        group_size: G, responses a query.
        beta: weight of the KL to the reference, of the pair or of each stream (`{text: 0.04, audio: 0.1}`: both are
            named). 0 builds and runs no reference, and logs no KL.
        lr: peak learning rate, reached after `warmup_steps`; then constant, or see `lr_decay`.
        lr_decay: whether the rate falls after the rise: half a cosine to a tenth over `trainer.max_steps`.
        clip_low: how far a ratio may fall below 1 before its gradient stops; the paper prints none, 0.2 is PPO's (arXiv
            1707.06347).
        clip_high: how far it may rise above 1; 0.2 is PPO's, too.
        ratio: what is clipped: the ratio of the pair (joint, the paper), of each stream (stream), or the response's
            geometric mean (sequence: GSPO, arXiv 2507.18071).
        normalizer: what the loss is averaged over: each response's steps, then responses (response, the paper), all
            steps alike (token), or a fixed longest response (constant).
        kl: estimator of the KL to the reference (joschu.net/blog/kl-approx.html); the paper's is k3.
        unbiased_kl: give any estimator the gradient of KL(policy || reference), also off-policy, by weighing it with
            the ratio (arXiv 2512.02556).
        weights: of the streams' log-ratios, so of their policy gradients; the KL is not weighed.
        scale: of advantages: divided by their group's deviation (std), or not (none: Dr. GRPO, arXiv 2503.20783).
        anchor: weight of each stream's cross-entropy of demonstrations, which hold what the reward does not ask for
            (WavAlign's idea, arXiv 2604.14932, see `modules/anchor.py`); `{text: 0.0, audio: 0.1}` holds the voice.
        drop_zero_variance: leave out queries whose responses all got the same reward (DAPO, arXiv 2503.14476);
            False = they still feel the KL.
        mu: passes over each rollout. At 1, with one minibatch, policy and sampler are equal and nothing is clipped; the
            paper does not print it.
        minibatches: optimizer steps a pass, at most `data.batch_size`; fewer where too few queries are left to learn
            from.
        micro_batch_tokens: most tokens (prompt and responses, padded) a forward pass, as the policy runs them
            (`SpeechLM.positions`: a prompt counts once an answer, unless its answers share it); a query's group is
            never cut. 0 = a minibatch at once.
        sync_every_micro_batch: sharded gradients are summed over ranks after each micro-batch and not once a step:
            more traffic, but no whole float32 gradient on each rank (4 bytes a trained weight).
        sampling: temperatures and longest response of the rollouts, and of all log-probabilities.
        rollout_parts: a rollout is drawn in so many parts, of which each reads the policy's weights anew. 1 = all at
            once.
        overlap: whether a part is spoken and scored beside the next one's sampling: auto = on a GPU, if
            `rollout_parts` is above 1, which no config sets: by `plan` it gains less than 1 % of a step, and nobody has
            measured it. The numbers are the same.
        state_bits: of the optimizer's moments: 32, or 8 for less memory (needs torchao).
        rollout_seed: with the step's number decides all rollouts; null follows `seed_everything`.
        max_unscored: the run stops if a larger share of a rollout's rewards is NaN.
        max_skipped: the run stops after so many optimizer steps in a row whose gradient was not finite (each is left
            out and counted), or rollouts in a row without anything to learn from.
    """

    def __init__(
        self,
        policy: Callable[[], SpeechLM],
        reward: Callable[[], Reward],
        init_from: InputPath | None = None,
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
        ratio: Ratio = "joint",
        normalizer: Normalizer = "response",
        kl: Kl = "k3",
        unbiased_kl: bool = False,
        weights: PerStream = EVEN,
        scale: Scale = "std",
        anchor: PerStream = NO_ANCHOR,
        drop_zero_variance: bool = False,
        mu: int = 1,
        minibatches: int = 1,
        micro_batch_tokens: int = 0,
        sync_every_micro_batch: bool = False,
        sampling: Sampling = Sampling(),
        rollout_parts: int = 1,
        overlap: Overlap = "auto",
        state_bits: int = 32,
        rollout_seed: int | None = None,
        max_unscored: float = 0.5,
        max_skipped: int = 10,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            Optimization(lr, warmup_steps, weight_decay, betas, max_grad_norm, state_bits, max_skipped), seed
        )
        check_cuts(group_size, mu, minibatches)
        check_choice("scale", scale, get_args(Scale))
        check_sampling(sampling)
        check_parts(rollout_parts, overlap)
        self.automatic_optimization = False
        self.objective = Objective(clip_low, clip_high, beta, ratio, normalizer, kl, unbiased_kl, weights)
        self.anchor = Anchor(anchor)
        self.build, self.init_from = (policy, reward), init_from
        self.group_size, self.sampling, self.scale, self.lr_decay = group_size, sampling, scale, lr_decay
        self.rollout_seed = self.seed if rollout_seed is None else rollout_seed
        self.max_unscored, self.drop_zero_variance, self.idle = max_unscored, drop_zero_variance, 0
        self.mu, self.minibatches, self.micro_batch_tokens = mu, minibatches, micro_batch_tokens
        self.sync_every_micro_batch = sync_every_micro_batch
        self.rollout_parts, self.overlap, self.voice_is_read = rollout_parts, overlap, False
        self.policy: SpeechLM | None = None
        self.clock = Clock()

    @property
    def trained(self) -> SpeechLM:
        return self.policy

    def configure_model(self) -> None:
        if self.policy is not None:
            return
        policy, reward = self.build
        self.policy = initial_policy(policy, self.init_from, self.seed)
        # Kept out of the module tree, so out of checkpoints: a resumed run makes it anew from the same files.
        self.__dict__["reference"] = self.policy.reference() if self.objective.needs_reference else None
        for model in (self.policy, self.reference):
            if model is not None:
                place(self, model, self.seed)
        self.reward = reward()

    def on_fit_start(self) -> None:
        if self.lr_decay and self.trainer.max_steps < 1:
            raise UserError(
                f"model.lr_decay falls over trainer.max_steps, which must be set; got {self.trainer.max_steps}; set it"
            )
        self.prepare()
        if self.reference is not None:
            self.reference.to(self.device)

    def on_validation_start(self) -> None:
        self.prepare()  # `validate` has no start of a fit

    def prepare(self) -> None:
        """The reward is where the policy is, and the policy speaks the processor's ids."""
        require_suited(self, self.policy)
        self.reward.to(self.device)

    def training_step(self, batch: DualStreamBatch, batch_idx: int) -> None:
        """The algorithm's box: sample, score, compare within groups, and learn, `mu` times over."""
        self.policy.eval()
        self.clock = Clock()
        shown = self.anchor.shown(batch)
        with self.clock.timed("step"):
            rollout, rewards = self.rollout(batch)
            advantages = group_advantages(rewards, self.group_size, self.scale)
            learned = Experience(rollout, rewards, advantages, *self.fixed_logps(rollout), shown)
            means = Means()
            useful = useful_queries(rewards, advantages, self.group_size, self.drop_zero_variance)
            for queries in minibatches_of(useful, self.mu, self.minibatches):
                self.update(learned, queries, means)
            self.idle = 0 if "loss" in means.sums else self.idle + 1
            check_idle(self.idle, self.optimization.max_skipped)
        self.log_step(rollout, rewards, means.read() | learned.gap)

    @torch.no_grad()
    def rollout(self, batch: DualStreamBatch) -> tuple[Rollout, Tensor]:
        """Sample G responses a query and score them, rewards [B*G], NaN = unscored; each rank takes its rows of the
        global batch's noise.
        """
        rank, world_size, rows = self.global_rank, self.trainer.world_size, len(batch) * self.group_size
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        noise = sampling_noise(self.rollout_seed, step, rows * world_size, self.sampling.max_steps)
        mine = noise[rank * rows : (rank + 1) * rows].to(self.device)
        # A run's first rollout reads the voice and the ears, for which libraries change the whole process's settings.
        overlap, self.voice_is_read = self.overlap if self.voice_is_read else "never", True
        completions, answers = in_parts(batch, mine, self.rollout_parts, self.sampled, self.scored, overlap)
        meet()
        responses, scores = zip(*answers, strict=True)
        rewards = torch.cat(scores).to(self.device)
        check_unscored(rewards, self.max_unscored, step)
        completion = joined(completions, self.policy.streams)
        return Rollout(batch.prompt, completion, sum(responses, [])), rewards

    def sampled(self, batch: DualStreamBatch, noise: Tensor) -> Completion:
        meet()  # a rank may still score what it sampled before
        with self.clock.timed("rollout"):
            return self.policy.generate(batch.prompt, self.sampling, noise, self.group_size)

    def scored(self, batch: DualStreamBatch, completion: Completion) -> tuple[list[SpokenResponse], Tensor]:
        """What the completions sound like, and their rewards."""
        with self.clock.timed("decode"):
            responses = self.trainer.datamodule.processor.speak(completion, self.reward.needs_audio)
        with self.clock.timed("reward"):
            return responses, rewards_of(self.reward, batch, responses)

    @torch.no_grad()
    def fixed_logps(self, rollout: Rollout) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """Log-probabilities under the sampler and the reference, [B*G, 2, T], and the sampler's gap to decoding.

        Exactly on-policy (one update a rollout) the sampler's are the update's own, detached: None.
        """
        old_logps = ref_logps = None
        with self.clock.timed("logps"):
            every = torch.arange(len(rollout.prompt), device=self.device)
            parts = rollout.micro_batches(self.policy, every, self.micro_batch_tokens)
            if self.reference is not None:
                ref_logps = self.all_logps(self.reference, rollout, parts)
            if self.mu * self.minibatches > 1:
                old_logps = self.all_logps(self.policy, rollout, parts)
        return old_logps, ref_logps, {} if old_logps is None else logp_gap(old_logps, rollout.completion)

    def all_logps(self, model: SpeechLM, rollout: Rollout, parts: list[MicroBatch]) -> Tensor:
        found = [(model.logps(*rollout.queries(part.queries)[:2], self.sampling).values, part.counts) for part in parts]
        return torch.cat([logps for logps, counts in found if counts])

    def update(self, learned: Experience, queries: Tensor, means: Means) -> None:
        """One optimizer step on some of the rollout's queries; the gradient does not depend on the micro-batching."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        denominator, actions = self.denominator(learned, queries), shown_actions(learned, queries)
        with self.clock.timed("update"):
            parts = learned.rollout.micro_batches(self.policy, queries, self.micro_batch_tokens)
            loss = torch.zeros((), device=self.device)
            for i, part in enumerate(parts, 1):
                if actions is not None:
                    sync_gradients(self.policy, self.sync_every_micro_batch)
                    held = self.anchor.loss(self.policy, learned, part, actions, means)
                    self.manual_backward(held)
                    loss += held.detach()
                sync_gradients(self.policy, self.sync_every_micro_batch or i == len(parts))
                loss += self.backward_part(learned, part, denominator, means)
            norm = self.clip_gradients()
            self.set_rate(optimizer.optimizer, self.trainer.max_steps if self.lr_decay else 0)
            optimizer.step()
        means.add_scalar("loss", loss)
        means.add_scalar("grad_norm", norm)

    def denominator(self, learned: Experience, queries: Tensor) -> Tensor:
        """What the loss of an optimizer step is divided by: its scored responses or their steps. Ranks average their
        gradients, so their share of the global denominator is its mean.
        """
        _, completion, rows = learned.rollout.queries(queries)
        actions = completion.actions & learned.scored[rows, None, None]
        share = loss_denominator(actions, self.objective.normalizer, self.sampling.max_steps)
        return mean_over_ranks(share)

    def backward_part(self, learned: Experience, part: MicroBatch, denominator: Tensor, means: Means) -> Tensor:
        """Adds a micro-batch's gradient; its share of the loss."""
        prompt, completion, rows = learned.rollout.queries(part.queries)
        found = self.policy.logps(prompt, completion, self.sampling)
        logps, on_policy = found.values, learned.old_logps is None
        old = logps.detach() if on_policy else learned.old_logps[rows]
        ref = None if learned.ref_logps is None else learned.ref_logps[rows]
        # Unscored responses are not learned from at all: they feel no KL either.
        actions = completion.actions & learned.scored[rows, None, None] & part.counts
        result = self.objective.loss(logps, old, ref, learned.advantages[rows], actions, denominator)
        self.manual_backward(result.loss)
        if part.counts:
            means.add(result, found.entropy, completion, logps if on_policy else None)
        return result.loss.detach()

    def log_step(self, rollout: Rollout, rewards: Tensor, update: dict[str, Tensor]) -> None:
        """Metrics of the global batch; seconds are this rank's."""
        rate = rollout.completion.actions.sum() / self.clock.seconds["step"]
        update["tokens_per_second"] = self.trainer.world_size * rate
        update["tokens_per_second_per_device"] = rate
        update["skipped"] = torch.tensor(float(self.skipped.count))
        update["lr"] = torch.tensor(float(self.optimizers().param_groups[0]["lr"]))
        metrics = reward_metrics(self.all_gather(rewards).flatten(), self.group_size)
        metrics |= metrics_over_ranks(rollout_metrics(rollout.completion, rollout.responses) | update)
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(rewards))
        self.log_dict(self.clock.metrics(), batch_size=len(rewards))
        self.__dict__["last_rollout"] = (rollout, rewards)  # for callbacks that show samples

    @torch.no_grad()
    def validation_step(self, batch: DualStreamBatch, batch_idx: int) -> None:
        """One greedy answer a query, scored by the same reward. All ranks answer the whole batch, which sharded weights
        need; each scores rows of its own, since a judge is paid by the answer."""
        completion = self.greedy(batch)
        rewards = self.rewards_of_rank(batch, completion)
        meet()
        scored = rewards.isfinite()
        total, count = sum_over_ranks(torch.stack([rewards[scored].sum(), scored.sum()])).tolist()
        self.log("val/unscored", 1 - count / len(batch), batch_size=len(batch), sync_dist=True)
        self.log("val/eos_rate/audio", completion.finished.float().mean(), batch_size=len(batch), sync_dist=True)
        if count:  # of all ranks: they weigh alike, since Lightning cuts a mean of unlike weights to a whole number
            self.log("val/reward", total / count, batch_size=int(count), sync_dist=True)

    @torch.no_grad()
    def greedy(self, batch: DualStreamBatch) -> Completion:
        """One greedy answer a query. All ranks ask for the whole batch: they gather sharded weights together."""
        self.policy.eval()
        return self.policy.generate(batch.prompt, self.sampling.greedy())

    def rewards_of_rank(self, batch: DualStreamBatch, completion: Completion) -> Tensor:
        """Rewards of this rank's share of a batch's answers, one a query; of a short batch it may be none."""
        mine = torch.arange(len(batch), device=self.device)[self.global_rank :: self.trainer.world_size]
        if not len(mine):
            return torch.zeros(0, device=self.device)
        part = batch if len(mine) == len(batch) else batch_rows(batch, mine)
        responses = self.trainer.datamodule.processor.speak(completion.rows(mine), self.reward.needs_audio)
        return rewards_of(self.reward, part, responses).to(self.device)
