-- A principal may stand for a resource of its own: an application of another tenant, consented into this one.
-- Withdrawing the consent removes the resource, and the principal with it.
alter table principals add column resource integer references resources (row) on delete cascade;
