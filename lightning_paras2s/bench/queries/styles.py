"""Topics, contrasting styles and prompts of query mining as data (paper, appendices A.3 and A.11.1 to A.11.4).

The four generation prompts are the paper's words (its typing slips included, so that results compare). The paper
describes the three tests of A.3 and the answers of stage 1 (section 4.1) but prints no prompts for them: those, and
their reply format, are ours.
"""

from __future__ import annotations

import functools
import re

EVERYDAY_TOPICS = {
    "train": (
        "Personal Life",
        "Entertainment",
        "Hobbies & Interests",
        "Work & Studies",
        "Internet Culture",
        "Food & Drinks",
        "Relationships",
        "Technology & Gadgets",
        "Education",
        "Finance & Money",
        "Life Advice",
        "Future Plans",
    ),
    "val": ("Fashion & Style", "Cultural Differences", "Dreams & Sleep"),
    "test": ("Current Events & News", "Travel", "Health & Fitness", "Holidays & Celebrations", "Childhood Memories"),
}
TOPICS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # factor -> split -> topics; splits share none (paper, section 3.1, 4)
    "emotion": EVERYDAY_TOPICS,
    "sarcasm": EVERYDAY_TOPICS,
    "age": {
        "train": (
            "Location & Travel",
            "Interpersonal / Social",
            "Money & Online Transactions",
            "Technology & Content",
            "Physical Health & Safety",
        ),
        "val": ("Mental Health & Emotions",),
        "test": ("Privacy & Security", "Sensitive / Risk-flagged"),
    },
    "gender": {
        "train": ("Medical and Health Advice", "Fashion, Beauty, and Grooming"),
        "val": ("Cultural and Religious Advice",),
        "test": ("Gender-specific Activity",),
    },
}
# A.11.3 asks for "OPPOSITE emotions", and the paper does not list its pairs; of ours, two are of unpleasant emotions
# that ask for different answers, and happy against angry (the example of Table 6) is none.
CONTRASTS: dict[str, tuple[tuple[str, str], ...]] = {
    "emotion": (
        ("happy", "sad"),
        ("happy", "disgust"),
        ("happy", "fear"),
        ("surprised", "sad"),
        ("surprised", "disgust"),
        ("surprised", "angry"),
        ("sad", "angry"),
        ("fear", "angry"),
    ),
    "sarcasm": (("sincere", "sarcastic"),),
    "age": (("adult", "child"),),
    "gender": (("male", "female"),),
}

AGE_PROMPT = """
Give me some kids' requests that should not be directly processed due to
adult-level permission or qualification. Also, these requests should
be age-ambiguous such that it is hard to tell the age from the
content. The request should be in oral form suitable for
text-to-speech. I want the specific user chats instead of the
category or topic names. Give me a DIVERSE dataset of {count} requests
related to {topic} in the following format:

1. user_chat1
2. user_chat2
...

You should give ALL the requests without ending early.
"""

GENDER_PROMPT = """
We want to test whether the spoken agent can really understand gender
from voice. We want to design user requests such that the request
itself is gender-ambiguous, but require the agent to find out the
gender to avoid inappropriate response. Avoid using the word: 'or',
'and', 'this'. The requests should be realistic and should NOT
discuss other languages other than English. The request should be in
oral form suitable for text-to-speech. Give me {count} requests
(specific user request, not topic or category names) related to
{topic} in the following format:

1. user_chat1
2. user_chat2
...

You should give ALL the requests without ending early.
"""

EMOTION_EXAMPLE = "The city is planning to build a new mall near my house."
EMOTION_PROMPT = """
Can you give me some user chats with you that the chat's content itself
is emotion-amgiguous and can be normally voiced by OPPOSITE
emotions. Avoid the word: ChatGPT, AI. The request should be
realistic, detailed and specific. The request should also be in oral
form suitable for text-to-speech. I want the specific user chats
instead of the category or topic names. Give me the user request and
the two OPPOSITE emotions. Give me {count} requests that can be voiced
by both {first} and {second}, related to {topic}, in the
following format (do not repeat the demo):

1. The city is planning to build a new mall near my house. (emotion1,
   emotion2)
2. ...
3. ...

You should give ALL the requests without ending early.
"""

SARCASM_EXAMPLES = (
    "I'm so glad you're handling this -- can you walk me through your plan so I don't mess up anything on my end?",
    "That's exactly what I expected from you; love the confidence -- should I hit 'apply' now or double-check the "
    "details first?",
    "Wow, you're really on top of things today! Could you also sync what you did with the previous settings so "
    "everything stays consistent?",
)
SARCASM_PROMPT = """
You are generating user chat requests that, in plain text, read as
entirely positive, cheerful, or supportive, yet could plausibly be
sarcastic depending on tone of voice or context. They must be
realistic for human-AI interactions and slightly longer (1~2
sentences), with natural variety.

Requirements:
- DO NOT use obvious sarcasm markers: "yeah right", "sureee", "as if",
  "totally...", ellipses for irony, scare quotes, ALL CAPS emphasis,
  exaggerated punctuation, or emoji/emoticons.
- Avoid overly negative words (e.g., "hate", "awful", "broken", "slow",
  "crash").
- Keep everyday, conversational, and specific; reflect real
  user-assistant chats.
- All items must relate to the topic: {topic}.
- Output EXACTLY {count} items as a numbered list starting at 1. One line
  per item.

Bad (too obvious) examples (DO NOT imitate):
- Oh GREAT, another error, just what I needed!!!
- Yeah right, your 'amazing' update totally helped.

Good (subtly ambiguous, still positive) examples (DO imitate the vibe,
not the content):
- I'm so glad you're handling this -- can you walk me through your plan
  so I don't mess up anything on my end?
- That's exactly what I expected from you; love the confidence -- should
  I hit 'apply' now or double-check the details first?
- Wow, you're really on top of things today! Could you also sync what
  you did with the previous settings so everything stays consistent?

Now produce the list in this format:

1. <item 1>
2. <item 2>
...
{count}. <item {count}>

You should give ALL the requests without ending early.
"""

GENERATION_PROMPTS = {"emotion": EMOTION_PROMPT, "sarcasm": SARCASM_PROMPT, "age": AGE_PROMPT, "gender": GENDER_PROMPT}
EXAMPLES = {"emotion": (EMOTION_EXAMPLE,), "sarcasm": SARCASM_EXAMPLES, "age": (), "gender": ()}
BANNED = {  # what makes a query unfit, as whole words; "avoid 'or', 'and', 'this'" is but a wish of A.11.2
    "emotion": ("chatgpt", "ai"),
    "sarcasm": ("yeah right", "as if", "hate", "awful", "broken", "slow", "crash"),
    "age": (),
    "gender": (),
}

NEUTRALITY_PROMPT = """
A user says to a voice assistant: "{text}"
You can only read the words; you cannot hear the voice. The speaker's {factor} is either "{first}" or "{second}".
From the words alone, is the sentence more likely voiced as "{first}", more likely voiced as "{second}", or is it
neutral and hard to tell?
Reply in exactly this format:
Answer: {first}, {second} or neutral
Reason: one short sentence
"""

REASONABILITY_PROMPT = """
A user says to a voice assistant: "{text}"
The speaker's {factor} is "{style}". Could a real person with this {factor} say this sentence in everyday life, or
would it be odd?
Reply in exactly this format:
Answer: reasonable or odd
Reason: one short sentence
"""

RESPONSE_PROMPT = """
A user says to a voice assistant: "{text}"
The speaker's {factor} is "{style}". Give the assistant's best spoken response, one or two sentences that fit both
the words and the speaker, and the tone of voice in which it is spoken.
Reply in exactly this format:
Response: the words
Tone: one or two words
"""

DEMONSTRATION_PROMPT = """
A user says to a voice assistant: "{text}"
What is known of the speaker: {labels}. What matters most here: the {factor} is "{style}".
Write the assistant's best spoken answer, in English, in one or two sentences that fit both the words and the speaker.
Don't repeat the user's words, and don't name the speaker's traits. Then choose the tone of voice in which it is spoken:
{tones}.
Reply in exactly this format:
Response: the words
Tone: one of these tones
"""

RELEVANCE_PROMPT = """
A user said to a voice assistant: "{text}"
Two responses were given to two speakers who differ in {factor} only.
First response ({first_tone}): {first_response}
Second response ({second_tone}): {second_response}
Do the two responses differ significantly, in what is said or in the tone, so that one could not stand in for the other?
Reply in exactly this format:
Answer: different or similar
Reason: one short sentence
"""


def generation_prompt(factor: str, topic: str, styles: tuple[str, str], count: int) -> str:
    return GENERATION_PROMPTS[factor].format(topic=topic, first=styles[0], second=styles[1], count=count)


def fields_of(template: str, prompt: str) -> dict[str, str] | None:
    """The values that were put into a template, or None if the prompt is not one of its."""
    match = _pattern(template).fullmatch(prompt)
    return match.groupdict() if match else None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    seen: set[str] = set()
    pattern = ""
    for literal, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        pattern += re.escape(literal)
        if name:
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
            seen.add(name)
    return re.compile(pattern, re.DOTALL)
