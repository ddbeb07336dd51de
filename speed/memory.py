"""How much memory do log-probabilities take as the vocabulary grows? Peak bytes above the inputs, forward alone and
with backward (there less the head's gradient, which is as large as the head).

- chunks: `selective_logps`, blocks of tokens x ids: the peak is a few blocks, whatever the vocabulary.
- all logits: `log_softmax` of [tokens, vocabulary].

On a CPU the peak is that of all tensors that operations return, counted as they come and go; on a GPU the allocator's.

    python speed/memory.py --figure docs/memory.png
"""

from __future__ import annotations

import argparse
import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from lightning_paras2s.models.selective import selective_logps

MB = 2**20


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4096, 8192, 16384, 32768, 65536])
    parser.add_argument("--chunks", type=int, nargs="+", default=[1024, 4096], help="ids a block; tokens: 256")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path, help="append the result to this file, one JSON object a line")
    args = parser.parse_args(argv)
    ways = {f"256 x {ids:,} chunks": chunked(ids) for ids in args.chunks} | {"all logits": whole}
    peaks = {name: [peak(args, way, size) for size in args.vocabularies] for name, way in ways.items()}
    result = {
        "benchmark": "memory",
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"},
        "peak_megabytes": {n: [{k: round(b / MB, 3) for k, b in p.items()} for p in v] for n, v in peaks.items()},
    }
    print(markdown(result))
    if args.figure:
        draw(result, args.figure)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with args.json.open("a") as file:
            file.write(json.dumps(result) + "\n")
    return result


def chunked(vocab_chunk: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def run(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        return selective_logps(hidden, weight, ids, ((0, len(weight)),), 1.0, 256, vocab_chunk)[0]

    return run


def whole(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return (hidden @ weight.T).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]


def peak(args: argparse.Namespace, way: Callable, vocabulary: int) -> dict[str, int]:
    """Bytes above the inputs, of the forward pass without gradient and of forward and backward."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, args.width, generator=generator).to(args.device) for n in (args.tokens, vocabulary)
    )
    ids = torch.randint(vocabulary, (args.tokens,), generator=generator).to(args.device)

    def both() -> None:
        way(hidden.requires_grad_(), weight.requires_grad_(), ids).sum().backward()

    with torch.no_grad():
        forward = peak_bytes(lambda: way(hidden, weight, ids), args.device)
    return {"forward": forward, "backward": peak_bytes(both, args.device) - weight.nbytes}


def peak_bytes(run: Callable[[], object], device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with Live() as live:
        run()
    return live.peak


class Live(TorchDispatchMode):
    """Follows the bytes of all storages that operations have made and not yet freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tensors((args, tuple((kwargs or {}).values())))}
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            if id(storage) not in given and storage not in self.known:
                self.known[storage] = True
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def free(self, size: int) -> None:
        self.now -= size


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def markdown(result: dict) -> str:
    sizes = result["settings"]["vocabularies"]
    lines = [f"### memory: {result['settings']['tokens']} tokens, float32, {result['settings']['device']}", ""]
    lines += [f"| peak MB, forward / with backward | {' | '.join(f'V = {v:,}' for v in sizes)} |"]
    lines += ["|---" * (len(sizes) + 1) + "|"]
    for name, peaks in result["peak_megabytes"].items():
        lines.append(f"| {name} | " + " | ".join(f"{p['forward']:.1f} / {p['backward']:.1f}" for p in peaks) + " |")
    return "\n".join([*lines, ""])


def draw(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    for number, (name, peaks) in enumerate(result["peak_megabytes"].items()):
        for part, line in (("forward", "-"), ("backward", "--")):
            values = [p[part] for p in peaks]
            axes.plot(result["settings"]["vocabularies"], values, line, color=f"C{number}", marker="o", markersize=3,
                      label=f"{name},\n{'forward' if part == 'forward' else 'with backward'}")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="vocabulary", ylabel="peak memory, MB", ylim=(1, 1e4))
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=7, ncols=3, loc="upper center")
    axes.set_title(f"Log-probabilities of {result['settings']['tokens']} tokens", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
