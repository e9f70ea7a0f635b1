"""All calls to Anthropic. SDK objects become domain values here, SDK exceptions become ours, and neither leaves.

    submission, poller ──▶ calls ──▶ wire ──▶ anthropic ──▶ httpx2 ──▶ network      the path of a call
                             │        ├─ address     where upstream is: a URL or a socket
                             │        ├─ patient     a connection on which an early answer survives the upload
                             │        ├─ upload      the body of a create and what became of it
                             │        └─ failures    every exception of the SDK and below, in one place
                             ├─ shapes    upstream's JSON → domain
                             ├─ lines     a stream of bytes → result lines
                             └─ errors    error answers, ``UpstreamTrouble``

Importing this package does not import ``anthropic``, which takes seconds: ``connect`` does, in a thread, after the
socket is ready. Nothing here is ever retried, neither by the SDK nor by us: a create must not be, and for everything
else the loops keep the pause and the count of failures.
"""

from unhurried.upstream.calls import Upstream
from unhurried.upstream.connecting import connect
from unhurried.upstream.errors import ResultsNotFound, UpstreamTrouble

__all__ = ["ResultsNotFound", "Upstream", "UpstreamTrouble", "connect"]
