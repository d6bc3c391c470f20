-- What is known of disks, by digest: signed statements, and the packages in them. A disk's digest is its name in every
-- gallery and tenant, so neither has one.

create table statements (
    disk     text    not null,
    name     text    not null,
    at       integer not null,
    -- A DSSE envelope, as JSON.
    envelope text    not null,
    primary key (disk, name)
) strict, without rowid;

create table bills (
    id     integer primary key,
    disk   text not null unique,
    -- What the system in it says it is, as JSON.
    system text not null
) strict;

-- A package is kept once for all the disks that have it.
create table packages (
    id     integer primary key,
    name   text not null,
    source text not null,
    body   text not null unique
) strict;

create index packages_by_name on packages (name);
create index packages_by_source on packages (source);

create table bill_packages (
    package integer not null references packages (id) on delete cascade,
    bill    integer not null references bills (id) on delete cascade,
    primary key (package, bill)
) strict, without rowid;

create index bill_packages_by_bill on bill_packages (bill);
