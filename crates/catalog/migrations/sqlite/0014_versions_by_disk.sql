-- Which versions have a disk. It follows whatever writes a version, and what was written before it.
create index versions_by_disk on resources (tenant, json_extract(properties, '$.bullion.diskDigest'))
    where type_key = 'microsoft.compute/galleries/images/versions';
