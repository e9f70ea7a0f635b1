"""Each example on the page of the HTTP face is a call to a running daemon, and its answer is the one that is shown."""

import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.whole.stage import Stage, stage
from unhurried.domain.states import RequestState
from unhurried.ingest.problems import STATUS
from unhurried.settings import variables

PAGE = (Path(__file__).parents[2] / "docs/http.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(curl .*?)^```\n\n^```answer\n(\d+) (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {
    "requests.jsonl": "".join(re.findall(r"^```jsonl\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)),
}
SETTINGS = {"UNHURRIED_FLUSHER__LINGER_S": "300"}
"""As an installation has it: what is queued stays so until the example that sends it."""


@dataclass
class Call:
    """A command of the page, read as curl reads it."""

    url: str
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


def read_curl(command: str, names: dict[str, str]) -> Call:
    """Fails for whatever curl would take and this does not know."""
    for name, value in names.items():
        command = re.sub(rf"\${name}\b", value, command)
    _, *words = shlex.split(command.replace("\\\n", " "))
    call = Call("")
    rest = iter(words)
    for word in rest:
        match word:
            case "--unix-socket":
                assert next(rest) == "$UNHURRIED_SOCKET"
            case "-X":
                call.method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                call.headers[name] = value
            case "-N":
                pass  # we read on as it comes anyway
            case "-d" | "--data-binary":
                given = next(rest)
                call.body = FILES[given[1:]] if given.startswith("@") else given
            case _:
                assert not word.startswith("-") and not call.url, f"{word} is not known here"
                call.url = word
    assert "$" not in call.url, f"{call.url} has a name that no answer above has brought"
    call.method = call.method or ("GET" if call.body is None else "POST")
    return call


def differences(shown: Any, got: Any, at: str = "") -> Iterator[str]:
    """Where ``got`` is not as shown. ``…`` stands for anything; as a key, for more members."""
    if shown == "…":
        return
    if isinstance(shown, dict) and isinstance(got, dict):
        missing, more = shown.keys() - got.keys() - {"…"}, got.keys() - shown.keys()
        if missing or (more and "…" not in shown):
            yield f"{at}: not there {sorted(missing)}, not shown {sorted(more)}"
        for key in shown.keys() & got.keys():
            yield from differences(shown[key], got[key], f"{at}.{key}")
    elif isinstance(shown, list) and isinstance(got, list) and len(shown) == len(got):
        for place, (one, other) in enumerate(zip(shown, got, strict=True)):
            yield from differences(one, other, f"{at}[{place}]")
    elif isinstance(shown, str) and "…" in shown and isinstance(got, str):
        if not re.fullmatch(".+".join(map(re.escape, shown.split("…"))), got, re.DOTALL):
            yield f"{at}: {got!r} is not {shown!r}"
    elif shown != got:
        yield f"{at}: {got!r} is not {shown!r}"


def read_events(text: str) -> list[dict[str, Any]]:
    """Server-sent events, each as its fields; comments are left out."""
    blocks = [[line.split(": ", 1) for line in block.splitlines() if line[:1] != ":"] for block in text.split("\n\n")]
    found = [{name: json.loads(value) if name == "data" else value for name, value in block} for block in blocks]
    return [event for event in found if event]


def remember(names: dict[str, str], answer: httpx2.Response) -> None:
    """The last id of a 201, delivery id and batch id, as the page promises."""
    if answer.status_code == 201 and "id" in answer.json():
        names["ID"] = answer.json()["id"]
    if found := re.search(r'"delivery_id":"([^"]+)"', answer.text):
        names["DELIVERY"] = found[1]
    if found := re.search(r'"batches":\[\{"id":"([^"]+)"', answer.text):
        names["BATCH"] = found[1]


def run(scene: Stage) -> Iterator[httpx2.Response]:
    names: dict[str, str] = {}
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(scene.socket)), timeout=60) as http:
        for command, *_ in EXAMPLES:
            if "/queue/batches" in command:  # it is collected a moment after its results can be had
                scene.until(
                    lambda: not http.get("http://localhost/queue/batches?open=true").json()["batches"], "closed"
                )
            call = read_curl(command, names)
            answer = http.request(call.method, call.url, headers=call.headers, content=call.body)
            remember(names, answer)
            yield answer


@pytest.fixture(scope="module")
def answers() -> Iterator[list[httpx2.Response]]:
    """The answers to all examples, in the order of the page."""
    with (
        tempfile.TemporaryDirectory(prefix="unhurried-") as name,
        stage(Path(name), SETTINGS.items()) as scene,
    ):
        scene.start()
        yield list(run(scene))
        scene.assert_sound()


def test_every_answer_is_the_one_that_is_shown(answers: list[httpx2.Response]) -> None:
    wrong: dict[str, list[str]] = {}
    for (command, status, media_type, body), answer in zip(EXAMPLES, answers, strict=True):
        if (answer.status_code, answer.headers["content-type"].partition(";")[0]) != (int(status), media_type):
            wrong[command] = [f"{answer.status_code} {answer.headers['content-type']}", answer.text]
            continue
        if media_type == "text/plain":
            if missing := set(body.splitlines()) - {"…"} - set(answer.text.splitlines()):
                wrong[command] = sorted(missing)
            continue
        if media_type == "text/event-stream":
            if told := list(differences(read_events(body), read_events(answer.text))):
                wrong[command] = told
            continue
        got = answer.text.splitlines() if "ndjson" in media_type else [answer.text]
        found = differences([json.loads(line) for line in body.splitlines()], [json.loads(line) for line in got])
        if told := list(found):
            wrong[command] = told
    assert not wrong


def test_every_command_of_the_page_is_followed_by_its_answer() -> None:
    assert len(EXAMPLES) == PAGE.count("```sh\n") == PAGE.count("curl --unix-socket")


def test_every_route_has_an_example(answers: list[httpx2.Response]) -> None:
    (document,) = (answer.json() for answer in answers if answer.url.path == "/openapi.json")
    routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    called = {(answer.request.method, answer.url.path) for answer in answers if answer.is_success}

    def has_example(method: str, path: str) -> bool:
        pattern = re.sub(r"\{\w+\}", "[^/]+", path)
        return any(verb == method and re.fullmatch(pattern, place) for verb, place in called)

    assert not [route for route in routes if not has_example(*route)]


def test_every_problem_is_in_the_table_with_its_status() -> None:
    shown = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE, re.MULTILINE))
    assert shown == {code: str(status) for code, (status, _) in STATUS.items()}


def test_every_field_of_an_envelope_is_in_the_table(answers: list[httpx2.Response]) -> None:
    (document,) = (answer.json() for answer in answers if answer.url.path == "/openapi.json")
    table = PAGE[PAGE.index("| field |") : PAGE.index("### Idempotency")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(
        document["components"]["schemas"]["Envelope"]["properties"]
    )


def test_every_state_of_a_request_and_every_setting_named_exists() -> None:
    told = PAGE[PAGE.index("`state` is ") : PAGE.index("## Send what waits")]
    assert {state.value for state in RequestState} <= set(re.findall(r"`(\w+)`", told))
    assert set(re.findall(r"UNHURRIED_[A-Z_]*[A-Z]", PAGE)) <= {variable for variable, _, _ in variables()}
