"""The outbox file in a browser: Datasette, read-only, on this machine alone.

    questions   what people ask of an outbox, as SQL
    backlog     how many entries waited, over time, as a drawing
    site        Datasette, told what an outbox is
    server      the site on a port of this machine

Needs the extra `inspect`; only `outbox inspect` imports it. Nothing here can write: every connection is opened with
`mode=ro`, which neither checkpoints nor removes the WAL when it is closed, and is told `query_only` besides.
"""
