"""MP3 as streams leave it: libsndfile reads as much as a header states, or as the first frame's bit rate lets it guess,
and leaves the rest out without a word.

A server that writes to a pipe states nothing, one that joins pieces states the first of them. Of speech at a variable
bit rate whose first frame is larger than most, a fifth was read.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, NamedTuple

KBPS = {  # MPEG 1, and MPEG 2 and 2.5, of layer III
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
RATES = (44_100, 48_000, 32_000)  # of MPEG 1; halved in MPEG 2, and again in 2.5
LAYER_III, ROOMY = 1, 9  # a bit rate at which a frame holds what `header` puts into it
LOST = 65_536  # bytes of something else between two frames, behind which none is looked for


class Frame(NamedTuple):
    """What a frame's four bytes say: its kind (alike in all of a stream), its bytes, and where a header of the whole
    stream has its place in it."""

    kind: tuple[int, int]
    size: int
    place: int


class Stream(NamedTuple):
    """An MP3's frames.

    Attributes:
        sound: where the first that holds sound is, behind tags and a header.
        frames: those that hold sound, and are whole.
        stated: how many its header says that it holds; None if it says nothing.
        alike: all have the same size, but for padding: then what libsndfile guesses is right.
    """

    sound: int
    frames: int
    stated: int | None
    alike: bool


def frame_at(body: bytes, place: int) -> Frame | None:
    """The frame of layer III there; None if there is none."""
    if len(body) < place + 4 or body[place] != 0xFF or body[place + 1] & 0xE0 != 0xE0:
        return None
    version, layer = body[place + 1] >> 3 & 3, body[place + 1] >> 1 & 3
    kbps, rate = KBPS[version == 3][body[place + 2] >> 4], body[place + 2] >> 2 & 3
    if version == 1 or layer != LAYER_III or not kbps or rate == 3:
        return None
    hz = RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 1152 if version == 3 else 576
    one_channel = body[place + 3] >> 6 == 3
    side = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[version == 3, one_channel]
    size = samples // 8 * kbps * 1000 // hz + (body[place + 2] >> 1 & 1)
    return Frame((version, rate), size, 4 + side)


def next_frame(body: bytes, place: int, kind: tuple[int, int] | None = None) -> tuple[int, Frame] | None:
    """The next frame (of a kind) that another follows, or nothing: bytes of something else may look like one."""
    for at in range(place, min(place + LOST, len(body) - 3)):
        found = frame_at(body, at)
        if found is None or (kind and found.kind != kind) or at + found.size > len(body):
            continue
        if at == place and kind:  # where the last one ends
            return at, found
        after = frame_at(body, at + found.size)
        if at + found.size == len(body) or (after and after.kind == found.kind):
            return at, found
    return None


def stream(body: bytes) -> Stream | None:
    """All whole frames of an MP3; None if it is none. A frame that is cut at the end is not counted."""
    begin = 0
    while body[begin : begin + 3] == b"ID3" and len(body) > begin + 10:
        begin += 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(body[begin + 6 : begin + 10]))
    if body[begin : begin + 1] != b"\xff" or (found := next_frame(body, begin)) is None:
        return None
    begin, first = found
    stated = stated_frames(body, begin, first)
    place = begin if stated is None else begin + first.size
    places, sizes = [], []
    while (found := next_frame(body, place, first.kind)) is not None:
        places.append(found[0])
        sizes.append(found[1].size)
        place = found[0] + found[1].size
    alike = not sizes or max(sizes) - min(sizes) <= 1
    return Stream(places[0] if places else place, len(places), stated or None, alike)


def stated_frames(body: bytes, place: int, first: Frame) -> int | None:
    """How many frames a first frame states that holds no sound (0: it does not say); None if it holds sound."""
    head = body[place + first.place : place + first.size]
    if head[:4] in (b"Xing", b"Info"):
        return int.from_bytes(head[8:12], "big") if int.from_bytes(head[4:8], "big") & 1 else 0
    other = body[place + 36 : place + 54]
    return int.from_bytes(other[14:18], "big") if other[:4] == b"VBRI" else None


def header(first: bytes, place: int, frames: int) -> bytes:
    """A frame without sound, alike to a stream's first four bytes, that states how many frames follow."""
    named = bytes([first[0], first[1] | 1, ROOMY << 4 | first[2] & 0x0C, first[3]])
    made = frame_at(named, 0)
    return (named.ljust(place, b"\0") + b"Xing" + struct.pack(">II", 1, frames)).ljust(made.size, b"\0")


def all_stated(body: bytes) -> bytes:
    """An MP3 with a header that states all of its frames (`restated`); anything else stays as it is."""
    found = stream(body)
    return body if found is None else restated(body, found)


def restated(body: bytes, found: Stream) -> bytes:
    """An MP3, whose frames are found, with a header that states all of them where its own states fewer, or none does
    and they differ in size."""
    if not found.frames or (found.alike if found.stated is None else found.stated >= found.frames):
        return body
    first = frame_at(body, found.sound)
    return header(body[found.sound : found.sound + 4], first.place, found.frames) + body[found.sound :]


def whole(file: BinaryIO) -> BinaryIO:
    """What libsndfile is to open in a file's stead: itself, or an MP3's bytes that state all of its frames."""
    head = file.read(3)
    file.seek(0)
    if head != b"ID3" and not (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return file
    body = file.read()
    file.seek(0)
    stated = all_stated(body)
    return file if stated is body else io.BytesIO(stated)
