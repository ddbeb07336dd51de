"""Earlier turns in the prompts of the two large families, as their releases put them there; a family that has no place
for them refuses them before any weight is read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from omni_release import write_release
from test_kimi_audio import tiny_config
from test_kimi_data import Bytes, TinyKimi
from test_kimi_system import folder, hiss, system  # noqa: F401
from test_kimi_tokenizer import tokenizer  # noqa: F401

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.data.datamodule import DualStreamDataModule
from lightning_paras2s.data.dialogue import Dialogue, HeardUtterance
from lightning_paras2s.data.sources import ManifestDialogues
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.processor import KimiProcessor
from lightning_paras2s.models.qwen_omni.processor import SYSTEM, QwenOmniProcessor
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.turns import HeardTurn, Turn
from lightning_paras2s.types import Query

CPU = torch.device("cpu")
BROKE, SORRY = "My piano broke.", "Oh no, sorry."


def spoken(role: str, text: str, seconds: float, seed: int) -> HeardTurn:
    return HeardTurn(role, text, "x.wav", {}, hiss(seconds, seed), seconds)


def dialogue(*turns: Turn, name: str = "q0") -> Query:
    return Query(name, "p", "emotion", "train", "hi", {}, "", "", turns=turns)


@torch.no_grad()
def test_kimi_prompt_is_the_releases_of_user_audio_and_assistant_audio_with_text(tokenizer):  # noqa: F811
    """The release's prompt manager, by hand: each message begins with its role and ends with msg_end, all on the audio
    stream. A user's recording lies between media marks, and asks for text and speech (ctd), where it closes a turn. An
    assistant's history is 6 blanks and its codes, its words beside them from the first on; words alone are on the text
    stream. Only the user's speech has continuous features. `Bytes` gives a word its length as its id."""
    processor, config = TinyKimi(tokenizer), tiny_config()
    turns = (spoken("user", BROKE, 0.3, 1), spoken("assistant", SORRY, 0.5, 2), Turn("user", "I know."),
             Turn("assistant", "Tell me."))  # fmt: skip
    query = hiss(0.4, 3)
    heard = tokenizer.listen([query, turns[0].sound], CPU)
    (answer,) = tokenizer.codes([turns[1].sound], CPU)
    blank, begin, end = config.blank, config.media_begin, config.media_end
    (asked, asked_features), (first, first_features) = [(codes.tolist(), features) for codes, features in heard]
    closes = [end, config.speech_ctd, config.msg_end]
    audio = [config.user_start, begin, *first, *closes]
    text = [blank] * len(audio)
    audio += [config.assistant_start, *[blank] * 6, *answer.tolist(), config.msg_end]
    text += [blank, 2, 3, 6, *[blank] * (6 + len(answer) - 3), blank]  # "Oh", "no,", "sorry."
    audio += [config.user_start, blank, blank, config.msg_end, config.assistant_start, blank, blank, config.msg_end]
    text += [blank, 1, 5, blank, blank, 4, 3, blank]  # "I know.", "Tell me."
    before = len(audio)
    audio += [config.user_start, begin, *asked, *closes, config.assistant_start]
    text += [blank] * (len(audio) - len(text))
    batch = processor.to_device(processor.collate(processor.hear([query, query], [turns, ()])), CPU)
    assert batch.prompt.tokens[0].tolist() == [text, audio]
    where = [*range(2, 2 + len(first)), *range(before + 2, before + 2 + len(asked))]
    assert batch.prompt.features_mask[0].nonzero().flatten().tolist() == where
    wanted = torch.cat([first_features, asked_features])
    assert torch.allclose(batch.prompt.features[0, where], wanted, atol=1e-5)
    alone = processor.to_device(processor.hear([query]), CPU)
    row = batch.prompt.mask[1]
    assert torch.equal(batch.prompt.tokens[1][:, row], alone.prompt.tokens[0])  # without turns: as ever


def test_kimi_counts_the_positions_of_earlier_turns_before_any_weight_is_read():
    """0.4 s: 5 codes and 6 marks, behind it 8 steps: 19. Earlier: 5 marks and 4 codes; 2 marks, 6 blanks and 7 codes;
    twice 2 marks and 2 words: 9 + 15 + 4 + 4 = 32. Together 51."""
    processor = KimiProcessor("nowhere", "nowhere")
    processor.config = dataclasses.replace(tiny_config(), max_position_embeddings=46)
    processor.text = Bytes()
    turns = (spoken("user", BROKE, 0.3, 1), spoken("assistant", SORRY, 0.5, 2), Turn("user", "I know."),
             Turn("assistant", "Tell me."))  # fmt: skip
    asked = Dialogue("chat", None, HeardUtterance(0.4), None, dialogue(*turns))
    with pytest.raises(UserError, match=r"fit in 46 positions .*; got 51 for .q0. .*8 steps, behind 32 positions"):
        processor.check([asked], False, 8)
    processor.config = dataclasses.replace(processor.config, max_position_embeddings=51)
    processor.check([asked], False, 8)
    wordy = (turns[0], spoken("assistant", "a b c d e f g h i", 0.16, 2))  # 9 words, 6 blanks and 2 codes
    with pytest.raises(UserError, match="an earlier answer's text must fit beside its speech, in 8 tokens; got 9"):
        processor.check([Dialogue("chat", None, HeardUtterance(0.4), None, dialogue(*wordy))], False, 8)


def test_kimi_answers_a_dialogue_otherwise_than_its_last_turn_and_alone_as_in_a_batch(folder):  # noqa: F811
    kimi, sound = system(folder), hiss(0.4)
    turns = (spoken("user", BROKE, 0.5, 1), Turn("assistant", SORRY))
    queries = [dialogue(), dialogue(*turns)]
    together = kimi.respond(queries, [sound] * 2, 0)
    assert kimi.carries(turns) and not np.array_equal(together[0].audio.samples, together[1].audio.samples)
    for query, answer in zip(queries, together, strict=True):
        (alone,) = kimi.respond([query], [sound], 0)
        assert alone.text == answer.text and len(alone.audio.samples) == len(answer.audio.samples)


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "omni"
    return QwenOmniProcessor(str(path), dtype="float32"), write_release(path, context=1024)


def test_qwen_prompt_is_the_releases_template_of_a_dialogue(omni):
    """chat_template.json: each message <|im_start|>ROLE, its content, <|im_end|>; then the assistant's begin."""
    processor, _ = omni
    turns = (spoken("user", BROKE, 0.6, 1), spoken("assistant", SORRY, 0.5, 2), Turn("user", " I know.\n"),
             Turn("assistant", "Tell me."))  # fmt: skip
    query = hiss(0.9, 3)
    batch = processor.to_device(processor.collate(processor.hear([query, query], [turns, ()])), CPU)
    first, asked = processor.ears([turns[0].sound, query])
    said = [f"<|audio_bos|>{'<|AUDIO|>' * len(first)}<|audio_eos|>", SORRY, "I know.", "Tell me."]
    said.append(f"<|audio_bos|>{'<|AUDIO|>' * len(asked)}<|audio_eos|>")
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    for index, content in enumerate(said):
        text += f"<|im_start|>{('user', 'assistant')[index % 2]}\n{content}<|im_end|>\n"
    ids = processor.tokenizer.encode(text + "<|im_start|>assistant\n", add_special_tokens=False)
    mask, where = batch.prompt.mask[0], batch.prompt.features_mask[0]
    assert batch.prompt.tokens[0, TEXT][mask].tolist() == ids and batch.prompt.tokens[0, AUDIO, -1] == 267
    assert torch.allclose(batch.prompt.features[0][where], torch.cat([first, asked]), atol=1e-5)
    alone = processor.to_device(processor.hear([query]), CPU)
    assert torch.equal(batch.prompt.tokens[1][:, batch.prompt.mask[1]], alone.prompt.tokens[0])
    one = Dialogue("chat", None, HeardUtterance(0.9), None, dialogue(*turns))
    room = len(ids) + 8 + 1  # `check` rounds speech up by at most one position a recording
    processor.check([one], False, 1024 - room)
    with pytest.raises(UserError, match="must fit in 1024 positions"):
        processor.check([one], False, 1024 - len(ids) + 1)


@pytest.mark.parametrize("turns, wanted", [
    ((Turn("user", "a <|im_end|> b"), Turn("assistant", SORRY)), r"words alone; got <\|im_end\|> before 'q0'"),
    ((spoken("user", "", 0.02, 1), Turn("assistant", SORRY)), "0.1 to 300 s; got 0.02 s of an earlier turn of 'q0'"),
])  # fmt: skip
def test_qwen_refuses_a_turn_that_would_be_another(omni, turns, wanted):
    with pytest.raises(UserError, match=wanted):
        omni[0].check([Dialogue("chat", None, HeardUtterance(0.9), None, dialogue(*turns))], False, 8)


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for i, seconds in enumerate((0.3, 0.5)):
        write_audio(tmp_path / f"q{i}.wav", hiss(seconds, i))
        row = {"id": f"q{i}", "pair_id": "p", "factor": "emotion", "split": "train", "text": "hi", "topic": "t"}
        rows.append(row | {"styles": {"emotion": "sad"}, "audio": f"q{i}.wav"})
    rows[1]["turns"] = [{"role": "user", "text": BROKE, "audio": "q0.wav"}, {"role": "assistant", "text": SORRY}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "q.jsonl")


def test_training_prompts_hold_the_turns_of_a_manifest(manifest, tokenizer):  # noqa: F811
    """0.5 s are 7 codes and 6 marks, behind 5 marks and 4 codes, 2 marks and 3 words: 27 positions."""
    module = DualStreamDataModule(ManifestDialogues(manifest), TinyKimi(tokenizer), labelled=False, batch_size=2)
    module.setup()
    assert module.train.lengths == pytest.approx([12.5 * 0.3, 12.5 * 0.8])
    batch = module.transfer_batch_to_device(next(iter(module.predict_dataloader()[0])), CPU, 0)
    assert batch.prompt.mask.sum(1).tolist() == [10, 27] and batch.prompt.features_mask.sum(1).tolist() == [4, 11]


def test_the_embedded_family_refuses_turns_before_anything_is_read(manifest, tmp_path):
    line = "TinySpeechLM hears one utterance; got 'q1' with 2 earlier turns"
    module = DualStreamDataModule(ManifestDialogues(manifest), TinyProcessor("nowhere"), labelled=False, batch_size=2)
    with pytest.raises(UserError, match=line):
        module.setup()
    policy = PolicySystem("checkpoints/embedded/grpo.safetensors", TinyProcessor(), device="cpu")
    turns = (Turn("user", BROKE), Turn("assistant", SORRY))
    assert not policy.carries(turns)
    with pytest.raises(UserError, match=line.replace("q1", "q0")):
        policy.respond([dialogue(*turns)], [hiss(0.3)], 0)
    assert "policy" not in vars(policy)
    (tmp_path / "q0.wav").unlink()
    with pytest.raises(UserError, match=r"q\.jsonl:1: audio must be an existing file"):
        ManifestDialogues(manifest).dialogues("train", "")


def test_a_turns_recording_that_is_missing_names_the_line(manifest, tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    rows[1]["turns"][0]["audio"] = "gone.wav"
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"q\.jsonl:2: audio must be an existing file; got .*gone\.wav"):
        ManifestDialogues(manifest).dialogues("train", "")
