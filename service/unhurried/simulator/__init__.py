"""A fake Anthropic API over real HTTP: the other side of the daemon, for demos, tests and users' own test environments.

It is a stranger to the rest of the project: it shares no type with it, so that one mistake cannot pass on both sides.

    caller ──▶ wire ──▶ app ──▶ endpoints/create, batches, results, messages, models     what the real SDK sees
                         └────▶ control           /simulator/…: ledger, faults, holds, clock, strangers, reset
                                   │
                                world             all state: settings, clock, batches, ledger, faults, holds

A create goes wire → intake (cuts the body into requests while it arrives) → params (what upstream would say of each)
→ outcomes (what will become of each) → batch. A results call goes batch → answers (one line at a time, never stored).

Everything lives in memory: a simulator that was killed has forgotten. The same seed, the same calls and the same times
give the same answers, but for ids, which never repeat. Where nobody outside knows what upstream does, the choice made
here is listed in ``docs/simulator.md``.
"""

from typing import Final

from unhurried import __version__

VERSION: Final = __version__

BANNER_HEADER: Final = "x-unhurried-simulator"
"""Every answer carries it, so that nobody takes a simulated result for a real one."""
