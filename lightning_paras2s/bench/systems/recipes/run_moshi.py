"""Moshi, by the package moshi: it listens and speaks at once, so its answer is what it says while it hears the query
and `--listen_seconds` of silence behind it.

Environment: `pip install moshi`; the weights kyutai/moshiko-pytorch-bf16 (or moshika); one GPU of 24 GB.

    command: /envs/moshi/bin/python {recipes}/run_moshi.py --hf_repo kyutai/moshiko-pytorch-bf16
"""

import argparse

from protocol import answer_lines, lines_only, read_wav


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hf_repo", default="kyutai/moshiko-pytorch-bf16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--listen_seconds", type=float, default=12.0)
    parser.add_argument("--whole", action="store_true", help="keep what it says before the query ends")
    args = parser.parse_args()
    stream = lines_only()
    import torch
    from moshi.models import LMGen, loaders

    found = loaders.CheckpointInfo.from_hf_repo(args.hf_repo)
    mimi, words = found.get_mimi(device=args.device), found.get_text_tokenizer()
    generator = LMGen(found.get_moshi(device=args.device, dtype=torch.bfloat16), **found.lm_gen_config)
    rate, frame = int(mimi.sample_rate), int(mimi.sample_rate / mimi.frame_rate)
    mimi.streaming_forever(1)
    generator.streaming_forever(1)

    @torch.no_grad()
    def respond(path, sample, clock):
        torch.manual_seed(sample)
        mimi.reset_streaming()
        generator.reset_streaming()
        heard = torch.from_numpy(read_wav(path))
        count = int(len(heard) * rate / 16000)
        heard = torch.nn.functional.interpolate(heard[None, None], size=count, mode="linear")
        heard = torch.nn.functional.pad(heard, (0, int(args.listen_seconds * rate))).to(args.device)
        pieces, text = [], []
        for index, piece in enumerate(heard.split(frame, dim=2)):
            if piece.shape[-1] < frame:
                break
            codes = mimi.encode(piece)
            steps = [generator.step(codes)] if index else [generator.step(codes), generator.step(codes)]
            if steps[-1] is None:  # the first frames only fill its delays
                continue
            spoken = mimi.decode(steps[-1][:, 1:])[0, 0]
            if args.whole or (index + 1) * frame > count:
                pieces.append(spoken)
                text += [int(token) for token in steps[-1][:, 0].reshape(-1) if int(token) not in (0, 3)]
        said = "".join(words.id_to_piece(token) for token in text).replace("\u2581", " ").strip()
        return torch.cat(pieces).float().cpu().numpy(), rate, said

    answer_lines(stream, "moshi", respond)


if __name__ == "__main__":
    main()
