"""An application beside the sidecar, as small as it can be: it asks, waits, uses each answer, and confirms it.

Run it again, or kill it at any moment and run it again: what was asked is not asked twice, and no answer is lost.
"""

import json
import os

from unhurried import Client
from unhurried.client import Result

SOCKET = os.environ.get("UNHURRIED_SOCKET", "/run/unhurried/unhurried.sock")
QUEUE = "capitals"
COUNTRIES = ("Kenya", "Norway", "Peru")


def main() -> None:
    with Client(SOCKET) as queue:
        waiting = {ask(queue, country) for country in COUNTRIES}
        while waiting:
            # By id, for what an earlier run has asked may be there already; else the next results that arrive.
            results = queue.lookup(list(waiting)).results or queue.pull(f"pull:{QUEUE}", wait=30)
            for result in results:
                use(result)
                queue.ack([str(result.delivery_id)])  # only now: what is not confirmed is handed out again
                waiting.discard(result.request_id)


def ask(queue: Client, country: str) -> str:
    """The id of the request. The idempotency key makes it the same one, paid once, however often this is called."""
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"What is the capital of {country}? Answer with its name only."}],
    }
    request = queue.submit(params, queue=QUEUE, custom_id=country, idempotency_key=f"{QUEUE}/{country}")
    print(f"{country}: {'asked before' if request.duplicate else 'asked'}, request {request.id}", flush=True)
    return request.id


def use(result: Result) -> None:
    """Keep the answer where it is safe. It may come twice, so this must do no harm when it is called again."""
    if result.state == "succeeded":
        message = json.loads(bytes(result.result))["message"]
        text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
        print(f"{result.custom_id}: {text}", flush=True)
    else:  # errored, expired, canceled: the result says why
        print(f"{result.custom_id}: {result.state} {bytes(result.result).decode()}", flush=True)


if __name__ == "__main__":
    main()
