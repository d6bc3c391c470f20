-- What applications prove themselves with besides secrets, and the assertions that were used.

create table credentials (
    resource integer primary key references resources (row) on delete cascade,
    app      text    not null references applications (app) on delete cascade,
    body     text    not null
) strict;

create index credentials_by_app on credentials (app);

-- An assertion is good for one token: its digest, until it would have expired anyway.
create table assertions (
    assertion text    primary key,
    until     integer not null
) strict, without rowid;

create index assertions_by_end on assertions (until);
