"""Where a webhook goes and what signs it: URLs and references to secrets, checked before they are stored."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from unhurried.domain.request import Refusal

URL_CHARS_MAX: Final = 2_000
HOST_CHARS_MAX: Final = 253
SOCKET_PATH_BYTES_MAX: Final = 107
"""``sun_path`` has 108 bytes, the last of them zero (Linux, unix(7))."""
REF_CHARS_MAX: Final = 1_000
SECRETS_MAX: Final = 4
OUR_PREFIX: Final = "UNHURRIED_"

Kind = Literal["https", "http", "http+unix"]

_KINDS: Final[dict[str, Kind]] = {"https": "https", "http": "http", "http+unix": "http+unix"}
_PORTS: Final[dict[Kind, int]] = {"https": 443, "http": 80, "http+unix": 0}
_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
"""RFC 3986, section 2. Whatever else stands in a URL, two parsers may read it in two ways."""
_PARTS: Final = re.compile(r"([^:/?#]+)://([^/?#]*)([^#]*)")
_HOST_PORT: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Target:
    """A parsed URL.

    ``host`` is lower case and ASCII, an IPv6 address without its brackets; empty for ``http+unix``, as ``socket_path``
    is for the others. ``path`` begins with ``/`` and has the query, as written. ``url`` is what the operator wrote:
    its path may be a secret of the receiver's, so logs and texts name ``origin``.
    """

    kind: Kind
    host: str
    port: int
    path: str
    socket_path: str
    url: str

    @property
    def authority(self) -> str:
        """What stands in ``Host``: the port where it is not the usual one, IPv6 in brackets."""
        if self.kind == "http+unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.kind] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """``https://example.com:8443``, or ``http+unix:/run/app/app.sock``: fit to be shown anywhere."""
        return f"http+unix:{self.socket_path}" if self.kind == "http+unix" else f"{self.kind}://{self.authority}"


@dataclass(frozen=True)
class SecretRef:
    """Where a secret is to be found at each send: ``env:NAME`` or ``file:/absolute/path``. Never the secret itself."""

    kind: Literal["env", "file"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def parse_target(url: str) -> Target:
    """``https://host[:port]/path?query``, the same with ``http``, or ``http+unix://%2Frun%2Fapp%2Fapp.sock/path``.

    Raises ``Refusal`` (field ``url``) for everything that is not plainly one of these. What the name stands for is
    looked at when it is dialled.
    """
    if len(url) > URL_CHARS_MAX:
        raise _bad_url(f"it has {len(url):,} characters, the limit is {URL_CHARS_MAX:,}")
    if not _CHARACTERS.fullmatch(url):
        raise _bad_url("it has a character that must be percent-encoded, or a % without two hex digits after it")
    if "#" in url:
        raise _bad_url("a fragment (#…) is never sent")
    parts = _PARTS.fullmatch(url)
    kind = _KINDS.get(parts[1].lower()) if parts else None
    if parts is None or kind is None:
        raise _bad_url("it must begin with https://, http:// or http+unix://")
    authority, path = parts[2], parts[3]
    if "@" in authority:
        raise _bad_url("a user name or password in it would end up in logs; webhooks are signed instead")
    path = path if path.startswith("/") else "/" + path
    if kind == "http+unix":
        return Target(kind, "", 0, path, _socket_path(authority), url)
    host_port = _HOST_PORT.fullmatch(authority.lower())
    if host_port is None:
        raise _bad_url("after the host there may only be a port, as in https://example.com:8443/")
    port = _PORTS[kind] if host_port[2] is None else int(host_port[2])
    if not 1 <= port <= 65_535:
        raise _bad_url(f"port {port} is not between 1 and 65535")
    return Target(kind, _host(host_port[1]), port, path, "", url)


def parse_secret_ref(text: str) -> SecretRef:
    """``env:NAME`` or ``file:/absolute/path``. Raises ``Refusal`` (field ``secrets``), whose text never has ``text``:
    it may be a secret, pasted by mistake."""
    kind, _, name = text.partition(":")
    if len(text) > REF_CHARS_MAX or any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise _bad_secret(f"at most {REF_CHARS_MAX:,} characters, none of them a control character")
    if kind == "env" and _VARIABLE.fullmatch(name):
        if name.upper().startswith(OUR_PREFIX):
            raise _bad_secret(
                f"the name must not begin with {OUR_PREFIX}: those are the daemon's own settings, and it does not start"
                " with one that it does not know"
            )
        return SecretRef("env", name)
    if kind == "file" and name.startswith("/") and not name.endswith("/"):
        return SecretRef("file", name)
    raise _bad_secret(
        "write env:NAME or file:/absolute/path, where the daemon finds the secret; the secret itself is never stored"
    )


def check_destination(target: Target, secrets: Sequence[SecretRef]) -> None:
    """Raises ``Refusal`` unless the two go together: over a network every webhook is signed.

    On a socket the file's permissions say who listens, so a secret may be left out.
    """
    if not secrets and target.kind != "http+unix":
        raise _bad_secret("a webhook over the network needs a secret, so that its receiver can tell it from a forgery")
    if len(secrets) > SECRETS_MAX:
        raise _bad_secret(f"at most {SECRETS_MAX}: the new one and those it replaces")
    if len(set(secrets)) < len(secrets):
        raise _bad_secret("one of them is named twice")


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except AddressValueError:
            raise _bad_url(f"{text} is no IPv6 address") from None
        if address.scope_id is not None:
            raise _bad_url("an IPv6 address with a zone id means something on one machine only")
        return str(address)
    labels = text.split(".")
    if "%" in text or len(text) > HOST_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise _bad_url(
            "its host must be a name of letters, digits, dots and hyphens, or an IP address; write an international"
            " name in its ASCII form (xn--…)"
        )
    if _NUMBER.fullmatch(labels[-1]):  # resolvers take 127.1, 0x7f000001 and 2130706433 for addresses
        try:
            return str(IPv4Address(text))
        except AddressValueError:
            raise _bad_url("an IPv4 address is written as four decimal numbers, as in 192.0.2.1") from None
    return text


def _socket_path(authority: str) -> str:
    encoded = unquote_to_bytes(authority)
    if not encoded.startswith(b"/") or encoded.endswith(b"/"):
        raise _bad_url(
            "its host must be the absolute path of a socket, percent-encoded, as in http+unix://%2Frun%2Fapp%2Fapp.sock/"
        )
    if len(encoded) > SOCKET_PATH_BYTES_MAX:
        raise _bad_url(f"the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes, this one {len(encoded)}")
    try:
        path = encoded.decode()
    except UnicodeDecodeError:
        raise _bad_url("the path of the socket is not UTF-8") from None
    if not path.isprintable():
        raise _bad_url("the path of the socket has a control character")
    return path


def _bad_url(why: str) -> Refusal:
    return Refusal("invalid_request", f"this URL cannot be used: {why}", "url")


def _bad_secret(why: str) -> Refusal:
    return Refusal("invalid_request", f"secrets: {why}", "secrets")
