//! The rows beside resources that sign-in and authorisation read: tenants, subscriptions, applications, assignments.
//!
//! A resource of one of these types never exists without its row, since both are written by one put.

use access::{Action, Assignment, LockLevel, Permit, RoleId, SystemReason};
use serde_json::json;
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId, ResourceType, TenantId};

use super::{
    Connection, Engine, SqlCatalog, directory, failed, query, query_as, query_scalar, rows,
};
use crate::auth::{Audience, CREDENTIALS_MAX, Credential, Installation, Record};
use crate::error::{CatalogError, Result};
use crate::resource::{BODY_BYTES_MAX, Draft, UniqueKey};

pub(super) const TENANTS: &str = "Bullion.Factory/tenants";
pub(super) const APPLICATIONS: &str = "Bullion.Factory/applications";
const CONSENTS: &str = "Bullion.Factory/servicePrincipals";
const CERTIFICATES: &str = "Bullion.Factory/applications/certificates";
const FEDERATED: &str = "Bullion.Factory/applications/federatedCredentials";
const SUBSCRIPTIONS: &str = "Microsoft.Resources/subscriptions";
const ASSIGNMENTS: &str = "Microsoft.Authorization/roleAssignments";
const ROLE_DEFINITIONS: &str = "Microsoft.Authorization/roleDefinitions";
const DENIALS: &str = "Microsoft.Authorization/denyAssignments";
const LOCKS: &str = "Microsoft.Authorization/locks";
const MANAGEMENT_GROUPS: &str = "Microsoft.Management/managementGroups";
const USERS: &str = "Bullion.Factory/users";
const GROUPS: &str = "Bullion.Factory/groups";
const MEMBERS: &str = "Bullion.Factory/groups/members";
const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";

/// Refuses a record that does not fit the resource it comes with, before anything is written.
pub(super) fn check(permit: &Permit, record: &Record, created: bool) -> Result<()> {
    let id = permit.scope();
    let found = id.resource_type();
    let fits = match record {
        Record::Plain => !created || !needs_record(&found),
        Record::Tenant { .. } => found.is(TENANTS),
        Record::Subscription => found.is(SUBSCRIPTIONS) && id.subscription().is_some(),
        Record::Application { .. } => found.is(APPLICATIONS),
        Record::ServicePrincipal { .. } => found.is(CONSENTS),
        Record::Credential(Credential::Certificate { .. }) => found.is(CERTIFICATES),
        Record::Credential(Credential::Federated { .. }) => found.is(FEDERATED),
        Record::RoleAssignment(assignment) => {
            found.is(ASSIGNMENTS) && assignment_fits(permit, assignment)
        }
        Record::RoleDefinition { role, .. } => {
            // One for the tenant: it is found by its name, wherever it is assigned.
            let at_root = id.parent().is_some_and(|parent| parent.is_root());
            found.is(ROLE_DEFINITIONS) && at_root && *role == RoleId::new(id.name())
        }
        Record::DenyAssignment(denial) => {
            found.is(DENIALS) && denial.id == *id && id.parent().as_ref() == Some(&denial.scope)
        }
        Record::Lock(_) => found.is(LOCKS),
        Record::ManagementGroup { .. } => found.is(MANAGEMENT_GROUPS),
        Record::Placement { .. } => found.is(SUBSCRIPTIONS) && !created,
        Record::User { .. } => found.is(USERS),
        Record::Group { .. } => found.is(GROUPS),
        Record::Member { .. } => found.is(MEMBERS),
        Record::ManagedIdentity(_) => !needs_record(&found),
    };
    if fits {
        Ok(())
    } else {
        Err(mismatch(format!("{id} does not go with {record:?}")))
    }
}

/// Tenants, and the operator's application, are what everybody's sign-in hangs on.
pub(super) async fn check_deletable(tx: &mut impl Connection, permit: &Permit) -> Result<()> {
    let id = permit.scope();
    let Some(installation) = installation(tx).await? else {
        return Ok(());
    };
    let kind = id.resource_type();
    if kind.is(ROLE_DEFINITIONS) {
        return check_unassigned(tx, permit).await;
    }
    if kind.is(APPLICATIONS) && application_at(tx, permit).await? == Some(installation.operator_app)
    {
        return Err(mismatch(
            "the operator application cannot be deleted".into(),
        ));
    }
    if kind.is(CONSENTS) {
        return withdraw_rights(tx, permit).await;
    }
    if kind.is(APPLICATIONS) {
        return match application_at(tx, permit).await? {
            Some(app) => withdraw_consents(tx, app).await,
            None => Ok(()),
        };
    }
    if !kind.is(TENANTS) {
        return Ok(());
    }
    let tenant = tenant_at(tx, permit).await?;
    if tenant == Some(installation.tenant) {
        return Err(mismatch(
            "the installation's own tenant cannot be deleted".into(),
        ));
    }
    let Some(tenant) = tenant else { return Ok(()) };
    delete_empty_tenant(tx, id, tenant).await
}

pub(super) async fn installation(connection: &mut impl Connection) -> Result<Option<Installation>> {
    let row = query_as::<(String, String, String)>(
        "select tenant, operator_app, operator_principal from installation",
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("read the installation"))?;
    row.map(|(tenant, app, principal)| {
        Ok(Installation {
            tenant: rows::parsed("installation.tenant", &tenant)?,
            operator_app: rows::parsed("installation.operator_app", &app)?,
            operator_principal: rows::parsed("installation.operator_principal", &principal)?,
        })
    })
    .transpose()
}

/// The application that the resource at the permit's scope stands for.
pub(super) async fn application_at(
    connection: &mut impl Connection,
    permit: &Permit,
) -> Result<Option<AppId>> {
    application_of(connection, permit.tenant(), permit.scope()).await
}

async fn application_of(
    connection: &mut impl Connection,
    tenant: TenantId,
    id: &ResourceId,
) -> Result<Option<AppId>> {
    let app = query_scalar::<String>(
        "select app from applications join resources on resource = row where tenant = $1 and id_key = $2",
    )
    .bind(tenant.to_string())
    .bind(id.folded())
    .fetch_optional(connection)
    .await
    .map_err(failed("find an application"))?;
    app.map(|app| rows::parsed("applications.app", &app))
        .transpose()
}

impl<E: Engine> SqlCatalog<E> {
    pub(super) async fn write_record(
        &self,
        tx: &mut impl Connection,
        permit: &Permit,
        row: i64,
        record: &Record,
    ) -> Result<()> {
        match record {
            Record::Plain => Ok(()),
            Record::Tenant {
                tenant,
                display_name,
                operator_principal,
            } => {
                self.write_tenant(tx, permit, row, *tenant, display_name, *operator_principal)
                    .await
            }
            Record::Subscription => write_subscription(tx, permit, row).await,
            Record::Application {
                app,
                principal,
                display_name,
                audience,
                redirects,
            } => {
                let new = NewApplication {
                    app: *app,
                    display_name,
                    audience: *audience,
                    redirects,
                };
                write_application(tx, permit, row, &new).await?;
                add_principal(tx, permit.tenant(), *app, *principal).await
            }
            Record::ServicePrincipal { app, principal } => {
                write_consent(tx, permit, row, *app, *principal).await
            }
            Record::Credential(credential) => write_credential(tx, permit, row, credential).await,
            right => write_right(tx, permit, row, right).await,
        }
    }

    async fn write_tenant(
        &self,
        tx: &mut impl Connection,
        permit: &Permit,
        row: i64,
        tenant: TenantId,
        display_name: &str,
        operator: PrincipalId,
    ) -> Result<()> {
        let Some(installation) = installation(tx)
            .await?
            .filter(|own| own.tenant == permit.tenant())
        else {
            return Err(mismatch(
                "tenants are made in the installation's own tenant alone".into(),
            ));
        };
        let name = permit.scope().name();
        let written = query(
            "insert into tenants (tenant, name_key, name, display_name, resource) values ($1, $2, $3, $4, $5)
             on conflict (name_key) do update set display_name = excluded.display_name
                 where tenants.tenant = excluded.tenant",
        )
        .bind(tenant.to_string())
        .bind(name.to_lowercase())
        .bind(name)
        .bind(display_name)
        .bind(row)
        .execute(&mut *tx)
        .await
        .map_err(failed("write a tenant"))?;
        if written == 0 {
            return Err(mismatch(format!(
                "tenant {name} keeps the id that it was made with"
            )));
        }
        if principal_of(tx, tenant, installation.operator_app)
            .await?
            .is_some()
        {
            return Ok(());
        }
        add_principal(tx, tenant, installation.operator_app, operator).await?;
        self.make_owner(tx, tenant, operator).await
    }

    /// Owner at a new tenant's `/`, so that the operator signs in there like any other principal: no back door.
    pub(super) async fn make_owner(
        &self,
        tx: &mut impl Connection,
        tenant: TenantId,
        principal: PrincipalId,
    ) -> Result<()> {
        let role = RoleId::new(OWNER);
        let id = ResourceId::root()
            .extension(
                "Microsoft.Authorization",
                "roleAssignments",
                &Uuid::new_v4().to_string(),
            )
            .map_err(|error| mismatch(error.to_string()))?;
        let properties = json!({
            "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{OWNER}"),
            "principalId": principal, "principalType": "ServicePrincipal", "scope": "/",
        });
        let action = Action::new("Microsoft.Authorization/roleAssignments/write");
        let permit = Permit::system(SystemReason::Install, action, id, tenant);
        let row = self
            .write_row(tx, &permit, &Draft::new(properties), None)
            .await?;
        write_assignment(
            tx,
            row.row,
            &Assignment {
                tenant,
                principal,
                role,
                scope: ResourceId::root(),
            },
        )
        .await
    }
}

/// What decides who may do what, and who there is.
async fn write_right(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    record: &Record,
) -> Result<()> {
    match record {
        Record::RoleAssignment(assignment) => write_assignment(tx, row, assignment).await,
        Record::RoleDefinition { role, permissions } => {
            let body = rows::to_json("permissions", permissions, BODY_BYTES_MAX)?;
            write_definition(tx, permit.tenant(), row, role, &body).await
        }
        Record::DenyAssignment(denial) => {
            let body = rows::to_json("deny assignment", denial, BODY_BYTES_MAX)?;
            write_denial(tx, permit.tenant(), row, &body).await
        }
        Record::Lock(level) => write_lock(tx, permit, row, *level).await,
        Record::ManagementGroup { parent } => {
            write_management_group(tx, permit, row, parent.as_deref()).await
        }
        Record::Placement { group } => write_placement(tx, row, group.as_deref()).await,
        Record::User {
            principal,
            name,
            password,
            enabled,
        } => {
            let user = directory::NewUser {
                principal: *principal,
                name,
                password: password.as_ref(),
                enabled: *enabled,
            };
            directory::write_user(tx, permit, row, &user).await
        }
        Record::Group { principal } => directory::write_group(tx, permit, row, *principal).await,
        Record::Member { principal } => directory::write_member(tx, permit, row, *principal).await,
        Record::ManagedIdentity(identity) => {
            directory::write_identity(tx, permit, row, identity.as_ref()).await
        }
        other => Err(mismatch(format!(
            "{} has no place for {other:?}",
            permit.scope()
        ))),
    }
}

pub(super) fn needs_record(found: &ResourceType) -> bool {
    [
        TENANTS,
        APPLICATIONS,
        CONSENTS,
        CERTIFICATES,
        FEDERATED,
        SUBSCRIPTIONS,
        ASSIGNMENTS,
        ROLE_DEFINITIONS,
        DENIALS,
        LOCKS,
        USERS,
        GROUPS,
        MEMBERS,
    ]
    .iter()
    .any(|kind| found.is(kind))
}

/// A right is given where its resource sits and in the tenant that was authorised, nowhere else.
fn assignment_fits(permit: &Permit, assignment: &Assignment) -> bool {
    assignment.tenant == permit.tenant()
        && permit.scope().parent().as_ref() == Some(&assignment.scope)
}

fn mismatch(why: String) -> CatalogError {
    CatalogError::Mismatch { why }
}

async fn write_subscription(tx: &mut impl Connection, permit: &Permit, row: i64) -> Result<()> {
    let id = permit.scope();
    let Some(subscription) = id.subscription() else {
        return Err(mismatch(format!("{id} is no subscription")));
    };
    let written = query(
        "insert into subscriptions (subscription, tenant, resource) values ($1, $2, $3)
         on conflict (subscription) do update set resource = excluded.resource where subscriptions.tenant = excluded.tenant",
    )
    .bind(subscription.to_string())
    .bind(permit.tenant().to_string())
    .bind(row)
    .execute(tx)
    .await
    .map_err(failed("write a subscription"))?;
    if written == 1 {
        return Ok(());
    }
    Err(CatalogError::Taken {
        key: UniqueKey::new("subscription", &[&subscription.to_string()]),
        holder: id.clone(),
    })
}

struct NewApplication<'a> {
    app: AppId,
    display_name: &'a str,
    audience: Audience,
    redirects: &'a [String],
}

async fn write_application(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    new: &NewApplication<'_>,
) -> Result<()> {
    let NewApplication {
        app,
        display_name,
        audience,
        redirects,
    } = *new;
    let written = query(
        "insert into applications (app, home, display_name, audience, resource, redirects)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (resource) do update set display_name = excluded.display_name, audience = excluded.audience,
             redirects = excluded.redirects
             where applications.app = excluded.app",
    )
    .bind(app.to_string())
    .bind(permit.tenant().to_string())
    .bind(display_name)
    .bind(audience.as_str())
    .bind(row)
    .bind(rows::to_json("applications.redirects", &redirects, BODY_BYTES_MAX)?)
    .execute(&mut *tx)
    .await
    .map_err(failed("write an application"))?;
    if written == 1 {
        // Closed to others: what others had consented to is over.
        return match audience {
            Audience::Home => withdraw_consents(tx, app).await,
            Audience::ManyTenants => Ok(()),
        };
    }
    Err(mismatch(format!(
        "{} keeps the client id that it was made with",
        permit.scope()
    )))
}

/// A principal, once given, is kept: assignments name it.
pub(super) async fn add_principal(
    tx: &mut impl Connection,
    tenant: TenantId,
    app: AppId,
    principal: PrincipalId,
) -> Result<()> {
    query(
        "insert into principals (tenant, app, principal) values ($1, $2, $3) on conflict (tenant, app) do nothing",
    )
    .bind(tenant.to_string())
    .bind(app.to_string())
    .bind(principal.to_string())
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("add a service principal"))
}

/// A consent: the application's principal in a tenant that is not its own.
async fn write_consent(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    app: AppId,
    principal: PrincipalId,
) -> Result<()> {
    const OPERATION: &str = "consent to an application";
    let open = query_scalar::<bool>(
        "select exists (select 1 from applications where app = $1 and audience = $2 and home <> $3)",
    )
    .bind(app.to_string())
    .bind(Audience::ManyTenants.as_str())
    .bind(permit.tenant().to_string())
    .fetch_one(&mut *tx)
    .await
    .map_err(failed(OPERATION))?;
    if !open {
        return Err(mismatch(format!(
            "no application {app} of another tenant is open to this one"
        )));
    }
    let written = query(
        "insert into principals (tenant, app, principal, resource) values ($1, $2, $3, $4)
         on conflict (tenant, app) do update set resource = excluded.resource
             where principals.resource = excluded.resource and principals.principal = excluded.principal",
    )
    .bind(permit.tenant().to_string())
    .bind(app.to_string())
    .bind(principal.to_string())
    .bind(row)
    .execute(tx)
    .await
    .map_err(failed(OPERATION))?;
    if written == 1 {
        return Ok(());
    }
    Err(CatalogError::Taken {
        key: UniqueKey::new("service-principal", &[&app.to_string()]),
        holder: permit.scope().clone(),
    })
}

/// With a consent go the roles that its principal was given: nobody is left to hold them.
async fn withdraw_rights(tx: &mut impl Connection, permit: &Permit) -> Result<()> {
    query(
        "delete from resources where row in
             (select assignments.resource from assignments
              join principals on principals.tenant = assignments.tenant
                   and principals.principal = assignments.principal
              join resources as consents on consents.row = principals.resource
              where consents.tenant = $1 and consents.id_key = $2)",
    )
    .bind(permit.tenant().to_string())
    .bind(permit.scope().folded())
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("withdraw the rights of a service principal"))
}

/// An application that goes takes the consents of all tenants along, and what they were given.
async fn withdraw_consents(tx: &mut impl Connection, app: AppId) -> Result<()> {
    const OPERATION: &str = "withdraw the consents to an application";
    for statement in [
        "delete from resources where row in
             (select assignments.resource from assignments
              join principals on principals.tenant = assignments.tenant
                   and principals.principal = assignments.principal
              where principals.app = $1 and principals.resource is not null)",
        "delete from resources where row in (select resource from principals where app = $1)",
    ] {
        query(statement)
            .bind(app.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
    }
    Ok(())
}

/// A credential of the application whose resource it sits in.
async fn write_credential(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    credential: &Credential,
) -> Result<()> {
    const OPERATION: &str = "write a credential";
    let id = permit.scope();
    let parent = id
        .parent()
        .ok_or_else(|| mismatch(format!("{id} is in no application")))?;
    let app = application_of(tx, permit.tenant(), &parent)
        .await?
        .ok_or_else(|| CatalogError::NotFound { id: parent })?;
    let kept =
        query_scalar::<i64>("select count(*) from credentials where app = $1 and resource <> $2")
            .bind(app.to_string())
            .bind(row)
            .fetch_one(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
    if kept >= i64::try_from(CREDENTIALS_MAX).unwrap_or(i64::MAX) {
        return Err(CatalogError::TooLarge {
            what: "credentials of an application",
            limit: CREDENTIALS_MAX,
        });
    }
    query(
        "insert into credentials (resource, app, body) values ($1, $2, $3)
         on conflict (resource) do update set body = excluded.body",
    )
    .bind(row)
    .bind(app.to_string())
    .bind(rows::to_json(
        "credentials.body",
        credential,
        BODY_BYTES_MAX,
    )?)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed(OPERATION))
}

pub(super) async fn principal_of(
    connection: &mut impl Connection,
    tenant: TenantId,
    app: AppId,
) -> Result<Option<PrincipalId>> {
    let principal =
        query_scalar::<String>("select principal from principals where tenant = $1 and app = $2")
            .bind(tenant.to_string())
            .bind(app.to_string())
            .fetch_optional(connection)
            .await
            .map_err(failed("find a service principal"))?;
    principal
        .map(|principal| rows::parsed("principals.principal", &principal))
        .transpose()
}

async fn write_assignment(
    tx: &mut impl Connection,
    row: i64,
    assignment: &Assignment,
) -> Result<()> {
    query(
        "insert into assignments (resource, tenant, principal, role, scope) values ($1, $2, $3, $4, $5)
         on conflict (resource) do update set principal = excluded.principal, role = excluded.role",
    )
    .bind(row)
    .bind(assignment.tenant.to_string())
    .bind(assignment.principal.to_string())
    .bind(assignment.role.as_str())
    .bind(assignment.scope.to_string())
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("write a role assignment"))
}

/// A role that somebody holds cannot go.
async fn check_unassigned(tx: &mut impl Connection, permit: &Permit) -> Result<()> {
    let held = query_scalar::<bool>(
        "select exists (select 1 from assignments where tenant = $1 and role = $2)",
    )
    .bind(permit.tenant().to_string())
    .bind(RoleId::new(permit.scope().name()).as_str())
    .fetch_one(tx)
    .await
    .map_err(failed("look for assignments of a role"))?;
    match held {
        true => Err(CatalogError::HasChildren {
            id: permit.scope().clone(),
        }),
        false => Ok(()),
    }
}

async fn write_definition(
    tx: &mut impl Connection,
    tenant: TenantId,
    row: i64,
    role: &RoleId,
    body: &str,
) -> Result<()> {
    query(
        "insert into role_definitions (resource, tenant, role, body) values ($1, $2, $3, $4)
         on conflict (resource) do update set body = excluded.body",
    )
    .bind(row)
    .bind(tenant.to_string())
    .bind(role.as_str())
    .bind(body)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("write a role definition"))
}

async fn write_denial(
    tx: &mut impl Connection,
    tenant: TenantId,
    row: i64,
    body: &str,
) -> Result<()> {
    query(
        "insert into deny_assignments (resource, tenant, body) values ($1, $2, $3)
         on conflict (resource) do update set body = excluded.body",
    )
    .bind(row)
    .bind(tenant.to_string())
    .bind(body)
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("write a deny assignment"))
}

async fn write_lock(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    level: LockLevel,
) -> Result<()> {
    let scope = permit.scope().parent().unwrap_or_else(ResourceId::root);
    query(
        "insert into locks (resource, tenant, scope, level) values ($1, $2, $3, $4)
         on conflict (resource) do update set level = excluded.level",
    )
    .bind(row)
    .bind(permit.tenant().to_string())
    .bind(scope.to_string())
    .bind(level.as_str())
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("write a lock"))
}

async fn write_management_group(
    tx: &mut impl Connection,
    permit: &Permit,
    row: i64,
    parent: Option<&str>,
) -> Result<()> {
    query(
        "insert into management_groups (resource, tenant, name, parent) values ($1, $2, $3, $4)
         on conflict (resource) do update set parent = excluded.parent",
    )
    .bind(row)
    .bind(permit.tenant().to_string())
    .bind(permit.scope().name().to_lowercase())
    .bind(parent.map(str::to_lowercase))
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("write a management group"))
}

async fn write_placement(tx: &mut impl Connection, row: i64, group: Option<&str>) -> Result<()> {
    query("update subscriptions set placed = $2 where resource = $1")
        .bind(row)
        .bind(group.map(str::to_lowercase))
        .execute(tx)
        .await
        .map(drop)
        .map_err(failed("place a subscription"))
}

async fn tenant_at(connection: &mut impl Connection, permit: &Permit) -> Result<Option<TenantId>> {
    let tenant = query_scalar::<String>(
        "select tenants.tenant from tenants join resources on resource = row
         where resources.tenant = $1 and id_key = $2",
    )
    .bind(permit.tenant().to_string())
    .bind(permit.scope().folded())
    .fetch_optional(connection)
    .await
    .map_err(failed("find a tenant"))?;
    tenant
        .map(|tenant| rows::parsed("tenants.tenant", &tenant))
        .transpose()
}

/// Subscriptions keep a tenant alive; its applications and assignments go with it.
async fn delete_empty_tenant(
    tx: &mut impl Connection,
    id: &ResourceId,
    tenant: TenantId,
) -> Result<()> {
    const OPERATION: &str = "delete a tenant";
    let tenant = tenant.to_string();
    let used =
        query_scalar::<bool>("select exists (select 1 from subscriptions where tenant = $1)")
            .bind(&tenant)
            .fetch_one(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
    if used {
        return Err(CatalogError::HasChildren { id: id.clone() });
    }
    query("delete from principals where tenant = $1")
        .bind(&tenant)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
    query("delete from resources where tenant = $1")
        .bind(&tenant)
        .execute(tx)
        .await
        .map(drop)
        .map_err(failed(OPERATION))
}
