"""``unhurried config``: the effective settings, without secrets."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import typer

from unhurried.cli.connection import JsonOption, load_settings
from unhurried.cli.exits import OK
from unhurried.cli.output import json_out, table

if TYPE_CHECKING:
    from unhurried.settings import Settings


def config(
    json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All settings with their defaults, as docs/settings.md has them.")
    ] = False,
) -> int:
    """Print the effective settings, without secrets.

    Each with its value, where it comes from, and what it is for. Secrets show as `set` or `not set`.

    \b
    UNHURRIED_FLUSHER__LINGER_S=30 unhurried config
    """
    from unhurried.settings import SettingsError, base_url, require_upstream, variables

    if markdown:
        print(reference())
        return OK
    settings = load_settings()
    shown = [
        {
            "variable": variable,
            "value": _value(settings, variable),
            "source": "environment" if _given(variable) else "default",
            "description": description,
        }
        for variable, _, description in variables()
    ]
    try:
        require_upstream(settings.upstream)
        problem = None
    except SettingsError as error:
        problem = str(error)
    upstream = {
        "base_url": _without_password(base_url(settings.upstream)),
        "simulator": settings.upstream.simulator,
        "credential": credential(settings),
        "problem": problem,
    }
    if json:
        json_out({"settings": shown, "upstream": upstream})
        return OK
    rows = [(entry["variable"], _typed(entry["value"]), entry["source"], entry["description"]) for entry in shown]
    table(("variable", "value", "from", "meaning"), rows)
    print(f"\nupstream    {upstream['base_url']}{' (the simulator)' if settings.upstream.simulator else ''}")
    print(f"credential  {upstream['credential'] or 'none'}")
    if problem:
        print(f"problem     {problem}")
    return OK


def reference() -> str:
    """Every setting with its default, as tables of Markdown, one for each room."""
    from unhurried.settings import PREFIX, variables

    rooms: dict[str, list[str]] = {}
    for variable, default, description in variables():
        room, nested, _ = variable.removeprefix(PREFIX).partition("__")
        shown = f"`{_typed(default)}`" if isinstance(default, str | int | float | tuple) else ""
        meaning = description.replace("|", "\\|")
        rooms.setdefault(room.lower() if nested else "", []).append(f"| `{variable}` | {shown} | {meaning} |")
    tables = []
    for room, rows in rooms.items():
        heading = f"## {room}\n\n" if room else ""
        tables.append("\n".join((f"{heading}| variable | default | meaning |", "| --- | --- | --- |", *rows)))
    return "\n\n".join(tables)


def credential(settings: "Settings", environ: Mapping[str, str] = os.environ) -> str | None:
    """The kind of credential that would be used, by name; never its value. None when there is none."""
    from unhurried.settings import SettingsError, require_upstream

    if settings.upstream.api_key is not None:
        return "UNHURRIED_UPSTREAM__API_KEY"
    if settings.upstream.simulator:
        return "none needed: the simulator"
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        if environ.get(name):
            return name
    try:
        require_upstream(settings.upstream, environ)
    except SettingsError:
        return None
    if environ.get("ANTHROPIC_FEDERATION_RULE_ID"):
        return "workload identity (ANTHROPIC_IDENTITY_TOKEN…)"
    return "the active profile of the anthropic configuration folder"


def _value(settings: "Settings", variable: str) -> Any:
    from pydantic import SecretStr

    value: Any = settings
    for name in variable.removeprefix("UNHURRIED_").lower().split("__"):
        value = getattr(value, name)
    if variable == "UNHURRIED_UPSTREAM__API_KEY":
        return "set" if isinstance(value, SecretStr) else "not set"
    if variable == "UNHURRIED_UPSTREAM__BASE_URL" and value:
        return _without_password(value)
    return str(value) if isinstance(value, os.PathLike) else value


def _typed(value: Any) -> str:
    """As it would be written into the variable."""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()


def _given(variable: str) -> bool:
    """Set by itself, or with its whole part as JSON (``UNHURRIED_LOG={"level":"debug"}``)."""
    names = {name.upper() for name in os.environ}
    return variable in names or variable.partition("__")[0] in names


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="…@" + parts.netloc.rpartition("@")[2]))
