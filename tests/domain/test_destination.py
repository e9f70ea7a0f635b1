"""URLs and references to secrets: what is taken, what is refused, and that every refusal says what to do."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.domain.destination import SecretRef, Target, check_destination, parse_secret_ref, parse_target
from unhurried.domain.request import Refusal

HTTPS = parse_target("https://example.com/hook")
UNIX = parse_target("http+unix://%2Frun%2Fapp%2Fapp.sock/hook")
REFS = [SecretRef("env", name) for name in "ABCDE"]


def test_a_mapped_address_is_the_same_however_python_writes_it() -> None:
    target = parse_target("https://[::ffff:127.0.0.1]:8443/")  # ::ffff:7f00:1 before Python 3.13
    assert (ip_address(target.host), target.port) == (ip_address("::ffff:127.0.0.1"), 8443)
    assert target.authority == f"[{target.host}]:8443"


@pytest.mark.parametrize(
    ("url", "kind", "host", "port", "path", "authority"),
    [
        ("https://example.com", "https", "example.com", 443, "/", "example.com"),
        ("https://example.com/", "https", "example.com", 443, "/", "example.com"),
        ("HTTPS://Example.COM:443/Hook?a=b&c", "https", "example.com", 443, "/Hook?a=b&c", "example.com"),
        ("https://example.com?a=b", "https", "example.com", 443, "/?a=b", "example.com"),
        ("https://example.com:8443/x//y/../z", "https", "example.com", 8443, "/x//y/../z", "example.com:8443"),
        ("http://app:8080/hook%20s", "http", "app", 8080, "/hook%20s", "app:8080"),
        ("http://my_app/", "http", "my_app", 80, "/", "my_app"),
        ("https://xn--bcher-kva.example/", "https", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
        ("https://192.0.2.1:1/", "https", "192.0.2.1", 1, "/", "192.0.2.1:1"),
        ("https://[2A00:1450:0:0::1]/", "https", "2a00:1450::1", 443, "/", "[2a00:1450::1]"),
        ("https://1.example/", "https", "1.example", 443, "/", "1.example"),
    ],
)
def test_a_url_is_taken_apart(url: str, kind: str, host: str, port: int, path: str, authority: str) -> None:
    target = parse_target(url)
    assert (target.kind, target.host, target.port, target.path, target.socket_path) == (kind, host, port, path, "")
    assert target.authority == authority
    assert target.origin == f"{kind}://{authority}"
    assert target.url == url


@pytest.mark.parametrize(
    ("url", "socket", "path"),
    [
        ("http+unix://%2Frun%2Fapp%2Fapp.sock/hook?x=1", "/run/app/app.sock", "/hook?x=1"),
        ("HTTP+UNIX://%2frun%2fa%20b.sock", "/run/a b.sock", "/"),
        ("http+unix://%2Frun%2F%C3%BC.sock/", "/run/ü.sock", "/"),
    ],
)
def test_a_socket_is_named_in_the_host(url: str, socket: str, path: str) -> None:
    target = parse_target(url)
    assert target == Target("http+unix", "", 0, path, socket, url)
    assert target.authority == "localhost"
    assert target.origin == f"http+unix:{socket}"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must begin with https://"),
        ("example.com", "must begin with https://"),
        ("//example.com/", "must begin with https://"),
        ("https:/example.com", "must begin with https://"),
        ("ftp://example.com/", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("https://user@example.com/", "user name or password"),
        ("https://user:secret@example.com/", "user name or password"),
        ("https://8.8.8.8:443@10.0.0.1/", "user name or password"),
        ("https://example.com/#there", "fragment"),
        ("https://example.com/a b", "percent-encoded"),
        ("https://example.com/\r\nhost: evil", "percent-encoded"),
        ("https://example.com\t/", "percent-encoded"),
        ("https://example.com\\@evil.example/", "percent-encoded"),
        ("https://exämple.com/", "percent-encoded"),
        ("https://example。com/", "percent-encoded"),
        ("https://example.com/%zz", "percent-encoded"),
        ("https://example.com/%", "percent-encoded"),
        ("https:///hook", "its host must be a name"),
        ("https://:443/hook", "its host must be a name"),
        ("https://example..com/", "its host must be a name"),
        ("https://example.com./", "its host must be a name"),
        ("https://-example.com/", "its host must be a name"),
        ("https://exa%6dple.com/", "its host must be a name"),
        ("https://127.0.0.1%00.example.com/", "its host must be a name"),
        (f"https://{'a' * 64}.example/", "its host must be a name"),
        (f"https://{'a.' * 127}example/", "its host must be a name"),
        ("https://exa!mple.com/", "its host must be a name"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://0x7f.1/", "four decimal numbers"),
        ("https://127.1/", "four decimal numbers"),
        ("https://0177.0.0.1/", "four decimal numbers"),
        ("https://127.0.0.0x1/", "four decimal numbers"),
        ("https://example.1/", "four decimal numbers"),
        ("https://256.1.1.1/", "four decimal numbers"),
        ("https://[::1/", "only be a port"),
        ("https://[fe80::1%25eth0]/", "zone id"),
        ("https://[example.com]/", "no IPv6 address"),
        ("https://[]/", "no IPv6 address"),
        ("https://::1/", "only be a port"),
        ("https://[::1]x/", "only be a port"),
        ("https://example.com:/", "only be a port"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:65536/", "port 65536"),
        ("https://example.com:443443/", "only be a port"),
        ("https://example.com:http/", "only be a port"),
        ("https://example.com:+80/", "only be a port"),
        ("https://example.com/" + "a" * 2_000, "the limit is 2,000"),
        ("http+unix:///run/app.sock", "absolute path of a socket"),
        ("http+unix://run%2Fapp.sock/", "absolute path of a socket"),
        ("http+unix://%2Frun%2Fapp%2F/", "absolute path of a socket"),
        ("http+unix://%2Frun%2Fapp.sock%00/", "control character"),
        ("http+unix://%2Frun%2F%ff.sock/", "not UTF-8"),
        (f"http+unix://%2F{'a' * 107}/", "at most 107 bytes"),
    ],
)
def test_a_url_that_is_not_plainly_one_is_refused(url: str, says: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_target(url)
    assert (refused.value.code, refused.value.field) == ("invalid_request", "url")
    assert says in refused.value.detail


@given(st.text(alphabet=st.sampled_from("htps+unix:/%2Fa.1[]@?#=&x0 -_~\\\n"), max_size=40).map("https://".__add__))
def test_whatever_is_taken_can_be_sent_as_it_is(url: str) -> None:
    """No text can put a line break, a space or another's host into the request."""
    try:
        target = parse_target(url)
    except Refusal:
        return
    assert target.path.startswith("/")
    assert all("!" <= char <= "~" for char in target.path + target.authority)
    assert target.host
    assert 1 <= target.port <= 65_535


@pytest.mark.parametrize(
    "text", ["env:HOOK_SECRET", "env:_x1", "file:/run/secrets/hook", "file:/a b/ü", "env:ANTHROPICX"]
)
def test_a_reference_to_a_secret_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_secret_ref(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write env:NAME"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "write env:NAME"),
        ("env:", "write env:NAME"),
        ("env:1A", "write env:NAME"),
        ("env:whsec_MfKQ+/=", "write env:NAME"),
        ("ENV:A", "write env:NAME"),
        ("env:A ", "write env:NAME"),
        ("file:secrets/hook", "write env:NAME"),
        ("file:/run/secrets/", "write env:NAME"),
        ("file:", "write env:NAME"),
        ("file:/run/\0", "control character"),
        ("file:/run/\n", "control character"),
        ("file:/" + "a" * 1_000, "1,000 characters"),
        ("env:UNHURRIED_HOOK", "must not begin with UNHURRIED_"),
        ("env:unhurried_hook", "must not begin with UNHURRIED_"),
    ],
)
def test_a_reference_that_is_none_is_refused_without_being_repeated(text: str, says: str) -> None:
    """Somebody will paste the secret itself one day."""
    with pytest.raises(Refusal, match=says) as refused:
        parse_secret_ref(text)
    assert (refused.value.code, refused.value.field) == ("invalid_request", "secrets")
    assert "MfKQ" not in refused.value.detail
    assert "hook" not in refused.value.detail.lower().replace("webhook", "")


@pytest.mark.parametrize(("target", "secrets"), [(HTTPS, REFS[:1]), (HTTPS, REFS[:4]), (UNIX, []), (UNIX, REFS[:2])])
def test_a_destination_that_goes_together(target: Target, secrets: list[SecretRef]) -> None:
    check_destination(target, secrets)


@pytest.mark.parametrize(
    ("target", "secrets", "says"),
    [
        (HTTPS, [], "needs a secret"),
        (parse_target("http://app/"), [], "needs a secret"),
        (HTTPS, REFS, "at most 4"),
        (UNIX, REFS, "at most 4"),
        (HTTPS, [REFS[0], REFS[0]], "twice"),
    ],
)
def test_a_destination_that_does_not(target: Target, secrets: list[SecretRef], says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        check_destination(target, secrets)
    assert refused.value.field == "secrets"
