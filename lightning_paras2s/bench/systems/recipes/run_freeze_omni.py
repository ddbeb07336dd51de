"""Freeze-Omni, by its own `bin/inference.py` (top-k 5, top-p 0.8, temperature 0.7), loaded once.

Environment: the repository VITA-MLLM/Freeze-Omni and its requirements.txt; its checkpoints folder and
Qwen2-7B-Instruct. Its script prints the text and gives only speech back, so the answers have no text of their own.

    command: /envs/freeze/bin/python {recipes}/run_freeze_omni.py --repository /models/Freeze-Omni
        --llm_path Qwen2-7B-Instruct
"""

import argparse
import os
import sys
import tempfile

from protocol import answer_lines, lines_only


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", required=True)
    parser.add_argument("--model_path", default="checkpoints")
    parser.add_argument("--llm_path", required=True)
    parser.add_argument("--top_k", type=int, default=5)
    parser.add_argument("--top_p", type=float, default=0.8)
    parser.add_argument("--temperature", type=float, default=0.7)
    args = parser.parse_args()
    stream = lines_only()
    os.chdir(args.repository)
    sys.path.insert(0, args.repository)
    import soundfile
    import torch
    from bin.inference import audioEncoderProcessor, inference
    from models.decoder.llm2tts import llm2TTS
    from models.pipeline import inferencePipeline

    pipeline, voice = inferencePipeline(args), llm2TTS(args.model_path)

    def respond(path, sample, clock):
        torch.manual_seed(sample)
        with tempfile.TemporaryDirectory() as folder:
            args.input_wav, args.output_wav = path, os.path.join(folder, "answer.wav")
            inference(pipeline, audioEncoderProcessor(), voice, args)
            samples, rate = soundfile.read(args.output_wav, dtype="float32")
        return samples, rate, None

    answer_lines(stream, "freeze-omni", respond)


if __name__ == "__main__":
    main()
