"""The submission: one POST for each batch, and finding out what became of those whose answer never came.

``submit``  takes the next formed batch, writes down the intent, makes the POST, records one of three outcomes
``settle``  looks upstream for batches of which nobody knows whether they exist, and for late twins
"""

from unhurried.submission.settle import Settlement
from unhurried.submission.submit import Submission

__all__ = ["Settlement", "Submission"]
