"""Indexes for what is looked for each minute; a destination's Retry-After apart from its rate."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index("ix_notes_transcribed_ms", "notes", ["transcribed_ms"])
    # The words of the query, or SQLite does not use it.
    op.create_index(
        "ix_notes_to_sweep",
        "notes",
        ["id"],
        sqlite_where=sa.text("deleted_ms IS NOT NULL AND has_file IS 1"),
        postgresql_where=sa.text("deleted_ms IS NOT NULL AND has_file IS true"),
    )
    op.add_column("destinations", sa.Column("held_ms", sa.BigInteger, nullable=False, server_default="0"))
    # Without a rate it can only have been a Retry-After.
    op.execute("UPDATE destinations SET held_ms = free_ms, free_ms = 0 WHERE per_minute IS NULL")
