"""Batch, send, judge, settle: the background coroutine that empties the outbox. `flusher.py` explains how it works.

flusher           when to look, and what may start
scheduler         which entries travel next, and which lane has its turn
many_lanes        which of very many lanes are looked at, and which share a request
traffic           what a lane has under way, and whether its refused rows are at fault or their table is
in_flight         the requests in flight, and the rest after an error of our own
delivery          one request, from its batch to its settled verdict
pauses            what is not sent for a while, and until when
scopes            how far a pause reaches
backoff           how long to wait, and when to give up
shell_rows        what a plain INSERT from a shell means
context           what all of these work with: its heartbeat, the project that the file belongs to
"""
