"""What people ask of an outbox, as SQL that Datasette offers by name."""

from __future__ import annotations

from dataclasses import dataclass

# How many of the newest are read if a question would otherwise read the whole history.
_NEWEST = 100_000


@dataclass(frozen=True, slots=True)
class Question:
    """A query: its name in the URL, the question that it answers, and what its columns mean."""

    name: str
    title: str
    sql: str
    explains: str = ""


QUESTIONS = (
    Question(
        "counts",
        "How many entries are in which state?",
        """
select destination, state, entries
  from outbox_counts
 order by destination, entries desc
""",
        "Counters that the file keeps: at once, however many there are. pruned, removed: how many there were.",
    ),
    Question(
        "waiting_longest",
        "What has waited longest?",
        """
select seq, id, destination, operation, key, created_at_ms, waits, attempts, error_code, error_message
  from outbox
 where state = 'pending'
   and seq in (select seq from outbox indexed by outbox_ready where state = 'pending' and waits is null
               union all
               select seq from outbox indexed by outbox_turns
                where state = 'pending' and key is not null and waits = 'turn'
               union all
               select seq from outbox indexed by outbox_retrying where state = 'pending' and waits = 'retry')
 order by seq
 limit 100
""",
        "waits: empty, it may be sent; turn, an earlier entry of its key comes first; retry, it waits for a row of its"
        " own. attempts: refusals of this very row; an outage costs none.",
    ),
    Question(
        "paused",
        "What is paused, and why?",
        """
select p.scope,
       coalesce(l.destination || ': ' || l.operation || ' of ' || l.columns, p.subject) as subject,
       p.reason, p.status, p.code, p.message, p.failures, p.since_ms, p.next_try_at_ms
  from outbox_pauses as p
  left join outbox_lanes as l on p.scope = 'lane' and l.lane = cast(p.subject as integer)
 order by p.since_ms
""",
        "An outage is one row here and touches no entry. Empty: nothing is paused.",
    ),
    Question(
        "outages",
        "When was nothing sent, for how long, and why?",
        "select * from v_outages",
        "The newest first; until_utc: empty, it still stands.",
    ),
    Question(
        "lives",
        "When did the bot start, and how did it end?",
        "select * from v_lives",
        "Who had the file open for writing, the newest first; commands that change something, too.",
    ),
    Question(
        "refusals",
        "What did the server refuse, and in which words?",
        """
select destination, error_status, error_code, error_message, count(*) as entries,
       min(settled_at_ms) as first_at_ms, max(settled_at_ms) as last_at_ms, max(id) as an_id
  from outbox
 where state = 'dead'
 group by destination, error_status, error_code, error_message
 order by entries desc
""",
        "Dead entries are kept: outbox show ID tells one's story, outbox requeue and outbox discard act on it.",
    ),
    Question(
        "story",
        "What happened to one entry?",
        """
select h.at_ms, h.event, h.status, h.code, h.message, h.batch_rows, h.request_id
  from outbox as e
  join outbox_history as h on h.seq = e.seq
 where e.id = :id
 order by h.number
""",
        "Its own refusals and what operators did, the first and the newest 19 of them. Give its id.",
    ),
    Question(
        "delivered_per_hour",
        "How much arrived, hour by hour?",
        """
select strftime('%Y-%m-%d %H:00', settled_at_ms / 1000, 'unixepoch') as hour_utc, destination, count(*) as entries
  from outbox
 where state = 'delivered'
   and settled_at_ms > (select max(settled_at_ms) from outbox where state in ('delivered', 'discarded')) - 172800000
   and state in ('delivered', 'discarded')
 group by hour_utc, destination
 order by hour_utc desc, destination
""",
        "The last 48 hours that saw deliveries.",
    ),
    Question(
        "delay",
        "How long did entries take to arrive?",
        f"""
with delays as (
    select destination, (settled_at_ms - created_at_ms) / 1000.0 as delay_s
      from outbox
     where state = 'delivered' and seq > (select max(seq) from outbox) - {_NEWEST}
), ranked as (
    select destination, delay_s, percent_rank() over (partition by destination order by delay_s) as part
      from delays
)
select destination, count(*) as entries,
       round(max(case when part <= 0.5 then delay_s end), 3) as half_within_s,
       round(max(case when part <= 0.95 then delay_s end), 3) as most_within_s,
       round(max(delay_s), 3) as longest_s
  from ranked
 group by destination
 order by destination
""",
        f"From put to delivered, of the newest {_NEWEST:,} entries; most: 95 of 100.",
    ),
    Question(
        "held_back",
        "Which keys hold up entries behind them?",
        """
select e.destination, e.key, count(*) as behind, min(e.created_at_ms) as since_ms,
       (select h.id from outbox as h
         where h.seq = (select min(seq)
                          from (select p.seq from outbox as p
                                 where p.state = 'pending' and p.key is not null
                                   and p.destination = e.destination and p.key = e.key
                                union all
                                select d.seq from outbox as d join outbox_meta as m
                                 where d.state = 'dead' and d.key is not null
                                   and d.destination = e.destination and d.key = e.key
                                   and m.name = 'strict_order' and m.value = '1'))) as first_id
  from outbox as e
 where e.state = 'pending' and e.key is not null and e.waits = 'turn'
 group by e.destination, e.key
 order by behind desc
 limit 100
""",
        "Entries of one key arrive in the order of their puts: first_id is the one in front; with OUTBOX_STRICT_ORDER"
        " it may be a dead one.",
    ),
    Question(
        "who_puts",
        "Which bot put what?",
        f"""
select source, destination, count(*) as entries, max(created_at_ms) as last_at_ms
  from outbox
 where seq > (select max(seq) from outbox) - {_NEWEST}
 group by source, destination
 order by entries desc
""",
        f"Of the newest {_NEWEST:,} entries; source: OUTBOX_SOURCE, else the host's name.",
    ),
    Question(
        "largest",
        "Which entries are the largest?",
        f"""
select seq, id, destination, state, length(cast(payload as blob)) as bytes
  from outbox
 where seq > (select max(seq) from outbox) - {_NEWEST}
 order by bytes desc
 limit 20
""",
        f"Of the newest {_NEWEST:,} entries.",
    ),
    Question(
        "sessions",
        "What is the state of each bot's session?",
        "\nselect * from outbox_sessions order by last_heartbeat desc\n",
        "The running one or the last. RUNNING while no bot runs: a crash, which the next start takes up.",
    ),
)
