"""How a command ends."""

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
PENDING = 5
DIFFERENT = 6

HELP = """\
exit status:
  0  done
  1  refused or failed; for status: the agent does not enforce what is described
  2  wrong usage, or a configuration that cannot be used
  3  there is no such object
  4  the agent cannot be reached, or did not answer in time
  5  accepted, and waits for something that is not there yet
  6  with --exit-code: the plan is not empty
"""


class Failure(Exception):
    """A command cannot go on.

    :ivar code: the exit status.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
