"""Importers of real speech, on look-alike folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Audio, Query, read_jsonl


def sound(path: Path) -> None:
    write_audio(path, Audio(0.1 * np.ones(1600, np.float32), 16_000))


@pytest.fixture
def iemocap(tmp_path):
    root = tmp_path / "IEMOCAP_full_release"
    for i in (1, 2):
        (root / f"Session{i}/dialog/EmoEvaluation/Categorical").mkdir(parents=True)
        (root / f"Session{i}/dialog/transcriptions").mkdir(parents=True)
    folder = root / "Session1/dialog"
    turns = [
        ("Ses01F_impro05_F019", "ang", "I have been waiting here for an hour."),
        ("Ses01F_impro05_M020", "sad", "I do not know what to say."),
        ("Ses01F_impro05_F021", "neu", "You can take the next one over there."),
        ("Ses01F_impro05_M022", "hap", "Thank you."),
        ("Ses01F_impro05_F023", "exc", "We are going to the beach at last!"),
        ("Ses01F_impro05_M024", "fru", "This is the third time I have called."),
        ("Ses01F_impro05_F025", "fea", "Did you hear that noise down there?"),
    ]
    notes = "[1.5000, 4.0000, 4.5000]\nC-E1:\tAnger;\t()\nA-E3:\tval 2; act 4; dom  4;\t()\n"
    blocks = [f"[{i}.2250 - {i}.6000]\t{name}\t{label}\t{notes}" for i, (name, label, _) in enumerate(turns)]
    header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    (folder / "EmoEvaluation/Ses01F_impro05.txt").write_text(header + "\n".join(blocks))
    (folder / "EmoEvaluation/._Ses01F_impro05.txt").write_bytes(b"\x00\x05\x16\x07")
    lines = [f"{name} [006.2901-008.2357]: {text}" for name, _, text in turns]
    (folder / "transcriptions/Ses01F_impro05.txt").write_text("\n".join([*lines, "M: [LAUGHTER]"]))
    for name, _, _ in turns[:-1]:  # the last one's audio is missing
        sound(root / "Session1/sentences/wav/Ses01F_impro05" / f"{name}.wav")
    return root


def test_iemocap_keeps_long_emotional_turns_and_counts_the_rest_when_imported(iemocap, tmp_path):
    out = tmp_path / "q.jsonl"
    table = import_speech("iemocap", str(iemocap), str(out))
    assert table["counts"] == {"kept": 2, "other_emotion": 3, "few_words": 1, "no_audio": 1}
    queries = read_jsonl(out, Query)
    assert [(q.styles["emotion"], q.styles["gender"]) for q in queries] == [("angry", "female"), ("sad", "male")]
    assert queries[1].voice == "Session1-M"  # not the dialogue's F
    assert import_speech("iemocap", str(iemocap), str(out), excited=True)["by_style"]["happy"] == 1


def test_iemocap_is_one_clear_line_when_the_root_is_wrong(tmp_path):
    with pytest.raises(UserError, match="root must be IEMOCAP_full_release"):
        import_speech("iemocap", str(tmp_path), str(tmp_path / "q.jsonl"))
    with pytest.raises(UserError, match="corpus must be one of"):
        import_speech("crema", str(tmp_path), str(tmp_path / "q.jsonl"))


def test_meld_reads_curly_quotes_and_crlf_when_imported(tmp_path):
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    rows = [
        '1,Why do all you’re coffee mugs have numbers?,Mark,surprise,positive,0,0,3,19,"00:14:38,127","00:14:40,378"',
        '2,"Oh, yeah, the mugs. I do not care.",Rachel,anger,negative,0,1,3,19,"00:14:40,127","00:14:42,378"',
        '3,Now go and have a nice day.,Mark,neutral,neutral,0,2,3,19,"00:14:43,127","00:14:44,378"',
        '4,No!,Mark,anger,negative,1,0,3,19,"00:14:43,127","00:14:44,378"',
    ]
    (tmp_path / "data/MELD").mkdir(parents=True)
    (tmp_path / "data/MELD/test_sent_emo.csv").write_bytes("\r\n".join([header, *rows, ""]).encode())
    sound(tmp_path / "MELD.Raw/output_repeated_splits_test/dia0_utt0.wav")
    table = import_speech("meld", str(tmp_path), str(tmp_path / "q.jsonl"))
    assert table["counts"] == {"kept": 1, "no_audio": 1, "other_emotion": 1, "few_words": 1}
    query = read_jsonl(tmp_path / "q.jsonl", Query)[0]
    assert (query.id, query.text) == ("meld-test-dia0_utt0", "Why do all you're coffee mugs have numbers?")
    assert query.styles == {"emotion": "surprised"} and query.voice == "Mark"


def test_meld_keeps_882_test_utterances_when_the_table_is_the_releases(tmp_path):
    """A look-alike with the release's counts: 2,610 rows, 1,256 of them neutral; 882 others have five words or more."""
    emotions = ("joy", "surprise", "sadness", "anger", "fear", "disgust")
    kinds = [("neutral", "a b c d e f")] * 1256 + [("anger", "a b c d")] * 472
    kinds += [(emotions[i % 6], "a b c d e") for i in range(882)]
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    rows = [f"{i},{text},Joey,{emotion},x,{i},0,1,1,0,1" for i, (emotion, text) in enumerate(kinds)]
    (tmp_path / "data/MELD").mkdir(parents=True)
    (tmp_path / "data/MELD/test_sent_emo.csv").write_text("\n".join([header, *rows]))
    counts = import_speech("meld", str(tmp_path), str(tmp_path / "q.jsonl"))["counts"]
    assert counts == {"other_emotion": 1256, "few_words": 472, "no_audio": 882}


def test_styletalk_groups_the_same_words_when_styles_differ(tmp_path):
    header = (
        "diag_id,context,curr_audio_id,res_audio_id,curr_text,res_text,curr_emotion,curr_speed,curr_volume,"
        "res_emotion,res_speed,res_volume"
    )
    text = '"B: Sometimes it\'s hard to stick to those habits, though.  "'
    ids, rest = "health_306/c_{i}.wav,health_306/r_0.wav", "fast,loud,sad,normal,normal"
    rows = [
        f'health_306,"A : Hm.",{ids.format(i=i)},{text},"  Yeah.",{emotion},{rest}'
        for i, emotion in enumerate(("unfriendly", "sad", "neutral"))
    ]
    (tmp_path / "eval.csv").write_text("\n".join([header, *rows]) + "\n")
    for i in range(3):
        sound(tmp_path / f"audio/health_306/c_{i}.wav")
    table = import_speech("styletalk", str(tmp_path), str(tmp_path / "q.jsonl"))
    queries = read_jsonl(tmp_path / "q.jsonl", Query)
    assert table["counts"] == {"kept": 2, "other_emotion": 1}
    assert len({q.pair_id for q in queries}) == 1 and {q.styles["emotion"] for q in queries} == {"angry", "sad"}
    assert queries[0].text == "Sometimes it's hard to stick to those habits, though."


def test_a_table_is_one_clear_line_when_a_column_is_missing(tmp_path):
    (tmp_path / "eval.csv").write_text("diag_id,curr_text\n1,Hello\n")
    with pytest.raises(UserError, match="must have the column curr_audio_id, curr_emotion"):
        import_speech("styletalk", str(tmp_path), str(tmp_path / "q.jsonl"))


def test_own_recordings_become_queries_and_pairs_when_a_table_names_their_styles(tmp_path):
    rows = [
        "file,text,emotion,gender,pair,speaker",
        "a/1.wav,We sold the house last week.,happy,female,house,Ann",
        "a/2.wav,We sold the house last week.,sad,female,house,Ann",
        "b.wav,Which of these would suit me best?,,male,,Bob",
        "none.wav,This recording is not there at all.,angry,,,Bob",
        "c.wav,Nobody said how this was said.,,,,Bob",
        "d.wav,Too short.,sad,,,Bob",
    ]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    for name in ("a/1", "a/2", "b", "c", "d"):
        sound(tmp_path / f"{name}.wav")
    table = import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))
    assert table["counts"] == {"kept": 3, "no_audio": 1, "no_style": 1, "few_words": 1}
    assert table["group_sizes"] == {2: 1, 1: 1} and table["by_style"] == {"happy": 1, "sad": 1, "male": 1}
    queries = read_jsonl(tmp_path / "q.jsonl", Query)
    assert [q.id for q in queries] == ["folder-a-1", "folder-a-2", "folder-b"]
    assert [(q.factor, q.pair_id) for q in queries][1:] == [("emotion", "house"), ("gender", "folder-b")]
    assert queries[0].styles == {"emotion": "happy", "gender": "female"} and queries[0].voice == "Ann"


def test_own_recordings_are_refused_by_line_when_a_style_is_unknown(tmp_path):
    (tmp_path / "metadata.csv").write_text("file,text,emotion\na.wav,I do not know what this is.,merry\n")
    with pytest.raises(UserError, match="metadata.csv:2: a style's emotion must be one of .*; got 'merry'"):
        import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))


def test_import_speech_is_a_command(tmp_path, capsys):
    (tmp_path / "metadata.csv").write_text("file,text,age\na.wav,May I have some more of that?,child\n")
    sound(tmp_path / "a.wav")
    main(["import_speech", "--corpus", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "q.jsonl"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {"kept": 1}
    with pytest.raises(SystemExit) as end:
        main(["import_speech", "--corpus", "crema", "--root", str(tmp_path), "--out", str(tmp_path / "q.jsonl")])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
