-- Who did what: one row for each write, in its transaction, and for what was refused. Rows are never changed once they
-- are linked into the chain of the server that wrote them.

create table activity (
    row     bigint generated always as identity primary key,
    -- The server that wrote it, and the row's place in that server's chain: none until it is linked.
    node    text collate "C" not null,
    seq     bigint,
    at      bigint not null,
    tenant  text collate "C" not null,
    id_key  text collate "C" not null,
    -- The rest, as JSON; what is hashed is this text.
    body    text not null,
    hash    text,
    unique (node, seq)
);

create index activity_open on activity (node, row) where seq is null;
create index activity_by_time on activity (tenant, at, row);

-- What a server signed: how far its chain was, and its hash there.
create table activity_checkpoints (
    node   text collate "C" not null,
    seq    bigint not null,
    at     bigint not null,
    hash   text not null,
    signed text not null,
    primary key (node, seq)
);

create table activity_nodes (
    node       text collate "C" primary key,
    public_key text not null
);
