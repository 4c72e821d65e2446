"""Codes that raters log in with: 100 random bits, easy to read out and to type, kept only as a hash."""

import hashlib
import secrets

# Crockford's base 32: no I, L, O and U, which are misread or spell words.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("OIL", "011", " -\t\r\n")
_NUM_CHARACTERS, _GROUP = 20, 5


def new_code() -> str:
    """Return a new code, like `7K2MQ-0ZC4T-9XWAB-F3H8D`."""
    characters = "".join(secrets.choice(_ALPHABET) for _ in range(_NUM_CHARACTERS))
    return "-".join(characters[start : start + _GROUP] for start in range(0, _NUM_CHARACTERS, _GROUP))


def code_hash(code: str) -> str:
    """Return the hash that a code is known by, however it was typed: case, spaces and hyphens do not count.

    A plain SHA-256 is enough: 100 random bits cannot be tried out, unlike a password.
    """
    plain = code.upper().translate(_MISREAD)
    return hashlib.sha256(plain.encode("utf-8", errors="replace")).hexdigest()
