"""The guideline A.11.5: its parser, and its rules against the sentences that they come from."""

import hashlib
import re

import pytest

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging import rubric
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.judging.rubric import read_rubric
from lightning_paras2s.servers.chat import ChatLLM, Reply
from lightning_paras2s.types import STYLES, TONES, Evidence, Query

QUERY = Query("q", "p", "emotion", "test", "We sold the old house.", {"emotion": "sad"}, "Home", "q.wav")


@pytest.mark.parametrize(
    ("reply", "score", "status"),
    [
        ("The reason is warm and apt; The score is 5.", 5, "ok"),
        ("the reason is flat.\nThe Score is: **2**", 2, "ok"),
        ("The reason is flat; The score is 3/5", 3, "ok"),
        ("The reason is flat; The score is 4.0 .", 4, "ok"),
        ("The reason is flat.", None, "no_score"),
        ("The reason is _; The score is _ .", None, "no_score"),
        ("The reason is flat; The score is high", None, "no_score"),
        ("", None, "no_score"),
        ("The score is 10", None, "score_out_of_range"),
        ("The score is 0", None, "score_out_of_range"),
        ("The score is -3", None, "score_out_of_range"),
        ("The score is 3.5", None, "score_not_whole"),
        ("The score is 4. On reflection, the score is 2.", None, "several_scores"),
        ("The score is 4-5", None, "several_scores"),
        ("The score is 4 or 5", None, "several_scores"),
        ("The score is 4 to 5", None, "several_scores"),
        ("The score is 4\u20135.", None, "several_scores"),
        ("The score is 4 1/2", None, "several_scores"),
        ("The score is 4,5", None, "score_not_whole"),
        ("The score is **4,5**", None, "score_not_whole"),
        ("The score is 4 and a half", None, "score_not_whole"),
        ("The score is 4-and-a-half.", None, "score_not_whole"),
        ("The score is 3 and two thirds", None, "score_not_whole"),
        ("The score is 4\u00bd", None, "score_not_whole"),
        ("The score is 4 point five", None, "score_not_whole"),
        ("The score is 4+", None, "score_not_whole"),
        ("The score is 4/10", None, "other_scale"),
        ("The score is 4 out of 10", None, "other_scale"),
        ("The score is 5 out of fifty", None, "other_scale"),
        ("The score is 5/50", None, "other_scale"),
        ("The score is 4%", None, "other_scale"),
        ("The score is \u22124", None, "score_out_of_range"),
        ("The score is ~4", None, "no_score"),
        ("The score is 4x", None, "no_score"),
        ("The score is 4 out of 5", 4, "ok"),
        ("The score is 4 (out of five).", 4, "ok"),
        ("The score is **4**/5", 4, "ok"),
        ("The score is 4 points, and a warm tone", 4, "ok"),
        ("The score is 4, for the tone fits", 4, "ok"),
        ("The score is 4 - the tone fits", 4, "ok"),
        ("The score is 4.\n\n2. Tone: warm", 4, "ok"),
    ],
)
def test_parse_score_never_guesses(reply, score, status):
    parsed = rubric.parse_score(reply)
    assert (parsed.score, parsed.status) == (score, status)


def test_parse_score_keeps_the_reason():
    assert rubric.parse_score("The reason is warm and apt; The score is 5").reason == "warm and apt"


def test_prompt_is_the_guideline_with_user_and_agent_filled_in():
    prompt = rubric.build_prompt(
        QUERY, QUERY.style, Evidence("r", "i am {so} sorry", tone="calm", tone_raw="soft, calm")
    )
    assert "transcription: We sold the old house.\nemotion: sad\n" in prompt
    assert "transcription: i am {so} sorry\ntone: soft, calm\n" in prompt
    assert "{user}" not in prompt and "The reason is _; The score is _" in prompt
    assert rubric.RUBRIC_SHA == hashlib.sha256(f"{rubric.PARSER_VERSION}\n{rubric.PROMPT}".encode()).hexdigest()


class Chat(ChatLLM):
    """Remembers what it was asked and always gives four points."""

    name = "four"

    def complete(self, conversations):
        self.asked = [messages[0]["content"] for messages in conversations]
        return [Reply("The reason is tact; The score is 4") for _ in conversations]


def test_a_rubric_of_ones_own_is_asked_and_known_by_its_hash(tmp_path):
    own = tmp_path / "warmth.txt"
    own.write_text("Is it warm?\n{user}\n{agent}\nSay: The reason is _; The score is _")
    chat = Chat()
    (verdict,) = LLMJudge(chat, rubric=str(own)).judge_all([QUERY], [QUERY.style], [Evidence("r", "oh no")])[0]
    assert verdict.score == 4 and chat.asked[0].startswith("Is it warm?\ntranscription: We sold the old house.")
    assert verdict.rubric_sha == rubric.rubric_sha(own.read_text()) != LLMJudge(chat).rubric_sha == rubric.RUBRIC_SHA
    own.write_text(own.read_text().replace("warm", "kind"))
    assert LLMJudge(chat, rubric=str(own)).rubric_sha != verdict.rubric_sha


@pytest.mark.parametrize(
    ("text", "message"),
    [("{user} The score is _", "hold {agent} once; got it 0 times"),
     ("{user}{user}{agent} The score is _", "hold {user} once; got it 2 times"),
     ("{user} {agent} Rate it.", "must ask for")],
)  # fmt: skip
def test_a_rubric_that_cannot_be_asked_is_one_line(tmp_path, text, message):
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        LLMJudge(Chat(), rubric=str(tmp_path / "r.txt"))


def test_a_rubric_in_another_encoding_is_refused(tmp_path):
    """The judge was asked with a replacement character in each accent's place."""
    (tmp_path / "r.txt").write_bytes("{user} {agent} naïve? The score is _".encode("latin1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_rubric(tmp_path / "r.txt")


@pytest.mark.parametrize(
    ("style", "act", "tone", "score"),
    [
        ("happy", "emotion:happy", "cheerful", 5),  # "when the user is happy, the response shares the joy"
        ("sad", "emotion:sad", "empathetic", 5),  # "when the user is sad, the response offers appropriate comfort"
        ("sarcastic", "sarcasm:sarcastic", "apologetic", 5),  # "identifies the underlying negative sentiment"
        ("female", "gender:female", "neutral", 4),  # "a neutral-tone response to a female user inquiring about ..."
        ("sarcastic", "sarcasm:sarcastic", "calm", 3),
        ("sad", "emotion:sad", "cheerful", 2),
        ("adult", "generic", "neutral", 3),  # "does not provide correct personalized content, though it is not jarring"
        ("sad", "generic", "neutral", 2),  # "a flat response to a sad question"
        ("sad", "generic", "excited", 2),
        ("sad", "generic", "empathetic", 3),
        ("happy", "generic", "neutral", 3),
        ("fear", "emotion:sad", "empathetic", 2),  # "reply to a fearful user as if he/she is sad"
        ("angry", "emotion:fear", "calm", 2),  # "reply to an angry user as if he/she is fearful"
        ("happy", "emotion:surprised", "excited", 2),
        ("sad", "emotion:happy", "cheerful", 1),  # "reply to a sad user as if he/she is happy"
        ("happy", "emotion:sad", "empathetic", 1),  # "reply to a happy user as if he/she is sad"
        ("sincere", "sarcasm:sarcastic", "apologetic", 1),  # "misinterpret a sincere compliment as a negative comment"
        ("sarcastic", "sarcasm:sincere", "cheerful", 1),  # "misinterpret a sarcastic compliment as sincere"
        ("male", "gender:female", "calm", 1),  # "male-specific recommendation to a female, or vice versa"
        ("adult", "age:child", "calm", 1),
        ("child", "gibberish", "calm", 1),
        ("child", "other", "calm", 2),
    ],
)
def test_rules_follow_the_guideline(style, act, tone, score):
    assert rubric.score_act(style, act, tone, names_topic=True).score == score
    assert rubric.score_act(style, act, tone, names_topic=False).score == max(1, score - 1)


def test_tables_cover_every_style_and_best_tones_never_clash():
    styles = {style for values in STYLES.values() for style in values}
    assert rubric.BEST_TONES.keys() == styles == rubric.CLASHING_TONES.keys()
    for style in styles:
        assert rubric.BEST_TONES[style] <= set(TONES) and not rubric.BEST_TONES[style] & rubric.CLASHING_TONES[style]


@pytest.mark.parametrize(
    ("transcript", "named"),
    [
        ("i am sorry about the house", True),
        ("i am sorry about the houses", True),
        ("i am sorry about the housse", True),  # one letter too many, as a small transcriber hears it
        ("i am sorry about the garden", False),
        ("we are sorry", False),  # "we" is in the query but says nothing of its topic
        ("", False),
    ],
)
def test_topic_is_a_shared_content_word(transcript, named):
    assert rubric.names_topic(QUERY.text, transcript) is named


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        ("house", "house", True),
        ("house", "hose", True),
        ("hose", "house", True),
        ("house", "mouse", True),
        ("house", "mose", False),
    ],
)
def test_one_letter_apart(a, b, apart):
    assert rubric.one_letter_apart(a, b) is apart
