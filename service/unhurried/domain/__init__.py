"""Types, states and every decision, each a pure function of its arguments; ``now`` is one of them.

``states``       what a request, batch, attempt and delivery can be, and the one table of what may follow what
``request``      what a caller hands in, and what it must be to be accepted
``batch``        a batch, its custom_ids, the bytes of its body
``grouping``     when a group is sent, and how much of it
``submitting``   what may be submitted now, and what each answer to a create means
``settling``     what to do about a batch of which nobody knows whether it exists
``collecting``   what a result means for its request: an outcome, or another attempt
``polling``      how long until it is worth asking again
"""
