"""Importers of other benchmarks and corpora, on look-alike folders: counts and fields as worked by hand.

The look-alikes are written as the corpora's own writers write them: the hub's Parquet (audio as a struct of bytes and
path), `datasets.save_to_disk` (Arrow's stream format), JSON lists and lines, tar shards.
"""

from __future__ import annotations

import io
import json
import tarfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from lightning_paras2s.bench.corpora.importing import CORPORA
from lightning_paras2s.bench.corpora.rows import CorpusItem
from lightning_paras2s.bench.corpora.televal import fitting
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Query, Response, read_jsonl

TONE = (0.1 * np.sin(np.arange(1600) / 5)).astype(np.float32)


def wav_bytes(level: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, level * TONE, 16_000, format="WAV")
    return buffer.getvalue()


def sound(path: Path, form: str = "WAV") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, TONE, 16_000, format=form)
    return path


def on_hub(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def saved(path: Path, rows: list[dict]) -> None:
    """As `datasets` saves to disk: a stream, not a file, in Arrow's words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def heard(level: float = 1.0) -> dict:
    return {"bytes": wav_bytes(level), "path": "audio.wav"}


def outside(root: Path, name: str = "q") -> Path:
    """A manifest's place that is in no corpus."""
    return root.parent / f"{root.name}-out" / f"{name}.jsonl"


def imported(corpus: str, root: Path, out: Path, split: str = "test") -> tuple[dict, list[Query], list[dict]]:
    table = import_speech(corpus, str(root), str(out), split)
    items = [json.loads(line) for line in Path(table["items"]).read_text(encoding="utf-8").splitlines()]
    queries = read_jsonl(out, Query)
    assert [q.id for q in queries] == [i["query_id"] for i in items]
    assert all(set(item) == set(CorpusItem.__annotations__) for item in items)
    assert all((out.parent / q.audio).is_file() for q in queries)
    return table, queries, items


def test_uro_bench_takes_the_last_round_and_the_speakers_emotion_only(tmp_path):
    def row(name: str, text: str, **rest) -> dict:
        return {"source_wav": f"wavs/{name}.wav", "source_text": text, **rest}

    sets = {
        "basic/Repeat": [row("0", "Say tree."), row("1", "Say cat.", target_text="cat")],
        "basic/HSK5-zh": [row("0", "天气好吗？", target_text=["好", "很好"])],
        "pro/UnderEmotion-en": [row("0", "I lost it.", emotion="sad")],
        "pro/GenEmotion-en": [row("0", "Say it sadly.", emotion="sad", target_text="It is gone.")],
        "pro/Multilingual": [row("0", "Hello", requirement="Reply in German.")],
        "pro/MtBenchEval-en": [
            {
                "id": 81,
                "num_round": 2,
                "dialogue": [
                    {"round": 1, **row("a", "Write a poem.", target_text="Roses.")},
                    {"round": 2, **row("b", "Shorter.", target_text="Rose.")},
                ],
            }
        ],
    }
    for name, rows in sets.items():
        lines(tmp_path / name / "test.jsonl", rows)
        for one in (r for row_ in rows for r in row_.get("dialogue", [row_])):
            if one["source_text"] != "Say cat.":
                sound(tmp_path / name / one["source_wav"])
    table, queries, items = imported("uro_bench", tmp_path, outside(tmp_path))
    assert table["counts"] == {"kept": 6, "no_audio": 1} and table["by_style"] == {"sad": 1, "no style of ours": 5}
    by = {i["subset"]: (q, i) for q, i in zip(queries, items, strict=True)}
    assert by["basic/Repeat"][1]["references"] == [] and by["basic/HSK5-zh"][1]["references"] == ["好", "很好"]
    assert (
        by["pro/UnderEmotion-en"][0].styles == {"emotion": "sad"} and by["pro/UnderEmotion-en"][0].factor == "emotion"
    )
    asked = by["pro/GenEmotion-en"][1]
    assert (asked["emotions"], asked["words"]) == (["sad"], "It is gone.")
    assert by["pro/UnderEmotion-en"][1]["emotions"] == [] and by["basic/HSK5-zh"][1]["words"] == ""
    assert by["pro/GenEmotion-en"][0].styles == {} and by["pro/GenEmotion-en"][1]["labels"] == {"emotion": "sad"}
    assert by["pro/Multilingual"][1]["labels"] == {"requirement": "Reply in German."}
    query, item = by["pro/MtBenchEval-en"]
    assert query.text == "Shorter." and item["references"] == ["Rose."] and item["labels"] == {"id": 81}
    assert [(t["role"], t["text"]) for t in item["turns"]] == [("user", "Write a poem."), ("assistant", "Roses.")]
    assert item["turns"][0]["audio"].endswith("wavs/a.wav")
    assert query.id == "uro_bench-pro-MtBenchEval-en-0000"


def test_uro_bench_refuses_a_result_file(tmp_path):
    lines(tmp_path / "basic/Repeat/test.jsonl", [{"source_wav": "a.wav", "source_text": "x"}, {"final_score": 91.0}])
    with pytest.raises(UserError, match="got a result file"):
        import_speech("uro_bench", str(tmp_path), str(outside(tmp_path)))
    assert not (outside(tmp_path)).exists()


def test_sd_eval_pairs_the_same_words_and_keeps_only_our_styles(tmp_path):
    def row(name: str, wav: str, text: str, info: str, **more) -> dict:
        replies = [{"reply": f"Reply {i}.", **more} for i in range(5)]
        return {
            "wav_path": wav,
            "transcript": text,
            "utt_id": name,
            "target": replies,
            "info": info,
            "dataset_name": "X",
        }

    emo = [
        row("1", "RAVDESS-Speech/Actor_01/1.wav", "Kids are talking", "sad", reply_emotion="Joy"),
        row("2", "MEAD/MEAD_wav/M019/audio/fear/level_3/010.wav", "Kids are talking ", "fear", reply_emotion="joy"),
        row("3", "JL_corpus/gone.wav", "Sound", "happy", reply_emotion="joy"),
    ]
    env = [row("0_0", "test-env/0_0.wav", "How long is it?", "driving")]
    age = [row("a", "myst/a.flac", "It is blue.", "child"), row("b", "adult/a.wav", "It is blue.", "adult")]
    (tmp_path / "data").mkdir()
    for view, rows in (("emo", emo), ("env", env), ("age", age)):
        (tmp_path / f"data/test-{view}.json").write_text(json.dumps(rows))
        for one in rows:
            if "gone" not in one["wav_path"]:
                sound(tmp_path / "audio_data" / one["wav_path"], "FLAC" if one["wav_path"].endswith("flac") else "WAV")
    table, queries, items = imported("sd_eval", tmp_path, outside(tmp_path))
    assert table["counts"] == {"kept": 5, "no_audio": 1}
    assert table["by_style"] == {"sad": 1, "fear": 1, "child": 1, "adult": 1, "no style of ours": 1}
    assert table["group_sizes"] == {2: 2, 1: 1}
    assert items[0]["references"] == [f"Reply {i}." for i in range(5)]
    assert items[0]["labels"]["reply_emotions"] == items[1]["labels"]["reply_emotions"] == ["joy"] * 5
    env_query = next(q for q in queries if q.source == "sd_eval/test-env")
    assert env_query.styles == {} and env_query.factor == ""


def test_televal_reads_both_of_its_forms_alike(tmp_path):
    """The hub's Parquet, and what its own tool makes of it; a tuple is written as an object, in a JSON text."""
    answer = json.dumps({"__tuple__": True, "items": ["别难过", "没事的"]}, ensure_ascii=False)
    empathy = {"key": "e1", "audio": heard(), "query": "我丢了。", "query_emo": "sad", "answer": "没事"}
    empathy |= {"answer_emo": ["Sad", "neutral"]}
    on_hub(tmp_path / "hub/empathy_response_acoustic-zh/test-00000-of-00001.parquet", [empathy])
    on_hub(tmp_path / "hub/para_mix300-zh/a.parquet",
           [{"key": "p1", "audio": heard(), "query": "你好", "answer": answer, "para_name": "cough"}])  # fmt: skip
    base = tmp_path / "hub/age-zh"
    sound(base / "audios/k1.wav")
    lines(base / "age-zh.jsonl",
          [{"key": "k1", "audio": "/data/conv/age-zh/audios/k1.wav", "query": "为什么", "age": "child", "answer": None,
            "answer_age": "小朋友", "answer_common": "因为"},
           {"key": "k2", "audio": "/data/audios/k2.wav", "query": "老了", "age": "old", "answer": None}])  # fmt: skip
    rounds = {"key": "m1", "nrounds": 2, "user_text1": "我叫李", "bot_text1": "你好", "user_text2": "我叫什么"}
    rounds |= {"user_audio1": heard(), "user_audio2": heard(0.5), "bot_text2": "", "answer": "李"}
    on_hub(tmp_path / "hub/multiturn_memory-zh/a.parquet", [rounds])
    table, queries, items = imported("televal", tmp_path / "hub", outside(tmp_path))
    assert table["counts"] == {"kept": 4, "no_audio": 1} and table["by_style"]["sad"] == table["by_style"]["child"] == 1
    by = {i["subset"]: (q, i) for q, i in zip(queries, items, strict=True)}
    assert by["empathy_response_acoustic-zh"][1]["labels"]["answer_emo"] == ["Sad", "neutral"]
    assert by["empathy_response_acoustic-zh"][1]["emotions"] == ["sad"]
    assert by["age-zh"][1]["emotions"] == []
    assert by["para_mix300-zh"][1]["references"] == ["别难过", "没事的"]
    assert by["age-zh"][1]["labels"] == {"age": "child", "answer_age": "小朋友", "answer_common": "因为"}
    query, item = by["multiturn_memory-zh"]
    assert query.text == "我叫什么" and item["references"] == ["李"]
    assert [t["text"] for t in item["turns"]] == ["我叫李", "你好"]
    assert (outside(tmp_path).parent / query.audio).read_bytes() == wav_bytes(0.5)  # the second round's


@pytest.mark.parametrize(("published", "kept"), [
    ('["sad", "happy", "neutral"]', ("sad", "happy")),
    (["Neutral", "sad"], ("sad",)),  # half is not more than half
    (["neutral", "neutral", "sad"], ("neutral", "sad")),  # repeats are counted
    (["neutral", "neutral", "sad", "happy", "other"], ("sad", "happy")),  # and so is what nobody hears here
    (["neutral"], ("neutral",)), (None, ()),
])  # fmt: skip
def test_neutral_fits_where_it_is_more_than_half_of_televals_list(published, kept):
    """As its evaluator has it by default (src/evaluator/emo2vec.py, strict)."""
    assert fitting(published) == kept


def test_mmsu_reads_a_list_named_jsonl_and_finds_the_letter(tmp_path):
    def row(name: str, right: str, **more) -> dict:
        base = {"id": name, "task_name": "pause", "audio_path": f"./audio/{name}.wav", "question": "Which?"}
        base |= {"choice_a": "one", "choice_b": "two", "answer_gt": right, "category": "Perception"}
        return base | {"sub-category": "Paralinguistics"} | more

    rows = [row("p_1", "two", choice_c="three", choice_d="four"), row("p_2", "one"), row("p_3", "five"),
            row("p_4", "two", choice_c="two")]  # fmt: skip
    (tmp_path / "mmsu.jsonl").write_text(json.dumps(rows))
    for one in rows:
        sound(tmp_path / one["audio_path"])
    table, queries, items = imported("mmsu", tmp_path, outside(tmp_path))
    assert table["counts"] == {"kept": 2, "no_right_option": 2}  # no option, and two alike
    assert items[0]["options"] == dict(zip("ABCD", ("one", "two", "three", "four"), strict=True))
    assert [i["right"] for i in items] == ["B", "A"] and list(items[1]["options"]) == ["A", "B"]
    assert items[1]["instruction"] == "Which?\nA. one\nB. two" and queries[0].text == ""
    assert items[0]["labels"]["sub-category"] == "Paralinguistics"


def test_open_s2s_takes_the_last_user_and_what_answers_it(tmp_path):
    def part(text: str = "", audio: str = "", units: str = "") -> dict:
        return {"text": text, "audio": audio, "speech_units": units, "spk_emb": ""}

    def message(role: str, *parts: dict) -> dict:
        return {"role": role, "content": list(parts)}

    far = "/mnt/authors/data/wavs"
    rows = [
        [message("user", part("continue"), part(audio=f"{far}/a.wav")),
         message("assistant", part("Hello.", units="<|audio_0|>"))],
        [message("user", part(audio=f"{far}/a.wav")), message("assistant", part("Hm.", units="<|audio_0|>")),
         message("user", part(audio=f"{far}/b.wav")), message("assistant", part("Oh no.", units="<|audio_0|>"))],
        [message("user", part(audio=f"{far}/a.wav"), part(audio=f"{far}/b.wav")), message("assistant", part("Two."))],
        [message("user", part("only words")), message("assistant", part("Text."))],
        [message("assistant", part("nobody asked"))],
    ]  # fmt: skip
    lines(tmp_path / "train.jsonl", [{"messages": row} for row in rows])
    for name in "ab":
        sound(tmp_path / f"wavs/{name}.wav")
    table, queries, items = imported("open_s2s", tmp_path, outside(tmp_path), "train")
    assert table["counts"] == {"kept": 2, "several_recordings": 1, "no_audio": 1, "no_user": 1}
    assert (items[0]["instruction"], items[0]["references"], items[0]["turns"]) == ("continue", ["Hello."], [])
    assert items[1]["references"] == ["Oh no."] and [t["role"] for t in items[1]["turns"]] == ["user", "assistant"]
    assert items[1]["turns"][0]["audio"] == str(tmp_path / "wavs/a.wav") and items[1]["turns"][1]["text"] == "Hm."
    assert queries[1].audio.endswith("wavs/b.wav") and queries[0].split == "train"


def test_open_asqa_finds_recordings_by_the_end_of_their_place(tmp_path):
    rows = [
        {"instruction": "What is heard?", "input": "I am so sad...", "audio_id": "/data/sls/audioset/audio/x.flac",
         "dataset": "as_strong_train", "task": "open-ended question", "output": "Crying."},
        {"instruction": "Who?", "audio_id": "/data/sls/audioset/audio/x.flac", "output": "A child."},
        {"instruction": "Who?", "input": "", "audio_id": "../feat/x.npz", "output": "A child."},
        {"instruction": "Who?", "input": "", "audio_id": "/data/other/y.flac", "output": "A child."},
    ]  # fmt: skip
    (tmp_path / "openasqa_part.json").write_text(json.dumps(rows, indent=1))
    sound(tmp_path / "audio/x.flac", "FLAC")
    sound(tmp_path / "y.flac", "FLAC")  # a bare name is no place: many folders hold a y.flac
    table, queries, items = imported("open_asqa", tmp_path / "openasqa_part.json", outside(tmp_path), "train")
    assert table["counts"] == {"kept": 2, "features_only": 1, "no_audio": 1}
    assert queries[0].audio == queries[1].audio and queries[0].id != queries[1].id
    assert (queries[0].text, queries[1].text) == ("I am so sad...", "")
    assert items[0]["instruction"] == "What is heard?" and items[0]["references"] == ["Crying."]
    assert items[0]["labels"]["task"] == "open-ended question" and "task" not in items[1]["labels"]


def shard(path: Path, items: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, files in items.items():
            for field, data in files.items():
                info = tarfile.TarInfo(f"{key}.{field}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_echat_keeps_the_query_and_the_answer_apart(tmp_path):
    extra = {
        "dataset": "KeSpeech",
        "age": "<CHILD>",
        "gender": "<FEMALE>",
        "question": "为什么天是蓝的",
        "think_str": "孩子",
    }
    row = {"key": "k_1", "txt": "因为光。", "wav": "./data/raw/wav/a.wav", "extra": extra, "task": "<S2TCHAT>"}
    plain = row | {"key": "k_2", "extra": {"question": "你好", "gender": "none", "age": "<OLD>"}}
    rows = [row, plain, row, row | {"key": "k_3", "wav": "only-meta"}]
    lines(tmp_path / "data.list", rows)
    sound(tmp_path / "raw/wav/a.wav")
    table, queries, items = imported("echat", tmp_path, outside(tmp_path), "train")
    assert table["counts"] == {"kept": 2, "duplicate": 1, "in_the_tar": 1}
    assert queries[0].text == "为什么天是蓝的" and items[0]["references"] == ["因为光。"]  # txt is the answer
    assert queries[0].styles == {"age": "child", "gender": "female"} and queries[0].factor == "age"
    assert queries[1].styles == {} and items[1]["labels"] == {"age": "OLD", "task": "S2TCHAT"}


def test_echat_reads_a_shard_file_by_file(tmp_path):
    files = {"txt": "好".encode(), "wav": wav_bytes(), "task": b"none", "emotion": b"none", "gender": b"<MALE>"}
    extra = json.dumps({"question": "早"}, ensure_ascii=False).encode()
    shard(tmp_path / "shards_0.tar", {"a.b_1": files | {"extra": extra}, "a.b_2": files | {"extra": b"{}"}})
    table, queries, items = imported("echat", tmp_path, outside(tmp_path), "train")
    assert table["counts"] == {"kept": 2}
    assert [q.text for q in queries] == ["早", ""] and queries[0].styles == {"gender": "male"}
    assert queries[0].id == "echat-shards_0-a.b_1" and items[0]["labels"] == {"gender": "MALE"}
    (tmp_path / "shards_1.tar").write_bytes(b"no tar")
    with pytest.raises(UserError, match="must be a shard"):
        import_speech("echat", str(tmp_path), str(outside(tmp_path, "q2")), "train")


def test_mnsc_goes_by_the_folder_as_every_split_is_called_train(tmp_path):
    plain = {"context": heard(), "instruction": "Is it a man?", "answer": "It is.", "other_attributes": {"x": 1}}
    old = {"context": {"audio": heard(), "text": None}, "instruction": {"text": "Where?"}, "answer": {"text": "There."}}
    on_hub(tmp_path / "PQA-GR-Sentence-Test/train-00000-of-00002.parquet", [plain])
    on_hub(tmp_path / "PQA-GR-Sentence-Test/train-00001-of-00002.parquet", [plain])
    on_hub(tmp_path / "PQA-GR-Sentence-Train/train-00000-of-00001.parquet", [plain, plain, plain])
    saved(tmp_path / "PQA-AR-Dialogue-Test/train/data-00000-of-00001.arrow", [old])
    table, queries, items = imported("mnsc", tmp_path, outside(tmp_path))
    assert table["counts"] == {"kept": 3}
    assert table["subsets"] == {"PQA-AR-Dialogue-Test": 1, "PQA-GR-Sentence-Test": 2}
    assert (items[0]["instruction"], items[0]["references"]) == ("Where?", ["There."])
    on_hub(tmp_path / "asr/ASR-PART1-Test/train-00000-of-00001.parquet", [plain | {"answer": "can lah"}])
    _, _, read = imported("mnsc", tmp_path / "asr", outside(tmp_path, "asr"))
    assert read[0]["words"] == "can lah" and items[0]["words"] == ""
    assert imported("mnsc", tmp_path, outside(tmp_path, "t"), "train")[0]["counts"] == {"kept": 3}
    with pytest.raises(UserError, match="got none for val"):
        import_speech("mnsc", str(tmp_path), str(outside(tmp_path)), "val")


def test_cpqa_reads_a_saved_data_set_without_its_left_overs(tmp_path):
    row = {"context": heard(), "instruction": "How does she feel?", "answer": "Glad.", "question_type": "emotion"}
    saved(tmp_path / "cpqa/data-00000-of-00001.arrow", [row, row])
    saved(tmp_path / "cpqa/cache-0123.arrow", [row])
    (tmp_path / "cpqa/state.json").write_text("{}")
    table, queries, items = imported("cpqa", tmp_path / "cpqa", outside(tmp_path))
    assert table["counts"] == {"kept": 2} and items[0]["labels"] == {"question_type": "emotion"}
    assert queries[0].text == "" and items[0]["instruction"] == "How does she feel?"


def test_s2s_arena_names_an_item_by_its_whole_place_and_imports_the_answers(tmp_path):
    for place in (
        "identity/age/adults/audio_1",
        "identity/gender/men/audio_1",
        "emotion/emotion2-2",
        "emotion/audio_10",
    ):
        sound(tmp_path / f"input/{place}.wav")
    for place in ("SpeechGPT/emotion/emotion2-2", "ChatGPT-4o/emotion/audio_10/audio_10", "SpeechGPT/sing/audio_0"):
        sound(tmp_path / f"output/{place}.wav")
    sound(tmp_path / "input/stray.wav")
    table, queries, items = imported("s2s_arena", tmp_path, outside(tmp_path))
    assert table["counts"] == {"kept": 4, "no_task": 1}
    assert len({q.id for q in queries}) == 4  # two are called identity_audio_1 in TRACE
    assert items[2]["labels"] == {"task": "identity/age/adults"}
    assert table["answers"]["models"] == {"ChatGPT-4o": 1, "SpeechGPT": 1} and table["answers"]["strays"] == 1
    rows = read_jsonl(outside(tmp_path).parent / "q_answers/ChatGPT-4o/responses.jsonl", Response)
    assert rows[0].query_id == "s2s_arena-emotion-audio_10" and Path(rows[0].audio).is_file() and rows[0].sha256


def test_every_importer_is_one_short_module_with_its_licence_and_its_row_in_the_docs():
    folder = Path(import_module("lightning_paras2s.bench.corpora").__file__).parent
    docs = (Path(__file__).parent.parent / "docs/corpora.md").read_text(encoding="utf-8")
    for name in CORPORA:
        module = import_module(f"lightning_paras2s.bench.corpora.{name}")
        assert module.LICENSE and callable(module.read)
        assert len((folder / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 80
        assert f"| `{name}` |" in docs


def test_the_command_imports_a_corpus_and_prints_what_was_kept(tmp_path, capsys):
    sound(tmp_path / "input/sing/audio_0.mp3", "MP3")
    arguments = ["--corpus", "s2s_arena", "--root", str(tmp_path), "--out", str(outside(tmp_path))]
    main(["import_speech", *arguments])
    assert "kept 1" in capsys.readouterr().out
    main(["import_speech", *arguments, "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {"kept": 1}
