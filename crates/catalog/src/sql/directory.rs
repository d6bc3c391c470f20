//! Users, groups, their members, managed identities and refresh tokens: the rows beside their resources, and the
//! questions of sign-in and of Graph about them.

use access::{Permit, SecretHash};
use wire::{AppId, PrincipalId, ResourceId, TenantId};

use super::{
    Connection, Engine, SqlCatalog, again, commit, failed, query, query_as, query_scalar, records,
    rows,
};
use crate::auth::{
    Audience, MEMBERS_MAX, NewIdentity, Object, ObjectKind, PRINCIPALS_MAX, RefreshUse,
    StoredRefresh, UserRecord,
};
use crate::error::{CatalogError, Result};

impl<E: Engine> SqlCatalog<E> {
    pub(super) async fn find_object(
        &self,
        tenant: TenantId,
        principal: PrincipalId,
    ) -> Result<Option<Object>> {
        const OPERATION: &str = "find a principal";
        let mut reader = self.reader(OPERATION).await?;
        for (kind, statement) in [
            (
                ObjectKind::ServicePrincipal,
                "select coalesce(own.id, made.id) from principals
                 join applications on applications.app = principals.app
                 left join resources own on own.row = principals.resource
                 left join resources made on made.row = applications.resource and made.tenant = principals.tenant
                 where principals.tenant = $1 and principal = $2",
            ),
            (
                ObjectKind::User,
                "select id from users join resources on row = resource where users.tenant = $1 and principal = $2",
            ),
            (
                ObjectKind::Group,
                "select id from user_groups join resources on row = resource
                 where user_groups.tenant = $1 and principal = $2",
            ),
        ] {
            let found = query_scalar::<Option<String>>(statement)
                .bind(tenant.to_string())
                .bind(principal.to_string())
                .fetch_optional(&mut *reader)
                .await
                .map_err(failed(OPERATION))?;
            if let Some(id) = found {
                let id = id.as_deref().map(|id| rows::parsed("resources.id", id));
                return Ok(Some(Object {
                    principal,
                    kind,
                    resource: id.transpose()?,
                }));
            }
        }
        Ok(None)
    }

    pub(super) async fn list_objects(
        &self,
        tenant: TenantId,
        kind: ObjectKind,
    ) -> Result<Vec<Object>> {
        const OPERATION: &str = "list a directory";
        let statement = match kind {
            ObjectKind::User => {
                "select principal, id from users join resources on row = resource
                 where users.tenant = $1 order by id_key limit $2"
            }
            ObjectKind::Group => {
                "select principal, id from user_groups join resources on row = resource
                 where user_groups.tenant = $1 order by id_key limit $2"
            }
            // Asked for by `principals`, which knows their applications.
            ObjectKind::ServicePrincipal => return Ok(Vec::new()),
        };
        let found = query_as::<(String, String)>(statement)
            .bind(tenant.to_string())
            .bind(i64::try_from(PRINCIPALS_MAX).unwrap_or(i64::MAX))
            .fetch_all(&mut *self.reader(OPERATION).await?)
            .await
            .map_err(failed(OPERATION))?;
        let object = |(principal, id): (String, String)| {
            Ok(Object {
                principal: rows::parsed("principal", &principal)?,
                kind,
                resource: Some(rows::parsed("resources.id", &id)?),
            })
        };
        found.into_iter().map(object).collect()
    }

    pub(super) async fn list_members(
        &self,
        tenant: TenantId,
        group: PrincipalId,
    ) -> Result<Vec<PrincipalId>> {
        const OPERATION: &str = "list the members of a group";
        let found = query_scalar::<String>(
            "select principal from members where tenant = $1 and in_group = $2 order by resource limit $3",
        )
        .bind(tenant.to_string())
        .bind(group.to_string())
        .bind(i64::try_from(MEMBERS_MAX).unwrap_or(i64::MAX))
        .fetch_all(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        let member = |text: &String| rows::parsed("members.principal", text);
        found.iter().map(member).collect()
    }

    pub(super) async fn find_user(
        &self,
        tenant: TenantId,
        by: UserKey<'_>,
    ) -> Result<Option<UserRecord>> {
        const OPERATION: &str = "find a user";
        let (statement, key) = match by {
            UserKey::Name(name) => (
                "select principal, password, enabled, id from users join resources on row = resource
                 where users.tenant = $1 and name_key = $2",
                name.to_lowercase(),
            ),
            UserKey::Principal(principal) => (
                "select principal, password, enabled, id from users join resources on row = resource
                 where users.tenant = $1 and principal = $2",
                principal.to_string(),
            ),
        };
        let found = query_as::<(String, Option<String>, bool, String)>(statement)
            .bind(tenant.to_string())
            .bind(key)
            .fetch_optional(&mut *self.reader(OPERATION).await?)
            .await
            .map_err(failed(OPERATION))?;
        found
            .map(|(principal, password, enabled, id)| {
                Ok(UserRecord {
                    principal: rows::parsed("users.principal", &principal)?,
                    resource: rows::parsed("resources.id", &id)?,
                    password: password.map(SecretHash::from_stored),
                    enabled,
                })
            })
            .transpose()
    }

    pub(super) async fn find_identity(
        &self,
        tenant: TenantId,
        resource: &ResourceId,
    ) -> Result<Option<(AppId, PrincipalId)>> {
        const OPERATION: &str = "find a managed identity";
        let found = query_as::<(String, String)>(
            "select applications.app, principal from applications
             join resources on row = applications.resource
             join principals on principals.app = applications.app and principals.tenant = resources.tenant
             where resources.tenant = $1 and id_key = $2 and managed",
        )
        .bind(tenant.to_string())
        .bind(resource.folded())
        .fetch_optional(&mut *self.reader(OPERATION).await?)
        .await
        .map_err(failed(OPERATION))?;
        found
            .map(|(app, principal)| {
                let app = rows::parsed("applications.app", &app)?;
                Ok((app, rows::parsed("principals.principal", &principal)?))
            })
            .transpose()
    }

    pub(super) async fn store_refresh(&self, token: &StoredRefresh) -> Result<()> {
        const OPERATION: &str = "keep a refresh token";
        let mut tx = self.write(OPERATION).await?;
        query("delete from refresh_tokens where expires_at <= $1")
            .bind(rows::micros(self.now()))
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        query(
            "insert into refresh_tokens (digest, family, tenant, principal, app, used, expires_at)
             values ($1, $2, $3, $4, $5, false, $6)",
        )
        .bind(&token.digest)
        .bind(token.family.to_string())
        .bind(token.tenant.to_string())
        .bind(token.principal.to_string())
        .bind(token.app.to_string())
        .bind(rows::micros(token.expires_at))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    pub(super) async fn take_refresh(&self, digest: &str) -> Result<RefreshUse> {
        const OPERATION: &str = "use a refresh token";
        again!({
            let mut tx = self.write(OPERATION).await?;
            let found = query_as::<(String, String, String, String, i64)>(
                "select family, tenant, principal, app, expires_at from refresh_tokens
                 where digest = $1 and expires_at > $2",
            )
            .bind(digest)
            .bind(rows::micros(self.now()))
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
            let Some((family, tenant, principal, app, expires_at)) = found else {
                return Ok(RefreshUse::Unknown);
            };
            // Of two who use it at once, one finds it unused.
            let first =
                query("update refresh_tokens set used = true where digest = $1 and not used")
                    .bind(digest)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed(OPERATION))?;
            if first == 0 {
                query("delete from refresh_tokens where family = $1")
                    .bind(&family)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed(OPERATION))?;
                commit(tx, OPERATION).await?;
                return Ok(RefreshUse::UsedBefore);
            }
            commit(tx, OPERATION).await?;
            Ok(RefreshUse::Good(StoredRefresh {
                digest: digest.to_owned(),
                family: rows::parsed("refresh_tokens.family", &family)?,
                tenant: rows::parsed("refresh_tokens.tenant", &tenant)?,
                principal: rows::parsed("refresh_tokens.principal", &principal)?,
                app: rows::parsed("refresh_tokens.app", &app)?,
                expires_at: rows::time(expires_at),
            }))
        })
    }
}

pub(super) enum UserKey<'a> {
    Name(&'a str),
    Principal(PrincipalId),
}

pub(super) struct NewUser<'a> {
    pub principal: PrincipalId,
    pub name: &'a str,
    pub password: Option<&'a SecretHash>,
    pub enabled: bool,
}

pub(super) async fn write_user(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    user: &NewUser<'_>,
) -> Result<()> {
    let written = query(
        "insert into users (principal, tenant, name_key, password, enabled, resource)
         values ($1, $2, $3, $4, cast($5 as bigint) = 1, $6)
         on conflict (resource) do update set name_key = excluded.name_key, enabled = excluded.enabled,
             password = coalesce(excluded.password, users.password)
             where users.principal = excluded.principal",
    )
    .bind(user.principal.to_string())
    .bind(permit.tenant().to_string())
    .bind(user.name.to_lowercase())
    .bind(user.password.map(SecretHash::as_str))
    .bind(i64::from(user.enabled))
    .bind(row)
    .execute(tx)
    .await
    .map_err(failed("write a user"))?;
    kept(permit, written)
}

pub(super) async fn write_group(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    principal: PrincipalId,
) -> Result<()> {
    let written = query(
        "insert into user_groups (principal, tenant, resource) values ($1, $2, $3)
         on conflict (resource) do update set tenant = excluded.tenant
             where user_groups.principal = excluded.principal",
    )
    .bind(principal.to_string())
    .bind(permit.tenant().to_string())
    .bind(row)
    .execute(tx)
    .await
    .map_err(failed("write a group"))?;
    kept(permit, written)
}

fn kept(permit: &Permit, written: u64) -> Result<()> {
    if written == 1 {
        return Ok(());
    }
    Err(CatalogError::Mismatch {
        why: format!(
            "{} keeps the object id that it was made with",
            permit.scope()
        ),
    })
}

pub(super) async fn write_member(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    principal: PrincipalId,
) -> Result<()> {
    const OPERATION: &str = "add a member to a group";
    let id = permit.scope();
    let group = id.parent().ok_or_else(|| CatalogError::Mismatch {
        why: format!("{id} is in no group"),
    })?;
    let in_group = query_scalar::<String>(
        "select principal from user_groups join resources on row = resource
         where resources.tenant = $1 and id_key = $2",
    )
    .bind(permit.tenant().to_string())
    .bind(group.folded())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed(OPERATION))?
    .ok_or_else(|| CatalogError::NotFound { id: group })?;
    let inside = query_scalar::<i64>("select count(*) from members where in_group = $1")
        .bind(&in_group)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
    if usize::try_from(inside).unwrap_or(usize::MAX) >= MEMBERS_MAX {
        return Err(CatalogError::TooLarge {
            what: "members of a group",
            limit: MEMBERS_MAX,
        });
    }
    query(
        "insert into members (resource, tenant, principal, in_group) values ($1, $2, $3, $4)
         on conflict (resource) do nothing",
    )
    .bind(row)
    .bind(permit.tenant().to_string())
    .bind(principal.to_string())
    .bind(in_group)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed(OPERATION))
}

/// Makes a resource's identity, keeps the one that it has, or takes it away.
pub(super) async fn write_identity(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    identity: Option<&NewIdentity>,
) -> Result<()> {
    const OPERATION: &str = "write a managed identity";
    let Some(new) = identity else {
        return query("delete from applications where resource = $1 and managed")
            .bind(row)
            .execute(tx)
            .await
            .map(drop)
            .map_err(failed(OPERATION));
    };
    let made = query(
        "insert into applications (app, home, display_name, audience, resource, redirects, managed)
         values ($1, $2, $3, $4, $5, '[]', true) on conflict (resource) do nothing",
    )
    .bind(new.app.to_string())
    .bind(permit.tenant().to_string())
    .bind(&new.display_name)
    .bind(Audience::Home.as_str())
    .bind(row)
    .execute(&mut *tx)
    .await
    .map_err(failed(OPERATION))?;
    match made {
        1 => records::add_principal(tx, permit.tenant(), new.app, new.principal).await,
        _ => Ok(()),
    }
}
