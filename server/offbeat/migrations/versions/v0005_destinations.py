"""Destinations with recipes, templates, events and limits; several deliveries of a note to a destination."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for column in (
        sa.Column("name", sa.Text),
        sa.Column("recipe", sa.String(32), nullable=False, server_default="webhook"),
        sa.Column("template", sa.JSON),
        sa.Column("fields", sa.JSON),
        sa.Column("headers", sa.JSON),
        sa.Column("authorization", sa.Text),
        sa.Column("events", sa.JSON),
        sa.Column("empty_texts", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("ask", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("timeout_s", sa.Integer, nullable=False, server_default="20"),
        sa.Column("per_minute", sa.Integer),
        sa.Column("answer_path", sa.Text),
        sa.Column("free_ms", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("removed_ms", sa.BigInteger),
    ):
        op.add_column("destinations", column)
    # Those that there were got empty texts, too.
    op.execute("UPDATE destinations SET empty_texts = true")
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # SQLite does not know the constraint's name; there alembic gives it one by the convention.
    unique = "uq_deliveries_note_id" if is_sqlite else "deliveries_note_id_destination_id_key"
    with op.batch_alter_table("deliveries", naming_convention={"uq": "uq_%(table_name)s_%(column_0_name)s"}) as table:
        table.drop_constraint(unique, type_="unique")
        table.alter_column("note_id", existing_type=sa.String(49), nullable=True)
        table.add_column(sa.Column("event", sa.String(32), nullable=False, server_default="note"))
        table.add_column(sa.Column("reserved", sa.Boolean, nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("begun_ms", sa.BigInteger))
        table.add_column(sa.Column("answer", sa.Text))
    for name, table_name, columns in (
        ("ix_deliveries_note_id", "deliveries", ["note_id"]),
        ("ix_deliveries_state", "deliveries", ["state"]),
        ("ix_deliveries_of", "deliveries", ["destination_id", "state"]),
        ("ix_tries_delivery_id", "tries", ["delivery_id"]),
    ):
        op.create_index(name, table_name, columns, if_not_exists=True)
    # Their jobs are in a queue that is no more: as another attempt they are taken up at the start.
    op.execute("UPDATE deliveries SET attempt = attempt + 1 WHERE state = 'pending'")
