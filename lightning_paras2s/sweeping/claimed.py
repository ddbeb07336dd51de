"""What is claimed, by the paper or by nobody yet, and which rows tell of it: the lines of
docs/findings.md's tables, and of what the notebooks end with."""

from __future__ import annotations

from lightning_paras2s.sweeping.claims import Claim, ColumnClaim, EveryClaim, RatioClaim, TimesClaim, ValueClaim
from lightning_paras2s.sweeping.points import TRAINED

BETA_AND_G = (
    Claim("The score without a KL against that of beta .2", "not told in words", "beta", "beta", 0.2, 0.0, "any"),
    *(
        ValueClaim(f"Without a KL more is forgotten: {name}", "Fig. 3c: VoiceBench drops, no digits", "beta", "beta",
                   0.2, 0.0, "kept", ("skills", skill, "grpo", "change"))
        for skill, name in (("repeat", "repeating"), ("read", "reading aloud"), ("answer", "answering"),
                            ("name", "naming"))
    ),
    Claim("With too large a beta the score falls", "Fig. 3c, no digits", "beta", "beta", 0.2, 0.8, "higher"),
    ValueClaim("With too large a beta less is learned", "Fig. 3c, no digits", "beta", "beta", 0.2, 0.8,
               "reward, last quarter of steps", ("last_quarter", "reward")),
    Claim("G = 2 is worse than 8 at equal steps", "Fig. 3b, no digits", "G_steps", "G", 8, 2, "higher"),
    ValueClaim("Two answers get the same score more often than eight", "A.6: often, no digits", "G_steps", "G", 2, 8,
               "equal groups", ("zero_variance_share",)),
    Claim("G = 4 is worse than 8 at equal steps", "A.6: below 8 it drops significantly, no digits", "G_steps", "G",
          8, 4, "higher"),
    ValueClaim("Four answers get the same score more often than eight", "A.6: of two, no digits", "G_steps", "G", 4, 8,
               "equal groups", ("zero_variance_share",)),
)  # fmt: skip
SHORT = tuple(claim._replace(sweep=f"{claim.sweep}_short") for claim in BETA_AND_G)
ABLATIONS = (
    *BETA_AND_G,
    Claim("G = 16 is no better than 8", "Fig. 3b, no digits", "G_steps", "G", 16, 8, "any"),
    ValueClaim("Groups of sixteen learn more in as many steps", "not shown", "G_steps", "G", 16, 8,
               "reward, last quarter of steps", ("last_quarter", "reward")),
    Claim("G = 2 against 8 at equal rollouts", "not shown", "G_rollouts", "G", 8, 2, "any"),
    Claim("G = 4 against 8 at equal rollouts", "not shown", "G_rollouts", "G", 8, 4, "any"),
    Claim("G = 16 against 8 at equal rollouts", "not shown", "G_rollouts", "G", 16, 8, "any"),
    Claim("A larger batch is better at equal steps", "Fig. 3a, no digits", "B_steps", "B", 32, 4, "higher"),
    *(
        Claim(f"... {fewer} to {more} queries a step", "Fig. 3a: goes on improving, no digits", "B_steps", "B", more,
              fewer, "higher")
        for fewer, more in ((4, 8), (8, 16), (16, 32))
    ),
    ValueClaim("A larger batch learns more in as many steps", "not shown", "B_steps", "B", 16, 4,
               "reward, last quarter of steps", ("last_quarter", "reward")),
    Claim("A larger batch at equal rollouts", "not shown", "B_rollouts", "B", 32, 4, "any"),
    ValueClaim("A larger batch at equal rollouts strays less from its start", "not shown", "B_rollouts", "B", 4, 32,
               "KL, last quarter of steps", ("last_quarter", "kl")),
    Claim("The words' gradient against the voice's", "not ablated", "streams", "streams", "text", "audio", "any"),
    Claim("Advantages divided by their deviation, or not", "not ablated", "scale", "scale", "std", "none", "any"),
    Claim("The judge in the loop against the shipped reward model", "not ablated", "reward", "asked", "judge",
          "reward model", "any"),
    Claim("The reward model's expected score against its likeliest", "not ablated", "reading", "reading", "expected",
          "likeliest", "any"),
    ValueClaim("The likeliest score is the same for more whole groups", "not ablated", "reading", "reading",
               "likeliest", "expected", "equal groups", ("zero_variance_share",)),
    Claim("A KL of each stream against one of the pair", "not ablated", "betas", "held", "mostly the voice",
          "the pair", "any"),
    Claim("The voice held more than the words, or less", "not ablated", "betas", "held", "mostly the voice",
          "mostly the words", "any"),
    Claim("Each stream's ratio clipped against the pair's", "not ablated", "ratio", "ratio", "stream", "joint", "any"),
    Claim("A whole answer's ratio clipped against the pair's", "not ablated", "ratio", "ratio", "sequence", "joint",
          "any"),
)  # fmt: skip
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
CURVES = {
    "grpo": ("labels", "RL, judge in the loop"),
    "grpo_constrained": ("labels_reward", "RL, reward model of as many labels"),
    "grpo_unconstrained": ("labels_reward", "RL, reward model of all labels"),
}
EVERY = {
    "grpo_constrained": "section 5.2: in all data regimes, no digits",
    "grpo_unconstrained": "section 5.2: more than that, no digits",
}
TIMES = (
    (0.1, 5.0, "section 5.3: RL on 10 h as SFT on 50"),
    (0.2, 5.0, "section 5.3: RL on 20 h as SFT on 100"),
    (0.05, 10.0, "section 5.2: more than ten times as much data"),
)
LABELS = (
    *(
        EveryClaim(f"{name}: better than SFT at every amount", EVERY.get(system, "not in words"), sweep, "share",
                   SHARES, (system, "sft"))
        for system, (sweep, name) in CURVES.items()
    ),
    *(
        Claim(f"... judge in the loop, share {share}", "not in words", "labels", "share", share, share, "higher",
              ("grpo", "sft"))
        for share in SHARES
    ),
    Claim("SFT goes on improving as its data grow, from 5 % to all", "section 5.2, no digits", "labels", "share", 1.0,
          0.05, "higher", ("sft", "sft")),
    *(
        TimesClaim(f"{name}, {share:.0%}: SFT needs {times:g} times as many", said, sweep, "share", share, times,
                   (system, "sft"))
        for system, (sweep, name) in CURVES.items()
        for share, times, said in TIMES
    ),
    *(
        RatioClaim(f"{name}, 10%: 1.171 times the score of SFT", "section 5.3: more than 17.1 %", sweep, "share",
                   0.1, 1.171, (system, "sft"))
        for system, (sweep, name) in CURVES.items()
    ),
    *(
        Claim(f"A reward model of all labels gains more, share {share}", "section 5.2: additional gains, no digits",
              "labels_reward", "share", share, share, "higher", ("grpo_unconstrained", "grpo_constrained"))
        for share in SHARES[:-1]
    ),
    *(
        Claim(f"The judge in the loop against a reward model of all labels, share {share}", "not shown", "labels",
              "share", share, share, "any", ("grpo", "grpo_unconstrained"), other="labels_reward")
        for share in SHARES
    ),
)  # fmt: skip
UNLABELLED = (
    Claim("RL without a warm-up gains on the base policy", "section 5.3: it can't, no digits", "unlabelled", "share",
          0.0, 0.0, "any", ("grpo", "base")),
    Claim("A warm-up of 5 % is better than none", "section 5.3: critical, no digits", "labels", "share", 0.05, 0.0,
          "higher", ("grpo", "grpo"), other="unlabelled"),
    Claim("Rejection sampling without labels gains on the base policy", "not shown", "unlabelled", "share", 0.0, 0.0,
          "any", ("rejection", "base")),
    Claim("... against SFT on 5 %", "not shown", "unlabelled", "share", 0.0, 0.05, "any", ("rejection", "sft"),
          other="labels"),
)  # fmt: skip
BUDGET = (
    Claim("More of the budget for demonstrations is better", "Fig. 2b, no digits", "budget", "share", 0.7, 0.1,
          "higher"),
    Claim("... until the reward model correlates poorly", "Fig. 2b, no digits", "budget", "share", 0.9, 0.7, "any"),
    *(
        Claim(f"RL by the reward model of the rest gains on its SFT, share {share}", "not told in words", "budget",
              "share", share, share, "any", ("grpo", "sft"))
        for share in (0.1, 0.7, 0.9)
    ),
    ColumnClaim("A tenth of the budget makes a usable reward model", "section 5.4: correlation 0.7 with 10 of 100 h",
                "budget", "share", 0.9, "correlation", 0.7),
    ValueClaim("A reward model of more of the budget correlates better", "Fig. 2b, no digits", "budget", "share", 0.1,
               0.7, "correlation", ("columns", "correlation")),
)  # fmt: skip
REWARD_LABELS = (
    ColumnClaim("A tenth of the labels makes a usable reward model", "section 5.4: correlation 0.7 with 10 of 100 h",
                "reward_labels", "labels", 204, "correlation", 0.7),
    ColumnClaim("... and all of them do", "section 5.4: 0.7 with 10 of 100 h", "reward_labels", "labels", 2040,
                "correlation", 0.7),
    ValueClaim("Ten times as many labels correlate better", "section 5.4, no digits", "reward_labels", "labels", 2040,
               204, "correlation", ("columns", "correlation")),
    *(Claim(f"RL gains by a reward model of {labels:,} labels", "section 5.2, no digits", "reward_labels", "labels",
            labels, labels, "higher", TRAINED) for labels in (204, 2040)),
    Claim("... and by ten times as many labels more", "section 5.2: additional gains, no digits", "reward_labels",
          "labels", 2040, 204, "higher"),
)  # fmt: skip
CONDITIONS = ("as in the test", "without noise", "noise at -15 dB", "noise at -5 dB", "larger speakers",
              "smaller speakers", "wider prosody", "Piper")  # fmt: skip
REAL = "Table 8, real speech: + 0.137 (IEMOCAP), + 0.042 (MELD)"
TABLE_8 = {
    ("first", "first"): "+ 0.098 (IEMOCAP)",
    ("second", "second"): "+ 0.593 (MELD)",
    ("first", "second"): "+ 0.523 (IEMOCAP to MELD)",
    ("second", "first"): "+ 0.128 (MELD to IEMOCAP)",
}
GENERALISATION = (
    *(Claim(f"GRPO is better than its start: {name}", REAL, "generalisation", "heard", name, name, "higher", TRAINED)
      for name in CONDITIONS[:-1]),
    Claim("... Piper, in which no style can be heard", "not shown", "generalisation", "heard", "Piper", "Piper", "any",
          TRAINED),
    *(Claim(f"GRPO's score, {name}", "not shown", "generalisation", "heard", name, CONDITIONS[0], "any")
      for name in CONDITIONS[1:]),
    *(Claim(f"RL on the {a} half of the topics gains on the {b}", f"Table 8: {told}", "domains", "domain", a, a,
            "higher", TRAINED, b) for (a, b), told in TABLE_8.items()),
)  # fmt: skip
HELD = ("reward_on", "held")
REWARD_ON = (("text", "the words"), ("audio", "the voice"), ("both", "both streams"))
ANCHORS = (
    *(Claim(f"Reward on both streams against on {name} alone", "not ablated", "anchors", HELD, ("both", "none"),
            (stream, "none"), "any") for stream, name in REWARD_ON[:2]),
    *(Claim(f"The voice held, or not: reward on {name}", "not ablated", "anchors", HELD, (stream, "audio"),
            (stream, "none"), "any") for stream, name in REWARD_ON),
    *(ValueClaim(f"The voice held strays less from its start: reward on {name}", "not ablated", "anchors", HELD,
                 (stream, "none"), (stream, "audio"), "KL, last quarter of steps", ("last_quarter", "kl"))
      for stream, name in REWARD_ON),
)  # fmt: skip
LENIENT = ("no gibberish rule", "no WER limit", "neither")
HACKING = (
    *(Claim(f"Whole judge in the loop against {name}", "not shown", "hacking", "judge", "whole", name, "any")
      for name in LENIENT),
    *(ValueClaim(f"Whisper's words score less after {name}", "not shown", "hacking", "judge", "whole", name,
                 "score by Whisper's words", ("outside", "systems", "grpo", "score_outside")) for name in LENIENT),
)  # fmt: skip
