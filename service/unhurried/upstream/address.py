"""Where upstream is: a URL, or a socket of this machine."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from unhurried.settings import ANTHROPIC_URL, UpstreamSettings, base_url

_SOCKETS = ("http+unix:", "unix:")


@dataclass(frozen=True, kw_only=True)
class Address:
    url: str | None
    """For the SDK. ``None``: nobody named one, so a profile of the SDK may."""
    shown: str | None
    """For people, when the URL would not tell."""
    socket: str | None
    local: bool
    """On this machine: no proxy stands in between."""


def of(settings: UpstreamSettings) -> Address:
    """Read the setting: ``https://…``, ``unix:/path``, ``http+unix:///path`` or ``http+unix://%2Fpath``."""
    url = base_url(settings)
    for scheme in _SOCKETS:
        if url.startswith(scheme):
            path = "/" + unquote(url.removeprefix(scheme)).lstrip("/")
            return Address(url="http://localhost", shown=f"unix:{path}", socket=path, local=True)
    named = None if url == ANTHROPIC_URL and settings.base_url is None else url
    return Address(url=named, shown=None, socket=None, local=_is_loopback(urlsplit(url).hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
