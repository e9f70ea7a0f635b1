"""The table of commands. Their modules stay light: what a command needs it imports when it runs."""

from typing import Annotated

import typer

from unhurried import __version__
from unhurried.cli import (
    again,
    backup,
    batches,
    config,
    deliveries,
    demo,
    destinations,
    doctor,
    drain,
    events,
    flush,
    health,
    query,
    queues,
    requests,
    restore,
    results,
    resume,
    serve,
    simulate,
    status,
    submit,
    top,
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
    app.command()(top.top)
    app.add_typer(_requests(), name="requests")
    app.add_typer(_batches(), name="batches")
    app.add_typer(_results(), name="results")
    app.add_typer(_destinations(), name="destinations")
    app.add_typer(_deliveries(), name="deliveries")
    app.add_typer(_queues(), name="queues")
    app.command()(flush.flush)
    app.command()(resume.resume)
    app.command()(drain.drain)
    app.command()(drain.undrain)
    app.command()(events.events)
    app.command()(query.query)
    app.command()(doctor.doctor)
    app.command()(backup.backup)
    app.command()(restore.restore)
    app.command()(health.health)
    return app


def _requests() -> typer.Typer:
    group = _group("Look at requests; cancel them, send them again, or erase them.")
    group.command("list")(requests.list_)
    group.command("show")(requests.show)
    group.command("cancel")(requests.cancel)
    group.command("retry")(again.retry)
    group.command("erase")(again.erase)
    return group


def _queues() -> typer.Typer:
    group = _group("Look at queues, change their settings, pause them.")
    group.command("list")(queues.list_)
    group.command("show")(queues.show)
    group.command("set")(queues.set_)
    group.command("pause")(queues.pause)
    group.command("resume")(queues.resume)
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
    group.command("stream")(results.stream)
    return group


def _destinations() -> typer.Typer:
    group = _group("Where results go: add webhooks, look at them, pause and test them.")
    group.command("list")(destinations.list_)
    group.command("show")(destinations.show)
    group.command("add")(destinations.add)
    group.command("pause")(destinations.pause)
    group.command("resume")(destinations.resume)
    group.command("test")(destinations.try_out)
    return group


def _deliveries() -> typer.Typer:
    group = _group("Look at deliveries, and deliver results again.")
    group.command("list")(deliveries.list_)
    group.command("show")(deliveries.show)
    group.command("redeliver")(deliveries.redeliver)
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
