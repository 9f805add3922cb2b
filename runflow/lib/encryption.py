"""What is kept encrypted in the database: secrets that have to be read again, so a hash of them would not do.

Fernet with the keys of ENCRYPTION_KEYS: the first encrypts, all decrypt, so that keys can be changed one after the other.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class CannotDecrypt(Exception):
    """No key of ENCRYPTION_KEYS made this token, or it is not as it was made. `str()` of it holds no secret."""

    def __init__(self, what: str = "this") -> None:
        super().__init__(f"No key of ENCRYPTION_KEYS decrypts {what}.")


def encrypt(text: str) -> str:
    """A token, in ASCII, other at each call."""
    return encrypt_bytes(text.encode()).decode()


def decrypt(token: str) -> str:
    """The text that a token was made of. Raises CannotDecrypt."""
    return decrypt_bytes(token.encode()).decode()


def reencrypt(token: str) -> str:
    """The same text as a token by the first key. Raises CannotDecrypt."""
    try:
        return _keys().rotate(token.encode()).decode()
    except InvalidToken:
        raise CannotDecrypt from None


def encrypt_bytes(data: bytes) -> bytes:
    return _keys().encrypt(data)


def decrypt_bytes(token: bytes) -> bytes:
    """Raises CannotDecrypt."""
    try:
        return _keys().decrypt(token)
    except InvalidToken:
        raise CannotDecrypt from None


def _keys() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.ENCRYPTION_KEYS])
