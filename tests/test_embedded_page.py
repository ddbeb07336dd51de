"""docs/embedded.md draws a prompt and an answer as `models/tiny/streams.py` builds them."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.models.tiny.streams import AudioIds, build_completion, build_prompt
from lightning_paras2s.models.tiny.vocabulary import BLANK, EOS, TextVocab

PAGE = (Path(__file__).parents[1] / "docs/embedded.md").read_text(encoding="utf-8")


def test_the_layout_on_the_page_is_what_is_built():
    """4 codes of a query and 5 of an answer whose words begin at codes 0, 1 and 3, two steps before their sounds."""
    ids, vocab = AudioIds(4096), TextVocab()
    heard, said = torch.arange(1, 5), torch.arange(11, 16)
    prompt = build_prompt(ids, vocab, heard, torch.zeros(4, 2), "we sold the house")[0]
    answer, actions = build_completion(ids, vocab, said, "i am sorry", (0, 1, 3), 2)
    audio = {ids.blank: "-", ids.eos: "end", ids.user_start: "U", ids.user_end: "/U", ids.assistant_start: "A"}
    audio |= {int(c): f"c{i}" for i, c in enumerate(heard, 1)} | {int(c): f"a{i}" for i, c in enumerate(said, 1)}
    text = {BLANK: "-", EOS: "EOS"}
    drawn = {}
    for stream, name, names in ((TEXT, "text", text), (AUDIO, "audio", audio)):
        shown = [names.get(i) or vocab.pieces[i] for i in prompt[stream].tolist()]
        steps = [names.get(i) or vocab.pieces[i] for i in answer[stream].tolist()]
        steps = [step if free else "~" for step, free in zip(steps, actions[stream].tolist(), strict=True)]
        drawn[name] = [name, *shown, "|", *steps]
    lines = [line.split() for line in PAGE.splitlines()]
    assert drawn["text"] in lines and drawn["audio"] in lines
