-- Resources, what authorisation reads, and jobs. Times are microseconds since 1970 UTC; UUIDs are hyphenated text;
-- a *_key column is folded for comparison.

create table resources (
    row        integer primary key,
    tenant     text    not null,
    id_key     text    not null,
    id         text    not null,
    type_key   text    not null,
    -- The id, with a version's number in fixed width: text order is the list's order.
    sort_key   text    not null,
    -- 1: sits on a resource and goes with it; 0: is below one and keeps it from being deleted.
    attached   integer not null,
    location   text,
    tags       text    not null,
    properties text    not null,
    extra      text    not null,
    state      text    not null,
    etag       text    not null,
    created_at integer not null,
    created_by text    not null,
    changed_at integer not null,
    changed_by text    not null,
    unique (tenant, id_key)
) strict;

create index resources_by_type on resources (tenant, type_key, sort_key);

create table unique_keys (
    name     text    primary key,
    resource integer not null references resources (row) on delete cascade
) strict, without rowid;

create index unique_keys_by_resource on unique_keys (resource);

create table installation (
    one                integer primary key check (one = 1),
    tenant             text not null,
    operator_app       text not null,
    operator_principal text not null
) strict;

create table tenants (
    tenant       text    primary key,
    name_key     text    not null unique,
    name         text    not null,
    display_name text    not null,
    resource     integer not null unique references resources (row) on delete cascade
) strict, without rowid;

create table subscriptions (
    subscription text    primary key,
    tenant       text    not null,
    resource     integer not null unique references resources (row) on delete cascade
) strict, without rowid;

create table applications (
    app          text    primary key,
    home         text    not null,
    display_name text    not null,
    audience     text    not null,
    resource     integer not null unique references resources (row) on delete cascade
) strict, without rowid;

create table principals (
    tenant    text not null,
    app       text not null references applications (app) on delete cascade,
    principal text not null unique,
    primary key (tenant, app)
) strict, without rowid;

create index principals_by_app on principals (app);

create table secrets (
    secret     text    primary key,
    app        text    not null references applications (app) on delete cascade,
    name       text    not null,
    hint       text    not null,
    hash       text    not null,
    made_at    integer not null,
    expires_at integer not null
) strict, without rowid;

create index secrets_by_app on secrets (app);

create table assignments (
    resource  integer primary key references resources (row) on delete cascade,
    tenant    text not null,
    principal text not null,
    role      text not null,
    scope     text not null
) strict;

create index assignments_by_principal on assignments (tenant, principal);

create table signing_keys (
    kid         text    primary key,
    private_pem text    not null,
    made_at     integer not null,
    retires_at  integer not null
) strict, without rowid;
