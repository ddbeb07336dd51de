"""GLM-4-Voice, as its web demo runs it (temperature 0.2, top-p 0.8), without the demo's server.

Environment: the repository THUDM/GLM-4-Voice with its submodules and requirements.txt; the weights glm-4-voice-9b,
glm-4-voice-tokenizer and glm-4-voice-decoder; one GPU of 24 GB.

    command: /envs/glm/bin/python {recipes}/run_glm4_voice.py --repository /models/GLM-4-Voice
        --decoder /models/glm-4-voice-decoder
"""

import argparse
import os
import sys

from protocol import answer_lines, lines_only

RATE = 22050  # Hz of its decoder
PROMPT = (
    "<|system|>\nUser will provide you with a speech instruction. Do it step by step. First, think about the "
    "instruction and respond in a interleaved manner, with 13 text token followed by 26 audio tokens. <|user|>\n"
    "<|begin_of_audio|>{}<|end_of_audio|><|assistant|>streaming_transcription\n"
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", required=True)
    parser.add_argument("--model", default="THUDM/glm-4-voice-9b")
    parser.add_argument("--tokenizer", default="THUDM/glm-4-voice-tokenizer")
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--top_p", type=float, default=0.8)
    parser.add_argument("--max_new_tokens", type=int, default=2000)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    stream = lines_only()
    for folder in ("third_party/Matcha-TTS", "cosyvoice", ""):
        sys.path.insert(0, os.path.join(args.repository, folder))
    import torch
    from flow_inference import AudioDecoder
    from speech_tokenizer.modeling_whisper import WhisperVQEncoder
    from speech_tokenizer.utils import extract_speech_token
    from transformers import AutoModel, AutoTokenizer, WhisperFeatureExtractor

    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=True)
    model = AutoModel.from_pretrained(args.model, trust_remote_code=True, torch_dtype=torch.bfloat16)
    model = model.to(args.device).eval()
    encoder = WhisperVQEncoder.from_pretrained(args.tokenizer).eval().to(args.device)
    features = WhisperFeatureExtractor.from_pretrained(args.tokenizer)
    files = [os.path.join(args.decoder, name) for name in ("config.yaml", "flow.pt", "hift.pt")]
    decoder = AudioDecoder(config_path=files[0], flow_ckpt_path=files[1], hift_ckpt_path=files[2], device=args.device)
    first_code, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|audio_0|>", "<|user|>"))

    @torch.no_grad()
    def respond(path, sample, clock):
        torch.manual_seed(sample)
        heard = extract_speech_token(encoder, features, [path])[0]
        prompt = PROMPT.format("".join(f"<|audio_{int(code)}|>" for code in heard))
        inputs = tokenizer([prompt], return_tensors="pt").to(args.device)
        sampling = {"do_sample": args.temperature > 0, "temperature": args.temperature or None, "top_p": args.top_p}
        made = model.generate(**inputs, max_new_tokens=args.max_new_tokens, eos_token_id=end, **sampling)
        said = [int(token) for token in made[0, inputs["input_ids"].shape[1] :] if int(token) != end]
        codes = [token - first_code for token in said if token >= first_code]
        text = tokenizer.decode([token for token in said if token < first_code], skip_special_tokens=True)
        speech = decoder.offline_inference(torch.tensor([codes], device=args.device))
        return speech.float().cpu().numpy(), RATE, text.strip()

    answer_lines(stream, "glm-4-voice", respond)


if __name__ == "__main__":
    main()
