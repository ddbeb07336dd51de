"""Earlier turns of a dialogue, before the user's turn that is the query.

They alternate: whoever speaks, a turn is all that is said until the other one speaks; what one said in several
recordings is one turn. The query is the user's next turn, so that the last earlier one is the assistant's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.running.fields import fields_of, fits, in_words, is_text

if TYPE_CHECKING:
    from lightning_paras2s.types import Audio

# Who speaks, and by what the speaking is told: the labels of a user, the manner of an assistant in a few words.
STYLES_OF = {"user": ("emotion", "sarcasm", "age", "gender"), "assistant": ("tone",)}


@dataclass(frozen=True)
class Turn:
    """What was said before the query.

    Attributes:
        role: user or assistant.
        text: the words; "" of a user's turn that nobody wrote down, which then has a recording.
        audio: the recording's path, relative as the query's; "" where there is none.
        styles: of the speaker, as far as they are known: a user's emotion, sarcasm, age, gender; an assistant's tone.
    """

    role: str
    text: str = ""
    audio: str = ""
    styles: dict[str, str] = field(default_factory=dict)
    sound: ClassVar[Audio | None] = None  # what there is to hear of it, where somebody has looked: see `HeardTurn`
    seconds: ClassVar[float] = 0.0  # of that

    def __post_init__(self) -> None:
        check_choice("a turn's role", self.role, STYLES_OF)
        if not is_text(self.text):
            raise UserError(f"the {self.role}'s turn must be text; got half of a surrogate pair in {self.text!r:.60}")
        if not self.text.strip() and (self.role == "assistant" or not (self.audio or self.sound)):
            either = "" if self.role == "assistant" else " or a recording"
            raise UserError(f"the {self.role}'s turn must have its text{either}; got none; add it")
        if others := sorted(set(self.styles) - set(STYLES_OF[self.role])):
            known = ", ".join(STYLES_OF[self.role])
            raise UserError(f"the {self.role}'s turn may have the styles {known}; got {', '.join(others)}")

    @property
    def told(self) -> str:
        """ "sad, child": its styles in words; "" where none is known."""
        return ", ".join(self.styles[name] for name in STYLES_OF[self.role] if self.styles.get(name))


class HeardTurn(Turn):
    """A turn with what there is to hear of it; as a record it is a `Turn`."""

    def __init__(
        self,
        role: str,
        text: str = "",
        audio: str = "",
        styles: dict[str, str] | None = None,
        sound: Audio | None = None,
        seconds: float = 0.0,
    ) -> None:
        object.__setattr__(self, "sound", sound)
        object.__setattr__(self, "seconds", seconds)
        super().__init__(role, text, audio, styles or {})


def all_written(turns: Sequence[Turn]) -> bool:
    """Has somebody written down what each turn says?"""
    return all(turn.text.strip() for turn in turns)


def check_turns(turns: Sequence[Turn]) -> None:
    """Earlier turns must alternate, and end with the assistant's.

    Raises:
        UserError: telling which turn is out of order.
    """
    for number, (one, next_one) in enumerate(zip(turns, turns[1:], strict=False), 2):
        if one.role == next_one.role:
            raise UserError(
                f"earlier turns must alternate between user and assistant; got the {one.role}'s twice, turns "
                f"{number - 1} and {number}; make them one"
            )
    if turns and turns[-1].role == "user":
        raise UserError(
            f"the last earlier turn must be the assistant's, since the query is the user's next; got the user's, turn "
            f"{len(turns)}; make it part of the query or add what was answered"
        )


def read_turns(values: Any) -> tuple[Turn, ...]:
    """A record's turns from JSON.

    Raises:
        UserError: naming the turn and what it must be.
    """
    if not isinstance(values, list | tuple):
        raise UserError(f"turns must be a list, the oldest first; got {type(values).__name__}; mend the line")
    found = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise UserError(f"turn {number} must be an object; got {value!r:.60}; mend the line")
        fields = fields_of(Turn)
        if unknown := sorted(value.keys() - fields.keys()):
            raise UserError(f"turn {number}: unknown field {', '.join(unknown)}; a turn has {', '.join(fields)}")
        if "role" not in value:
            raise UserError(f"turn {number} must have its role; got {', '.join(value) or 'nothing'}; add it")
        for name, inner in value.items():
            if not fits(inner, fields[name][1]):
                raise UserError(f"turn {number}'s {name} must be {in_words(fields[name][1])}; got {inner!r:.60}")
        try:
            found.append(Turn(**value))
        except UserError as error:
            raise UserError(f"turn {number}: {error}") from None
    return tuple(found)


def in_lines(turns: Sequence[Turn]) -> str:
    """A dialogue for someone who reads: "user (sad): My piano broke."."""
    names = {"user": "user", "assistant": "agent"}
    told = [f"{names[t.role]} ({t.told})" if t.told else names[t.role] for t in turns]
    words = [" ".join(t.text.split()) or "(nobody wrote down what was said)" for t in turns]
    return "\n".join(f"{who}: {said}" for who, said in zip(told, words, strict=True))


def after(turns: Sequence[Turn], prompt: str) -> str:
    """A prompt about a user's turn, behind what was said before it; without any it is the prompt."""
    return f"Earlier in the same dialogue:\n{in_lines(turns)}\n\n{prompt}" if turns else prompt
