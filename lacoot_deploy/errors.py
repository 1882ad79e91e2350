"""The errors a user can meet, each with the exit code that the command line ends with.

Messages are one or two sentences that name the file, the value and what to do next.
"""

from __future__ import annotations


class LacootError(Exception):
    """Base of every error that lacoot-deploy raises on purpose."""

    exit_code = 1


class UsageError(LacootError):
    """Options or arguments that contradict each other or do not exist."""

    exit_code = 2


class InputError(LacootError):
    """An input that is missing, malformed or unsupported, or an output that cannot be written."""

    exit_code = 3


class VerificationError(LacootError):
    """A result that did not verify: outputs differ, or a stated limit on drift or accuracy is exceeded."""

    exit_code = 4


class NothingToCollapseError(LacootError):
    """No block can go under the given limits."""

    exit_code = 5


class GateError(LacootError):
    """A performance gate such as a required speed-up that was not met."""

    exit_code = 6


class ProviderError(LacootError):
    """The requested execution provider does not run the model on this machine."""

    exit_code = 7
