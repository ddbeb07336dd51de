"""Words as they are compared: a text and what a voice makes of it are the same words."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_paras2s.bench.measures import overlap
from lightning_paras2s.hearing.words import compared, plain_text, plain_words, said_numbers, said_words, word_error_rate

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
NTH = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
NTH |= {"twelve": "twelfth", **{tens: f"{tens[:-1]}ieth" for tens in TENS}}
FILLED = "the old house keeps us near that bright garden where my uncle sang".split()
SAME = (
    ("I\u2019m", "i'm"),
    ("I'm", "i am"),
    ("don\u2019t", "do not"),
    ("caf\u00e9", "cafe"),
    ("na\u00efve", "naive"),
    ("Mr. Lee", "mister lee"),
    ("Dr. Lee", "doctor lee"),
    ("\u201cyes\u201d", "yes"),
    ("salt & pepper", "salt and pepper"),
)
PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 8: "eighth"}


def cardinal(n: int, joined: str = " ") -> str:
    """A number in words: 105 is "one hundred five", or with " and " as `joined` "one hundred and five"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")
    size, name = next(s for s in SCALES if n >= s[0])
    rest = n % size
    between = joined if rest < 100 else " "
    return f"{cardinal(n // size, joined)} {name}" + (between + cardinal(rest, joined) if rest else "")


def ordinal(n: int) -> str:
    head, mark, last = cardinal(n).rpartition("-" if n % 100 > 20 and n % 10 else " ")
    return head + mark + NTH.get(last, f"{last}th")


def suffix(n: int) -> str:
    return "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


def fraction(over: int, under: int) -> str:
    return "half" if under == 2 else f"{ONES[over]} {PARTS[under]}" + ("s" if over > 1 else "")


FRACTIONS = [(over, under) for under in PARTS for over in range(1, under)]


def in_figures() -> st.SearchStrategy[tuple[str, str]]:
    """Fractions, ranges, prices, times, decades, numbers with a sign: (as written, as spoken)."""
    small, dash = st.integers(2, 99), st.sampled_from(["-", "\u2013", " - "])
    parts = st.sampled_from(FRACTIONS)
    rising = st.tuples(st.integers(1, 120), st.integers(1, 80)).map(lambda x: (x[0], x[0] + x[1]))
    hours = st.integers(1, 12)
    return st.one_of(
        parts.map(lambda x: (f"{x[0]}/{x[1]}", fraction(*x))),
        st.tuples(small, parts).map(
            lambda x: (f"{x[0]} {x[1][0]}/{x[1][1]}", f"{cardinal(x[0])} and {'a ' * (x[1][1] == 2)}{fraction(*x[1])}")
        ),
        st.tuples(rising, dash).map(
            lambda x: (f"{x[0][0]}{x[1]}{x[0][1]}", f"{cardinal(x[0][0])} to {cardinal(x[0][1])}")
        ),
        rising.map(lambda x: (f"{x[0]}-{x[1]}%", f"{cardinal(x[0])} to {cardinal(x[1])} percent")),
        rising.map(lambda x: (f"${x[0]}-${x[1]}", f"{cardinal(x[0])} to {cardinal(x[1])} dollars")),
        st.tuples(small, st.integers(10, 99)).map(
            lambda x: (f"${x[0]}.{x[1]}", f"{cardinal(x[0])} dollars {cardinal(x[1])}")
        ),
        st.integers(10, 99).map(lambda n: (f"$1.{n}", f"one dollar {cardinal(n)}")),
        st.integers(1, 9).map(lambda n: (f"0.{n}%", f"point {ONES[n]} percent")),
        hours.map(lambda h: (f"{h}:30", f"half past {ONES[h]}")),
        hours.map(lambda h: (f"{h}:15", f"a quarter past {ONES[h]}")),
        hours.map(lambda h: (f"{(h - 2) % 12 + 1}:45", f"quarter to {ONES[h]}")),
        hours.map(lambda h: (f"{h}:00", f"{ONES[h]} o'clock")),
        st.sampled_from(TENS).map(lambda t: (f"19{2 + TENS.index(t)}0s", f"nineteen {t[:-1]}ies")),
        small.map(lambda n: (f"No. {n}", f"number {cardinal(n)}")),
        small.map(lambda n: (f"#{n}", f"number {cardinal(n)}")),
        st.tuples(small, small).map(lambda x: (f"{x[0]} + {x[1]}", f"{cardinal(x[0])} plus {cardinal(x[1])}")),
        small.map(lambda n: (f"{n} kg", f"{cardinal(n)} kilograms")),
        small.map(lambda n: (f"{n}mph", f"{cardinal(n)} miles per hour")),
    )


def pieces() -> st.SearchStrategy[tuple[str, str]]:
    """(as written, as spoken)"""
    number = st.one_of(st.integers(0, 120), st.integers(0, 9_999), st.integers(0, 10**9 - 1))
    small = st.integers(2, 999)
    return st.one_of(
        st.tuples(number, st.sampled_from([" ", " and "])).map(lambda x: (f"{x[0]}", cardinal(*x))),
        number.map(lambda n: (f"{n:,}", cardinal(n))),
        small.map(lambda n: (f"${n}", f"{cardinal(n)} dollars")),
        small.map(lambda n: (f"{n}%", f"{cardinal(n)} percent")),
        small.map(lambda n: (f"{n} %", f"{cardinal(n)} per cent")),
        st.tuples(small, st.integers(10, 99)).map(
            lambda x: (f"${x[0]}.{x[1]}", f"{cardinal(x[0])} dollars and {cardinal(x[1])} cents")
        ),
        st.tuples(small, st.integers(1, 9)).map(lambda x: (f"{x[0]}.{x[1]}", f"{cardinal(x[0])} point {ONES[x[1]]}")),
        st.integers(1, 999).map(lambda n: (f"{n}{suffix(n)}", ordinal(n))),
        st.tuples(st.integers(1, 12), st.integers(10, 59)).map(
            lambda x: (f"{x[0]}:{x[1]}", f"{cardinal(x[0])} {cardinal(x[1])}")
        ),
        st.lists(st.integers(0, 9), min_size=3, max_size=7).map(
            lambda x: ("".join(map(str, x)), " ".join(ONES[d] for d in x))
        ),
        st.sampled_from(SAME),
        in_figures(),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FILLED), pieces()), min_size=1, max_size=4), st.sampled_from([".", "!", ""]))
def test_a_text_and_its_spoken_form_have_no_word_error(parts, end):
    """Numbers with a word between them: of "20 5" no listener knows whether it is twenty-five."""
    written = " ".join(f"{word} {piece[0]}" for word, piece in parts) + " there" + end
    spoken = " ".join(f"{word} {piece[1]}" for word, piece in parts) + " there"
    assert word_error_rate(written.capitalize(), spoken) == 0, (written, spoken)
    assert word_error_rate(spoken, written) == 0


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("That's 42.", "that's forty two"),
        ("Call 911!", "call nine one one"),
        ("Call 911!", "call nine hundred eleven"),
        ("Save 15%.", "save fifteen percent"),
        ("It costs $80.", "it costs eighty dollars"),
        ("It costs $100.", "it costs a hundred dollars"),
        ("I\u2019m sorry.", "i'm sorry"),
        ("Agent 007", "agent double oh seven"),
        ("At 12:05", "at twelve oh five"),
        ("In the 1980s", "in the nineteen eighties"),
        ("Add 1/2 cup.", "add half a cup"),
        ("Add \u00bd cup.", "add one half cup"),
        ("In 2\u00bd hours", "in two and a half hours"),
        ("3/4 of them", "three fourths of them"),
        ("1/3 of it", "a third of it"),
        ("It's $1.50.", "it's a dollar fifty"),
        ("\u00a32.50", "two pounds fifty"),
        ("$3M", "three million dollars"),
        ("$20-30", "twenty to thirty dollars"),
        ("1990\u20131995", "nineteen ninety to nineteen ninety five"),
        ("9:00 a.m.-5:30 p.m.", "nine a m to five thirty p m"),
        ("Call 555-1234", "call five five five one two three four"),  # no range
        ("2 + 2 = 4", "two plus two equals four"),
        ("24/7", "twenty four seven"),
        ("9/11", "nine eleven"),
        ("1 kg", "one kilogram"),
        ("the 2nd", "the second"),
    ],
)
def test_numbers_and_quotes_are_no_errors_when_they_are_read_aloud(text, heard):
    assert word_error_rate(text, heard) == 0


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("They won 3-1.", "they won three to one"),  # or "three one": a score; "20-30" is a range, since it rises
        ("I work 9-5.", "i work nine to five"),
        ("No 5", "number five"),  # "no five of them agree"
        ("Chapter IV", "chapter four"),
        ("3x", "three times"),  # or "three x"
        ("At $2.05", "at two oh five"),  # the unit is not said
    ],
)
def test_what_the_text_does_not_tell_stays_an_error(text, heard):
    assert word_error_rate(text, heard) > 0


def test_a_fraction_is_not_its_digits():
    assert word_error_rate("half", "one two") > 0 and word_error_rate("1/2", "twelve") > 0
    assert word_error_rate("20-30", "two thousand thirty") > 0


def test_another_number_is_an_error():
    # of that, is, 42 one is wrong; of it, costs, $80 the unit
    assert word_error_rate("That's 42.", "that's forty three") == pytest.approx(1 / 3)
    assert word_error_rate("It costs $80.", "it costs eighty percent") == pytest.approx(1 / 3)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_no_word_error_against_itself(text):
    assert word_error_rate(text, text) == 0


# Letters, marks and digits of scripts whose words an ear may write plainly; Latin with accents, Hebrew with points.
SCRIPTS = {
    "latin": "abcdeghilnoprstuyàçéñöøßž",
    "greek": "αβγδεήίόώς",
    "cyrillic": "абвгдеёйк",
    "kana": "かがきぎはばぱっァヴュー",
    "thai": "กขคงสวัดีครับน้ำไทเ็์",
    "devanagari": "नमस्तेआपकैसहैंँुूॉ़",
    "bengali": "আপনিকেমনছো্ং",
    "tamil": "நீங்கள்எப்படிருக்கிறொை",
    "khmer": "សួស្តីកខាំ",
    "burmese": "မင်္ဂလာပါ",
    "hangul": "안녕하세요",
    "arabic": "كيفحالكأآَُ",
    "hebrew": "מהשלומךַָ",
}


@st.composite
def written(draw):
    """Words of one script with what a writer puts between them."""
    letters = st.text(SCRIPTS[draw(st.sampled_from(sorted(SCRIPTS)))], min_size=1, max_size=8)
    marks = st.sampled_from([" ", ", ", ". ", "! ", "? ", "; ", ": ", " (", ") ", " [", "] ", "… ", " — ", "\n"])
    return "".join(word + mark for word, mark in draw(st.lists(st.tuples(letters, marks), max_size=6)))


@settings(max_examples=400, deadline=None)
@given(written())
def test_an_ear_that_writes_plain_words_makes_no_error_in_any_script(text):
    """Voicing marks of kana, vowels of Thai, Hindi and Tamil were lost on the heard side alone."""
    assert word_error_rate(text, plain_text(text)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "がっこうでごはんをたべます",
        "สวัสดีครับ ยินดีต้อนรับ",
        "नमस्ते आप कैसे हैं",
        "நீங்கள் எப்படி இருக்கிறீர்கள்",
        "Okay (I'll call your sister right away).",
        "Call Anna (my sister) <today>, [please]…",
        "the letter(s) came",
        "me\u00addi\u200cum",  # a soft hyphen, and what joins no letters
    ],
)
def test_plain_words_of_a_text_are_no_word_errors(text):
    assert word_error_rate(text, plain_text(text)) == 0 == word_error_rate(plain_text(text), text)


def test_words_in_brackets_are_said():
    # of call, anna, my, sister two are not heard
    assert word_error_rate("Call Anna (my sister)", "call anna") == 0.5


def test_a_vowel_sign_is_heard_and_a_point_that_may_be_left_out_is_not():
    assert word_error_rate("नमस्ते आप कैसे हैं", "नमस्ते आप कैसा हैं") == 0.25  # one word of four
    assert word_error_rate("கி கா", "கீ கா") == 0.5
    assert word_error_rate("שָׁלוֹם", "שלום") == 0 == word_error_rate("مُحَمَّد", "محمد")


def test_plain_words_keep_digits_and_straighten_quotes():
    written = "I\u2019m 42, \u201creally\u201d: na\u00efve caf\u00e9!"
    assert plain_words(written) == ["i'm", "42", "really", "naive", "cafe"]
    assert plain_words("my parents' 'old' house") == ["my", "parents'", "old", "house"]
    assert plain_words("\u2764\ufe0f Ёж, ή! ガがﾊﾟ") == ["еж", "η", "ガがパ"]  # accents go, what voices a kana stays


def test_numbers_are_told_however_they_are_written():
    written, spoken = "Was it 15% or $80?", "was it fifteen percent or eighty dollars"
    assert said_numbers(written) == said_numbers(spoken) == {"15%", "$80"}
    assert said_numbers("oh, that one") == set()


@pytest.mark.parametrize(
    ("doing", "without"),
    [
        ("import lightning_paras2s.hearing.words", ("lightning", "torch", "transformers")),
        ("from lightning_paras2s.hearing.words import word_error_rate; word_error_rate('a', 'a')", ("lightning",)),
    ],
)
def test_words_import_nothing_heavy(doing, without):
    code = f"import sys; {doing}; print([m for m in {without} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "heard", "errors", "units"),
    [
        ("我今天真的很高兴见到你", "我今天真的很高兴见到您", 1, 11),  # one character of eleven
        ("你好，世界", "你好世界", 0, 4),  # an ear leaves commas out
        ("今天天气很好，我们走吧", "今天天气很好 我们走吧", 0, 10),
        ("今日はとても嬉しいです。", "今日はとても嬉しいです", 0, 11),
        ("だいがく", "たいかく", 2, 4),  # a voicing mark is heard
        ("ｶﾞﾗｽ", "ガラス", 0, 3),  # half-width kana
        ("สวัสดีครับ วันนี้", "สวัสดีครับวันนี้", 0, 16),
        ("สวัสดี", "สวัสดา", 1, 6),  # a vowel that stands above
        ("안녕하세요 만나서 반갑습니다", "안녕하세요 만나서", 1, 3),  # Korean has spaces: words
        ("我在 YouTube 上看到的", "我在YouTube上看到的", 0, 7),  # an English word is one of the seven
        ("我在 YouTube 上看到的", "我在油管上看到的", 2, 7),  # two characters for a word: one wrong, one more
        ("他说 that's 42", "他说 that is forty two", 0, 5),  # 他, 说, that, is, 42
        ("我很好", "", 3, 3),
    ],
)
def test_word_errors_count_characters_when_a_script_has_no_spaces(text, heard, errors, units):
    assert word_error_rate(text, heard) == pytest.approx(errors / units)
    assert overlap.wording_errors(text, heard) == word_error_rate(text, heard)  # the measures' notion of it, too


def test_words_with_spaces_are_cut_as_they_were_when_an_ear_hears_another_script():
    """An English text decides how both sides are cut: a heard clause of Han stays one word."""
    assert compared("that's 42") == said_words("that's 42") == ("that", "is", "42")
    assert word_error_rate("good morning", "good 早上好") == 0.5
