-- What was written, in order, for whoever keeps something current by it; and the states of policies.

-- Without gaps, so that a reader sees when it came too late. The newest 100,000 are kept.
create table changes (
    seq     integer primary key autoincrement,
    tenant  text    not null,
    id      text    not null,
    deleted integer not null
) strict;

-- Triggers, so that no way of writing a resource can forget its change.
create trigger resources_made after insert on resources begin
    insert into changes (tenant, id, deleted) values (new.tenant, new.id, 0);
end;

create trigger resources_changed after update on resources begin
    insert into changes (tenant, id, deleted) values (new.tenant, new.id, 0);
end;

create trigger resources_removed after delete on resources begin
    insert into changes (tenant, id, deleted) values (old.tenant, old.id, 1);
end;

create trigger changes_trimmed after insert on changes when new.seq % 1000 = 0 begin
    delete from changes where seq <= new.seq - 100000;
end;

-- Of each policy under each assignment: the resources that are, or once were, other than compliant.
create table policy_states (
    tenant         text    not null,
    resource_key   text    not null,
    assignment_key text    not null,
    reference_key  text    not null,
    resource       text    not null,
    assignment     text    not null,
    reference      text    not null,
    state          text    not null,
    since          integer not null,
    reason         text,
    primary key (tenant, resource_key, assignment_key, reference_key)
) strict, without rowid;

-- How those states changed; a state that is null ended. The newest 1,000,000 are kept.
create table policy_events (
    seq        integer primary key autoincrement,
    tenant     text    not null,
    at         integer not null,
    resource_key text  not null,
    resource   text    not null,
    assignment text    not null,
    reference  text    not null,
    state      text,
    reason     text
) strict;

create index policy_events_by_time on policy_events (tenant, at, seq);

create trigger policy_events_trimmed after insert on policy_events when new.seq % 1000 = 0 begin
    delete from policy_events where seq <= new.seq - 1000000;
end;
