"""What a chat model writes for `demonstrate`: an answer or a status; its prompt, its
tones, and the words that count as English."""

from __future__ import annotations

from collections import Counter

import pytest
from test_demonstrate import GOOD, query

from lightning_paras2s.bench.queries import styles
from lightning_paras2s.bench.queries.answer_flaws import flaw_of, is_foreign, read_answer
from lightning_paras2s.bench.queries.demonstrate_words import prompt_of
from lightning_paras2s.data.open_text import read_open
from lightning_paras2s.hearing.tone_words import TONE_WORDS, agrees
from lightning_paras2s.types import FACTORS, TONES, Query


@pytest.mark.parametrize(
    "reply, status",
    [
        (f"Response: {GOOD}\nTone: empathetic", "ok"),
        (f'**Response:** "{GOOD}"\n**Tone:** Calm.', "ok"),
        ("Response: I'm so happy for you, and sad to see you go!\nTone: cheerful", "ok"),
        ("Response: I can't buy that for you without a grown-up, sorry.\nTone: calm", "ok"),
        ("Response: I'm sorry, but I can't help with that request.\nTone: neutral", "refused"),
        ("I'm sorry, but I can't assist with that.", "refused"),
        ("Response: As an AI, I have no feelings about trains.\nTone: neutral", "refused"),
        (GOOD, "unparsed"),
        (f"Response: {GOOD}\nResponse: {GOOD}\nTone: calm", "unparsed"),
        (f"Response: {GOOD}\nTone: gloomy", "other_tone"),
        ("Response: Das tut mir leid, ich helfe dir gern dabei.\nTone: empathetic", "other_language"),
        ("Response: Je suis là pour vous aider avec le train.\nTone: calm", "other_language"),
        ("Response: Мне очень жаль это слышать.\nTone: empathetic", "other_language"),
        ("Response: The train home leaves in five minutes!\nTone: calm", "repeats_query"),
        ("Response: You said the train home leaves in five minutes, so do hurry up now.\nTone: calm", "repeats_query"),
        ("Response: You sound sad, so I will watch the clock.\nTone: empathetic", "leaks_label"),
        ("Response: As a female, you could take the night train.\nTone: calm", "leaks_label"),
        ("Response: [empathetic] I will watch the clock for you.\nTone: empathetic", "leaks_label"),
        ("Response: (in a calm voice) I will watch the clock for you.\nTone: calm", "leaks_label"),
        ("Response: Yes\nTone: calm", "length"),
        (f"Response: {' '.join(['so we go on'] * 20)}\nTone: calm", "length"),
    ],
)
def test_a_reply_is_an_answer_or_a_status(reply, status):
    found = read_answer(reply, query())
    assert found.status == status and (found.text is not None) == (status == "ok")


def test_reference_answers_of_the_open_set_have_no_flaw():
    """2,268 answers that were written as good ones, each beside its query and labels."""
    flaws = Counter()
    for factor in FACTORS:
        for prompt in read_open(factor, "test") + read_open(factor, "val"):
            for style, answer in prompt.answers.items():
                asked = Query("q", "p", factor, "test", prompt.text, {factor: style}, "", "")
                flaws[flaw_of(answer.text, answer.text, asked)] += 1
    assert set(flaws) == {None} and flaws[None] > 2000


def test_borrowed_words_are_english():
    assert not is_foreign("Bravo! Say: l'addition, s'il vous plaît, and they'll take you for a local.")


def test_a_tone_agrees_when_a_describer_says_it_in_other_words():
    assert all(agrees(tone, tone) for tone in TONES) and set(TONE_WORDS) == set(TONES)
    assert not any(agrees(a, b) for a in TONES for b in TONES if a != b)
    assert agrees("calm", "calm and reassuring") and agrees("empathetic", "Warm, sympathetic")
    assert not agrees("cheerful", "not cheerful") and not agrees("cheerful", "") and not agrees("excited", "flat")


def test_the_prompt_tells_all_labels_and_reads_back():
    found = styles.fields_of(styles.DEMONSTRATION_PROMPT, prompt_of(query(text='He said "go" and left.')))
    assert found["labels"] == "emotion sad, age adult, gender female" and found["style"] == "sad"
    assert found["text"] == 'He said "go" and left.' and all(tone in found["tones"] for tone in TONES)
