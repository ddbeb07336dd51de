"""How fast is an update? Log-probabilities with gradient, the GRPO loss, backward, AdamW. The share of the bound is
the model FLOPs utilisation (recomputation is not counted as work).

- update: as `GRPOModule` does it: each prompt read once for its G responses, logits a chunk at a time.
- plain: each row with its own copy of the prompt, all logits, `log_softmax`.

    python speed/train_step.py [--dtype bfloat16] [--model kimi_lora --device cuda --peers none]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from logps import plain_logps, responses
from measure import Contender, autocast, finish, forward_flops, measure_ceiling, parse, race
from policies import POLICIES, Policy
from torch import Tensor

from lightning_paras2s.losses import grpo_loss
from lightning_paras2s.models.speech_lm import Completion, Sampling, SpeechLM
from lightning_paras2s.modules.optimizer import adamw


def main(argv: list[str] | None = None) -> dict:
    args = parse(__doc__, argv, repeats=3, peers="plain")
    policy, ceiling = POLICIES[args.model](args), measure_ceiling(args)
    # forward, and as much again for the gradient of the activations and (unless the weights are frozen) of the weights
    bound = (2 if "lora" in args.model else 3) * forward_flops(policy.shape, args) / ceiling.flops
    prompt, completion = policy.prompt(args), responses(args, policy)
    repeated = prompt.repeat(args.group_size)
    shared = step(args, policy, completion, lambda m: m.logps(prompt, completion, Sampling(args.steps)).values)
    contenders = {"update": Contender(shared, bound)}
    if args.peers == "plain":
        plain = step(args, policy, completion, lambda m: plain_logps(m, repeated, completion))
        contenders["plain"] = Contender(plain, bound)
    timings = race(contenders, args.repeats, args.device)
    units = {"response steps": args.queries * args.group_size * args.steps}
    return finish("train_step", args, ceiling, contenders, timings, units)


def step(
    args: argparse.Namespace, policy: Policy, completion: Completion, logps: Callable[[SpeechLM], Tensor]
) -> Callable[[], None]:
    model = policy.build().eval()
    optimizer = adamw(model.parameters(), 1e-6, 0.0, (0.9, 0.95))
    advantages = torch.linspace(-1, 1, len(completion), device=args.device)

    def run() -> None:
        optimizer.zero_grad()
        with autocast(args):
            values = logps(model)
        old = values.detach()
        grpo_loss(values, old, old - 0.1, advantages, completion.actions, denominator=len(completion)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


if __name__ == "__main__":
    main(sys.argv[1:])
