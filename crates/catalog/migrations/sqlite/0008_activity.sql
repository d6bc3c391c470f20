-- Who did what: one row for each write, in its transaction, and for what was refused. Rows are never changed once they
-- are linked into the chain of the server that wrote them.

create table activity (
    row     integer primary key autoincrement,
    -- The server that wrote it, and the row's place in that server's chain: none until it is linked.
    node    text    not null,
    seq     integer,
    at      integer not null,
    tenant  text    not null,
    id_key  text    not null,
    -- The rest, as JSON; what is hashed is this text.
    body    text    not null,
    hash    text,
    unique (node, seq)
) strict;

create index activity_open on activity (node, row) where seq is null;
create index activity_by_time on activity (tenant, at, row);

-- What a server signed: how far its chain was, and its hash there.
create table activity_checkpoints (
    node   text    not null,
    seq    integer not null,
    at     integer not null,
    hash   text    not null,
    signed text    not null,
    primary key (node, seq)
) strict, without rowid;

create table activity_nodes (
    node       text primary key,
    public_key text not null
) strict, without rowid;
