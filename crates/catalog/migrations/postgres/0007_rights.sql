-- Who may do what, besides roles that are built in: custom roles, deny assignments, locks, users, groups, what is above a
-- subscription, and the tokens that people stay signed in with.

-- How often what decides in a tenant has changed. Read by every request, so that nothing is decided by what was.
create table rights_epochs (
    tenant text collate "C"    primary key,
    epoch  bigint not null
);

create table role_definitions (
    resource bigint primary key references resources (row) on delete cascade,
    tenant   text collate "C" not null,
    role     text collate "C" not null,
    -- The permissions, as JSON.
    body     text not null,
    unique (tenant, role)
);

create table deny_assignments (
    resource bigint primary key references resources (row) on delete cascade,
    tenant   text collate "C" not null,
    body     text not null
);

create index deny_assignments_by_tenant on deny_assignments (tenant);

create table locks (
    resource bigint primary key references resources (row) on delete cascade,
    tenant   text collate "C" not null,
    scope    text not null,
    level    text not null
);

create index locks_by_tenant on locks (tenant);

create table users (
    principal text collate "C"    primary key,
    tenant    text collate "C"    not null,
    -- The sign-in name, folded.
    name_key  text collate "C"    not null,
    -- A hash; none for somebody who cannot sign in here.
    password  text,
    enabled   boolean not null,
    resource  bigint not null unique references resources (row) on delete cascade,
    unique (tenant, name_key)
);

create table user_groups (
    principal text collate "C"    primary key,
    tenant    text collate "C"    not null,
    resource  bigint not null unique references resources (row) on delete cascade
);

create index user_groups_by_tenant on user_groups (tenant);

-- Directly in a group: a user, a service principal or another group.
create table members (
    resource  bigint primary key references resources (row) on delete cascade,
    tenant    text collate "C" not null,
    principal text collate "C" not null,
    in_group  text collate "C" not null references user_groups (principal) on delete cascade,
    unique (tenant, principal, in_group)
);

create index members_by_group on members (in_group);

-- Each token is good for one use and belongs to the sign-in that it came from; one used twice ends all of those.
create table refresh_tokens (
    digest     text collate "C"    primary key,
    family     text collate "C"    not null,
    tenant     text collate "C"    not null,
    principal  text collate "C"    not null,
    app        text    not null,
    used       boolean not null,
    expires_at bigint not null
);

create index refresh_tokens_by_family on refresh_tokens (family);
create index refresh_tokens_by_end on refresh_tokens (expires_at);

create index assignments_by_role on assignments (tenant, role);

-- Of a managed identity: an application that is made and removed with its resource.
alter table applications add column managed boolean not null default false;

-- Folded names; without one a group or subscription is below the tenant's root group.
create table management_groups (
    resource bigint primary key references resources (row) on delete cascade,
    tenant   text collate "C" not null,
    name     text collate "C" not null,
    parent   text,
    unique (tenant, name)
);

insert into management_groups (resource, tenant, name, parent)
select row, tenant, substr(id_key, length('/providers/microsoft.management/managementgroups/') + 1),
       lower(substr(properties::json #>> '{details,parent,id}', length('/providers/microsoft.management/managementgroups/') + 1))
from resources where type_key = 'microsoft.management/managementgroups';

alter table subscriptions add column placed text;

update subscriptions set placed =
    (select lower(properties::json ->> 'managementGroup') from resources where row = resource);

create index subscriptions_placed on subscriptions (tenant) where placed is not null;

-- Triggers, so that no way of writing can forget the epoch. The row of a tenant is locked to the end of the transaction,
-- so a reader that sees an epoch sees all that it counts.
create function count_rights() returns trigger language plpgsql as $$
declare
    whose text;
begin
    if tg_op = 'DELETE' then
        whose := old.tenant;
    else
        whose := new.tenant;
    end if;
    insert into rights_epochs (tenant, epoch) values (whose, 1)
        on conflict (tenant) do update set epoch = rights_epochs.epoch + 1;
    return null;
end
$$;

create trigger assignments_count after insert or update or delete on assignments for each row execute function count_rights();
create trigger role_definitions_count after insert or update or delete on role_definitions for each row execute function count_rights();
create trigger deny_assignments_count after insert or update or delete on deny_assignments for each row execute function count_rights();
create trigger locks_count after insert or update or delete on locks for each row execute function count_rights();
create trigger members_count after insert or update or delete on members for each row execute function count_rights();
create trigger management_groups_count after insert or update or delete on management_groups for each row execute function count_rights();
create trigger subscriptions_moved after update of placed on subscriptions for each row execute function count_rights();
create trigger subscriptions_gone after delete on subscriptions
    for each row when (old.placed is not null) execute function count_rights();

-- With a principal go its roles and memberships, whichever way it goes: nobody is left to hold them.
create function forget_principal() returns trigger language plpgsql as $$
begin
    delete from resources where row in
        (select resource from assignments where tenant = old.tenant and principal = old.principal);
    delete from resources where row in
        (select resource from members where tenant = old.tenant and principal = old.principal);
    return null;
end
$$;

create trigger principals_gone after delete on principals for each row execute function forget_principal();
create trigger users_gone after delete on users for each row execute function forget_principal();
create trigger user_groups_gone after delete on user_groups for each row execute function forget_principal();
