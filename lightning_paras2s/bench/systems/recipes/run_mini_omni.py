"""Mini-Omni, by its own streaming inference (temperature 0.9, top-k 1).

Environment: the repository gpt-omni/mini-omni and its requirements.txt; its checkpoint folder; one GPU.

    command: /envs/mini/bin/python {recipes}/run_mini_omni.py --repository /models/mini-omni
"""

import argparse
import os
import sys

import numpy as np
from protocol import answer_lines, lines_only

RATE = 24000  # Hz of SNAC


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", required=True)
    parser.add_argument("--checkpoint", default="./checkpoint")
    parser.add_argument("--device", default="cuda:0")
    args = parser.parse_args()
    stream = lines_only()
    os.chdir(args.repository)
    sys.path.insert(0, args.repository)
    import torch
    from inference import OmniInference, text_vocabsize

    model = OmniInference(args.checkpoint, args.device)

    def respond(path, sample, clock):
        torch.manual_seed(sample)
        pieces, stream_of_speech = [], model.run_AT_batch_stream(path)
        while True:
            try:
                pieces.append(np.frombuffer(next(stream_of_speech), dtype="<i2"))
                clock.speech()
            except StopIteration as done:  # with all tokens; the last list is text
                tokens = [token for token in done.value[-1] if token < text_vocabsize]
                break
        text = model.text_tokenizer.decode(torch.tensor(tokens)).strip() if tokens else None
        return np.concatenate(pieces).astype(np.float32) / 32768, RATE, text

    answer_lines(stream, "mini-omni", respond)


if __name__ == "__main__":
    main()
