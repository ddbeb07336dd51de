"""LFM2.5-Audio, by the package liquid-audio: interleaved generation with its README's sampling.

Environment: `pip install liquid-audio`; the weights LiquidAI/LFM2.5-Audio-1.5B.

    command: /envs/lfm/bin/python {recipes}/run_lfm2_audio.py --model LiquidAI/LFM2.5-Audio-1.5B
"""

import argparse

from protocol import answer_lines, lines_only, read_wav

RATE = 24000  # Hz of its decoder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="LiquidAI/LFM2.5-Audio-1.5B")
    parser.add_argument("--system", default="Respond with interleaved text and audio.")
    parser.add_argument("--audio_temperature", type=float, default=1.0)
    parser.add_argument("--audio_top_k", type=int, default=4)
    parser.add_argument("--max_new_tokens", type=int, default=512)
    args = parser.parse_args()
    stream = lines_only()
    import torch
    from liquid_audio import ChatState, LFM2AudioModel, LFM2AudioProcessor

    processor = LFM2AudioProcessor.from_pretrained(args.model).eval()
    model = LFM2AudioModel.from_pretrained(args.model).eval()

    @torch.no_grad()
    def respond(path, sample, clock, turns):
        torch.manual_seed(sample)
        chat = ChatState(processor)
        chat.new_turn("system")
        chat.add_text(args.system)
        chat.end_turn()
        for turn in [*turns, {"role": "user", "audio": path}]:  # an assistant's turn is its words
            chat.new_turn(turn["role"])
            if turn["role"] == "user" and "audio" in turn:
                chat.add_audio(torch.from_numpy(read_wav(turn["audio"]))[None], 16000)
            else:
                chat.add_text(turn["text"])
            chat.end_turn()
        chat.new_turn("assistant")
        text, codes = [], []
        sampling = {"audio_temperature": args.audio_temperature, "audio_top_k": args.audio_top_k}
        for token in model.generate_interleaved(**chat, max_new_tokens=args.max_new_tokens, **sampling):
            if token.numel() == 1:
                text.append(processor.text.decode(token))
            else:
                codes.append(token)
        speech = processor.decode(torch.stack(codes[:-1], 1)[None])  # the last codes say that speech ends
        return speech[0].float().cpu().numpy(), RATE, "".join(text).split("<|")[0].strip()

    answer_lines(stream, "lfm2.5-audio", respond, turns=True)


if __name__ == "__main__":
    main()
