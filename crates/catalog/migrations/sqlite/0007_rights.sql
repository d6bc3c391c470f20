-- Who may do what, besides roles that are built in: custom roles, deny assignments, locks, users, groups, what is above a
-- subscription, and the tokens that people stay signed in with.

-- How often what decides in a tenant has changed. Read by every request, so that nothing is decided by what was.
create table rights_epochs (
    tenant text    primary key,
    epoch  integer not null
) strict, without rowid;

create table role_definitions (
    resource integer primary key references resources (row) on delete cascade,
    tenant   text not null,
    role     text not null,
    -- The permissions, as JSON.
    body     text not null,
    unique (tenant, role)
) strict;

create table deny_assignments (
    resource integer primary key references resources (row) on delete cascade,
    tenant   text not null,
    body     text not null
) strict;

create index deny_assignments_by_tenant on deny_assignments (tenant);

create table locks (
    resource integer primary key references resources (row) on delete cascade,
    tenant   text not null,
    scope    text not null,
    level    text not null
) strict;

create index locks_by_tenant on locks (tenant);

create table users (
    principal text    primary key,
    tenant    text    not null,
    -- The sign-in name, folded.
    name_key  text    not null,
    -- A hash; none for somebody who cannot sign in here.
    password  text,
    enabled   integer not null,
    resource  integer not null unique references resources (row) on delete cascade,
    unique (tenant, name_key)
) strict, without rowid;

create table user_groups (
    principal text    primary key,
    tenant    text    not null,
    resource  integer not null unique references resources (row) on delete cascade
) strict, without rowid;

create index user_groups_by_tenant on user_groups (tenant);

-- Directly in a group: a user, a service principal or another group.
create table members (
    resource  integer primary key references resources (row) on delete cascade,
    tenant    text not null,
    principal text not null,
    in_group  text not null references user_groups (principal) on delete cascade,
    unique (tenant, principal, in_group)
) strict;

create index members_by_group on members (in_group);

-- Each token is good for one use and belongs to the sign-in that it came from; one used twice ends all of those.
create table refresh_tokens (
    digest     text    primary key,
    family     text    not null,
    tenant     text    not null,
    principal  text    not null,
    app        text    not null,
    used       integer not null,
    expires_at integer not null
) strict, without rowid;

create index refresh_tokens_by_family on refresh_tokens (family);
create index refresh_tokens_by_end on refresh_tokens (expires_at);

create index assignments_by_role on assignments (tenant, role);

-- Of a managed identity: an application that is made and removed with its resource.
alter table applications add column managed integer not null default 0;

-- Folded names; without one a group or subscription is below the tenant's root group.
create table management_groups (
    resource integer primary key references resources (row) on delete cascade,
    tenant   text not null,
    name     text not null,
    parent   text,
    unique (tenant, name)
) strict;

insert into management_groups (resource, tenant, name, parent)
select row, tenant, substr(id_key, length('/providers/microsoft.management/managementgroups/') + 1),
       lower(substr(json_extract(properties, '$.details.parent.id'), length('/providers/microsoft.management/managementgroups/') + 1))
from resources where type_key = 'microsoft.management/managementgroups';

alter table subscriptions add column placed text;

update subscriptions set placed =
    (select lower(json_extract(properties, '$.managementGroup')) from resources where row = resource);

create index subscriptions_placed on subscriptions (tenant) where placed is not null;

-- Triggers, so that no way of writing can forget the epoch.
create trigger assignments_insert_counts after insert on assignments begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger assignments_update_counts after update on assignments begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger assignments_delete_counts after delete on assignments begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger role_definitions_insert_counts after insert on role_definitions begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger role_definitions_update_counts after update on role_definitions begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger role_definitions_delete_counts after delete on role_definitions begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger deny_assignments_insert_counts after insert on deny_assignments begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger deny_assignments_update_counts after update on deny_assignments begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger deny_assignments_delete_counts after delete on deny_assignments begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger locks_insert_counts after insert on locks begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger locks_update_counts after update on locks begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger locks_delete_counts after delete on locks begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger members_insert_counts after insert on members begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger members_update_counts after update on members begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger members_delete_counts after delete on members begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger management_groups_insert_counts after insert on management_groups begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger management_groups_update_counts after update on management_groups begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger management_groups_delete_counts after delete on management_groups begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger subscriptions_update_counts after update of placed on subscriptions begin
    insert into rights_epochs (tenant, epoch) values (new.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
create trigger subscriptions_delete_counts after delete on subscriptions when old.placed is not null begin
    insert into rights_epochs (tenant, epoch) values (old.tenant, 1) on conflict (tenant) do update set epoch = epoch + 1;
end;
-- With a principal go its roles and memberships, whichever way it goes: nobody is left to hold them.
create trigger principals_gone after delete on principals begin
    delete from resources where row in
        (select resource from assignments where tenant = old.tenant and principal = old.principal);
    delete from resources where row in
        (select resource from members where tenant = old.tenant and principal = old.principal);
end;
create trigger users_gone after delete on users begin
    delete from resources where row in
        (select resource from assignments where tenant = old.tenant and principal = old.principal);
    delete from resources where row in
        (select resource from members where tenant = old.tenant and principal = old.principal);
end;
create trigger user_groups_gone after delete on user_groups begin
    delete from resources where row in
        (select resource from assignments where tenant = old.tenant and principal = old.principal);
    delete from resources where row in
        (select resource from members where tenant = old.tenant and principal = old.principal);
end;
