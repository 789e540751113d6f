"""Everything that can go wrong, in one tree; each class carries the exit code of the command that meets it.

* MurmurError                1   happened, why, and (hint) the next command to type
  + UsageError               2   the words typed do not make sense together
  + ConfigError              3   a setting, a file or a keystore is missing or wrong
  + NetworkError             4   a peer or the coordinator could not be reached
  + LedgerError              5   the chain refused, or is not there
  + ProofRejected            6   a proof was read and found false
  + ProofInconclusive        7   a proof could not be decided; never slashes
  + Malformed                1   bytes from somebody else that do not parse; refused, with the reason
  + Premature                1   a message we cannot judge yet; refused for now, nobody's fault
  + Equivocation             1   this peer already signed something else for the same round and role
  + Held                     1   this peer's journal was restored, and may lack what was signed for the round
  + OwnFault                 1   our own defect or accident; never slashes anyone
"""

from typing import ClassVar


class MurmurError(Exception):
    """Report a failure that the user can understand; `hint` names what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MurmurError):
    """Report options that contradict each other."""

    exit_code = 2


class ConfigError(MurmurError):
    """Report a missing or wrong setting, file or keystore."""

    exit_code = 3


class NetworkError(MurmurError):
    """Report a peer that could not be reached or did not deliver."""

    exit_code = 4


class LedgerError(MurmurError):
    """Report a chain that is absent, wrong, or refused a transaction."""

    exit_code = 5


class ProofRejected(MurmurError):
    """Report a proof that was read, recomputed and found false."""

    exit_code = 6


class ProofInconclusive(MurmurError):
    """Report a proof that cannot be decided with what is at hand."""

    exit_code = 7


class Malformed(MurmurError):
    """Report bytes from another party that break a rule; the message is the reason and names no secret."""


class Premature(MurmurError):
    """Refuse a message for now: it names a round or a peer that our view of the chain has not reached."""


class Equivocation(MurmurError):
    """Refuse to sign a second, different statement for one round and role."""


class Held(MurmurError):
    """Refuse to sign for a round for which something may have been signed that a restored journal does not hold."""


class OwnFault(MurmurError):
    """Report a defect or accident on our side; it never leads to a slash."""


def _tree(root: type[MurmurError]) -> dict[str, type[MurmurError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def error_classes() -> dict[str, type[MurmurError]]:
    """Return every class of the tree by name, for errors that cross a process boundary."""
    return _tree(MurmurError)
