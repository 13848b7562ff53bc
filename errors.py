"""The exceptions that mean something to the command line, shared by all packages."""

__all__ = ["DifferenceError", "InputError", "Terminated", "first_line"]


class InputError(ValueError):
    """Input from outside (argument, file, model, configuration) that cannot be used.

    The message is one line that names the thing, its value and what was expected. The command line prints it and
    exits with code 2; everything else that is raised is a defect and keeps its traceback.
    """


class DifferenceError(RuntimeError):
    """Results that had to be equal are not. The command line prints the message and exits with code 1."""


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing on the way takes it for a failure of its own."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
