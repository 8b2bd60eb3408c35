"""`outbox doctor`: asks and judges the machine, the file and the remote end."""
