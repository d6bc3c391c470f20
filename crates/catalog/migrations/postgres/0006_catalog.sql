-- All tables as they are after SQLite's migration of the same number; from here on each folder has one for each step.
-- Times are microseconds since 1970 UTC; UUIDs are hyphenated text; a *_key column is folded for comparison. What is
-- compared or sorted is so by its bytes, whatever the database's own order is.

create table resources (
    row        bigint generated always as identity primary key,
    tenant     text   collate "C" not null,
    id_key     text   collate "C" not null,
    id         text   collate "C" not null,
    type_key   text   collate "C" not null,
    -- The id, with a version's number in fixed width: text order is the list's order.
    sort_key   text   collate "C" not null,
    -- 1: sits on a resource and goes with it; 0: is below one and keeps it from being deleted.
    attached   bigint not null,
    location   text,
    tags       text   not null,
    properties text   not null,
    extra      text   not null,
    state      text   not null,
    etag       text   not null,
    created_at bigint not null,
    created_by text   not null,
    changed_at bigint not null,
    changed_by text   not null,
    unique (tenant, id_key)
);

create index resources_by_type on resources (tenant, type_key, sort_key);

create table unique_keys (
    name     text   collate "C" primary key,
    resource bigint not null references resources (row) on delete cascade
);

create index unique_keys_by_resource on unique_keys (resource);

create table installation (
    one                bigint primary key check (one = 1),
    tenant             text   not null,
    operator_app       text   not null,
    operator_principal text   not null
);

create table tenants (
    tenant       text   collate "C" primary key,
    name_key     text   collate "C" not null unique,
    name         text   not null,
    display_name text   not null,
    resource     bigint not null unique references resources (row) on delete cascade
);

create table subscriptions (
    subscription text   collate "C" primary key,
    tenant       text   collate "C" not null,
    resource     bigint not null unique references resources (row) on delete cascade
);

create index subscriptions_by_tenant on subscriptions (tenant);

create table applications (
    app          text   collate "C" primary key,
    home         text   collate "C" not null,
    display_name text   collate "C" not null,
    audience     text   not null,
    resource     bigint not null unique references resources (row) on delete cascade,
    redirects    text   not null default '[]'
);

create table principals (
    tenant    text   collate "C" not null,
    app       text   collate "C" not null references applications (app) on delete cascade,
    principal text   collate "C" not null unique,
    -- Of a consent; none for an application's principal at home.
    resource  bigint references resources (row) on delete cascade,
    primary key (tenant, app)
);

create index principals_by_app on principals (app);
create index principals_by_resource on principals (resource);

create table secrets (
    secret     text   collate "C" primary key,
    app        text   collate "C" not null references applications (app) on delete cascade,
    name       text   not null,
    hint       text   not null,
    hash       text   not null,
    made_at    bigint not null,
    expires_at bigint not null
);

create index secrets_by_app on secrets (app);

create table credentials (
    resource bigint primary key references resources (row) on delete cascade,
    app      text   collate "C" not null references applications (app) on delete cascade,
    body     text   not null
);

create index credentials_by_app on credentials (app);

create table assertions (
    assertion text   collate "C" primary key,
    until     bigint not null
);

create index assertions_by_end on assertions (until);

create table assignments (
    resource  bigint primary key references resources (row) on delete cascade,
    tenant    text   collate "C" not null,
    principal text   collate "C" not null,
    role      text   not null,
    scope     text   not null
);

create index assignments_by_principal on assignments (tenant, principal);

create table signing_keys (
    kid         text   collate "C" primary key,
    private_pem text   not null,
    made_at     bigint not null,
    retires_at  bigint not null
);

create table jobs (
    job          text    collate "C" primary key,
    kind         text    not null,
    tenant       text    not null,
    scope        text    not null,
    requester    text    not null,
    input        text    not null,
    state        text    not null,
    cancel_asked boolean not null default false,
    exclusive    text    collate "C",
    output       text,
    failure      text,
    -- How often the job was claimed; with the holder it tells a lease from the ones before it.
    claims       bigint  not null default 0,
    holder       text    collate "C",
    lease_until  bigint  not null default 0,
    not_before   bigint  not null default 0,
    submitted_at bigint  not null,
    started_at   bigint,
    ended_at     bigint
);

create unique index jobs_exclusive on jobs (exclusive) where ended_at is null;
create index jobs_open on jobs (kind, job) where ended_at is null;

-- Where a job may be seen: its scope and what else it was submitted with.
create table job_places (
    job    text collate "C" not null references jobs (job) on delete cascade,
    tenant text collate "C" not null,
    id_key text collate "C" not null,
    primary key (tenant, id_key, job)
);

create index job_places_by_job on job_places (job);

create table job_steps (
    job           text   collate "C" not null references jobs (job) on delete cascade,
    seq           bigint not null,
    name          text   not null,
    step_key      text,
    state         text   not null,
    how           text,
    attempts      bigint not null,
    undo_attempts bigint not null default 0,
    progress_text text,
    detail        text   not null,
    undo          text,
    output        text,
    failure       text,
    started_at    bigint not null,
    ended_at      bigint,
    primary key (job, seq)
);

create table step_results (
    step_key text   collate "C" primary key,
    name     text   not null,
    output   text   not null,
    made_by  text   not null,
    made_at  bigint not null
);

create table job_log (
    job    text   collate "C" not null references jobs (job) on delete cascade,
    line   bigint not null,
    at     bigint not null,
    text   text   not null,
    primary key (job, line)
);

-- What was written, in order, for whoever keeps something current by it. Without gaps, so that a reader sees when it
-- came too late. The newest 100,000 are kept.
create table changes (
    seq     bigint  primary key,
    tenant  text    not null,
    id      text    not null,
    deleted boolean not null
);

-- Changes on their way there. Writers commit side by side and in any order, so a number that was drawn while writing
-- could show up after a later one, and a reader would have passed it. Therefore a change gets its number when it is
-- read, and it can be read once it is committed. Changes of one resource are in order here: its row was locked.
create table changes_noted (
    n       bigint  generated always as identity primary key,
    tenant  text    not null,
    id      text    not null,
    deleted boolean not null
);

-- One row: the last number given. Locked by whoever gives numbers.
create table changes_numbered (
    one boolean primary key default true check (one),
    seq bigint  not null
);

insert into changes_numbered (seq) values (0);

create function number_changes() returns void language plpgsql as $$
declare
    last  bigint;
    added bigint;
begin
    if not exists (select from changes_noted) then
        return;
    end if;
    select seq into last from changes_numbered for update;
    with noted as (delete from changes_noted returning n, tenant, id, deleted)
    insert into changes (seq, tenant, id, deleted)
    select last + row_number() over (order by n), tenant, id, deleted from noted;
    get diagnostics added = row_count;
    update changes_numbered set seq = last + added;
    if last / 1000 <> (last + added) / 1000 then
        delete from changes where seq <= last + added - 100000;
    end if;
end
$$;

-- Triggers, so that no way of writing a resource can forget its change.
create function note_written() returns trigger language plpgsql as $$
begin
    insert into changes_noted (tenant, id, deleted) values (new.tenant, new.id, false);
    return null;
end
$$;

create function note_removed() returns trigger language plpgsql as $$
begin
    insert into changes_noted (tenant, id, deleted) values (old.tenant, old.id, true);
    return null;
end
$$;

create trigger resources_written after insert or update on resources for each row execute function note_written();
create trigger resources_removed after delete on resources for each row execute function note_removed();

-- Of each policy under each assignment: the resources that are, or once were, other than compliant.
create table policy_states (
    tenant         text   collate "C" not null,
    resource_key   text   collate "C" not null,
    assignment_key text   collate "C" not null,
    reference_key  text   collate "C" not null,
    resource       text   not null,
    assignment     text   not null,
    reference      text   not null,
    state          text   not null,
    since          bigint not null,
    reason         text,
    primary key (tenant, resource_key, assignment_key, reference_key)
);

-- How those states changed; a state that is null ended. The newest 1,000,000 are kept.
create table policy_events (
    seq          bigint generated always as identity primary key,
    tenant       text   collate "C" not null,
    at           bigint not null,
    resource_key text   collate "C" not null,
    resource     text   not null,
    assignment   text   not null,
    reference    text   not null,
    state        text,
    reason       text
);

create index policy_events_by_time on policy_events (tenant, at, seq);

create function trim_policy_events() returns trigger language plpgsql as $$
begin
    delete from policy_events where seq <= new.seq - 1000000;
    return null;
end
$$;

create trigger policy_events_trimmed after insert on policy_events
    for each row when (new.seq % 1000 = 0) execute function trim_policy_events();
