"""The essential curves on one tab of TensorBoard (Custom Scalars), in the order in which one asks: does it learn, does
it drift, does it hold outside, does it still vary, how long are the answers, where does the time go."""

from __future__ import annotations

from typing import Any

# Chart -> the tags that it holds, as regular expressions (TensorBoard's custom scalars plugin, "Multiline").
CHARTS = {
    "GRPO": {
        "1 reward of the rollouts: mean, and mean of the groups' best": ["^train/reward$", "^train/reward_best$"],
        "2 KL to the reference: nats a text token, nats an audio action, their sum": ["^train/kl(/(text|audio))?$"],
        "3 fixed questions: the judge, and the audit that nothing was trained on": ["^probe/(judge|audit)$"],
        "4 fixed questions: word error rate, by our ear and by one from outside": ["^probe/wer(_outside)?$"],
        "5 shares: groups that teach nothing, unscored answers": ["^train/(zero_std_groups|unscored)$"],
        "6 entropy, nats an action": ["^train/entropy/(text|audio)$"],
        "7 actions an answer": ["^train/length/(text|audio)$"],
        "8 seconds a step, by part": ["^seconds/"],
        "9 gradient before clipping; share of clipped ratios": ["^train/grad_norm$", "^train/clip_fraction/"],
        "10 tokens a second of each device": ["^train/tokens_per_second_per_device$"],
        "11 time of each part, of the step's (1 in all; more where two run beside each other)": ["^share/"],
    },
    "Supervised and reward": {
        "1 loss, nats": ["^(train|val)/loss$"],
        "2 loss of each stream, nats a token": ["^(train|val)/loss/(text|audio)$"],
        "3 gradient before clipping": ["^train/grad_norm$"],
        "4 learning rate": ["^train/lr$"],
    },
}


def layout() -> dict[str, dict[str, list[Any]]]:
    """As `SummaryWriter.add_custom_scalars` takes it."""
    return {tab: {chart: ["Multiline", tags] for chart, tags in charts.items()} for tab, charts in CHARTS.items()}
