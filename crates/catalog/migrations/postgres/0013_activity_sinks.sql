-- How far a server's lines of the activity log were sent to each receiver that it is configured with.
create table activity_sinks (
    node text collate "C" not null,
    sink text collate "C" not null,
    -- The last line that the receiver has; lines after it are kept longer than others.
    seq  bigint not null,
    primary key (node, sink)
);
