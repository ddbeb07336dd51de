"""Byte-pair encoding of the text stream, by hand."""

import base64

import pytest
from test_kimi_audio import tiny_kimi

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.checkpoint import save_kimi
from lightning_paras2s.models.kimi.text import SPECIAL_TOKENS, KimiText

BYTES = [bytes([i]) for i in range(190)]
MERGED = [b"lo", b"low", b" l", b"er", b"we", b"wer", b"es", b"est", b" lo", b" low"]  # ranks 190 ... 199


@pytest.fixture
def folder(tmp_path):
    save_kimi(tiny_kimi(), tmp_path / "kimi")
    write(tmp_path / "kimi", BYTES + MERGED)
    return tmp_path / "kimi"


def write(folder, words):
    lines = [f"{base64.b64encode(word).decode()} {rank}\n" for rank, word in enumerate(words)]
    (folder / "tiktoken.model").write_text("".join(lines))


def test_neighbours_of_lowest_rank_are_joined_first(folder):
    """ "lower": lo (190) before er (193) before we; then low (191): low er. " lower": a piece of its own: " " lo wer?
    lo, er, then low (191), and " low" (199) last: " low" er. "lowest": lo, then low, es (196), est: low est.
    """
    text = KimiText(str(folder))
    assert text.encode("lower") == [191, 193]
    assert text.encode("lower lowest") == [191, 193, 199, 197]
    assert text.decode([191, 193, 199, 197]) == "lower lowest"


def test_pieces_are_cut_as_qwens_are(folder):
    """Digits stand alone, a contraction is a piece, marks take the line end with them, the space goes to the word."""
    text = KimiText(str(folder))
    assert text.encode("I'd 42 low!\n") == [ord("I"), ord("'"), ord("d"), ord(" "), ord("4"), ord("2"), 199, 33, 10]
    assert text.decode(text.encode("<|im_msg_end|> \t x")) == "<|im_msg_end|> \t x"
    assert max(text.encode("<|im_msg_end|>")) < 200  # it is text


def test_decoding_ends_at_eos_and_skips_what_is_no_word(folder):
    text, config = KimiText(str(folder)), tiny_kimi().config
    assert text.decode([191, config.blank, 193, config.text_eos, 191]) == "lower"
    assert text.decode([0x61, 0x83]) == "a\ufffd"  # half a character


def test_special_tokens_of_the_release_lie_behind_its_words():
    """151,643 words; ids as in the prompt template: msg_end 151645 ... speech_ctd 151676."""
    wanted = {"msg_end": 151645, "media_begin": 151661, "media_end": 151663, "blank": 151666, "text_eos": 151667}
    wanted |= {"user_start": 151670, "assistant_start": 151671, "speech_ct": 151675, "speech_ctd": 151676}
    assert {name: 151643 + offset for name, offset in SPECIAL_TOKENS.items()} == wanted


def test_another_models_or_a_damaged_table_is_one_clear_line(folder):
    write(folder, BYTES + MERGED[:-1])
    with pytest.raises(UserError, match="msg_end = 202; got 201, 2 after its 199 words; it is another model's"):
        KimiText(str(folder))
    (folder / "tiktoken.model").write_text("bG8= 0\nbG93")
    with pytest.raises(UserError, match="tiktoken.model:2 must be base64 and a rank; got b'bG93'"):
        KimiText(str(folder))
    (folder / "tiktoken.model").write_text("bG8= 0\nbG93 2\n")
    with pytest.raises(UserError, match="must rank its 2 words 0, 1, 2"):
        KimiText(str(folder))
    (folder / "tiktoken.model").unlink()
    with pytest.raises(UserError, match="tiktoken.model; it is missing"):
        KimiText(str(folder))
