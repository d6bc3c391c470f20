-- What is known of disks, by digest: signed statements, and the packages in them. A disk's digest is its name in every
-- gallery and tenant, so neither has one.

create table statements (
    disk     text collate "C" not null,
    name     text collate "C" not null,
    at       bigint not null,
    -- A DSSE envelope, as JSON.
    envelope text   not null,
    primary key (disk, name)
);

create table bills (
    id     bigint generated always as identity primary key,
    disk   text collate "C" not null unique,
    -- What the system in it says it is, as JSON.
    system text not null
);

-- A package is kept once for all the disks that have it.
create table packages (
    id     bigint generated always as identity primary key,
    name   text collate "C" not null,
    source text collate "C" not null,
    body   text collate "C" not null unique
);

create index packages_by_name on packages (name);
create index packages_by_source on packages (source);

create table bill_packages (
    package bigint not null references packages (id) on delete cascade,
    bill    bigint not null references bills (id) on delete cascade,
    primary key (package, bill)
);

create index bill_packages_by_bill on bill_packages (bill);
