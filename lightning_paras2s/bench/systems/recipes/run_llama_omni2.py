"""LLaMA-Omni 2, as its two inference scripts run it (greedy), in one program.

Environment: the repository ictnlp/LLaMA-Omni2 installed with `pip install -e .`; its weights, Whisper large-v3 in
models/speech_encoder of that folder, and cosy2_decoder. Its licence forbids commercial use.

    command: /envs/omni2/bin/python {recipes}/run_llama_omni2.py --repository /models/LLaMA-Omni2
        --model models/LLaMA-Omni2-7B
"""

import argparse
import os
import sys

from protocol import answer_lines, lines_only


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", required=True)
    parser.add_argument("--model", required=True, help="relative to the repository, or whole")
    parser.add_argument("--decoder", default="models/cosy2_decoder")
    parser.add_argument("--voice", default="llama_omni2/inference/prompt_en.wav")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max_new_tokens", type=int, default=256)
    args = parser.parse_args()
    stream = lines_only()
    os.chdir(args.repository)  # it looks for Whisper from here
    sys.path[:0] = [args.repository, os.path.join(args.repository, "third_party/Matcha-TTS")]
    import torch
    from cosyvoice.utils.file_utils import load_wav
    from llama_omni2.inference.run_cosy2_decoder import SpeechDecoder, process_units
    from llama_omni2.inference.run_llama_omni2 import MultiturnSpeechDataset, collate_fn, load_pretrained_model

    tokenizer, model = load_pretrained_model(args.model, s2s=True)
    decoder, voice = SpeechDecoder(model_dir=args.decoder), load_wav(args.voice, 16000)

    @torch.inference_mode()
    def respond(path, sample, clock):
        torch.manual_seed(sample)
        asked = [{"id": 0, "conversation": [{"from": "human", "speech": path}]}]
        item = MultiturnSpeechDataset(asked, tokenizer, model.config)[0]
        ids, speech, lengths = collate_fn([item])
        sampling = {"do_sample": args.temperature > 0, "temperature": args.temperature or None}
        tokens, units = model.generate(
            ids.to("cuda"),
            speech=speech.to(dtype=torch.bfloat16, device="cuda"),
            speech_lengths=lengths.to("cuda"),
            max_new_tokens=args.max_new_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            top_p=None,
            top_k=None,
            num_beams=1,
            **sampling,
        )
        text = tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        made = decoder.entry(torch.LongTensor(process_units(units)).to("cuda"), voice)
        return made.float().cpu().numpy(), decoder.sample_rate, text

    answer_lines(stream, "llama-omni2", respond)


if __name__ == "__main__":
    main()
