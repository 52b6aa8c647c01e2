"""Trouble that the person at the keyboard can mend: the text says how."""


class TrainingError(RuntimeError):
    """Shown without a traceback; its text ends with what to do next."""
