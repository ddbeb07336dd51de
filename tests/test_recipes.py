"""The recipes speak the protocol: each is run whole, as a user runs it, with a stand-in for its model's own code.

A stand-in has the modules, names and shapes of the release that the recipe was written for, and answers with a tone
whose pitch follows the query's level; the weights and a GPU are the user's.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from sounds import loudest_hertz

from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.bench.systems.command import RECIPES, CommandSystem
from lightning_paras2s.types import Audio, Query

TONE = """
import math, torch
print("a library that prints while it is imported")
torch.Tensor.cuda = lambda self, *a, **k: self  # no GPU here
to = torch.Tensor.to
torch.Tensor.to = lambda self, *a, **k: to(self, *["cpu" if x == "cuda" else x for x in a],
                                           **{n: "cpu" if v == "cuda" else v for n, v in k.items()})

def tone(level, rate, seconds=0.5):
    hz = 1000 * float(level) * 10  # a level of 0.05 is 500 Hz
    return 0.5 * torch.sin(2 * math.pi * hz / rate * torch.arange(int(rate * seconds)))

def level_of(path):
    import soundfile
    return float(abs(soundfile.read(path)[0]).max())
"""
GLM = {
    "standin.py": TONE,
    "flow_inference.py": """
from standin import tone
class AudioDecoder:
    def __init__(self, config_path, flow_ckpt_path, hift_ckpt_path, device="cuda"):
        assert config_path.endswith("config.yaml") and hift_ckpt_path.endswith("hift.pt")
    def offline_inference(self, token):
        assert token.shape == (1, 3)
        return tone(token[0, 0] / 1000, 22050)[None]
""",
    "speech_tokenizer/modeling_whisper.py": """
class WhisperVQEncoder:
    @classmethod
    def from_pretrained(cls, path): return cls()
    def eval(self): return self
    def to(self, device): return self
""",
    "speech_tokenizer/utils.py": """
from standin import level_of
def extract_speech_token(model, feature_extractor, utts):
    return [[round(1000 * level_of(path)), 7] for path in utts]
""",
    "transformers.py": """
import re, torch
class Inputs(dict):
    def to(self, device): return self
class AutoTokenizer:
    @classmethod
    def from_pretrained(cls, path, trust_remote_code): return cls()
    def convert_tokens_to_ids(self, token): return {"<|audio_0|>": 100, "<|user|>": 5}[token]
    def __call__(self, prompts, return_tensors):
        assert prompts[0].startswith("<|system|>") and prompts[0].endswith("streaming_transcription\\n")
        code = int(re.search(r"begin_of_audio\\|><\\|audio_(\\d+)\\|>", prompts[0])[1])
        return Inputs(input_ids=torch.tensor([[1, code]]))
    def decode(self, ids, skip_special_tokens): return "said " + " ".join(map(str, ids))
class AutoModel:
    @classmethod
    def from_pretrained(cls, path, trust_remote_code, torch_dtype): return cls()
    def to(self, device): return self
    def eval(self): return self
    def generate(self, input_ids, max_new_tokens, eos_token_id, do_sample, temperature, top_p):
        code = int(input_ids[0, 1])
        return torch.tensor([[1, code, 11, 100 + code, 101, 12, 102, 5]])
class WhisperFeatureExtractor:
    @classmethod
    def from_pretrained(cls, path): return cls()
""",
}
OMNI2 = {
    "standin.py": TONE,
    "cosyvoice/utils/file_utils.py": "import standin\ndef load_wav(path, rate): return (path, rate)",
    "llama_omni2/inference/run_cosy2_decoder.py": """
import re
from standin import tone
def process_units(text): return list(map(int, re.findall(r"\\d+", text)))
class SpeechDecoder:
    sample_rate = 24000
    def __init__(self, model_dir): pass
    def entry(self, tokens, voice):
        assert voice == ("llama_omni2/inference/prompt_en.wav", 16000) and tokens.shape == (2,)
        return tone(tokens[0] / 1000, 24000)[None]
""",
    "llama_omni2/inference/run_llama_omni2.py": """
import torch
from standin import level_of
class Tokenizer:
    pad_token_id = 0
    def batch_decode(self, ids, skip_special_tokens): return [" said %d " % int(ids[0, 0])]
class Model:
    config = None
    def generate(self, ids, speech, speech_lengths, do_sample, temperature, top_p, top_k, num_beams, max_new_tokens,
                 use_cache, pad_token_id):
        code = round(1000 * float(speech.float().max()))
        return ids, "<%d><9>" % (10 * round(code / 10))
def load_pretrained_model(model_path, s2s): return Tokenizer(), Model()
class MultiturnSpeechDataset:
    def __init__(self, questions, tokenizer, config): self.questions = questions
    def __getitem__(self, i):
        path = self.questions[i]["conversation"][0]["speech"]
        return {"input_ids": torch.tensor([11]), "speech": [torch.full((4, 128), level_of(path))]}
def collate_fn(batch):
    speech = [s for b in batch for s in b["speech"]]
    return torch.stack([b["input_ids"] for b in batch]), torch.stack(speech), torch.tensor([len(s) for s in speech])
""",
}
FREEZE = {
    "standin.py": TONE,
    "models/decoder/llm2tts.py": "class llm2TTS:\n    def __init__(self, path): assert path == 'checkpoints'",
    "models/pipeline.py": "class inferencePipeline:\n    def __init__(self, args): self.top_k = args.top_k",
    "bin/inference.py": """
import soundfile
from standin import level_of, tone
class audioEncoderProcessor: pass
def inference(pipeline, audio_processor, tts, configs):
    print("Synthesis: ", pipeline.top_k)
    soundfile.write(configs.output_wav, tone(level_of(configs.input_wav), 24000).numpy(), 24000)
""",
}
LFM2 = {
    "standin.py": TONE,
    "liquid_audio/__init__.py": """
import torch
from standin import tone
class Text:
    def decode(self, token): return {11: "said", 12: " it", 7: "<|im_end|>"}[int(token)]
class LFM2AudioProcessor:
    text = Text()
    @classmethod
    def from_pretrained(cls, path): return cls()
    def eval(self): return self
    def decode(self, codes):
        assert codes.shape == (1, 8, 2)
        return tone(codes[0, 0, 0] / 1000, 24000)[None]
class LFM2AudioModel(LFM2AudioProcessor):
    def generate_interleaved(self, audio, rate, max_new_tokens, audio_temperature, audio_top_k):
        code = round(1000 * float(audio.max()))
        for token in (11, [code] * 8, 12, [code] * 8, [2048] * 8, 7):
            yield torch.tensor([token] if isinstance(token, int) else token)
class ChatState(dict):
    def __init__(self, processor): self.turns = []
    def new_turn(self, role): self.turns.append(role)
    def end_turn(self): pass
    def add_text(self, text): assert self.turns == ["system"]
    def add_audio(self, wave, rate):
        assert self.turns == ["system", "user"] and wave.shape[0] == 1
        self.update(audio=wave, rate=rate)
""",
}
MOSHI = {
    "standin.py": TONE,
    "moshi/__init__.py": "",
    "moshi/models/__init__.py": """
import torch
from standin import tone
from . import loaders
class LMGen:
    def __init__(self, lm, temp): self.step_count = 0
    def streaming_forever(self, batch): assert batch == 1
    def reset_streaming(self): self.step_count = 0
    def step(self, codes):
        self.step_count += 1
        if self.step_count == 1: return None  # delays
        return torch.cat([torch.tensor([[[3 if self.step_count % 2 else 11]]]), codes], 1)
""",
    "moshi/models/loaders.py": """
import torch
from standin import tone
class Mimi:
    sample_rate, frame_rate, loudest = 24000, 12.5, 0
    def streaming_forever(self, batch): pass
    def reset_streaming(self): self.loudest = 0
    def encode(self, wave):
        assert wave.shape == (1, 1, 1920)
        self.loudest = max(self.loudest, round(1000 * float(wave.abs().max())))
        return torch.full((1, 8, 1), self.loudest)
    def decode(self, codes): return tone(codes[0, 0, 0] / 1000, 24000, 0.08)[None, None]
class Words:
    def id_to_piece(self, token): return "\\u2581said" if token == 11 else "?"
class CheckpointInfo:
    lm_gen_config = {"temp": 0.8}
    @classmethod
    def from_hf_repo(cls, repo): return cls()
    def get_mimi(self, device): return Mimi()
    def get_text_tokenizer(self): return Words()
    def get_moshi(self, device, dtype): return None
""",
}
MINI = {
    "standin.py": TONE,
    "inference.py": """
import numpy as np, torch
from standin import level_of, tone
text_vocabsize = 151936
class Tokenizer:
    def decode(self, tokens): return " said " + " ".join(map(str, tokens.tolist()))
class OmniInference:
    text_tokenizer = Tokenizer()
    def __init__(self, ckpt_dir, device): pass
    def run_AT_batch_stream(self, path, stream_stride=4):
        for piece in tone(level_of(path), 24000).split(3000):
            yield (piece.numpy().astype(np.float64) * 32768.0).astype(np.int16).tobytes()
        return [[1, 2]] * 7 + [[11, 12, 151936, 151937]]
""",
}
RUNS = {
    "glm4_voice": (GLM, "--repository {there} --decoder d --device cpu", "said 11 12"),
    "llama_omni2": (OMNI2, "--repository {there} --model m", "said 11"),
    "freeze_omni": (FREEZE, "--repository {there} --llm_path q", None),
    "lfm2_audio": (LFM2, "", "said it"),
    "moshi": (MOSHI, "--device cpu --listen_seconds 0.5", "said said said"),
    "mini_omni": (MINI, "--repository {there}", "said 11 12"),
}


def test_there_is_a_run_for_each_recipe():
    assert {path.stem.removeprefix("run_") for path in RECIPES.glob("*.py")} - {"protocol"} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_recipe_answers_each_query_with_its_own_speech(name, tmp_path, monkeypatch):
    files, options, text = RUNS[name]
    for path, body in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = shlex.quote(sys.executable)
    system = CommandSystem(
        f"{python} {{recipes}}/run_{name}.py {options.format(there=tmp_path)}", stderr=str(tmp_path / "errors.txt")
    )
    levels = (0.05, 0.1)
    audios = [Audio(np.full(int(0.4 * SAMPLE_RATE), level, np.float32), SAMPLE_RATE) for level in levels]
    queries = [Query(f"q{i}", "p", "age", "test", "hello", {}, "", "") for i in range(2)]
    answers = system.respond(queries, audios, 0)
    system.program.stop()
    assert [a.status for a in answers] == ["ok", "ok"], Path(tmp_path / "errors.txt").read_text()
    assert [a.text for a in answers] == [text, text]
    for answer, level in zip(answers, levels, strict=True):
        assert loudest_hertz(answer.audio) == pytest.approx(10_000 * level, abs=15)
    assert ("first_audio_seconds" in answers[0].latency) == (name == "mini_omni")
    assert "a library that prints" in (tmp_path / "errors.txt").read_text()
