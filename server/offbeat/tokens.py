"""Random tokens, and the hashes by which they are kept."""

import hashlib
import secrets


def new_token() -> str:
    """32 random bytes in URL-safe base64 without padding: 43 characters."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """SHA-256 in hexadecimal. A plain hash is enough: a token has 256 random bits, there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()
