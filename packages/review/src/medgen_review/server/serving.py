"""Where the studio listens, who may reach it, and how it starts."""

import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medgen_review.server.app import create_app
from medgen_review.server.images import PreparedImages
from medgen_review.store import RatingStore
from medgen_review.study import StudyError, read_study

logger = logging.getLogger(__name__)

_DEFAULT_PORTS = {"http": 80, "https": 443}


class AddressError(StudyError):
    """The studio must not be served at this address in this way; the message says what is needed."""


@dataclass(frozen=True)
class Access:
    """How the studio may be reached.

    Attributes:
        host: Address or name to bind.
        tls: Whether this server speaks TLS itself.
        behind_proxy: Origin of a proxy that does, like `https://rate.clinic.example`.
        hostnames: Names in the address bar beside `host` itself.
    """

    host: str = "127.0.0.1"
    tls: bool = False
    behind_proxy: str | None = None
    hostnames: tuple[str, ...] = ()

    def origins(self, port: int) -> tuple[str, ...]:
        """Return the origins a page of the studio may have, that to show first."""
        if self.behind_proxy is not None:
            # As browsers send it: small letters, no port where it is the usual one.
            return (self.behind_proxy.rstrip("/").lower().removesuffix(":443"),)
        scheme = "https" if self.tls else "http"
        names = [] if is_any_address(self.host) else [self.host]
        if is_loopback(self.host):
            names += ["127.0.0.1", "localhost"]
        names += self.hostnames
        suffix = "" if _DEFAULT_PORTS[scheme] == port else f":{port}"
        origins = [f"{scheme}://{f'[{name}]' if ':' in name else name.lower()}{suffix}" for name in names]
        return tuple(dict.fromkeys(origins))

    @property
    def secure(self) -> bool:
        """Whether browsers reach the studio by TLS alone."""
        return self.tls or self.behind_proxy is not None


def checked_access(
    host: str = "127.0.0.1",
    *,
    allow_public: bool = False,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    behind_proxy: str | None = None,
    hostnames: Sequence[str] = (),
) -> Access:
    """Check how the studio is to be served.

    Raises:
        AddressError: If other computers could reach it and this was not asked for by `allow_public`, or their
            connection would not be encrypted.
    """
    if (tls_cert is None) != (tls_key is None):
        raise AddressError("TLS needs both files: the certificate (tls_cert) and its key (tls_key)")
    for file in (tls_cert, tls_key):
        if file is not None and not file.is_file():
            raise AddressError(
                f"{file}: there is no such file; TLS needs a certificate and its key, both PEM"
            )
    if behind_proxy is not None:
        parts = urlsplit(behind_proxy)
        if (
            parts.scheme != "https"
            or not parts.hostname
            or parts.path.strip("/")
            or parts.query
            or parts.username
        ):
            raise AddressError(
                f"behind_proxy must be the address raters type, like https://rate.clinic.example, "
                f"got {behind_proxy!r}"
            )
    if not is_loopback(host):
        if not allow_public:
            raise AddressError(
                f"{host} can be reached from other computers. If that is meant, allow it (allow_public) and "
                "give TLS files or the https address of a proxy; else serve on 127.0.0.1"
            )
        if tls_cert is None and behind_proxy is None:
            raise AddressError(
                f"{host} can be reached from other computers, and codes and ratings would cross the network in the "
                "clear: give TLS files (tls_cert, tls_key) or the https address of a proxy (behind_proxy)"
            )
        if is_any_address(host) and behind_proxy is None and not hostnames:
            raise AddressError(
                f"{host} stands for every address of this computer: give the names that raters type (hostnames)"
            )
    return Access(host, tls_cert is not None, behind_proxy, tuple(hostnames))


def serve(
    study_file: Path,
    database: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_public: bool = False,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    behind_proxy: str | None = None,
    hostnames: Sequence[str] = (),
    cache_dir: Path | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a study until the process is told to stop.

    Args:
        study_file: `study.json`.
        database: SQLite file or URL; default `ratings.sqlite` beside the study.
        host: Address to listen at.
        port: 0 takes a free one.
        allow_public: Permit an address that other computers reach; needs TLS or a proxy too.
        tls_cert: Certificate chain, PEM.
        tls_key: Its key, PEM.
        behind_proxy: Origin of a TLS proxy in front, like `https://rate.clinic.example`; it has to pass `Host` on.
        hostnames: Names that raters type, where they are not `host`.
        cache_dir: Where prepared images are kept; default `shown-images` beside the study.
        on_ready: Called with the address once connections are taken.

    Raises:
        AddressError: If it must not be served so, or the port is taken.
        StudyError: If the study or an image of it is not as it was made.
        StoreError: If the database cannot be used.
    """
    import uvicorn

    access = checked_access(
        host,
        allow_public=allow_public,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        hostnames=hostnames,
    )
    study = read_study(study_file)
    folder = study_file.absolute().parent
    images = PreparedImages.prepare(study, folder, cache_dir or folder / "shown-images")
    listener = _listen(host, port)
    origins = access.origins(listener.getsockname()[1])
    with RatingStore.open(database or folder / "ratings.sqlite", study) as store:
        app = create_app(store, images, origins=origins, secure=access.secure)
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Only a proxy may say who is behind it.
            proxy_headers=behind_proxy is not None,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            timeout_graceful_shutdown=5,
        )
        logger.info("serving %s at %s", study_file, origins[0])
        if on_ready is not None:
            on_ready(origins[0])
        uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Return whether only this computer reaches an address; a name other than `localhost` is not trusted."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_any_address(host: str) -> bool:
    """Return whether an address stands for all of this computer."""
    try:
        return host == "" or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Else the port of a server that was killed stays taken for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(256)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise AddressError(
            f"cannot listen at {host} port {port} ({error.strerror or error}); is the study served already? "
            "Choose another port"
        ) from error
    return listener
