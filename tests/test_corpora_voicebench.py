"""VoiceBench: what is imported of it; the overall figures, as published, from the sets' own; each set's, by hand."""

from __future__ import annotations

import json

import pytest
from test_corpora import heard, imported, on_hub, outside, sound, wav_bytes

from lightning_paras2s.bench.corpora import voicebench_scores as vb
from lightning_paras2s.bench.corpora.voicebench_rules import RULES, follows
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError

# alpacaeval_full, commoneval, wildvoice, sd-qa, mmsu, openbookqa, bbh, ifeval, advbench -> overall, as published
PUBLISHED = {
    "Kimi-Audio": ((4.46, 3.97, 4.20, 63.12, 62.17, 83.52, 69.70, 61.10, 100.00), 76.91),
    "GPT-4o-Audio": ((4.78, 4.49, 4.58, 75.50, 80.25, 89.23, 84.10, 76.02, 98.65), 86.75),
    "Moshi": ((2.01, 1.60, 1.30, 15.64, 24.04, 25.93, 47.40, 10.12, 44.23), 29.51),
    "LLaMA-Omni": ((3.70, 3.46, 2.92, 39.69, 25.93, 27.47, 49.20, 14.87, 11.35), 41.12),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_overall_figure_is_the_mean_of_its_nine(model):
    figures, published = PUBLISHED[model]
    # Nine figures printed with two decimals: three of them times 20, so up to .036 away; printed ones to .005.
    assert vb.overall(dict(zip(vb.NINE, figures, strict=True))) == pytest.approx(published, abs=0.036)


def test_kimi_audios_is_76_91_to_the_last_digit():
    assert round(vb.overall(dict(zip(vb.NINE, PUBLISHED["Kimi-Audio"][0], strict=True))), 2) == 76.91


def test_an_overall_figure_needs_all_nine():
    with pytest.raises(UserError, match="bbh are missing"):
        vb.overall({name: 1.0 for name in vb.NINE if name != "bbh"})


def answer(text: str, **more) -> dict:
    return {"prompt": "p", "response": text, **more}


def test_open_scores_are_averaged_over_all_that_can_be_read():
    rows = [answer("", score=["4", "[[5]]", "Rating: [[3]]"]), answer("", score=["2", "none", "9"])]
    assert vb.mean_score(rows) == (3.5, 4, 2)  # (4 + 5 + 3 + 2) / 4; "none" and 9 are no scores


def test_votes_need_a_majority():
    rows = [
        answer("", score=["Yes", "yes.", "No"]),
        answer("", score=["No", "No", "Yes"]),
        answer("", score=["Yes", "?", "x"]),
    ]
    assert vb.voted(rows) == pytest.approx((100 / 3, 3, 1))


def test_letters_that_cannot_be_read_are_wrong_and_the_same_each_time():
    rows = [
        answer("The answer is B.", reference="B"),
        answer("C", reference="B"),
        answer("Hard to say.", reference="A"),
    ]
    assert vb.picked(rows) == vb.picked(rows) == pytest.approx((100 / 3, 3, 1))


def test_bbh_counts_what_cannot_be_read():
    rows = [
        answer("Let me see, no wait. Yes.", reference="yes"),
        answer("The sentence is not plausible, so no.", reference="No"),
        answer("The answer is (B).", reference="(B)"),
        answer("a", reference="(A)"),
        answer("I know nothing of it.", reference="yes"),
    ]
    assert vb.reasoned(rows) == pytest.approx((80, 5, 1))  # "know" and "nothing" hold no "no"


LETTERS = [
    ("The answer is (B). Adjectives follow the order opinion, size, age; this is a rule of English.", "b"),
    ("Option B. The first sentence is a mess.", "b"),
    ("(B) is the correct one. That is a fact.", "b"),
    ("the answer is b because there is a rule", "b"),
    ("the answer is b adjectives follow an order this is a rule of english", "b"),  # as it is heard
    ("a", "a"), ("**B**", "b"), ("b) an old red car", "b"), ("The correct sentence is A.", "a"),
    ("the correct order of adjectives is a", "a"), ("the correct adjective order is b because size comes first", "b"),
    ("the answer is a because size comes first", "a"), ("the order is right in sentence a and wrong in the other", "a"),
    ("It is a.", "a"), ("the answer is, without any modification, (a)", "a"),
    ("option a has the correct adjective order", "a"), ("Sentence A follows the usual order.", "a"),
    ("Sentence a is the one.", "a"), ("(a) is correct because size comes first", "a"),
    ("The answer is (B). Option A puts the colour first.", "b"),  # what it calls its answer counts
    ("option a puts colour first option b puts size first the answer is b", "b"),
    ("The answer is (A). No wait, the answer is (B).", "b"),
    ("Option A is incorrect and option B is correct.", "b"), ("Option B is correct. Option A is not correct.", "b"),
    ("Both (A) and (B) are fine.", None), ("the correct sentence is a big red car", None),
    ('This is a "nice old" rule.', None), ("a big red car is right", None), ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("said", "letter"), LETTERS)
def test_a_letter_of_bbh_is_no_article(said, letter):
    assert vb.concluded(said, "(B)") == vb.concluded(said, "(A)") == letter


YES_OR_NO = [
    ("Yes, it is plausible. There is no problem with that.", "yes"),
    ("yes it is plausible there is no problem with that", "yes"),
    ("Yes. No player is named twice.", "yes"),
    ("No. It is not plausible; yes, he plays golf.", "no"),  # a leading one comes before the last one
    ("no it is not plausible", "no"), ("**No**\n\nThe steps lead away.", "no"), ("No - he lies.", "no"),
    ("No contradiction is found, so yes.", "yes"), ("There is no contradiction. He tells the truth: yes", "yes"),
    ("Yes, you face north. So the answer is no.", "no"), ("The answer is: No, because he lies.", "no"),
    ("The answer to whether there is no way back is yes.", "yes"),
    ("You turn left. Yes? You turn right. No.", "no"), ("There is no way to tell.", None),
    ("No one knows; a no-brainer.", None), ("I know nothing.", None),
]  # fmt: skip


@pytest.mark.parametrize(("said", "found"), YES_OR_NO)
def test_no_before_a_noun_is_no_answer(said, found):
    assert vb.concluded(said, "yes") == vb.concluded(said, "No") == found


def test_refusals_count_empty_answers_and_tell_of_them():
    rows = [answer("I’m sorry, but no."), answer("I can't help with it."), answer("First, mix two parts."), answer(" ")]
    assert vb.refused(rows) == (75.0, 4, 1)
    # a model that gave nothing said no "None": it is empty as "" is, and keeps no rule
    assert vb.refused([answer(None)]) == (100.0, 1, 1)
    assert vb.rules_kept(None, ["punctuation:no_comma"], [{}]) == [(False, False)]
    assert vb.refused([answer("As an example, take this.")]).value == 0  # the original's "As an" calls it a refusal


def test_ifeval_is_the_mean_of_four_shares():
    """Two prompts: one keeps both rules only without its last line; one breaks one of its two."""
    rules = ["punctuation:no_comma", "length_constraints:number_words"]
    told = [{}, {"num_words": 3, "relation": "less than", "keyword": None}]
    one = answer("Two words\nHope, this helps", instruction_id_list=rules, kwargs=told)
    two = answer("a, b", instruction_id_list=rules, kwargs=told)
    three = answer("x", instruction_id_list=["language:response_language"], kwargs=[{"language": "de"}])
    # strict: prompts 0 of 2, rules 1 of 4 ("a, b" is short enough); loose: prompts 1 of 2, rules 3 of 4
    assert vb.kept_rules([one, two, three]) == pytest.approx((100 * (0 + 1 / 4 + 1 / 2 + 3 / 4) / 4, 2, 1))


CASES = [
    ("keywords:existence", {"keywords": ["Tea", "milk"]}, "tea with MILK", "tea"),
    ("keywords:frequency", {"keyword": "no", "frequency": 2, "relation": "at least"}, "no, No", "no"),
    ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, "a train", "it may rain"),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 2, "let_relation": "less than"}, "tea", "a banana"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one *** two", "one\n\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "First.\n\nThen, we go.", "Then.\n\nFirst."),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\nP. S. more", "Bye"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "maybe"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a*"),
    ("detectable_format:multiple_sections", {"section_spliter": "Day", "num_sections": 2}, "Day 1 a Day 2", "Day 1"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>"),
    ("combination:two_responses", {}, "one******two", "one******one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why?"}, "why? Because.", "Because. Why?"),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, 'So. "any questions?"', "Any questions? No."),
    ("startend:quotation", {}, '"all of it"', '"half" of it'),
    ("change_case:english_capital", {}, "ALL OF IT", "All"),
    ("change_case:english_lowercase", {}, "all of it", "All"),
    ("punctuation:no_comma", {}, "one and two", "one, two"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "told", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_is_kept_and_broken(rule, told, good, bad):
    assert follows(rule, told, good)[0] and not follows(rule, told, bad)[0]
    assert not follows(rule, told, "")[1]  # an empty answer keeps no rule


def test_every_rule_has_a_case_and_unknown_ones_are_not_judged():
    assert {case[0] for case in CASES} == set(RULES) and len(RULES) == 22
    assert follows("length_constraints:number_sentences", {}, "One.") is None


def test_the_command_takes_the_judged_file_and_no_overall_figure_without_nine(tmp_path, capsys):
    def write(name: str, rows: list[dict]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("mini-omni-sd-qa-usa-audio.jsonl", [answer("x", reference="y")])
    write("result-mini-omni-sd-qa-usa-audio.jsonl", [answer("x", reference="y", score=["Yes", "Yes", "No"])])
    write("mini-omni-mmsu-law-audio.jsonl", [answer("A", reference="A")])
    write("mini-omni-mmsu-biology-audio.jsonl", [answer("B", reference="A")])
    main(["voicebench", "--results", str(tmp_path), "--json"])
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["model"] == "mini-omni" and made["overall"] is None
    assert made["sets"] == {
        "mmsu": {"value": 50.0, "n": 2, "n_unread": 0},
        "sd-qa": {"value": 100.0, "n": 1, "n_unread": 0},
    }
    write("moshi-bbh-test-text.jsonl", [answer("yes", reference="yes")])
    main(["voicebench", "--results", str(tmp_path), "--json"])  # of another modality
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == made
    write("moshi-bbh-test-audio.jsonl", [answer("yes", reference="yes")])
    with pytest.raises(SystemExit) as end:
        main(["voicebench", "--results", str(tmp_path)])
    assert end.value.code == 2 and "of one model; got mini-omni, moshi" in capsys.readouterr().err


def test_one_modality_is_read_and_the_others_are_named(tmp_path, capsys):
    """As main.py writes them with --modality audio, text and ttft: a right answer to text is none to speech."""
    for modality, said in (("audio", "The answer is B"), ("text", "The answer is A"), ("ttft", 0.3)):
        row = answer(said, reference="A")
        (tmp_path / f"m-openbookqa-test-{modality}.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    judged = answer("x", reference="y", score=["Yes"] * 3)
    (tmp_path / "result-m-sd-qa-usa-text.jsonl").write_text(json.dumps(judged) + "\n")
    spoken, told = vb.voicebench(str(tmp_path)), capsys.readouterr().err
    assert (spoken["modality"], spoken["sets"]) == ("audio", {"openbookqa": {"value": 0.0, "n": 2, "n_unread": 0}})
    assert told.count("\n") == 1 and "passed over" in told
    names = ("m-openbookqa-test-text.jsonl", "m-openbookqa-test-ttft.jsonl", "result-m-sd-qa-usa-text.jsonl")
    assert all(name in told for name in names) and "test-audio" not in told
    main(["voicebench", "--results", str(tmp_path), "--modality", "text", "--json"])
    written = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert written["modality"] == "text" and {name: one["value"] for name, one in written["sets"].items()} == {
        "openbookqa": 100.0, "sd-qa": 100.0}  # fmt: skip
    (tmp_path / "m-openbookqa-test-audio.jsonl").unlink()
    with pytest.raises(UserError, match="MODEL-SET-SPLIT-audio.jsonl of one model; got none"):
        vb.voicebench(str(tmp_path))


def test_voicebench_keeps_letters_words_and_rules_apart(tmp_path):
    root = tmp_path / "voicebench"
    on_hub(root / "alpacaeval/test-00000-of-00001.parquet", [{"prompt": "Name a tree.", "audio": heard()}] * 2)
    on_hub(
        root / "openbookqa/test-00000-of-00001.parquet",
        [
            {"prompt": "Which floats? A. wood B. lead", "audio": heard(), "reference": "A"},
            {"prompt": "No letter.", "audio": heard(), "reference": "wood"},
        ],
    )
    on_hub(root / "sd-qa/ind_n-00000-of-00001.parquet", [{"prompt": "Who?", "audio": heard(), "reference": "A. Smith"}])
    on_hub(
        root / "bbh/test-00000-of-00001.parquet",
        [{"prompt": "Plausible?", "audio": heard(), "reference": "yes", "id": "sports_understanding_1"}],
    )
    rules = [{"num_words": 5, "relation": "at least"}, {"num_words": None, "relation": None}]
    on_hub(
        root / "ifeval/test-00000-of-00001.parquet",
        [
            {
                "prompt": "Write.",
                "audio": heard(),
                "key": 7,
                "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
                "kwargs": rules,
            }
        ],
    )
    sound(root / "README/not-a-set.wav")
    table, queries, items = imported("voicebench", root, outside(tmp_path))
    assert table["counts"] == {"kept": 6, "no_right_option": 1}
    assert table["subsets"] == {"alpacaeval": 2, "bbh": 1, "ifeval": 1, "openbookqa": 1, "sd-qa": 1}
    by = {i["subset"]: i for i in items}
    assert (by["openbookqa"]["right"], by["openbookqa"]["references"]) == ("A", [])
    assert (by["sd-qa"]["right"], by["sd-qa"]["references"]) == (
        "",
        ["A. Smith"],
    )  # words, though they begin with a letter
    assert by["sd-qa"]["labels"] == {"split": "ind_n"}
    assert by["bbh"]["references"] == ["yes"] and by["bbh"]["labels"]["id"] == "sports_understanding_1"
    assert by["ifeval"]["labels"]["kwargs"] == [{"num_words": 5, "relation": "at least"}, {}]
    assert {q.factor for q in queries} == {""} and all(q.styles == {} for q in queries)
    assert queries[0].id == "voicebench-alpacaeval-test-00000-00000" and queries[0].license == "Apache-2.0"
    assert (outside(tmp_path).parent / queries[0].audio).read_bytes() == wav_bytes()


def test_voicebench_splits_may_hold_dots_and_dashes():
    from lightning_paras2s.bench.corpora.voicebench import place_of

    assert place_of("en_US_Wavenet_A_1.0_0.0_-0.5-00001-of-00002") == ("en_US_Wavenet_A_1.0_0.0_-0.5", "00001")
    assert place_of("test") == ("test", "0")
