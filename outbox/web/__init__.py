"""The outbox file in a browser: Datasette, read-only, on this machine alone.

    questions   what people ask of an outbox, as SQL
    backlog     how many entries waited, over time, as a drawing
    site        Datasette, told what an outbox is
    operations  how things stand, and what may be changed: the command line fills it in
    actions     the pages that ask for a change
    server      the site on a port of this machine

Needs the extra `inspect`; only `outbox inspect` imports it. No connection here can write: each is opened with
`mode=ro`, which neither checkpoints nor removes the WAL on close, and is set to `query_only` as well. Changes are made
as the commands make them: through the bot's inbox, or under the file's lock if no bot runs.
"""
