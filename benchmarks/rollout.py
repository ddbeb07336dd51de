"""How fast are rollouts? Decode steps a second of `TinySpeechLM.generate`, of a plain loop, and of `transformers`.

A decode step is one new position of one response. All three sample at temperature 1 from random weights, with equally
many prompts, prompt positions and new steps; repeats alternate, so that a busy machine slows all alike; figures are
medians.

- generate: the prompt prefilled once for its G responses, static cache.
- reforward: no cache; every step reads the prompt and all steps so far again (only the last position meets the heads).
- transformers: `generate` of a Qwen2 text model with as many layers, width, heads and MLP, and as many output rows as
  the two heads together; G samples a prompt by `num_return_sequences`.

    python benchmarks/rollout.py --json benchmarks/rollout.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling, inverse_cdf, sampling_noise
from lightning_paras2s.models.tiny_lm import TinySpeechLM

WORDS, FEATURES = 3000, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=60, help="positions of a prompt")
    parser.add_argument("--steps", type=int, default=48, help="new steps")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bfloat16", action="store_true", help="autocast all three to bfloat16")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    runs = {"generate": tiny(args), "reforward": reforward(args), "transformers": qwen2(args)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
        runs["generate"](), runs["transformers"]()  # first calls allocate
        for _ in range(args.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    report(args, seconds)


def make_prompt(args: argparse.Namespace) -> Prompt:
    size = (args.queries, args.prompt)
    tokens = torch.stack([torch.randint(0, WORDS, size), torch.randint(0, 4096, size)], 1)
    mask = torch.ones(size, dtype=torch.bool)
    return Prompt(tokens, mask, torch.randn(*size, FEATURES), mask)


def tiny(args: argparse.Namespace) -> Callable[[], None]:
    model, prompt = TinySpeechLM(WORDS, FEATURES), make_prompt(args)
    noise = sampling_noise(0, 0, args.queries * args.group_size, args.steps)
    return lambda: model.generate(prompt, Sampling(args.steps), noise, args.group_size)


def reforward(args: argparse.Namespace) -> Callable[[], None]:
    model, prompt = TinySpeechLM(WORDS, FEATURES), make_prompt(args).repeat(args.group_size)
    noise = sampling_noise(0, 0, len(prompt), args.steps)

    def run() -> None:
        tokens = torch.zeros(len(prompt), 2, 0, dtype=torch.long)
        tables = model._tables()
        for step in range(args.steps):
            given = F.pad(tokens, (0, 1))  # the entry to be predicted
            finished = torch.zeros(len(prompt), dtype=torch.bool)
            text, audio = model._hidden(tables, prompt, Completion(given, given.bool(), finished))
            new: list[Tensor] = []
            for stream, state, table in ((TEXT, text, tables.text_output), (AUDIO, audio, tables.audio_output)):
                new.append(inverse_cdf(F.linear(state[:, -1], table), noise[:, stream, step], 1.0))
            tokens = torch.cat([tokens, torch.stack(new, 1).unsqueeze(-1)], -1)

    return run


def qwen2(args: argparse.Namespace) -> Callable[[], None]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    ours = TinySpeechLM(WORDS, FEATURES)
    vocabulary = WORDS + ours.codes + 2
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=ours.settings["width"],
        intermediate_size=2 * ours.settings["width"],
        num_hidden_layers=len(ours.layers),
        num_attention_heads=ours.heads,
        num_key_value_heads=ours.heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config).eval()
    ids = torch.randint(1, vocabulary, (args.queries, args.prompt))
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": args.steps}
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, num_return_sequences=args.group_size, **settings)


def report(args: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    steps = args.queries * args.group_size * args.steps
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("| rollout | seconds, median (min - max) | decode steps a second | generate is faster by |")
    print("|---|---|---|---|")
    for name, values in seconds.items():
        times = medians[name] / medians["generate"]
        print(f"| {name} | {medians[name]:.2f} ({min(values):.2f} - {max(values):.2f}) ", end="")
        print(f"| {steps / medians[name]:.0f} | {times:.2f} x |")
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        settings |= {"torch": torch.__version__, "machine": platform.machine(), "rows": args.queries * args.group_size}
        rates = {name: round(steps / median, 1) for name, median in medians.items()}
        result = {"settings": settings, "seconds": seconds, "steps_per_second": rates}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
