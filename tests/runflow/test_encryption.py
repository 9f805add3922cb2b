"""What is kept encrypted can be read with the keys that are there, and with no others."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from runflow.lib.encryption import CannotDecrypt, decrypt, decrypt_bytes, encrypt, encrypt_bytes, reencrypt

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


@pytest.mark.parametrize("text", ["", "whsec_abc+/=", "ü 🙂 \0"])
def test_a_text_comes_back_and_its_token_does_not_tell_it(text: str) -> None:
    token = encrypt(text)
    assert decrypt(token) == text
    assert token.isascii()
    assert text == "" or text not in token
    assert encrypt(text) != token


def test_bytes_come_back_as_they_were() -> None:
    assert decrypt_bytes(encrypt_bytes(b"\xff\0{}")) == b"\xff\0{}"


def test_the_first_key_encrypts_and_all_decrypt(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    by_old = encrypt("secret")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    by_new = encrypt("secret")
    assert (decrypt(by_old), decrypt(by_new)) == ("secret", "secret")
    settings.ENCRYPTION_KEYS = [NEW]
    assert decrypt(by_new) == "secret"
    with pytest.raises(CannotDecrypt):
        decrypt(by_old)


def test_a_token_is_made_anew_by_the_first_key(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    token = encrypt("secret")
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    token = reencrypt(token)
    settings.ENCRYPTION_KEYS = [NEW]
    assert decrypt(token) == "secret"


@pytest.mark.parametrize("token", ["", "x", "gAAAAA", "ü"])
def test_what_no_key_fits_is_said_to_be_so(settings: Any, token: str) -> None:
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    for read in (decrypt, reencrypt, lambda text: decrypt_bytes(text.encode())):
        with pytest.raises(CannotDecrypt, match=r"^No key of ENCRYPTION_KEYS decrypts this\.$"):
            read(token)


def test_a_token_that_was_changed_is_refused(settings: Any) -> None:
    token = encrypt("secret")
    changed = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    with pytest.raises(CannotDecrypt):
        decrypt(changed)
