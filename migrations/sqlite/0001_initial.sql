-- The first schema. Times are whole milliseconds since 1970-01-01T00:00:00Z. The tables are for the daemon;
-- people read the views at the end (v_…), which have names, human times and no bodies.
--
-- Foreign keys stand where rows are few. The five tables with a row or more for each request have none: checking them
-- was a quarter of the time of an accept, and retention would look up every child of every row it deletes.
-- `unhurried doctor` checks these references instead.

create table boots (                    -- one row for each start of the daemon
  epoch       integer primary key,
  started_at  integer not null,
  pid         integer not null,
  version     text not null,
  sqlite      text not null,
  seen_at     integer not null,         -- when it was last known to be alive, to a minute
  stopped_at  integer                   -- set by a clean stop only
) strict;

create table account (                  -- where upstream work is paid; never a key
  id             integer primary key check (id = 1),
  base_url       text not null,
  workspace      text,                  -- upstream's workspace id, once it has told us
  paused_at      integer,
  paused_until   integer,               -- null while paused: until an operator resumes
  pause_reason   text,
  refusals       integer not null default 0,  -- refused creates in a row, for the back-off
  swept_at       integer                -- last sweep for late twins
) strict;

create table queues (                   -- null in a setting: what the daemon's own settings say
  id                    integer primary key,
  name                  text not null unique,
  paused_at             integer,
  pause_reason          text,
  created_at            integer not null,
  linger_s              real,
  batch_requests_max    integer,
  batch_bytes_max       integer,
  deadline_s            real,
  attempts_max          integer,
  priority              integer,
  deliver_to            text,
  anthropic_version     text,
  anthropic_beta        text,
  open_requests_max     integer,        -- at which new requests of this queue are refused
  retention_days        real,           -- after its delivery a request is kept for so long
  unread_days           real            -- an undelivered result is kept for so long; null: for ever
) strict;

create table groups (                   -- what may share a batch
  id                 integer primary key,
  queue_id           integer not null references queues (id),
  model              text not null,
  anthropic_version  text not null,
  anthropic_beta     text not null,
  deadline_class     integer not null,
  requests_cap       integer not null default 0,  -- 0: none; else part of a refused batch that is being split
  bytes_cap          integer,                     -- halved when upstream calls a batch too large, grows back slowly
  cut_short          integer not null default 0,  -- bodies in a row that arrived incomplete
  waiting_requests   integer not null default 0 check (waiting_requests >= 0),
  waiting_bytes      integer not null default 0 check (waiting_bytes >= 0),
  flush_asked_at     integer,
  unique (queue_id, model, anthropic_version, anthropic_beta, deadline_class, requests_cap)
) strict;

create index groups_waiting on groups (id) where waiting_requests > 0;

create table counters (                 -- how many are in which stored state; kept, never counted
  entity    text not null check (entity in ('request', 'delivery')),
  owner_id  integer not null,           -- of a request its queue, of a delivery its destination
  state     text not null,
  n         integer not null check (n >= 0),
  primary key (entity, owner_id, state)
) strict, without rowid;

create table batches (
  seq                  integer primary key,
  id                   text not null unique,
  group_id             integer not null references groups (id),
  state                text not null check (state in ('forming', 'submitting', 'unknown', 'in_progress', 'canceling',
                         'ended', 'collected', 'dissolved', 'refused', 'abandoned', 'gone')),
  nonce                text not null unique,
  epoch                integer not null,          -- the boot that last acted on it
  why                  text not null,             -- what made it due
  requests             integer not null default 0,
  params_bytes         integer not null default 0,
  digest               blob,                      -- over the custom_ids and digests of the members, in order
  created_at           integer not null,
  formed_at            integer,                   -- all members are in; from here on they are frozen
  submit_started_at    integer,                   -- the intent to POST
  window_from          integer,                   -- upstream's clock just before the POST
  window_to            integer,                   -- upstream's clock once the POST was surely over, and some
  absent_at            integer,                   -- first complete listing without a look-alike, our clock
  absent_date          integer,                   -- the same, upstream's clock
  upstream_id          text unique,
  upstream_created_at  integer,
  upstream_expires_at  integer,
  upstream_ended_at    integer,
  adopted              integer not null default 0,  -- found by the settlement
  proved               integer not null default 0,  -- its id came in the answer, or a result line showed our nonce
  late                 integer not null default 0,  -- a twin found after it had been given up
  found                integer not null default 0,  -- found after a restore: its members come to light with its results
  unknown_requests     integer not null default 0,  -- of them: lines of requests that this copy does not know
  not_found_at         integer,                     -- first of the 404s in a row on a known id
  not_found            integer not null default 0,  -- how many in a row
  expected_lines       integer,                     -- sum of upstream's counts at the end
  members_open         integer not null default 0 check (members_open >= 0),
  cancels              integer not null default 0,  -- open members whose caller asked to cancel
  stale                integer not null default 0,  -- members that a late twin answered while this one was forming
  forgotten            integer not null default 0,  -- members that retention has deleted since
  release_cap          integer,                     -- refused as a whole: members travel on in batches of this size
  released_to          integer not null default 0,  -- members up to this request_seq have been looked at for release
  failures             integer not null default 0,  -- reads of the results that broke, in a row
  next_try_at          integer not null default 0,
  finished_at          integer,
  detail               text,
  check (state not in ('submitting', 'unknown') or submit_started_at is not null),
  check (state not in ('in_progress', 'canceling', 'ended', 'collected') or upstream_id is not null),
  check ((finished_at is not null) = (state in ('collected', 'dissolved', 'refused', 'abandoned', 'gone')))
) strict;
create index batches_open on batches (state, seq) where finished_at is null;
create index batches_releasing on batches (seq) where finished_at is not null and members_open > 0;
create index batches_upstream on batches (upstream_created_at) where upstream_id is not null;
create index batches_ended on batches (upstream_ended_at) where upstream_ended_at is not null;

create table requests (
  seq                  integer primary key,
  id                   text not null unique,
  group_id             integer not null,
  state                text not null check (state in ('queued', 'assigned', 'succeeded', 'errored', 'expired', 'canceled')),
                         -- 'submitted' is 'assigned' to a batch that has an upstream_id: see v_requests
  batch_seq            integer,
  priority             integer not null,
  accepted_at          integer not null,
  queued_at            integer not null,          -- since when it waits to be sent
  waits_until          integer,                   -- not_before, or the pause before another attempt
  deadline_at          integer not null,
  not_before           integer,
  params_bytes         integer not null,
  digest               blob not null,
  attempts             integer not null default 0,  -- that had an outcome; a lost batch costs none
  attempts_max         integer not null,
  generation           integer not null default 1,  -- an operator's retry begins another
  delivery             integer not null default 0,  -- number of its newest delivery
  deliver_to           text not null,
  custom_id            text,
  metadata             text,
  peer_uid             integer,
  cancel_requested_at  integer,
  finished_at          integer,
  erased_at            integer,                   -- params, result, metadata and names were taken out
  check ((batch_seq is not null) = (state = 'assigned')),
  check ((finished_at is not null) = (state in ('succeeded', 'errored', 'expired', 'canceled')))
) strict;
create index requests_waiting on requests (group_id, priority desc, queued_at)
  where state = 'queued' and waits_until is null;
create index requests_due on requests (group_id, deadline_at) where state = 'queued' and waits_until is null;
create index requests_later on requests (waits_until) where state = 'queued' and waits_until is not null;

create table bodies (                   -- params, byte for byte as they came
  request_seq  integer primary key,
  params       blob not null
) strict;

create table idempotency_keys (         -- lives longer than the request it names
  queue_id    integer not null references queues (id),
  key         text not null,
  digest      blob not null,
  request_id  text not null,
  expires_at  integer not null,
  primary key (queue_id, key)
) strict, without rowid;
create index idempotency_keys_old on idempotency_keys (expires_at);

create table attempts (                 -- one request in one batch; its place there is the order of request_seq
  batch_seq       integer not null,
  request_seq     integer not null,
  state           text not null default 'open'
                    check (state in ('open', 'succeeded', 'errored', 'canceled', 'expired', 'superseded')),
  won             integer not null default 0,     -- its result is the outcome of the request
  ended_at        integer,
  error_type      text,
  stop_reason     text,
  input_tokens    integer,
  output_tokens   integer,
  cache_write_5m_tokens  integer,
  cache_write_1h_tokens  integer,
  cache_read_tokens      integer,
  primary key (batch_seq, request_seq),
  check (won = 0 or state not in ('open', 'superseded')),
  check ((ended_at is not null) = (state <> 'open'))
) strict, without rowid;
create index attempts_request on attempts (request_seq);

-- Results come in any order. This table and the next are appended to, with the request as a small index beside: rows in
-- the order of the requests would touch a page each, and every page touched is written to the log.
create table results (                  -- the outcome of a request: at most one
  seq          integer primary key,
  request_seq  integer not null unique,
  batch_seq    integer,                           -- null: decided without upstream (a cancel in the queue)
  stored_at    integer not null,
  body         blob not null                      -- upstream's result object, byte for byte
) strict;

create table destinations (             -- where results go; `pull:…` come into being by being named
  id             integer primary key,
  name           text not null unique,
  kind           text not null check (kind in ('pull', 'webhook')),
  url            text,                            -- of a webhook
  secrets        text,                            -- JSON: references such as env:NAME or file:/path, never a secret
  concurrency    integer,                         -- null: what the daemon's settings say
  created_at     integer not null,
  paused_at      integer,
  pause_reason   text,
  failures       integer not null default 0,      -- in a row
  failing_since  integer,
  open_until     integer,                         -- the breaker: no attempt before
  trips          integer not null default 0,      -- how often the breaker opened without a success between
  check ((kind = 'webhook') = (url is not null)),
  check (kind = 'webhook' or paused_at is null)
) strict;

create table deliveries (               -- the handing over of one result to one destination
  seq             integer primary key,
  request_seq     integer not null,
  generation      integer not null,               -- 1, 2, … for each request: a re-delivery is a new one
  destination_id  integer not null,
  state           text not null check (state in ('pending', 'sending', 'delivered', 'dead', 'canceled')),
  epoch           integer,                        -- the boot that handed it out
  attempts        integer not null default 0,
  due_at          integer not null,               -- pending: not before, 0: at once; sending: end of the lease
  created_at      integer not null,
  finished_at     integer,
  confirmed_by    text,                           -- ack, wait, webhook
  last_at         integer,                        -- the last attempt that failed, and what was said
  last_status     integer,
  last_error      text,
  unique (request_seq, generation),
  check ((finished_at is not null) = (state in ('delivered', 'dead', 'canceled')))
) strict;
create index deliveries_due on deliveries (destination_id, due_at) where state = 'pending';
create index deliveries_leased on deliveries (due_at) where state = 'sending';
create index deliveries_dead on deliveries (destination_id, finished_at) where state = 'dead';

create table strangers (                -- upstream batches that are proved not to be ours
  upstream_id       text primary key,
  noted_at          integer not null,
  why               text not null,
  unknown_requests  integer not null default 0  -- that look like ours: accepted after the copy that was restored
) strict, without rowid;

create table copies (                   -- each time this file turned out to be a copy, or older than what was sent
  id              integer primary key,
  made_at         integer not null,     -- the last moment that it knows of
  why             text not null check (why in ('backup', 'upgrade', 'restore', 'older')),
  found_at        integer,              -- the first start on it; null: none yet
  newest_request  integer,              -- the last request that it knew then
  since           integer,              -- upstream's clock: what was created there before, it knows
  first_at        integer,              -- the first complete listing, our clock
  first_date      integer,              -- the same, upstream's
  released_at     integer,              -- from when on batches were sent again
  released_by     text,
  ended_at        integer,              -- all that was created after it was made is looked at
  detail          text,
  check ((newest_request is null) = (since is null)),
  check ((released_at is null) = (released_by is null)),
  check (ended_at is null or released_at is not null)
) strict;

create table events (                   -- every transition of a batch, every act of an operator
  seq        integer primary key autoincrement,
  at         integer not null,
  actor      text not null,             -- the loop or face that acted
  entity     text not null check (entity in ('batch', 'request', 'queue', 'destination', 'delivery', 'account', 'daemon')),
  entity_id  text not null,
  what       text not null,
  old_state  text,
  new_state  text,
  detail     text
) strict;
create index events_entity on events (entity_id, seq);

create table alarms (                   -- those that are on
  name       text not null,
  entity_id  text not null,             -- what it is about; empty: the daemon as a whole
  since      integer not null,
  detail     text not null,
  primary key (name, entity_id)
) strict, without rowid;

-- For people ---------------------------------------------------------------------------------------------------------

create view v_requests as
select r.id, q.name as queue, g.model,
       case when r.state = 'assigned' and b.upstream_id is not null then 'submitted' else r.state end as state,
       r.custom_id, r.priority, r.attempts, r.attempts_max, r.generation,
       datetime(r.accepted_at / 1000, 'unixepoch') as accepted_at,
       datetime(r.deadline_at / 1000, 'unixepoch') as deadline_at,
       datetime(r.waits_until / 1000, 'unixepoch') as waits_until,
       datetime(r.finished_at / 1000, 'unixepoch') as finished_at,
       b.id as batch, b.upstream_id as upstream_batch, r.params_bytes, r.deliver_to,
       d.state as delivery, datetime(r.cancel_requested_at / 1000, 'unixepoch') as cancel_requested_at,
       datetime(r.erased_at / 1000, 'unixepoch') as erased_at
from requests r
join groups g on g.id = r.group_id
join queues q on q.id = g.queue_id
left join results s on s.request_seq = r.seq
left join batches b on b.seq = coalesce(r.batch_seq, s.batch_seq)  -- it travels in it, or was answered by it
left join deliveries d on d.request_seq = r.seq and d.generation = r.delivery;

create view v_queue as
select q.name as queue, g.model, g.waiting_requests as waiting, g.waiting_bytes,
       datetime((select min(queued_at) from requests r where r.group_id = g.id and r.state = 'queued'
                 and r.waits_until is null) / 1000, 'unixepoch') as oldest_since,
       datetime((select min(deadline_at) from requests r where r.group_id = g.id and r.state = 'queued'
                 and r.waits_until is null) / 1000, 'unixepoch') as nearest_deadline,
       g.deadline_class, g.requests_cap, g.bytes_cap, g.anthropic_version, g.anthropic_beta,
       case when q.paused_at is null then '' else coalesce(q.pause_reason, 'paused') end as paused
from groups g join queues q on q.id = g.queue_id
where g.waiting_requests > 0
order by q.name, g.model, g.deadline_class;

create view v_counts as
select c.entity, case c.entity when 'request' then q.name else t.name end as belongs_to, c.state, c.n
from counters c
left join queues q on c.entity = 'request' and q.id = c.owner_id
left join destinations t on c.entity = 'delivery' and t.id = c.owner_id
where c.n > 0 order by c.entity desc, belongs_to, c.state;

create view v_queues as
select name as queue, case when paused_at is null then 'open' else 'paused' end as state, pause_reason,
       datetime(paused_at / 1000, 'unixepoch') as paused_at, linger_s, batch_requests_max, batch_bytes_max, deadline_s,
       attempts_max, priority, deliver_to, anthropic_version, anthropic_beta, open_requests_max, retention_days,
       unread_days
from queues order by name;

create view v_batches as
select b.id, b.state, b.upstream_id, q.name as queue, g.model, b.requests, b.members_open, b.why,
       datetime(b.created_at / 1000, 'unixepoch') as created_at,
       datetime(b.submit_started_at / 1000, 'unixepoch') as submitted_at,
       datetime(b.upstream_expires_at / 1000, 'unixepoch') as expires_at,
       datetime(b.upstream_ended_at / 1000, 'unixepoch') as ended_at,
       datetime(b.finished_at / 1000, 'unixepoch') as finished_at,
       case when b.adopted then 'adopted' else '' end as adopted, b.nonce, b.detail
from batches b join groups g on g.id = b.group_id join queues q on q.id = g.queue_id
order by b.seq desc;

create view v_open_batches as
select b.id, b.state, b.upstream_id, q.name as queue, g.model, b.requests, b.members_open,
       datetime(b.submit_started_at / 1000, 'unixepoch') as submitted_at,
       datetime(b.upstream_expires_at / 1000, 'unixepoch') as expires_at,
       b.failures, datetime(nullif(b.next_try_at, 0) / 1000, 'unixepoch') as next_try_at, b.detail
from batches b join groups g on g.id = b.group_id join queues q on q.id = g.queue_id
where b.finished_at is null order by b.seq;

create view v_unknown_batches as
select b.id, q.name as queue, g.model, b.requests, b.nonce,
       datetime(b.submit_started_at / 1000, 'unixepoch') as submitted_at,
       datetime(b.window_from / 1000, 'unixepoch') as upstream_clock_before,
       datetime(b.absent_at / 1000, 'unixepoch') as first_missing_at, b.detail
from batches b join groups g on g.id = b.group_id join queues q on q.id = g.queue_id
where b.state = 'unknown' and b.finished_at is null order by b.seq;

create view v_attempts as
select r.id as request, b.id as batch, b.upstream_id as upstream_batch, b.nonce || '-' || r.id as custom_id, a.state,
       case when a.won then 'outcome' when a.state in ('open', 'superseded') then '' else 'waste or retried' end as counts_as,
       datetime(a.ended_at / 1000, 'unixepoch') as ended_at, a.error_type, a.stop_reason, a.input_tokens, a.output_tokens
from attempts a join requests r on r.seq = a.request_seq join batches b on b.seq = a.batch_seq;

create view v_deliveries as
select r.id || '.' || d.generation as id, t.name as destination, d.state, d.attempts,
       datetime(d.created_at / 1000, 'unixepoch') as created_at,
       datetime(max(d.due_at, d.created_at) / 1000, 'unixepoch') as due_at,
       datetime(d.finished_at / 1000, 'unixepoch') as finished_at, d.confirmed_by,
       datetime(d.last_at / 1000, 'unixepoch') as last_failed_at, d.last_status, d.last_error
from deliveries d join requests r on r.seq = d.request_seq join destinations t on t.id = d.destination_id;

create view v_destinations as
select t.name, t.kind, t.url, case when t.paused_at is not null then 'paused'
         when t.open_until > cast((julianday('now') - 2440587.5) * 86400000 as integer) then 'breaker open'
         when t.failures > 0 then 'failing' else 'ok' end as state,
       (select coalesce(sum(n), 0) from counters c where c.entity = 'delivery' and c.owner_id = t.id
        and c.state in ('pending', 'sending')) as waiting,
       (select coalesce(sum(n), 0) from counters c where c.entity = 'delivery' and c.owner_id = t.id
        and c.state = 'dead') as dead,
       t.failures, datetime(t.failing_since / 1000, 'unixepoch') as failing_since,
       datetime(t.open_until / 1000, 'unixepoch') as next_try_at,
       datetime(t.paused_at / 1000, 'unixepoch') as paused_at, t.pause_reason
from destinations t order by t.name;

create view v_account as
select base_url, workspace, case when paused_at is null then 'open' else 'paused' end as state, pause_reason,
       datetime(paused_at / 1000, 'unixepoch') as paused_at, datetime(paused_until / 1000, 'unixepoch') as paused_until,
       refusals, datetime(swept_at / 1000, 'unixepoch') as swept_at
from account;

create view v_boots as
select epoch, datetime(started_at / 1000, 'unixepoch') as started_at, datetime(seen_at / 1000, 'unixepoch') as seen_at,
       datetime(stopped_at / 1000, 'unixepoch') as stopped_at,
       case when stopped_at is not null then 'stopped'
            when epoch < (select max(epoch) from boots) then 'cut off'
            else 'running, or cut off after seen_at' end as state, pid, version
from boots order by epoch desc;

create view v_copies as
select why, datetime(made_at / 1000, 'unixepoch') as made_at, datetime(found_at / 1000, 'unixepoch') as found_at,
       case when released_at is null then 'nothing is sent' when ended_at is null then 'released, still searching'
            else 'over' end as state,
       datetime(released_at / 1000, 'unixepoch') as released_at, released_by,
       datetime(ended_at / 1000, 'unixepoch') as ended_at, detail
from copies order by id desc;

create view v_alarms as
select name as alarm, entity_id as about, datetime(since / 1000, 'unixepoch') as since, detail
from alarms order by since;

create view v_events as
select seq, datetime(at / 1000, 'unixepoch') as at, actor, entity, entity_id, what, old_state, new_state, detail
from events order by seq desc;
