"""A device's errors outlive the report that brought them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("devices", sa.Column("errors", sa.JSON))
    op.add_column("devices", sa.Column("errors_ms", sa.BigInteger))
