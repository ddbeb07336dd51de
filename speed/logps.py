"""How fast are log-probabilities of given responses, as the reference and old policies need them? No gradient.

- logps: each prompt read once for its G responses, logits a chunk at a time (`SpeechLM.logps`).
- plain: each row with its own copy of the prompt, all logits, `log_softmax`.

    python speed/logps.py [--dtype bfloat16] [--model kimi --device cuda]
"""

from __future__ import annotations

import argparse
import sys

import torch
from measure import Contender, autocast, finish, forward_flops, measure_ceiling, parse, race
from policies import POLICIES, Policy
from torch import Tensor

from lightning_paras2s.models.speech_lm import Completion, Prompt, Sampling, SpeechLM


def main(argv: list[str] | None = None) -> dict:
    args = parse(__doc__, argv)
    policy, ceiling = POLICIES[args.model](args), measure_ceiling(args)
    bound = forward_flops(policy.shape, args) / ceiling.flops
    model, prompt = policy.build().eval(), policy.prompt(args)
    completion, repeated = responses(args, policy), prompt.repeat(args.group_size)

    def chunked() -> None:
        with autocast(args):
            model.logps(prompt, completion, Sampling(args.steps))

    def plain() -> None:
        with autocast(args):
            plain_logps(model, repeated, completion)

    contenders = {"logps": Contender(chunked, bound), "plain": Contender(plain, bound)}
    with torch.no_grad():
        timings = race(contenders, args.repeats, args.device)
    units = {"response steps": args.queries * args.group_size * args.steps}
    return finish("logps", args, ceiling, contenders, timings, units)


def responses(args: argparse.Namespace, policy: Policy) -> Completion:
    """Random tokens, every one an action but the audio of the delay."""
    model = policy.build()
    rows, delay = args.queries * args.group_size, model.streams.delay
    text = torch.randint(2, policy.text_ids, (rows, args.steps))
    audio = torch.randint(0, policy.codes, (rows, args.steps))
    if args.model.startswith("kimi"):
        audio = model.config.kimia_token_offset + audio % (policy.shape.vocab - model.config.kimia_token_offset)
    audio[:, :delay] = model.streams.audio_blank
    actions = torch.ones(rows, 2, args.steps, dtype=torch.bool)
    actions[:, 1, :delay] = False
    return Completion(torch.stack([text, audio], 1), actions, torch.zeros(rows, dtype=torch.bool)).to(args.device)


def plain_logps(model: SpeechLM, prompt: Prompt, completion: Completion) -> Tensor:
    """[R, 2, T] by way of all logits."""
    found = []
    for stream, logits in enumerate(model(prompt, completion)):
        every = logits.float().log_softmax(-1)
        chosen = every.gather(-1, completion.tokens[:, stream, :, None]).squeeze(-1)
        found.append(torch.where(completion.actions[:, stream], chosen, 0))
    return torch.stack(found, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
