//! What decisions read: a principal's assignments and groups, custom roles, denials, locks, and what is above a
//! subscription. Read once for each epoch of a tenant, and kept.
//!
//! The epoch is read before what it counts, so what is kept under it is never older than it says.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use access::{
    Around, Denial, Grants, Held, LockLevel, Locks, Permissions, Role, RoleId, Tree, built_in_ready,
};
use wire::{PrincipalId, ResourceId, SubscriptionId, TenantId};

use super::{Connection, Engine, Sql, SqlCatalog, failed, query_as, query_scalar, rows};
use crate::auth::{DENIALS_MAX, GRANTS_MAX, GROUPS_MAX, LOCKS_MAX, TREE_MAX};
use crate::error::{CatalogError, Result};
use crate::resource::BODY_BYTES_MAX;

/// Principals whose grants are kept; past this all are forgotten, and read again as they are asked for.
const KEPT_MAX: usize = 20_000;

/// What was read, under the epoch at which it was.
pub(crate) struct Rights {
    grants: Kept<(TenantId, PrincipalId), Grants>,
    shared: Kept<TenantId, Arc<Shared>>,
}

struct Kept<K, V>(Mutex<HashMap<K, (i64, V)>>);

/// What all principals of a tenant have in common.
struct Shared {
    around: Arc<Around>,
    denials: Vec<Denial>,
    roles: HashMap<RoleId, Arc<Role>>,
}

impl Default for Rights {
    fn default() -> Rights {
        Rights {
            grants: Kept(Mutex::default()),
            shared: Kept(Mutex::default()),
        }
    }
}

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn get(&self, key: &K, epoch: i64) -> Option<V> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = kept.get(key)?;
        (*at == epoch).then(|| value.clone())
    }

    fn keep(&self, key: K, epoch: i64, value: V) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, (epoch, value));
    }
}

impl<E: Engine> SqlCatalog<E> {
    pub(super) async fn grants_now(
        &self,
        tenant: TenantId,
        principal: PrincipalId,
    ) -> Result<Grants> {
        let epoch = self.epoch(tenant).await?;
        if let Some(grants) = self.rights.grants.get(&(tenant, principal), epoch) {
            return Ok(grants);
        }
        let mut reader = self.reader("read grants").await?;
        let shared = match self.rights.shared.get(&tenant, epoch) {
            Some(shared) => shared,
            None => {
                let shared = Arc::new(Shared::read(&mut reader, tenant).await?);
                self.rights.shared.keep(tenant, epoch, shared.clone());
                shared
            }
        };
        let grants = read(&mut reader, tenant, principal, &shared).await?;
        let key = (tenant, principal);
        self.rights.grants.keep(key, epoch, grants.clone());
        Ok(grants)
    }

    /// From memory where no other process could have changed it and nothing was written since.
    async fn epoch(&self, tenant: TenantId) -> Result<i64> {
        let cache = self.fresh_cache().await?;
        if let Some((cache, since)) = cache
            && let Some(epoch) = cache.epoch(since, tenant)
        {
            return Ok(epoch);
        }
        let mut reader = self.reader("read a tenant's epoch").await?;
        let epoch = epoch(&mut reader, tenant).await?;
        if let Some((cache, since)) = cache {
            cache.keep_epoch(since, tenant, epoch);
        }
        Ok(epoch)
    }

    pub(super) async fn assigned_to(
        &self,
        tenant: TenantId,
        principals: &[PrincipalId],
    ) -> Result<Vec<ResourceId>> {
        const OPERATION: &str = "find role assignments";
        let ids = query_scalar::<String>(Sql::of(
            "select id from assignments join resources on row = resource
             where assignments.tenant = $1 and principal in (select value from json_each($2)) order by id limit $3",
            "select id from assignments join resources on row = resource
             where assignments.tenant = $1
               and principal in (select value from json_array_elements_text($2::json) as named (value)) order by id limit $3",
        ))
        .bind(tenant.to_string())
        .bind(rows::to_json("principals", principals, BODY_BYTES_MAX)?)
        .bind(most(GRANTS_MAX))
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        let id = |id: &String| rows::parsed("resources.id", id);
        ids.iter().map(id).collect()
    }
}

fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A decision from a part of what counts could allow what the rest forbids.
fn complete<T>(found: Vec<T>, what: &'static str, limit: usize) -> Result<Vec<T>> {
    if found.len() > limit {
        return Err(CatalogError::TooLarge { what, limit });
    }
    Ok(found)
}

async fn epoch(connection: &mut impl Connection, tenant: TenantId) -> Result<i64> {
    let epoch = query_scalar::<i64>("select epoch from rights_epochs where tenant = $1")
        .bind(tenant.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("read a tenant's epoch"))?;
    Ok(epoch.unwrap_or(0))
}

async fn read(
    connection: &mut impl Connection,
    tenant: TenantId,
    principal: PrincipalId,
    shared: &Shared,
) -> Result<Grants> {
    const OPERATION: &str = "read grants";
    let groups = groups_of(connection, tenant, principal).await?;
    let mut held_as = groups.clone();
    held_as.push(principal);
    let found = query_as::<(String, String, String)>(Sql::of(
        "select role, scope, id from assignments join resources on row = resource
         where assignments.tenant = $1 and principal in (select value from json_each($2)) limit $3",
        "select role, scope, id from assignments join resources on row = resource
         where assignments.tenant = $1
           and principal in (select value from json_array_elements_text($2::json) as held (value))
         limit $3",
    ))
    .bind(tenant.to_string())
    .bind(rows::to_json("principals", &held_as, BODY_BYTES_MAX)?)
    .bind(most(GRANTS_MAX + 1))
    .fetch_all(connection)
    .await
    .map_err(failed(OPERATION))?;
    let found = complete(found, "assignments of a principal", GRANTS_MAX)?;
    let mut held = Vec::with_capacity(found.len());
    for (role, scope, id) in found {
        let role = RoleId::new(&role);
        // A definition that is not there any more allows nothing.
        let known = built_in_ready(&role).or_else(|| shared.roles.get(&role).cloned());
        if let Some(role) = known {
            let scope = rows::parsed("assignments.scope", &scope)?;
            let assignment = Some(rows::parsed("resources.id", &id)?);
            held.push(Held {
                scope,
                role,
                assignment,
            });
        }
    }
    let (denials, around) = (shared.denials.clone(), shared.around.clone());
    Ok(Grants::of(tenant, principal, groups, held, denials, around))
}

/// The groups that a principal is in, at any depth. A circle of groups ends by itself, since each is found once.
async fn groups_of(
    connection: &mut impl Connection,
    tenant: TenantId,
    principal: PrincipalId,
) -> Result<Vec<PrincipalId>> {
    let found = query_scalar::<String>(
        "with recursive above (principal) as (
             select in_group from members where tenant = $1 and principal = $2
             union
             select in_group from members join above on members.principal = above.principal where tenant = $1
         )
         select principal from above limit $3",
    )
    .bind(tenant.to_string())
    .bind(principal.to_string())
    .bind(most(GROUPS_MAX + 1))
    .fetch_all(connection)
    .await
    .map_err(failed("read the groups of a principal"))?;
    let found = complete(found, "groups of a principal", GROUPS_MAX)?;
    let group = |text: &String| rows::parsed("members.in_group", text);
    found.iter().map(group).collect()
}

impl Shared {
    async fn read(connection: &mut impl Connection, tenant: TenantId) -> Result<Shared> {
        Ok(Shared {
            around: Arc::new(Around {
                tree: tree(connection, tenant).await?,
                locks: locks(connection, tenant).await?,
            }),
            denials: denials(connection, tenant).await?,
            roles: custom_roles(connection, tenant).await?,
        })
    }
}

async fn tree(connection: &mut impl Connection, tenant: TenantId) -> Result<Tree> {
    const OPERATION: &str = "read management groups";
    let groups = query_as::<(String, Option<String>)>(
        "select name, parent from management_groups where tenant = $1 limit $2",
    )
    .bind(tenant.to_string())
    .bind(most(TREE_MAX + 1))
    .fetch_all(&mut *connection)
    .await
    .map_err(failed(OPERATION))?;
    let placed = query_as::<(String, String)>(
        "select subscription, placed from subscriptions where tenant = $1 and placed is not null limit $2",
    )
    .bind(tenant.to_string())
    .bind(most(TREE_MAX + 1))
    .fetch_all(connection)
    .await
    .map_err(failed(OPERATION))?;
    let groups = complete(groups, "management groups of a tenant", TREE_MAX)?;
    let placed = complete(placed, "subscriptions of a tenant", TREE_MAX)?;
    let placed = placed.into_iter().map(|(subscription, group)| {
        let subscription: SubscriptionId =
            rows::parsed("subscriptions.subscription", &subscription)?;
        Ok((subscription, group))
    });
    let placed = placed.collect::<Result<Vec<_>>>()?;
    Ok(Tree::new(tenant, groups, placed))
}

async fn locks(connection: &mut impl Connection, tenant: TenantId) -> Result<Locks> {
    let found = query_as::<(String, String)>(
        "select scope, level from locks where tenant = $1 order by resource limit $2",
    )
    .bind(tenant.to_string())
    .bind(most(LOCKS_MAX + 1))
    .fetch_all(connection)
    .await
    .map_err(failed("read locks"))?;
    let found = complete(found, "locks of a tenant", LOCKS_MAX)?;
    let lock = |(scope, level): (String, String)| {
        let level = LockLevel::named(&level).ok_or_else(|| rows::corrupt("locks.level", &level))?;
        Ok((rows::parsed("locks.scope", &scope)?, level))
    };
    let found = found.into_iter().map(lock).collect::<Result<Vec<_>>>()?;
    Ok(Locks::new(found))
}

async fn denials(connection: &mut impl Connection, tenant: TenantId) -> Result<Vec<Denial>> {
    let found = query_scalar::<String>(
        "select body from deny_assignments where tenant = $1 order by resource limit $2",
    )
    .bind(tenant.to_string())
    .bind(most(DENIALS_MAX + 1))
    .fetch_all(connection)
    .await
    .map_err(failed("read deny assignments"))?;
    let found = complete(found, "deny assignments of a tenant", DENIALS_MAX)?;
    let denial = |text: &String| rows::from_json("deny_assignments.body", text);
    found.iter().map(denial).collect()
}

async fn custom_roles(
    connection: &mut impl Connection,
    tenant: TenantId,
) -> Result<HashMap<RoleId, Arc<Role>>> {
    let found =
        query_as::<(String, String)>("select role, body from role_definitions where tenant = $1")
            .bind(tenant.to_string())
            .fetch_all(connection)
            .await
            .map_err(failed("read role definitions"))?;
    let role = |(role, body): (String, String)| {
        let permissions: Vec<Permissions> = rows::from_json("role_definitions.body", &body)?;
        Ok((RoleId::new(&role), Arc::new(Role::of(&permissions))))
    };
    found.into_iter().map(role).collect()
}
