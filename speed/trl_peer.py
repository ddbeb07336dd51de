"""TRL's `GRPOTrainer` on a text model of the policy's trunk, a step at a time."""

from __future__ import annotations

import argparse
import tempfile

import torch
from policies import text_twin
from turns import Turn, even_share

from lightning_paras2s.running.cost import Shape


def train(args: argparse.Namespace, shape: Shape, turns: Turn) -> None:
    """`args.repeats` + 1 steps of TRL, each within `turns`."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Steps(TrainerCallback):
        def on_step_begin(self, *_, **__) -> None:
            turns.begin("trl")

        def on_step_end(self, *_, **__) -> None:
            turns.end("trl")

    torch.manual_seed(0)
    ids = torch.randint(2, shape.text_ids, (args.queries, args.prompt)).tolist()
    prompts = Dataset.from_list([{"prompt": " ".join(f"w{i}" for i in row)} for row in ids])
    with tempfile.TemporaryDirectory() as folder:
        text_twin(shape).save_pretrained(folder)  # TRL reads the policy and its reference from files
        settings = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=args.queries * args.group_size,
            num_generations=args.group_size, max_completion_length=args.steps, beta=0.2, loss_type="grpo",
            temperature=1.0, top_k=0, top_p=1.0, learning_rate=1e-5, lr_scheduler_type="constant",
            max_steps=args.repeats + 1, bf16=args.dtype == "bfloat16", use_cpu=args.device == "cpu",
            gradient_checkpointing=False, logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True,
            dataloader_pin_memory=False, model_init_kwargs={"dtype": "float32"},
        )  # fmt: skip
        GRPOTrainer(
            model=folder,
            args=settings,
            reward_funcs=lambda completion_ids, **_: [even_share(tuple(row)) for row in completion_ids],
            train_dataset=prompts,
            processing_class=numbers(shape.text_ids + shape.audio_ids),
            callbacks=[Steps()],
        ).train()


def numbers(size: int):
    """A tokenizer whose words are w0, w1, ...; w0 pads and w1 ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", padding_side="left")
