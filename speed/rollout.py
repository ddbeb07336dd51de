"""How fast are rollouts? Decode steps a second of `SpeechLM.generate`, of a plain loop, and of `transformers`.

A decode step is one new position of one response. All sample at temperature 1 from random weights, with equally many
prompts, prompt positions and new steps.

- generate: the prompt prefilled once for its G responses, static cache.
- reforward: no cache; every step reads the prompt and all steps so far again. Every `stride`-th step is run and stands
  for its neighbours. Only for `tiny`.
- transformers: `generate` of a Qwen2 text model with as many layers, width, heads and MLP, and as many output rows as
  the two heads together (the same FLOPs a position); G samples a prompt by `num_return_sequences`. With bfloat16 its
  weights are bfloat16, which is faster for it than autocast.

    python speed/rollout.py [--dtype bfloat16] [--model kimi --queries 8 --device cuda]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import DTYPES, Contender, autocast, finish, measure_ceiling, parse, race, rollout_bound
from policies import POLICIES, Policy, text_twin
from torch import Tensor

from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Sampling, sampling_noise


def main(argv: list[str] | None = None) -> dict:
    args = parse(__doc__, argv, queries=32, prompt=60, steps=48, repeats=3, stride=24, peers="reforward,transformers")
    policy = POLICIES[args.model](args)
    ceiling = measure_ceiling(args)
    bound = rollout_bound(policy.shape, ceiling, args)
    contenders = {"generate": Contender(generate(args, policy), bound)}
    if "reforward" in args.peers and args.model.startswith("tiny"):
        steps = range(min(args.stride // 2, args.steps - 1), args.steps, args.stride)
        contenders["reforward"] = Contender(reforward(args, policy, steps), bound, args.steps / len(steps))
    if "transformers" in args.peers:
        contenders["transformers"] = Contender(transformers(args, policy), bound)
    with torch.no_grad():
        timings = race(contenders, args.repeats, args.device)
    units = {"decode steps": args.queries * args.group_size * args.steps}
    return finish("rollout", args, ceiling, contenders, timings, units)


def generate(args: argparse.Namespace, policy: Policy) -> Callable[[], None]:
    model, prompt = policy.build().eval(), policy.prompt(args)
    noise = sampling_noise(0, 0, args.queries * args.group_size, args.steps).to(args.device)

    def run() -> None:
        with autocast(args):
            model.generate(prompt, Sampling(args.steps), noise, args.group_size)

    return run


def reforward(args: argparse.Namespace, policy: Policy, steps: range) -> Callable[[], None]:
    model, prompt = policy.build().eval(), policy.prompt(args).repeat(args.group_size)
    noise = sampling_noise(0, 0, len(prompt), args.steps).to(args.device)

    def run() -> None:
        tables = model._tables()
        for step in steps:
            given = torch.ones(len(prompt), 2, step + 1, dtype=torch.long, device=args.device)
            last = torch.zeros_like(given, dtype=torch.bool)
            last[..., -1] = True
            with autocast(args):
                states = model._states(tables, prompt, given, last)
                for stream, table in ((TEXT, tables.text_output), (AUDIO, tables.audio_output)):
                    plain_draw(F.linear(states[stream], table), noise[:, stream, step])

    return run


def plain_draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token a row by a cumulative sum over all ids."""
    cdf = torch.softmax(logits.float(), -1).double().cumsum(-1)
    target = uniform.double().unsqueeze(-1) * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def transformers(args: argparse.Namespace, policy: Policy) -> Callable[[], None]:
    model = text_twin(policy.shape).eval().to(args.device, DTYPES[args.dtype])
    ids = torch.randint(1, model.config.vocab_size, (args.queries, args.prompt), device=args.device)
    mask = torch.ones_like(ids)

    def run() -> None:
        model.generate(
            ids, attention_mask=mask, num_return_sequences=args.group_size, do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, max_new_tokens=args.steps,
        )  # fmt: skip

    return run


if __name__ == "__main__":
    main(sys.argv[1:])
