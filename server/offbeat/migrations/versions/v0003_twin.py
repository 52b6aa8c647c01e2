"""What is desired of a device, its updates, and from when to when a note may have been recorded."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("devices", sa.Column("revision", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "desired",
        sa.Column("device_id", sa.String(32), sa.ForeignKey("devices.id"), primary_key=True),
        sa.Column("setting", sa.String(32), primary_key=True),
        sa.Column("value", sa.JSON),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
    )
    op.add_column("devices", sa.Column("update_version", sa.String(64)))
    op.create_table(
        "updates",
        sa.Column("app", sa.String(16), primary_key=True),
        sa.Column("mpy", sa.Integer, primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("added_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "update_files",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.add_column("notes", sa.Column("first_counter", sa.JSON))
    op.add_column("notes", sa.Column("recorded_from_ms", sa.BigInteger))
    op.add_column("notes", sa.Column("recorded_to_ms", sa.BigInteger))
    # Until here a time was reckoned only where nothing but the awake counter lay between.
    op.execute("UPDATE notes SET recorded_from_ms = recorded_ms, recorded_to_ms = recorded_ms")
