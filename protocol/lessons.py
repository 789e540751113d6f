"""What a unit builds on of earlier rounds, by name: a function of records, the same for everybody."""

from typing import Annotated, Final

from pydantic import Field

from protocol.frozen import Digest, Frozen
from protocol.messages import MAX_PREFERENCES, MAX_UNITS, Number, Place


class Lesson(Frozen):
    """Name a unit whose rollouts or judgments count."""

    number: Number
    blob: Digest  # that it published


class Preferred(Frozen):
    """Name two samples of a group of which a person prefers one."""

    number: Number  # of the unit's author
    group: Place
    better: Place
    worse: Place


_Lessons = Annotated[tuple[Lesson, ...], Field(max_length=MAX_UNITS)]


class Lessons(Frozen):
    """Name everything of earlier rounds that a unit builds on, each part in the order of a record."""

    learned: _Lessons = ()  # whose rollouts it learns from
    judging: _Lessons = ()  # who judged those, in the round after
    judged: _Lessons = ()  # whose rollouts it judges itself
    # Among the samples that it learns from; of at most three records, for the lag is four.
    preferences: Annotated[tuple[Preferred, ...], Field(max_length=3 * MAX_PREFERENCES)] = ()

    @property
    def blobs(self) -> tuple[str, ...]:
        """Return the addresses of all, each once."""
        return tuple(holders(self))


NOTHING: Final = Lessons()


def holders(lessons: Lessons) -> dict[str, int]:
    """Return the address of every blob that is named, with the number that published it."""
    return {one.blob: one.number for one in (*lessons.learned, *lessons.judging, *lessons.judged)}
