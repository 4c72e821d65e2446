"""Where images may be sent: this machine, and the one host that was allowed by name."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from medgen_data.problems import DataError


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1", "localhost.example.org", "0.0.0.0")]
    [True, True, True, False, False]
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_egress(base_url: str, allow_egress: Collection[str]) -> str:
    """Return the host of an endpoint, if images may be sent there.

    Args:
        base_url: Of the endpoint.
        allow_egress: Hosts allowed besides this machine; compared whole, without regard to case.

    Raises:
        DataError: If the address has no host, holds a password, or the host is not allowed.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    if not host or parts.username is not None or parts.password is not None:
        raise DataError(f"base_url must be http(s)://HOST[:PORT]/PATH without a user, got {base_url!r}")
    if not is_loopback(host) and host not in {allowed.lower() for allowed in allow_egress}:
        raise DataError(
            f"images would be sent to {host}, which is not this machine; if they may leave it, allow exactly this "
            f"host (--allow-egress {host})"
        )
    return host
