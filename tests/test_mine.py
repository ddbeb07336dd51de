"""`mine`: lists as models really write them, flaws as statuses, three tests with reasons, resume, cost."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from loopback import Loopback, Sent, completion

from lightning_paras2s.bench.queries import styles
from lightning_paras2s.bench.queries.lists import flaw, parse_answer, parse_numbered_list, parse_response, split_styles
from lightning_paras2s.bench.queries.mine import deduplicate, generations, mine
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.bench.queries.scripts import read_scripts
from lightning_paras2s.bench.queries.three_tests import Candidate, neutrality, reasonability, relevance
from lightning_paras2s.data.embedded import text_queries
from lightning_paras2s.errors import UserError
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat, Reply
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.types import FACTORS, SPLITS

THREE = ["Buy me a ticket.", "Book the 7:30 train.", "Is it 3.5 miles?"]


@pytest.mark.parametrize(
    "text",
    [
        "1. Buy me a ticket.\n2. Book the 7:30 train.\n3. Is it 3.5 miles?",
        'Sure! Here you go:\n\n1) "Buy me a ticket."\n\n2) "Book the 7:30 train."\n\n3) "Is it 3.5 miles?"\n\nEnjoy!',
        "**1.** Buy me a ticket.\n**2.** Book the 7:30 train.\n**3.** Is it 3.5 miles?",
        "1. **Buy me a ticket.**\n2. **Book the 7:30 train.**\n3. **Is it 3.5 miles?**",
        "```\n1. Buy me a ticket.\n2. Book the 7:30 train.\n3. Is it 3.5 miles?\n```",
        "- 1. Buy me a ticket.\n- 2. Book the 7:30 train.\n- 3. Is it 3.5 miles?",
        "1. Buy me\n   a ticket.\n2. Book the\n   7:30 train.\n3. Is it 3.5 miles?",
        "1. Buy me a ticket. 2. Book the 7:30 train. 3. Is it 3.5 miles?",
        "1: Buy me a ticket.\n2: Book the 7:30 train.\n3: Is it 3.5 miles?",
        "1. User: “Buy me a ticket.”\n2. User: “Book the 7:30 train.”\n3. User: “Is it 3.5 miles?”",
        "1. Buy me a ticket.\r\n2. Book the 7:30 train.\r\n3. Is it 3.5 miles?\r\n",
    ],
)
def test_a_list_is_read_when_it_comes_in_another_dress(text):
    assert parse_numbered_list(text, 3) == (THREE, "ok")


@pytest.mark.parametrize(
    "text, status, count",
    [
        ("I'm sorry, but I can't help with that.", "no_list", 0),
        ("", "no_list", 0),
        ("- Buy me a ticket.\n- Book a train.", "no_list", 0),
        ("1. Buy me a ticket.\n2. Book a train.\n... and so on up to 100.", "short", 2),
        ("1. Buy me a ticket.\n3. Book a train.\n4. Ask the driver.", "short", 3),
    ],
)
def test_a_reply_is_a_status_when_it_is_no_list_or_too_short(text, status, count):
    items = parse_numbered_list(text, 100)
    assert (items.status, len(items.items)) == (status, count)


def test_styles_are_read_off_the_end_when_an_item_names_them():
    assert split_styles("It rained. (happy, sad)") == ("It rained.", ("happy", "sad"))
    assert split_styles('"It rained." (Joyful / Fearful)') == ("It rained.", ("happy", "fear"))
    assert split_styles("I took it (finally) home.") == ("I took it (finally) home.", None)


@pytest.mark.parametrize(
    "text, factor, why",
    [
        ("The city is planning to build a new mall near my house", "emotion", "repeats_example"),
        ("user_chat1", "age", "placeholder"),
        ("...", "age", "placeholder"),
        ("<item 7>", "sarcasm", "placeholder"),
        ("Travel tips", "age", "length"),
        ("ChatGPT moved my meeting.", "emotion", "banned_word: chatgpt"),
        ("Yeah right, that helped me so much.", "sarcasm", "banned_word: yeah right"),
        ("Wie komme ich zum Bahnhof straße?", "age", "not_english"),
        ("I said hello to the mail carrier.", "emotion", None),  # "ai" is within words only
    ],
)
def test_a_flaw_is_named_when_an_item_cannot_be_a_query(text, factor, why):
    assert flaw(text, factor) == why


def test_an_answer_is_read_only_when_there_is_one_of_the_allowed():
    assert parse_answer("Answer: **Neutral**.\nReason: No cue.", ("happy", "neutral")) == ("neutral", "No cue.")
    assert parse_answer("It is neutral.", ("happy", "neutral"))[0] is None
    assert parse_answer("Answer: happy or neutral", ("happy", "neutral"))[0] is None
    assert parse_answer("Answer: happy\nAnswer: neutral", ("happy", "neutral"))[0] is None
    assert parse_response("Response: Go on.\nTone: calm") == ("Go on.", "calm")
    assert parse_response("Response: Go on.") is None


def test_prompts_are_the_papers_when_generated():
    prompts = generations(FACTORS, SPLITS, 100)
    assert Counter(p.factor for p in prompts) == {"emotion": 20 * 8, "sarcasm": 20, "age": 8, "gender": 4}
    age = next(p for p in prompts if p.factor == "age" and p.topic == "Location & Travel").prompt
    assert "Give me a DIVERSE dataset of 100 requests\nrelated to Location & Travel" in age and "{" not in age
    for factor in FACTORS:
        topics = [t for split in SPLITS for t in styles.TOPICS[factor][split]]
        assert len(set(topics)) == len(topics)


def test_topics_and_contrasts_are_the_text_sets_when_compared():
    for query in (q for split in SPLITS for q in text_queries(split)):
        assert query.topic in styles.TOPICS[query.factor][query.split]
        assert query.styles in styles.CONTRASTS[query.factor]


def test_fields_are_recovered_when_a_prompt_was_made_from_its_template():
    prompt = styles.generation_prompt("sarcasm", "Food & Drinks", ("sincere", "sarcastic"), 42)
    assert styles.fields_of(styles.SARCASM_PROMPT, prompt) == {"topic": "Food & Drinks", "count": "42"}
    assert styles.fields_of(styles.AGE_PROMPT, prompt) is None


def candidate(text: str = "It rained today.", split: str = "test", name: str = "c") -> Candidate:
    return Candidate(name, "emotion", split, "Travel", text, ("happy", "sad"))


def test_the_test_split_keeps_a_text_when_train_has_it_too():
    made = deduplicate(
        [candidate("We rode the big bus.", "train", "a"), candidate("We rode the big ship.", "test", "b")]
    )
    assert [(c.status, c.why.split(":")[0]) for c in made] == [("rejected", "duplicate"), ("open", "")]


class Says(ChatLLM):
    """Replies in turn."""

    name = "says"

    def __init__(self, *replies: str | Reply) -> None:
        self.replies = [r if isinstance(r, Reply) else Reply(r) for r in replies]

    def complete(self, conversations):
        return [self.replies.pop(0) for _ in conversations]


@pytest.mark.parametrize(
    "reply, status, why",
    [
        ("Answer: neutral\nReason: plain.", "open", ""),
        ("Answer: sad\nReason: rain.", "rejected", "neutrality: sad"),
        ("Hard to tell!", "failed", "neutrality: unparsed"),
        (Reply(None, "timeout"), "failed", "neutrality: timeout"),
    ],
)
def test_neutrality_decides_or_fails_when_a_model_replies(reply, status, why):
    made = neutrality(Says(reply), [candidate()])[0]
    assert (made.status, made.why) == (status, why)
    assert status != "rejected" or made.answers["neutrality"] == {"answer": "sad", "reason": "rain."}


def test_reasonability_needs_both_styles_when_one_is_odd():
    made = reasonability(Says("Answer: odd\nReason: no.", "Answer: reasonable\nReason: yes."), [candidate()])[0]
    assert (made.status, made.why) == ("rejected", "reasonability happy: odd")
    assert set(made.answers) == {"reasonability happy", "reasonability sad"}


def test_relevance_compares_two_responses_when_both_came():
    responses = ("Response: Yay.\nTone: cheerful", "Response: Oh no.\nTone: sad")
    made = relevance(Says(*responses, "Answer: different\nReason: yes."), [candidate()])[0]
    assert made.status == "open" and made.answers["response sad"] == {"response": "Oh no.", "tone": "sad"}
    made = relevance(Says(responses[0], "no idea"), [candidate()])[0]
    assert (made.status, made.why) == ("failed", "response sad: unparsed")


def test_mine_gives_scripts_with_reasons_when_run_offline(tmp_path):
    table = mine(str(tmp_path / "out"), factors=["age", "emotion"], splits=["val"], count=60)
    scripts = read_scripts(str(tmp_path / "out/scripts.jsonl"))
    assert scripts and {s.text for s in scripts} <= {q.text for q in text_queries("val")}
    rows = [json.loads(line) for line in (tmp_path / "out/candidates.jsonl").read_text().splitlines()]
    assert sum(table["candidates"].values()) == len(rows) > len(scripts)
    accepted = [row for row in rows if row["status"] == "accepted"]
    assert len(accepted) == len(scripts)
    assert all(row["answers"]["neutrality"]["reason"] and row["answers"]["relevance"]["reason"] for row in accepted)
    assert all(row["why"] for row in rows if row["status"] != "accepted")
    assert {row["split"] for row in rows} == {"val"}


def test_mine_rejects_every_decoy_when_the_scripted_model_judges(tmp_path):
    from lightning_paras2s.bench.queries.scripted import DECOYS

    mine(str(tmp_path / "out"), ScriptedLLM(decoys=9), splits=["test"], count=400)
    rows = [json.loads(line) for line in (tmp_path / "out/candidates.jsonl").read_text().splitlines()]
    planted = {text for texts in DECOYS.values() for text in texts}
    seen = [row for row in rows if row["text"] in planted]
    assert {row["text"] for row in seen} == planted and {row["status"] for row in seen} == {"rejected"}
    kept = Counter(row["factor"] for row in rows if row["status"] == "accepted")
    assert all(kept[factor] >= 295 for factor in FACTORS)


def test_mine_asks_nothing_when_it_is_a_dry_run(tmp_path):
    llm = OpenAIChat("gpt-4.1", base_url="http://127.0.0.1:9", cache_dir=str(tmp_path / "cache"))
    table = mine(str(tmp_path / "out"), llm, factors=["gender"], count=100, dry_run=True)
    assert table["requests"] == 4 + 4 * 100 * 6 and table["candidates"] == 400
    assert 0.5 < table["usd"] < 5  # 2,404 requests of about 120 + 45 tokens: 2404 * (120 * 2 + 45 * 8) / 1e6 = 1.44
    assert not (tmp_path / "out").exists()


def test_mine_counts_bad_replies_and_resumes_when_the_server_recovers(tmp_path):
    """Half of the prompts fail at first; one topic gets prose, one a list that is short and repeats the example."""
    scripted, down = ScriptedLLM(decoys=0), [True]

    def answer(path, body, times):
        prompt = json.loads(body)["messages"][0]["content"]
        if "planning to build" in prompt and "Fashion & Style" in prompt:
            return Sent(200, completion("I cannot make such a list."))
        if "planning to build" in prompt and "Dreams & Sleep" in prompt:
            listing = f"1. {styles.EMOTION_EXAMPLE} (happy, sad)\n2. {styles.EMOTION_EXAMPLE} (happy, sad)"
            return Sent(200, completion(listing))
        if down[0] and sum(body) % 2:
            return Sent(500, b"")
        return Sent(200, completion(scripted.complete([[{"role": "user", "content": prompt}]])[0].text))

    with Loopback(answer) as server:

        def run() -> dict:
            patience = Patience(1, 5, 0.01, 0.02)
            options = {"base_url": server.url, "cache_dir": str(tmp_path / "cache"), "patience": patience}
            llm = OpenAIChat("gpt-4.1", **options)
            return mine(str(tmp_path / "out"), llm, factors=["emotion"], splits=["val"], count=20, max_usd=1.0)

        first = run()
        failed = first["prompts"].get("http_500", 0) + first["candidates"].get("failed", 0)
        assert failed and first["prompts"]["no_list"] >= 8 and first["why"]["rejected repeats_example"] == 16
        assert first["usd"] == pytest.approx(first["asked"]["ok"] * (10 * 2 + 5 * 8) / 1e6, abs=1e-4)
        down[0] = False
        second = run()
        assert second["candidates"].get("failed", 0) == 0 and "http_500" not in second["prompts"]
        before = len(server.requests)
        third = run()
        assert len(server.requests) == before and third["usd"] == 0.0
        assert third["candidates"] == second["candidates"]


def test_mine_tests_existing_scripts_when_given_a_source(tmp_path):
    table = mine(str(tmp_path / "out"), factors=["sarcasm"], splits=["val"], source="embedded")
    assert sum(table["candidates"].values()) == 40 and table["prompts"] == {}
    assert read_scripts(str(tmp_path / "out/scripts.jsonl"))[0].subject


def test_mine_refuses_when_an_option_is_wrong(tmp_path):
    with pytest.raises(UserError, match="factors must be some of"):
        mine(str(tmp_path), factors=["mood"])
    with pytest.raises(UserError, match="splits must be some of train, val, test, each once; got val, val"):
        mine(str(tmp_path), splits=["val", "val"])
    with pytest.raises(UserError, match="spare must hold scripts of age, val; got none"):
        mine(str(tmp_path), source="spare", factors=["age"], splits=["val"])
    assert not [*tmp_path.iterdir()]
    with pytest.raises(UserError, match="max_usd needs the model's price"):
        mine(str(tmp_path), OpenAIChat("mystery"), max_usd=1.0)


def test_mine_refuses_to_write_over_the_scripts_that_it_tests(tmp_path):
    """Of 40 scripts of val, those of other factors or that a test drops would be lost."""
    made = tmp_path / "out"
    mine(str(made), factors=["sarcasm"], splits=["val"], source="embedded")
    before = (made / "scripts.jsonl").read_text()
    with pytest.raises(UserError, match="out must not hold the scripts that are read; .*scripts.jsonl is one"):
        mine(str(made), source=str(made / "scripts.jsonl"), factors=["sarcasm"], splits=["val"])
    assert (made / "scripts.jsonl").read_text() == before and before
