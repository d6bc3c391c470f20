-- Where a browser is sent after an administrator's consent: a JSON list of URIs.

alter table applications add column redirects text not null default '[]';
