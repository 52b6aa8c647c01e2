"""The last errors of a gadget: printed, and kept until they were reported. Never give it a token or a password."""

import sys

KEPT = 5  # as many as a check-in carries (docs/protocol.md)
LONGEST = 200  # characters of one of them

_errors: list = []


def info(text: str):
    print(text)


def error(what: str, problem=None):
    """Print `what` and the exception `problem`, and keep one line of it. The same line twice running is kept once."""
    line = what
    if problem is not None:
        line = "%s: %s: %s" % (what, type(problem).__name__, problem)
    line = "".join(c if " " <= c <= "~" else "?" for c in line)[:LONGEST]
    print("error:", line)
    if problem is not None and hasattr(sys, "print_exception") and not isinstance(problem, OSError):
        sys.print_exception(problem)  # a bug, most likely: its place is wanted. An OSError is the world's.
    if not _errors or _errors[-1] != line:
        _errors.append(line)
        del _errors[:-KEPT]


def errors() -> list:
    """The last errors, oldest first, at most 5 of at most 200 characters of ASCII."""
    return list(_errors)


def reported(errors: list):
    """Forget these, a list that `errors` returned: the server has acknowledged them."""
    for line in errors:
        if line in _errors:
            _errors.remove(line)
