"""Devices whose token was ended, names of time zones, silences that were told."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("devices", sa.Column("revoked_ms", sa.BigInteger))
    op.add_column("devices", sa.Column("zone", sa.String(64)))
    op.add_column("devices", sa.Column("silent_ms", sa.BigInteger))
