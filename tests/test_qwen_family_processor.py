"""`QwenOmniProcessor` hears, prompts and speaks as transformers' own Qwen2.5-Omni does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from omni_release import write_release
from safetensors.torch import load_file, save_file

from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.data.dialogue import Dialogue, HeardUtterance
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni import memory
from lightning_paras2s.models.qwen_omni.processor import SYSTEM, QwenOmniProcessor, load_ears, load_voice
from lightning_paras2s.models.qwen_omni.released import read_omni_config
from lightning_paras2s.models.qwen_omni.scorer import parts
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion
from lightning_paras2s.types import Audio

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("release") / "omni"


@pytest.fixture(scope="module")
def release(folder):
    return write_release(folder, context=1024)


@pytest.fixture
def processor(folder, release):
    return QwenOmniProcessor(str(folder), dtype="float32")


def hiss(samples: int, seed: int) -> Audio:
    noise = np.random.default_rng(seed).standard_normal(samples) * 0.1
    return Audio(noise.astype(np.float32), 16_000)


def test_ears_give_the_releases_features_and_the_prompt_is_its_template(processor, release, folder):
    from transformers import WhisperFeatureExtractor

    audios = [hiss(9000, 0), hiss(16_000, 1), hiss(4001, 2)]
    batch = processor.to_device(processor.collate(processor.hear(audios)), CPU)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300, n_samples=4_800_000)  # as released
    for row, audio in enumerate(audios):
        mel = extractor(audio.samples, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
        found = release.thinker.get_audio_features(mel["input_features"], mel["attention_mask"])
        where = batch.prompt.features_mask[row]
        assert torch.allclose(batch.prompt.features[row][where], found.last_hidden_state, atol=1e-5)
        speech = "<|AUDIO|>" * len(found.last_hidden_state)
        text = (  # chat_template.json of the release, of a system's and a user's message
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|audio_bos|>{speech}<|audio_eos|><|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        ids = batch.prompt.tokens[row, TEXT][batch.prompt.mask[row]]
        assert ids.tolist() == processor.tokenizer.encode(text, add_special_tokens=False)
    assert batch.prompt.tokens[:, AUDIO, -1].tolist() == [267] * 3  # Chelsie's mark, see `write_release`
    assert QwenOmniProcessor(str(folder), "Ethan").prompt(torch.zeros(2, 16), 46)[0][AUDIO, -1] == 264


def spoken(rows: list[list[int]], text: str, processor) -> Completion:
    ids = processor.tokenizer.encode(text) + [258]
    width = max(len(ids), *map(len, rows))
    tokens, actions = torch.zeros(len(rows), 2, width, dtype=torch.long), torch.zeros(len(rows), 2, width).bool()
    for i, row in enumerate(rows):
        for stream, found in ((TEXT, ids), (AUDIO, row)):
            tokens[i, stream, : len(found)], actions[i, stream, : len(found)] = torch.tensor(found), True
    return Completion(tokens, actions, torch.ones(len(rows)).bool())


def test_voice_is_token2wav_with_its_noise_seeded_whatever_else_is_in_the_batch(processor, release):
    completion = spoken([[3, 9, 1, 7, 44], [5, 5, 43 + 1], [44]], "so nice", processor)
    before = torch.random.get_rng_state()
    first, second, silent = processor.speak(completion)
    assert torch.equal(before, torch.random.get_rng_state())
    speaker = release.speaker_map["Chelsie"]
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = release.token2wav(torch.tensor([[3, 9, 1, 7]]), speaker["cond"], speaker["ref_mel"]).reshape(-1)
    assert len(wanted) == 4 * 480 and 0.02 < wanted.std() < 0.6
    assert np.allclose(first.audio.samples, wanted, atol=1e-5)
    assert first.audio.sample_rate == 24_000 and len(second.audio.samples) == 2 * 480
    (alone,) = processor.speak(completion.rows(torch.tensor([1])))
    assert np.array_equal(alone.audio.samples, second.audio.samples)
    assert [r.text for r in (first, second, silent)] == ["so nice"] * 3 and not len(silent.audio.samples)
    (mute, *_) = processor.speak(completion, decode_audio=False)
    assert not len(mute.audio.samples) and mute.text == "so nice"


def test_marks_among_codes_are_not_spoken(processor):
    """The release's voice has no row for them, and would end in an error."""
    plain, marked = processor.speak(spoken([[3, 9, 44], [3, 46, 9, 47]], "a", processor))
    assert np.array_equal(plain.audio.samples, marked.audio.samples)


def dialogue(seconds: float) -> Dialogue:
    return Dialogue("chat", None, HeardUtterance(seconds))


def test_queries_that_do_not_fit_are_one_line(processor):
    processor.check([dialogue(5.0)], False, 256)
    with pytest.raises(UserError, match=r"must fit in 1024 positions; got \d+ for '' \(30 s, 25 a second, and 256"):
        processor.check([dialogue(30.0)], False, 256)
    for seconds in (0.02, 301.0):
        with pytest.raises(UserError, match=rf"must last 0.1 to 300 s; got {seconds:.2f} s"):
            processor.check([dialogue(seconds)], False, 8)
    with pytest.raises(UserError, match=r"max_steps must be at most 16384 codes"):
        processor.check([dialogue(1.0)], False, 16385)
    answered = Dialogue("chat", None, HeardUtterance(1.0), HeardUtterance(1.0))
    with pytest.raises(UserError, match="recorded answers can't be demonstrations"):
        processor.check([answered], True, 0)
    with pytest.raises(UserError, match="must be one of Chelsie, Ethan; got 'Me'"):
        _ = QwenOmniProcessor(processor.path, "Me").voice


@pytest.fixture
def copy(folder, release, tmp_path):
    load_ears.cache_clear(), load_voice.cache_clear()
    shutil.copytree(folder, tmp_path / "omni")
    return tmp_path / "omni"


def touch(folder, prefix: str, change) -> None:
    """Change the first tensor of a part."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = min(n for n in index if n.startswith(prefix))
    file = folder / index[name]
    tensors = load_file(file)
    tensors = {n: t for n, t in tensors.items() if n != name} | change(name, tensors[name])
    save_file(tensors, file)
    del index[name]
    for made in change(name, torch.zeros(1)):
        index[made] = file.name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


PARTS = {
    "thinker.model.": lambda p: p.load_policy(p.path, "cpu", "float32"),
    "thinker.lm_head.": lambda p: p.load_policy(p.path, "cpu", "float32"),
    "talker.": lambda p: p.load_policy(p.path, "cpu", "float32"),
    "thinker.audio_tower.": lambda p: p.ears,
    "token2wav.": lambda p: p.voice,
}


@pytest.mark.parametrize("prefix", PARTS)
def test_a_part_that_lacks_a_tensor_or_has_another_shape_is_one_line(prefix, copy):
    processor = QwenOmniProcessor(str(copy), dtype="float32")
    touch(copy, prefix, lambda name, tensor: {name: torch.zeros(3)})
    with pytest.raises(UserError, match=rf"must hold {prefix}.*; got \(3,\)"):
        PARTS[prefix](processor)
    touch(copy, prefix, lambda *_: {})
    with pytest.raises(UserError, match=rf"must hold {prefix}.*; got None"):
        PARTS[prefix](processor)


def test_a_folder_that_is_damaged_or_another_models_is_one_line(copy):
    processor = QwenOmniProcessor(str(copy), dtype="float32")
    shard, config = copy / "model-00002-of-00005.safetensors", json.loads((copy / "config.json").read_text())
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match="model-00002-of-00005.safetensors must be a whole safetensors file"):
        processor.load_policy(str(copy), "cpu", "float32")
    shard.unlink()
    with pytest.raises(UserError, match="must have the shard .*model-00002-of-00005.safetensors; it is missing"):
        processor.load_policy(str(copy), "cpu", "float32")
    (copy / "spk_dict.pt").unlink()
    with pytest.raises(UserError, match="must hold spk_dict.pt"):
        _ = processor.voice
    for part in ({"model_type": "qwen2"}, {"model_type": "kimi_audio"}):
        (copy / "config.json").write_text(json.dumps(config | part))
        with pytest.raises(UserError, match=rf"must hold Qwen2.5-Omni \(qwen2_5_omni\); got {part['model_type']}"):
            read_omni_config(copy)
    (copy / "config.json").write_text(json.dumps(config)[:-9])
    with pytest.raises(UserError, match="config.json must be JSON"):
        read_omni_config(copy)
    with pytest.raises(UserError, match="folder of Qwen2.5-Omni or of adapters for it; got /nowhere"):
        processor.load_policy("/nowhere", "cpu", "float32")


def test_another_sizes_policy_is_refused_by_its_config(processor, tmp_path):
    write_release(tmp_path / "larger", context=2048)
    processor.fits(processor.path)
    with pytest.raises(UserError, match="larger must be trained from .*; their configs differ in thinker_config"):
        processor.fits(str(tmp_path / "larger"))


def test_a_tokenizer_of_another_model_is_refused(copy):
    from omni_release import EXTRA
    from tiny_models import SPECIAL, byte_tokenizer

    byte_tokenizer((*SPECIAL[:3], "<|more|>", *SPECIAL[3:], *EXTRA)).save_pretrained(copy)
    with pytest.raises(UserError, match="must have one id for <|AUDIO|>; got 260 in its tokenizer and 259"):
        _ = QwenOmniProcessor(str(copy)).template


def test_a_card_that_is_too_small_is_refused_with_the_figure(folder, release):
    config = read_omni_config(folder)
    thinker, talker = (memory.weights(config, part) for part in ("thinker", "talker"))
    text = sum(p.numel() for p in parts(release.thinker)[1].parameters())
    assert thinker == text + release.thinker.lm_head.weight.numel()
    assert talker == sum(p.numel() for p in release.talker.parameters())
    assert memory.bytes_needed(config, "bfloat16") - memory.BESIDE == (thinker + talker) * 2
    with pytest.raises(UserError, match="the card must hold 18.0 GB before activations; got 16.0 GB"):
        memory.refuse_small(16e9, 18e9)
    memory.check_card(config, "bfloat16", "cpu")


def test_answers_are_known_by_the_settings_of_ears_template_and_voice(folder, release, tmp_path):
    """At another path, the same release is the same system."""
    others = [{"speaker": "Ethan"}, {"system": "Be kind."}, {"dtype": "bfloat16"}, {"seed": 1}, {"ode_points": 5}]

    def known(path=folder, **options) -> str:
        processor = QwenOmniProcessor(str(path), **{"dtype": "float32"} | options)
        return PolicySystem(str(path), processor, device="cpu").config_sha

    assert len({known(), *(known(**options) for options in others)}) == 6
    shutil.copytree(folder, tmp_path / "copy")
    assert known(tmp_path / "copy") == known()
