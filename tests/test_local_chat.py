"""`TransformersChat` on a tiny random Qwen2 with a chat template: transformers' own greedy words, in any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.servers.local import TransformersChat
from lightning_paras2s.servers.parts import text_part

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = ["Hi.", "What is the weather like in Rome?", "Say yes.", "No, wait"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    path = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = byte_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), end="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    sizes = {"vocab_size": 259, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    sizes |= {"max_position_embeddings": 300}
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, eos_token_id=tokenizer.eos_token_id))
    # settings of the folder that must not count
    model.generation_config.update(repetition_penalty=2.0, top_k=2, do_sample=True)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def chat(folder: str, **options) -> TransformersChat:
    return TransformersChat(folder, **{"max_tokens": 24, "device": "cpu", "dtype": "float32"} | options)


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def greedy(model, ids: list[int], steps: int) -> list[int]:
    """The likeliest token again and again, without a cache."""
    written = []
    with torch.no_grad():
        for _ in range(steps):
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


def test_replies_are_the_likeliest_words_after_the_chat_template(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    replies = chat(folder).complete([user(text) for text in ASKED])
    for text, reply in zip(ASKED, replies, strict=True):
        ids = tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
        wanted = greedy(model, ids, 24)
        end = tokenizer.eos_token_id
        ended = end in wanted
        words = tokenizer.decode(wanted[: wanted.index(end)] if ended else wanted, skip_special_tokens=True).strip()
        assert reply.status == ("truncated" if not ended else "ok" if words else "empty")
        assert (reply.text if reply.status == "ok" else reply.message) in (words, "")
        assert reply.usage["prompt_tokens"] == len(ids)
    assert chat(folder).complete([user(text) for text in ASKED]) == replies


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_does_not_depend_on_its_batch(folder, temperature):
    talk = chat(folder, temperature=temperature, batch_size=3)
    together = talk.complete([user(text) for text in ASKED])
    assert [talk.complete([user(text)])[0] for text in ASKED] == together
    assert [r.message or r.text for r in together] == [
        r.message or r.text for r in talk.complete([user(t) for t in ASKED])
    ]


def test_a_conversation_that_comes_again_is_another_sample(folder):
    first, second = chat(folder, temperature=1.0).complete([user("Hi.")] * 2)
    assert first != second
    other = chat(folder, temperature=1.0, seed=1)
    assert other.complete([user("Hi.")])[0] != first and other.name != chat(folder, temperature=1.0).name


def test_a_named_sample_does_not_depend_on_what_is_asked_beside_it(folder):
    talk = chat(folder, temperature=1.0)
    one, two = talk.complete([user("Hi.")] * 2, ["q1/0", "q2/0"])
    assert one != two and talk.complete([user("Hi.")], ["q2/0"]) == [two]


def test_parts_of_text_are_joined_and_speech_is_refused(folder):
    talk = chat(folder)
    parts = [{"role": "user", "content": [text_part("Hi"), text_part(".")]}]
    assert talk.complete([parts]) == talk.complete([user("Hi.")])
    with pytest.raises(UserError, match="reads text alone"):
        talk.complete([[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]])


def test_a_judge_takes_it_and_its_name_is_its_weights(folder, tmp_path):
    talk = chat(folder)
    assert LLMJudge(talk).name.endswith(talk.name) and talk.name.startswith("tiny-")
    for file in (p for p in Path(folder).iterdir()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    assert chat(str(tmp_path)).name.split("-")[-2] != talk.name.split("-")[-2]


def test_bad_folders_and_conversations_are_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="must be a local folder; got /nowhere"):
        TransformersChat("/nowhere")
    with pytest.raises(UserError, match="must fit in 300 tokens; got 419 and max_tokens 24"):
        chat(folder).complete([user("x" * 400)])
    with pytest.raises(UserError, match="without CUDA"):
        chat(folder, device="cuda")
    with pytest.raises(UserError, match="batch_size at least 1"):
        chat(folder, batch_size=0)
    for file in (p for p in Path(folder).iterdir() if p.suffix != ".jinja"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="must have a chat template"):
        chat(str(tmp_path)).complete([user("Hi.")])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="must hold model.safetensors"):
        _ = chat(str(tmp_path)).model
