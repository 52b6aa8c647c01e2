"""The log shows no values of variables, whoever reads it."""

import io
import logging
import sys

import pytest
import structlog
from offbeat import log


class Terminal(io.StringIO):
    """A standard error that says that somebody looks at it."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_exception_is_logged_without_the_variables(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    def fails() -> None:
        hidden = "whsec_" + "secret" * 3  # noqa: F841
        raise ValueError("it broke")

    shown, root = Terminal(is_terminal), logging.getLogger()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(sys, "stderr", shown)
    try:
        log.configure()
        try:
            fails()
        except ValueError:
            log.get().exception("it went wrong")
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert "it broke" in shown.getvalue() and "it went wrong" in shown.getvalue()
    assert "secretsecret" not in shown.getvalue()
