"""The figures of the process: steps, stalls, memory."""

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from unhurried.clock import Ms
from unhurried.observability.health import (
    BOUNDS_MS,
    HANGS_S,
    WRITER_PAUSE_S,
    Health,
    LoopWatch,
    MemoryMeter,
    StallMeter,
    touching,
)


def test_a_loop_is_as_old_as_its_last_finished_step() -> None:
    watch = LoopWatch()
    finished = watch.watch("flusher", Ms(1_000))
    watch.watch("poller", Ms(1_000))
    finished(Ms(5_000))
    assert watch.ages_s(Ms(7_500)) == {"flusher": 2.5, "poller": 6.5}


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    watch = LoopWatch()
    watch.watch("flusher", Ms(9_000))
    assert watch.ages_s(Ms(1_000)) == {"flusher": 0.0}


def test_a_prompt_loop_hangs_after_ten_minutes_whatever_the_clock_on_the_wall_says() -> None:
    seconds = [0.0]
    watch = LoopWatch(lambda: seconds[0])
    finished = watch.watch("keeper", Ms(0), prompt=True)
    watch.watch("collector", Ms(0))  # a large batch may take it longer
    seconds[0] = HANGS_S
    assert watch.hanging() == []
    seconds[0] += 1
    assert watch.hanging() == ["keeper"]
    finished(Ms(0))
    assert watch.hanging() == []


@given(st.lists(st.floats(min_value=-1.0, max_value=20_000.0), min_size=1, max_size=300))
def test_the_p99_is_not_below_99_of_100_and_at_most_one_step_above(late_ms: list[float]) -> None:
    meter = StallMeter()
    for late in late_ms:
        meter.record(late)
    ordered = sorted(max(0.0, late) for late in late_ms)
    exact = ordered[-(-99 * len(ordered) // 100) - 1]
    assert meter.max_ms == ordered[-1]
    assert exact <= meter.p99_ms <= meter.max_ms
    assert meter.p99_ms <= min((bound for bound in BOUNDS_MS if bound >= exact), default=meter.max_ms)


def test_before_the_first_tick_nothing_was_late() -> None:
    assert (StallMeter().p99_ms, StallMeter().max_ms) == (0.0, 0.0)


async def test_a_blocked_loop_is_seen() -> None:
    meter, stop = StallMeter(tick_s=0.001), asyncio.Event()
    task = asyncio.create_task(meter.run(stop))
    await asyncio.sleep(0)
    until = asyncio.get_running_loop().time() + 0.05
    while asyncio.get_running_loop().time() < until:
        pass  # the very thing that is measured
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stop.set()
    await task
    assert 40 < meter.max_ms < 5_000


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    source = tmp_path / "status"
    source.write_text("Name:\tpython\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n")
    meter = MemoryMeter(source)
    assert meter.figures() == {"rss_bytes": 1_024_000, "rss_ready_bytes": 0, "rss_peak_bytes": 2_048_000}
    meter.mark_ready()
    assert meter.figures()["rss_ready_bytes"] == 1_024_000


def test_starting_up_does_not_count_as_a_stall() -> None:
    health = Health()
    health.stalls.record(900.0)
    assert health.stall() == {"p99_ms": 900.0, "max_ms": 900.0}
    health.mark_ready()
    assert health.stall() == {"p99_ms": 0.0, "max_ms": 0.0}
    assert health.memory()["rss_ready_bytes"] > 0


def test_a_loop_may_be_judged_sooner_and_its_steps_are_counted() -> None:
    seconds = [0.0]
    watch = LoopWatch(lambda: seconds[0])
    finished = watch.watch("writer", Ms(0), prompt=True, hangs_s=5)
    assert watch.steps == {"writer": 0}
    finished(Ms(10))
    seconds[0] = 6
    assert (watch.hanging(), watch.steps["writer"], watch.finished_at["writer"]) == (["writer"], 1, 10)


async def test_the_writer_is_touched_now_and_then_and_a_step_ends_only_when_it_answers() -> None:
    answered = asyncio.Event()

    async def touch() -> None:
        await answered.wait()

    step = asyncio.ensure_future(touching(touch)(Ms(0)))
    await asyncio.sleep(0)
    assert not step.done()
    answered.set()
    assert await step == WRITER_PAUSE_S
