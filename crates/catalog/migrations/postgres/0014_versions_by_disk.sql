-- A body as JSON that PostgreSQL can look into: a text in it may hold the escape of a NUL, which no text here can be made of.
-- The same text always gives the same, which the cast alone does not promise.
create function as_json(body text) returns json language sql immutable strict parallel safe as $$
    select (case when strpos(body, '\u0000') > 0
                 then regexp_replace(body, '(?<!\\)((?:\\\\)*)\\u0000', '\1', 'g')
                 else body end)::json
$$;

-- Which versions have a disk. It follows whatever writes a version, and what was written before it.
create index versions_by_disk on resources (tenant, ((as_json(properties) #>> '{bullion,diskDigest}') collate "C"))
    where type_key = 'microsoft.compute/galleries/images/versions';
