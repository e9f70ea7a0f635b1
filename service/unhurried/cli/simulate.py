"""``unhurried simulate``: run the simulator, a fake Anthropic API, in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def simulate(
    port: Annotated[int, typer.Option(help="TCP port; 0 picks a free one, see `url` in the ready line.")] = 8750,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    socket: Annotated[Path | None, typer.Option(help="Listen on this Unix socket (mode 0660) instead of TCP.")] = None,
    seed: Annotated[int, typer.Option(help="Decides turnarounds, answers and who is struck by faults.")] = 0,
    speed: Annotated[float, typer.Option(help="Simulated seconds per real second; 3600 is an hour a second.")] = 1.0,
    clock_offset: Annotated[
        float, typer.Option(help="Seconds by which its clock starts ahead of ours, or, below 0, behind.")
    ] = 0.0,
    turnaround: Annotated[
        list[str] | None,
        typer.Option(help="How long requests take at most: 120, 2m, or MODEL=30. Repeat for more models."),
    ] = None,
    cancel_takes: Annotated[str, typer.Option(help="How long a canceled batch is `canceling`: 5, 2m.")] = "5",
    fault: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:k=v,...], see docs/simulator.md. Repeat for more. times=0 strikes always."),
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="Accept only this key. Repeat for more. Without it any key is accepted.")
    ] = None,
    queue_limit: Annotated[int, typer.Option(help="Most requests waiting in all batches; above it 429.")] = 500_000,
    rate_limit: Annotated[
        int, typer.Option(help="Most calls to batch endpoints per simulated minute; 0 is no limit.")
    ] = 0,
    check_params: Annotated[
        bool, typer.Option(help="Refuse a create for bad params, instead of ending those requests `errored`.")
    ] = False,
    answer_tokens: Annotated[str, typer.Option(help="Fewest and most output tokens of an answer.")] = "50-400",
    log_format: Annotated[
        str | None, typer.Option(help="json or console; without it console on a terminal, else json.")
    ] = None,
) -> None:
    """Run a fake Anthropic API for demos and tests. Its state is in memory only: once stopped, it has forgotten all.

    Every answer carries `x-unhurried-simulator`. The control face is under /simulator/ (start with /simulator/health).
    """
    from unhurried.simulator import faults, server
    from unhurried.simulator.settings import Settings, parse_duration, parse_turnarounds

    log_format = log_format or ("console" if sys.stdout.isatty() else "json")
    if log_format not in ("json", "console"):
        raise typer.BadParameter("json or console", param_hint="--log-format")
    fewest, _, most = answer_tokens.partition("-")
    try:
        settings = Settings(
            seed=seed,
            speed=speed,
            clock_offset_s=clock_offset,
            cancel_takes_s=parse_duration(cancel_takes),
            api_keys=tuple(api_key or ()),
            queue_limit=queue_limit,
            rate_limit=rate_limit,
            check_params=check_params,
            answer_tokens=(int(fewest), int(most or fewest)),
            **parse_turnarounds(turnaround or ()),
        )
        server.run(
            settings,
            host=host,
            port=port,
            socket_path=socket,
            faults=[faults.parse(text) for text in fault or ()],
            log_format="json" if log_format == "json" else "console",
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except server.AddressInUse as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
