"""TensorBoard's tab of essential curves: it is in a run's events, and names what is logged."""

from __future__ import annotations

import re

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from lightning_paras2s.modules.grpo_metrics import reward_metrics
from lightning_paras2s.running.curves import CHARTS
from lightning_paras2s.running.runs import RunLogger


def test_essential_curves_are_laid_out_once_and_in_order(tmp_path):
    logger = RunLogger(str(tmp_path), "grpo", "a")
    for step in range(2):
        logger.log_metrics({"train/reward": 1.0 + step}, step)
    logger.save()
    events = EventAccumulator(logger.log_dir).Reload()
    (found,) = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(found.tensor_proto.string_val[0])
    first = layout.category[0]
    assert first.title == "GRPO" and [c.title for c in first.chart] == list(CHARTS["GRPO"])
    assert list(first.chart[0].multiline.tag) == ["^train/reward$", "^train/reward_best$"]


def test_charts_of_rewards_name_what_a_rollout_logs():
    logged = {f"train/{name}" for name in reward_metrics(torch.zeros(4), group_size=2)}
    charts = [tags for chart, tags in CHARTS["GRPO"].items() if "reward" in chart or "shares" in chart]
    for tag in (tag for tags in charts for tag in tags):
        assert any(re.search(tag, name) for name in logged), tag
