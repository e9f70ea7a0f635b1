"""The poller: tracks open batches and stores their results.

``track``    asks upstream about everything that is open, in as few calls as will do
``collect``  reads the results of what has ended and stores them, chunk by chunk
"""

from unhurried.poller.collect import Collector
from unhurried.poller.track import Tracker

__all__ = ["Collector", "Tracker"]
