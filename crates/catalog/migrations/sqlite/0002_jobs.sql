-- Jobs, their journals, the results of pure steps, and logs.

create table jobs (
    job          text    primary key,
    kind         text    not null,
    tenant       text    not null,
    scope        text    not null,
    requester    text    not null,
    input        text    not null,
    state        text    not null,
    cancel_asked integer not null default 0,
    exclusive    text,
    output       text,
    failure      text,
    -- How often the job was claimed; with the holder it tells a lease from the ones before it.
    claims       integer not null default 0,
    holder       text,
    lease_until  integer not null default 0,
    not_before   integer not null default 0,
    submitted_at integer not null,
    started_at   integer,
    ended_at     integer
) strict, without rowid;

create unique index jobs_exclusive on jobs (exclusive) where ended_at is null;
create index jobs_open on jobs (kind, job) where ended_at is null;

-- Where a job may be seen: its scope and what else it was submitted with.
create table job_places (
    job    text not null references jobs (job) on delete cascade,
    tenant text not null,
    id_key text not null,
    primary key (tenant, id_key, job)
) strict, without rowid;

create index job_places_by_job on job_places (job);

create table job_steps (
    job           text    not null references jobs (job) on delete cascade,
    seq           integer not null,
    name          text    not null,
    step_key      text,
    state         text    not null,
    how           text,
    attempts      integer not null,
    undo_attempts integer not null default 0,
    progress_text text,
    detail        text    not null,
    undo          text,
    output        text,
    failure       text,
    started_at    integer not null,
    ended_at      integer,
    primary key (job, seq)
) strict, without rowid;

create table step_results (
    step_key text    primary key,
    name     text    not null,
    output   text    not null,
    made_by  text    not null,
    made_at  integer not null
) strict, without rowid;

create table job_log (
    job    text    not null references jobs (job) on delete cascade,
    line   integer not null,
    at     integer not null,
    text   text    not null,
    primary key (job, line)
) strict, without rowid;
