"""`python -m offbeat`, and the entry point of the command `offbeat`."""

from offbeat.cli import app


def main() -> None:
    """Runs the command line."""
    app(prog_name="offbeat")


if __name__ == "__main__":
    main()
