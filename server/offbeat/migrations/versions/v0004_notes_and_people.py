"""Notes without a device, titles, corrections, tombstones, full-text search; tokens, a password, named sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INSERT_NEW = "INSERT INTO notes_search(rowid, title, text) VALUES (new.number, new.title, new.text)"
DELETE_OLD = (
    "INSERT INTO notes_search(notes_search, rowid, title, text) VALUES ('delete', old.number, old.title, old.text)"
)
# SQLite: the index holds no text of its own, it reads the notes' table; the triggers keep it in step.
SEARCH_SQLITE = (
    "CREATE VIRTUAL TABLE notes_search USING fts5"
    "(title, text, content='notes', content_rowid='number', tokenize='unicode61 remove_diacritics 2', prefix='2 3')",
    f"CREATE TRIGGER notes_search_insert AFTER INSERT ON notes BEGIN {INSERT_NEW}; END",
    f"CREATE TRIGGER notes_search_delete AFTER DELETE ON notes BEGIN {DELETE_OLD}; END",
    f"CREATE TRIGGER notes_search_update AFTER UPDATE OF title, text ON notes BEGIN {DELETE_OLD}; {INSERT_NEW}; END",
    "INSERT INTO notes_search(notes_search) VALUES ('rebuild')",
)
# The expression is the one of `search` in offbeat/notebook.py, or the index is not used.
SEARCH_POSTGRESQL = (
    "CREATE INDEX notes_search ON notes USING gin "
    "(to_tsvector('simple', coalesce(title, '') || ' ' || coalesce(text, '')))",
)


def upgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.alter_column("device_id", existing_type=sa.String(32), nullable=True)
        notes.add_column(sa.Column("source", sa.Text))
        notes.add_column(sa.Column("title", sa.Text))
        notes.add_column(sa.Column("media_type", sa.String(64)))
        notes.add_column(sa.Column("transcript", sa.Text))
        notes.add_column(sa.Column("edited_ms", sa.BigInteger))
        notes.add_column(sa.Column("deleted_ms", sa.BigInteger))
        notes.add_column(sa.Column("has_file", sa.Boolean, nullable=False, server_default=sa.true()))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SEARCH_SQLITE if is_sqlite else SEARCH_POSTGRESQL:
        op.execute(statement)
    op.add_column("sessions", sa.Column("name", sa.Text))
    op.add_column("sessions", sa.Column("by_link", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("sessions", sa.Column("seen_ms", sa.BigInteger))
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("used_ms", sa.BigInteger),
    )
    op.create_table(
        "password",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
    )
