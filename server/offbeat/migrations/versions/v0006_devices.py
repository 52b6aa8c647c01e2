"""Devices whose token was ended, and silences that were told."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("devices", sa.Column("revoked_ms", sa.BigInteger))
    op.add_column("devices", sa.Column("silent_ms", sa.BigInteger))
