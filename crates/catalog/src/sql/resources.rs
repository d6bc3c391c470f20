//! `Catalog` in SQL.

use std::sync::Arc;

use access::{Permit, Visible};
use async_trait::async_trait;
use sqlx::FromRow;
use wire::{Location, ProvisioningState, ResourceId, ResourceType, TenantId};

use super::rows::{self, ResourceRow};
use super::{
    Connection, Engine, Sql, SqlCatalog, Turn, Tx, again, failed, overtaken, query, query_as,
    query_scalar, records,
};
use crate::activity::ActivityStatus;
use crate::auth::Record;
use crate::error::{CatalogError, Result};
use crate::resource::{
    BODY_BYTES_MAX, Catalog, Continuation, Draft, Etag, GET_MANY_MAX, Members, MembersPage, Page,
    PageRequest, Precondition, Put, Resource, TAGS_MAX, UNIQUE_KEYS_MAX,
};

/// Rounds of removing a tree: each but the last removes something, and every level of a tree can hold back one.
const REMOVE_ROUNDS_MAX: usize = 16;

#[async_trait]
impl<E: Engine> Catalog for SqlCatalog<E> {
    async fn get(&self, permit: &Permit) -> Result<Resource> {
        let found = self.look(permit.tenant(), permit.scope()).await?;
        found
            .filter(|_| permit.may_see(permit.scope()))
            .map(Arc::unwrap_or_clone)
            .ok_or_else(|| CatalogError::NotFound {
                id: permit.scope().clone(),
            })
    }

    async fn get_many(&self, permit: &Permit, ids: &[ResourceId]) -> Result<Vec<Resource>> {
        const OPERATION: &str = "get many resources";
        if ids.len() > GET_MANY_MAX {
            return Err(CatalogError::TooLarge {
                what: "resources of one read",
                limit: GET_MANY_MAX,
            });
        }
        let seen = |id: &&ResourceId| id.is_within(permit.scope()) && permit.may_see(id);
        let keys: Vec<&str> = ids.iter().filter(seen).map(ResourceId::folded).collect();
        let rows = query_as::<ResourceRow>(Sql::of(
            "select * from resources
             where tenant = $1 and id_key in (select value from json_each($2)) order by id_key",
            "select * from resources
             where tenant = $1 and id_key in (select value from json_array_elements_text($2::json) as seen (value))
             order by id_key",
        ))
        .bind(permit.tenant().to_string())
        .bind(rows::to_json("ids of one read", &keys, BODY_BYTES_MAX)?)
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        rows.into_iter().map(ResourceRow::into_resource).collect()
    }

    async fn put(&self, permit: &Permit, draft: Draft, precondition: Precondition) -> Result<Put> {
        const OPERATION: &str = "put a resource";
        again!({
            let mut tx = self.write(OPERATION).await?;
            self.order(&mut tx, &draft.record).await?;
            let put = self.put_in(&mut tx, permit, &draft, &precondition).await?;
            self.commit_resources(tx, OPERATION).await?;
            Ok(put)
        })
    }

    async fn delete(&self, permit: &Permit, precondition: Precondition) -> Result<Resource> {
        const OPERATION: &str = "delete a resource";
        again!({
            let mut tx = self.write(OPERATION).await?;
            let row = self.deletable(&mut tx, permit, &precondition).await?;
            if any_child(&mut *tx, permit).await? {
                return Err(CatalogError::HasChildren {
                    id: permit.scope().clone(),
                });
            }
            remove_tree(&mut *tx, permit).await?;
            self.record(&mut *tx, permit, ActivityStatus::Succeeded, true)
                .await?;
            self.commit_resources(tx, OPERATION).await?;
            row.into_resource()
        })
    }

    async fn delete_tree(
        &self,
        permit: &Permit,
        precondition: Precondition,
    ) -> Result<Vec<ResourceId>> {
        const OPERATION: &str = "delete a resource and all below it";
        again!({
            let mut tx = self.write(OPERATION).await?;
            self.deletable(&mut tx, permit, &precondition).await?;
            let removed = remove_tree(&mut *tx, permit).await?;
            self.record(&mut *tx, permit, ActivityStatus::Succeeded, true)
                .await?;
            self.commit_resources(tx, OPERATION).await?;
            Ok(removed)
        })
    }

    async fn list(&self, permit: &Permit, of: &ResourceType, page: PageRequest) -> Result<Page> {
        let (from, to) = match page.directly {
            true => rows::sort_range_on(permit.scope(), of),
            false => rows::sort_range(permit.scope(), of),
        };
        let after = start_of(&page);
        let rows = query_as::<ResourceRow>(Sql::of(
            "select * from resources
             where tenant = $1 and type_key = $2 and sort_key > $3 and sort_key >= $4 and sort_key < $5
               and exists (select 1 from json_each($6) as seen where id_key = seen.value
                           or (id_key > seen.value || '/' and id_key < seen.value || '0'))
             order by sort_key limit $7",
            "select * from resources
             where tenant = $1 and type_key = $2 and sort_key > $3 and sort_key >= $4 and sort_key < $5
               and exists (select 1 from json_array_elements_text($6::json) as seen (value) where id_key = seen.value
                           or (id_key > seen.value || '/' and id_key < seen.value || '0'))
             order by sort_key limit $7",
        ))
        .bind(permit.tenant().to_string())
        .bind(of.folded())
        .bind(after)
        .bind(from)
        .bind(to)
        .bind(seen_scopes(permit)?)
        .bind(page_rows(&page))
        .fetch_all(&mut *self.reader("list resources").await?)
        .await
        .map_err(failed("list resources"))?;
        page_of(rows, &page)
    }

    async fn list_below(&self, permit: &Permit, page: PageRequest) -> Result<Page> {
        let prefix = rows::prefix(permit.scope());
        let rows = query_as::<ResourceRow>(Sql::of(
            "select * from resources
             where tenant = $1 and id_key > $2 and id_key > $3 || '/' and id_key < $3 || '0'
               and exists (select 1 from json_each($4) as seen where id_key = seen.value
                           or (id_key > seen.value || '/' and id_key < seen.value || '0'))
             order by id_key limit $5",
            "select * from resources
             where tenant = $1 and id_key > $2 and id_key > $3 || '/' and id_key < $3 || '0'
               and exists (select 1 from json_array_elements_text($4::json) as seen (value) where id_key = seen.value
                           or (id_key > seen.value || '/' and id_key < seen.value || '0'))
             order by id_key limit $5",
        ))
        .bind(permit.tenant().to_string())
        .bind(
            page.after
                .as_ref()
                .map_or(String::new(), |after| after.key.clone()),
        )
        .bind(prefix)
        .bind(seen_scopes(permit)?)
        .bind(page_rows(&page))
        .fetch_all(&mut *self.reader("list what is below a resource").await?)
        .await
        .map_err(failed("list what is below a resource"))?;
        page_of(rows, &page)
    }

    async fn list_members(
        &self,
        permit: &Permit,
        of: &ResourceType,
        members: &[&str],
        page: PageRequest,
    ) -> Result<MembersPage> {
        const OPERATION: &str = "list members of resources";
        let (from, to) = rows::sort_range(permit.scope(), of);
        let found = query_as::<MembersRow>(Sql::of(
            "with seen as materialized (select value as scope from json_each($6)),
             asked as materialized (select key as n, '$.' || value as path from json_each($8))
             select id, id_key, sort_key,
                    (select json_group_array(json_extract(properties, path)) from (select path from asked order by n))
                        as members
             from resources
             where tenant = $1 and type_key = $2 and sort_key > $3 and sort_key >= $4 and sort_key < $5
               and exists (select 1 from seen where id_key = scope
                           or (id_key > scope || '/' and id_key < scope || '0'))
             order by sort_key limit $7",
            "with seen as materialized (select value as scope from json_array_elements_text($6::json)),
             asked as materialized (
                 select n, string_to_array(value, '.') as path
                 from json_array_elements_text($8::json) with ordinality as asked (value, n))
             select id, id_key, sort_key,
                    coalesce((select json_agg(as_json(properties) #> path order by n)::text from asked), '[]') as members
             from resources
             where tenant = $1 and type_key = $2 and sort_key > $3 and sort_key >= $4 and sort_key < $5
               and exists (select 1 from seen where id_key = scope
                           or (id_key > scope || '/' and id_key < scope || '0'))
             order by sort_key limit $7",
        ))
        .bind(permit.tenant().to_string())
        .bind(of.folded())
        .bind(start_of(&page))
        .bind(from)
        .bind(to)
        .bind(seen_scopes(permit)?)
        .bind(page_rows(&page))
        .bind(rows::to_json("members of one list", members, BODY_BYTES_MAX)?)
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        MembersRow::page(found, &page)
    }

    async fn count(
        &self,
        permit: &Permit,
        of: &ResourceType,
        location: Option<&Location>,
    ) -> Result<u64> {
        let (from, to) = rows::sort_range(permit.scope(), of);
        let mut reader = self.reader("count resources").await?;
        let found = query_scalar::<i64>(
            "select count(*) from resources
             where tenant = $1 and type_key = $2 and sort_key >= $3 and sort_key < $4
               and (cast($5 as text) is null or replace(lower(location), ' ', '') = $5)",
        )
        .bind(permit.tenant().to_string())
        .bind(of.folded())
        .bind(from)
        .bind(to)
        .bind(location.map(|location| location.folded().to_owned()))
        .fetch_one(&mut *reader)
        .await
        .map_err(failed("count resources"))?;
        Ok(u64::try_from(found).unwrap_or(0))
    }

    async fn has_children(&self, permit: &Permit) -> Result<bool> {
        let mut reader = self.reader("look for children").await?;
        any_child(&mut reader, permit).await
    }
}

impl<E: Engine> SqlCatalog<E> {
    /// What is stored, from memory where that is known to be current.
    async fn look(&self, tenant: TenantId, id: &ResourceId) -> Result<Option<Arc<Resource>>> {
        let cache = self.fresh_cache().await?;
        if let Some((cache, _)) = cache
            && let Some(known) = cache.resource(tenant, id)
        {
            return Ok(known);
        }
        let mut reader = self.reader("get a resource").await?;
        let row = find(&mut reader, tenant, id).await?;
        let found = row
            .map(ResourceRow::into_resource)
            .transpose()?
            .map(Arc::new);
        if let Some((cache, since)) = cache {
            cache.keep_resource(since, tenant, id, found.clone());
        }
        Ok(found)
    }

    /// The put itself, for transactions that do more than it.
    pub(super) async fn put_in(
        &self,
        tx: &mut impl Connection,
        permit: &Permit,
        draft: &Draft,
        precondition: &Precondition,
    ) -> Result<Put> {
        check_write(permit)?;
        check_sizes(draft)?;
        let id = permit.scope();
        let existing = hold(tx, permit.tenant(), id, CHANGE_ROW).await?;
        check_precondition(id, existing.as_ref(), precondition)?;
        let created = existing.is_none();
        if created {
            check_parent(tx, permit).await?;
        }
        records::check(permit, &draft.record, created)?;
        let seen = existing.as_ref().map(ResourceRow::etag);
        let stored = self.write_row(tx, permit, draft, seen.as_ref()).await?;
        if !draft.unique.is_empty() {
            hold_unique_keys(tx, stored.row, draft, created).await?;
        }
        self.write_record(tx, permit, stored.row, &draft.record)
            .await?;
        let status = match draft.state {
            ProvisioningState::Succeeded => ActivityStatus::Succeeded,
            ProvisioningState::Failed | ProvisioningState::Canceled => ActivityStatus::Failed,
            _ => ActivityStatus::Accepted,
        };
        self.record(tx, permit, status, created).await?;
        Ok(Put {
            resource: stored.into_resource()?,
            created,
        })
    }

    /// Inserts, or updates what has the etag that was `seen`; the id keeps the casing of its first put, and its
    /// creation data.
    pub(super) async fn write_row(
        &self,
        tx: &mut impl Connection,
        permit: &Permit,
        draft: &Draft,
        seen: Option<&Etag>,
    ) -> Result<ResourceRow> {
        const OPERATION: &str = "write a resource";
        let id = permit.scope();
        let row = query_as::<ResourceRow>(
            "insert into resources (tenant, id_key, id, type_key, sort_key, attached, location, tags, properties,
                                    extra, state, etag, created_at, created_by, changed_at, changed_by)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $13, $14)
             on conflict (tenant, id_key) do update set
                 location = excluded.location, tags = excluded.tags, properties = excluded.properties,
                 extra = excluded.extra, state = excluded.state, etag = excluded.etag,
                 changed_at = excluded.changed_at, changed_by = excluded.changed_by
                 where resources.etag = $15
             returning *",
        )
        .bind(permit.tenant().to_string())
        .bind(id.folded())
        .bind(id.to_string())
        .bind(id.resource_type().folded())
        .bind(rows::sort_key(id))
        .bind(i64::from(rows::is_attached(id)))
        .bind(&draft.location)
        .bind(rows::to_json("tags", &draft.tags, BODY_BYTES_MAX)?)
        .bind(rows::to_json("properties", &draft.properties, BODY_BYTES_MAX)?)
        .bind(rows::to_json("top-level members", &draft.extra, BODY_BYTES_MAX)?)
        .bind(draft.state.as_str())
        .bind(Etag::fresh().as_str())
        .bind(rows::micros(self.now()))
        .bind(permit.holder())
        .bind(seen.map(Etag::as_str))
        .fetch_optional(tx)
        .await
        .map_err(failed(OPERATION))?;
        row.ok_or_else(|| overtaken(OPERATION))
    }

    /// Writes that touch who may sign in come one after the other: they look at rows of others to decide.
    pub(super) async fn order(&self, tx: &mut Tx<E>, record: &Record) -> Result<()> {
        match record {
            Record::Plain
            | Record::RoleAssignment(_)
            | Record::DenyAssignment(_)
            | Record::Lock(_)
            | Record::ManagementGroup { .. }
            | Record::Placement { .. } => Ok(()),
            _ => self.take_turn(tx, Turn::Directory).await,
        }
    }

    /// The resource at the permit's scope, if it may be deleted under this precondition.
    async fn deletable(
        &self,
        tx: &mut Tx<E>,
        permit: &Permit,
        precondition: &Precondition,
    ) -> Result<ResourceRow> {
        check_write(permit)?;
        let id = permit.scope();
        if records::needs_record(&id.resource_type()) {
            self.take_turn(tx, Turn::Directory).await?;
        }
        let row = hold(&mut **tx, permit.tenant(), id, REMOVE_ROW).await?;
        let row = row.ok_or_else(|| CatalogError::NotFound { id: id.clone() })?;
        check_precondition(id, Some(&row), precondition)?;
        records::check_deletable(&mut **tx, permit).await?;
        Ok(row)
    }
}

/// Nobody else changes or removes the row until the transaction ends.
const CHANGE_ROW: Sql = Sql::of(
    FIND,
    "select * from resources where tenant = $1 and id_key = $2 for no key update",
);
/// The same, and nobody puts anything below it.
const REMOVE_ROW: Sql = Sql::of(
    FIND,
    "select * from resources where tenant = $1 and id_key = $2 for update",
);
/// Nobody removes the row until the transaction ends.
const KEEP_ROW: Sql = Sql::of(
    FIND,
    "select * from resources where tenant = $1 and id_key = $2 for key share",
);
const FIND: &str = "select * from resources where tenant = $1 and id_key = $2";

async fn find(
    connection: &mut impl Connection,
    tenant: TenantId,
    id: &ResourceId,
) -> Result<Option<ResourceRow>> {
    hold(connection, tenant, id, Sql::of(FIND, FIND)).await
}

async fn hold(
    connection: &mut impl Connection,
    tenant: TenantId,
    id: &ResourceId,
    how: Sql,
) -> Result<Option<ResourceRow>> {
    query_as(how)
        .bind(tenant.to_string())
        .bind(id.folded())
        .fetch_optional(connection)
        .await
        .map_err(failed("find a resource"))
}

/// The second look at what `authorize` decided: a permit to read must never write, whoever passes it on.
pub(super) fn check_write(permit: &Permit) -> Result<()> {
    if permit.may_write() {
        return Ok(());
    }
    Err(CatalogError::ReadOnlyPermit {
        action: permit.action().to_string(),
    })
}

fn check_sizes(draft: &Draft) -> Result<()> {
    if draft.tags.len() > TAGS_MAX {
        return Err(CatalogError::TooLarge {
            what: "tags",
            limit: TAGS_MAX,
        });
    }
    if draft.unique.len() > UNIQUE_KEYS_MAX {
        return Err(CatalogError::TooLarge {
            what: "unique keys",
            limit: UNIQUE_KEYS_MAX,
        });
    }
    Ok(())
}

fn check_precondition(
    id: &ResourceId,
    existing: Option<&ResourceRow>,
    precondition: &Precondition,
) -> Result<()> {
    let found = existing.map(ResourceRow::etag);
    let holds = match precondition {
        Precondition::None => true,
        Precondition::Absent => found.is_none(),
        Precondition::Present => found.is_some(),
        Precondition::Match(etag) => found.as_ref() == Some(etag),
    };
    if holds {
        Ok(())
    } else {
        Err(CatalogError::Precondition {
            id: id.clone(),
            found,
        })
    }
}

/// A parent that goes away while its child is being made would leave the child where nobody looks.
async fn check_parent(tx: &mut impl Connection, permit: &Permit) -> Result<()> {
    let id = permit.scope();
    let Some(parent) = id.parent().filter(|parent| !parent.is_root()) else {
        return Ok(());
    };
    if hold(tx, permit.tenant(), &parent, KEEP_ROW)
        .await?
        .is_some()
    {
        return Ok(());
    }
    Err(CatalogError::ParentMissing {
        id: id.clone(),
        parent,
    })
}

/// Replaces the keys that the resource holds.
async fn hold_unique_keys(
    tx: &mut impl Connection,
    row: i64,
    draft: &Draft,
    created: bool,
) -> Result<()> {
    const OPERATION: &str = "hold unique keys";
    if !created {
        query("delete from unique_keys where resource = $1")
            .bind(row)
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
    }
    for key in &draft.unique {
        let held = query(
            "insert into unique_keys (name, resource) values ($1, $2) on conflict do nothing",
        )
        .bind(key.as_str())
        .bind(row)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        if held == 1 {
            continue;
        }
        let holder = query_scalar::<String>(
            "select id from resources join unique_keys on resource = row where name = $1",
        )
        .bind(key.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed(OPERATION))?
        .ok_or_else(|| overtaken(OPERATION))?;
        return Err(CatalogError::Taken {
            key: key.clone(),
            holder: rows::parsed("resources.id", &holder)?,
        });
    }
    Ok(())
}

async fn any_child(connection: &mut impl Connection, permit: &Permit) -> Result<bool> {
    query_scalar::<bool>(
        "select exists (select 1 from resources
                        where tenant = $1 and id_key > $2 || '/' and id_key < $2 || '0' and attached = 0)",
    )
    .bind(permit.tenant().to_string())
    .bind(rows::prefix(permit.scope()))
    .fetch_one(connection)
    .await
    .map_err(failed("look for children"))
}

async fn remove_tree(tx: &mut impl Connection, permit: &Permit) -> Result<Vec<ResourceId>> {
    const OPERATION: &str = "remove resources";
    let mut ids: Vec<ResourceId> = Vec::new();
    // What others put below while the first round waited for them is seen by the next.
    for _ in 0..REMOVE_ROUNDS_MAX {
        let removed = query_scalar::<String>(
            "delete from resources
             where tenant = $1 and (id_key = $2 or (id_key > $2 || '/' and id_key < $2 || '0')) returning id",
        )
        .bind(permit.tenant().to_string())
        .bind(permit.scope().folded())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        if removed.is_empty() {
            ids.sort();
            return Ok(ids);
        }
        for id in &removed {
            ids.push(rows::parsed("resources.id", id)?);
        }
    }
    Err(overtaken(OPERATION))
}

/// The scopes that a list may show, as JSON text for `json_each`.
pub(super) fn seen_scopes(permit: &Permit) -> Result<String> {
    let scopes: Vec<&str> = match permit.visible() {
        Visible::All => vec![rows::prefix(permit.scope())],
        Visible::Only(scopes) => scopes.iter().map(rows::prefix).collect(),
    };
    rows::to_json("visible scopes", &scopes, BODY_BYTES_MAX)
}

fn start_of(page: &PageRequest) -> String {
    page.after
        .as_ref()
        .map_or(String::new(), |after| after.sort.clone())
}

/// One more than asked for tells whether there is a next page.
fn page_rows(page: &PageRequest) -> i64 {
    i64::try_from(page.limit() + 1).unwrap_or(i64::MAX)
}

/// Where the next page begins, if there were more rows than one page has; those of this page stay.
pub(super) fn cut<R>(
    rows: &mut Vec<R>,
    limit: usize,
    keys: impl Fn(&R) -> (&str, &str),
) -> Option<Continuation> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let (sort, key) = keys(rows.last().filter(|_| more)?);
    Some(Continuation {
        sort: sort.to_owned(),
        key: key.to_owned(),
    })
}

fn page_of(mut rows: Vec<ResourceRow>, page: &PageRequest) -> Result<Page> {
    let next = cut(&mut rows, page.limit(), |row| (&row.sort_key, &row.id_key));
    let resources = rows
        .into_iter()
        .map(ResourceRow::into_resource)
        .collect::<Result<_>>()?;
    Ok(Page { resources, next })
}

/// What was asked for of one resource.
#[derive(FromRow)]
struct MembersRow {
    id: String,
    id_key: String,
    sort_key: String,
    /// A JSON array.
    members: String,
}

impl MembersRow {
    fn page(mut rows: Vec<MembersRow>, page: &PageRequest) -> Result<MembersPage> {
        let next = cut(&mut rows, page.limit(), |row| (&row.sort_key, &row.id_key));
        let found = rows.into_iter().map(|row| {
            Ok(Members {
                id: rows::parsed("resources.id", &row.id)?,
                members: rows::from_json("resources.properties", &row.members)?,
            })
        });
        Ok(MembersPage {
            found: found.collect::<Result<_>>()?,
            next,
        })
    }
}
