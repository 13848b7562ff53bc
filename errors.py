"""The one exception that means "the input is wrong", shared by all packages.

It stands at the root because `fgmp.hdl` may import nothing of `fgmp.golden` but `golden.formats`.
"""

__all__ = ["InputError"]


class InputError(ValueError):
    """Input from outside (argument, file, model, configuration) that cannot be used.

    The message is one line that names the thing, its value and what was expected. The command line prints it and
    exits with code 2; everything else that is raised is a defect and keeps its traceback.
    """
