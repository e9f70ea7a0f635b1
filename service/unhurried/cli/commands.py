"""The table of commands. Their modules stay light: what a command needs it imports when it runs."""

from typing import Annotated

import typer

from unhurried import __version__
from unhurried.cli import (
    batches,
    config,
    demo,
    doctor,
    flush,
    health,
    requests,
    results,
    resume,
    serve,
    simulate,
    status,
    submit,
)


def commands() -> typer.Typer:
    """Every command, in the order in which ``--help`` shows them."""
    app = _group(None)
    app.callback()(_unhurried)
    app.command()(serve.serve)
    app.command()(config.config)
    app.command()(demo.demo)
    app.command()(simulate.simulate)
    app.command()(submit.submit)
    app.command()(status.status)
    app.add_typer(_requests(), name="requests")
    app.add_typer(_batches(), name="batches")
    app.add_typer(_results(), name="results")
    app.command()(flush.flush)
    app.command()(resume.resume)
    app.command()(doctor.doctor)
    app.command()(health.health)
    return app


def _requests() -> typer.Typer:
    group = _group("Look at requests, or cancel one.")
    group.command("list")(requests.list_)
    group.command("show")(requests.show)
    group.command("cancel")(requests.cancel)
    return group


def _batches() -> typer.Typer:
    group = _group("Look at batches.")
    group.command("list")(batches.list_)
    group.command("show")(batches.show)
    return group


def _results() -> typer.Typer:
    group = _group("Fetch results and acknowledge them.")
    group.command("pull")(results.pull)
    group.command("ack")(results.ack)
    return group


def _group(says: str | None) -> typer.Typer:
    return typer.Typer(help=says, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unhurried {__version__}")
        raise typer.Exit


def _unhurried(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A sidecar for Claude work that is in no hurry: a durable local queue in front of Message Batches.

    \b
    unhurried demo                                   see it work, without a key
    unhurried serve                                  start the daemon
    unhurried submit requests.jsonl -o results.jsonl hand in a file, wait for its results
    unhurried status                                 what is queued, sent, answered
    """
