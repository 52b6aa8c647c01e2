"""Offbeat's companion server: takes the notes in, transcribes them, posts the text to webhooks."""

__version__ = "0.1.0"
