"""A small policy far from uniform, and prompts and answers of it."""

import torch

from lightning_paras2s.models.speech_lm import Completion, Prompt, Sampling, sampling_noise
from lightning_paras2s.models.tiny.lm import TinySpeechLM

LEVELS, WORDS, FEATURES = (3, 2, 4), 11, 5
CODES = 24
SAMPLING = Sampling(max_steps=14, text_temperature=0.8, audio_temperature=1.3)


def small_policy() -> TinySpeechLM:
    torch.manual_seed(0)
    model = TinySpeechLM(WORDS, FEATURES, LEVELS, width=24, heads=2, shared_layers=2, text_layers=1, audio_layers=2)
    with torch.no_grad():  # wrong positions or masks then change the logits by far more than rounding
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def make_prompt(rows: int = 3, size: int = 7, padding: tuple[int, ...] = (0, 3, 1)) -> Prompt:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, WORDS, (rows, size), generator=generator)
    audio = torch.randint(0, CODES + 5, (rows, size), generator=generator)
    features = torch.randn(rows, size, FEATURES, generator=generator)
    mask = torch.arange(size) >= torch.tensor(padding[:rows])[:, None]
    return Prompt(torch.stack([text, audio], 1), mask, features, mask & (torch.arange(size) < size - 2))


def rollout(model: TinySpeechLM, prompt: Prompt, group_size: int = 4, sampling: Sampling = SAMPLING) -> Completion:
    noise = sampling_noise(0, 0, len(prompt) * group_size, sampling.max_steps)
    return model.generate(prompt, sampling, noise, group_size)
