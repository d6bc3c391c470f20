-- Requests that policies refused are events, too: what the policy did, and to whom. A state that changed has neither.
alter table policy_events add column effect text;
alter table policy_events add column principal text;
