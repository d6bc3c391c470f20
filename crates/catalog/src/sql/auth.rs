//! `AuthStore` in SQL.

use access::{Action, Grants, Permit, SecretHash, SystemReason};
use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::FromRow;
use uuid::Uuid;
use wire::factory::{ApplicationProperties, TenantProperties};
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId};

use super::directory::UserKey;
use super::resources::check_write;
use super::{
    Connection, Engine, SqlCatalog, Turn, again, commit, failed, query, query_as, query_scalar,
    records, rows,
};
use crate::activity::ActivityStatus;
use crate::auth::{
    ApplicationRecord, Audience, AuthStore, CREDENTIALS_MAX, Credential, Installation,
    NewInstallation, Object, ObjectKind, PRINCIPALS_MAX, PrincipalRecord, Record, RefreshUse,
    SECRETS_MAX, SIGNING_KEYS_MAX, StoredKey, StoredRefresh, StoredSecret, TENANTS_MAX,
    TenantRecord, UserRecord,
};
use crate::error::{CatalogError, Result};
use crate::resource::{BODY_BYTES_MAX, Draft, Precondition};

#[async_trait]
impl<E: Engine> AuthStore for SqlCatalog<E> {
    async fn installation(&self) -> Result<Option<Installation>> {
        let mut reader = self.reader("read the installation").await?;
        records::installation(&mut reader).await
    }

    async fn install(&self, new: NewInstallation) -> Result<Installation> {
        const OPERATION: &str = "install";
        again!({
            let mut tx = self.write(OPERATION).await?;
            self.take_turn(&mut tx, Turn::Directory).await?;
            if records::installation(&mut tx).await?.is_some() {
                return Err(CatalogError::Installed);
            }
            self.install_in(&mut *tx, &new).await?;
            self.commit_resources(tx, OPERATION).await?;
            Ok(new.installation)
        })
    }

    async fn tenant(&self, tenant: TenantId) -> Result<Option<TenantRecord>> {
        let row = query_as::<TenantRow>(
            "select tenant, name, display_name from tenants where tenant = $1",
        )
        .bind(tenant.to_string())
        .fetch_optional(&mut *self.reader("find a tenant").await?)
        .await
        .map_err(failed("find a tenant"))?;
        row.map(TenantRow::into_record).transpose()
    }

    async fn tenant_named(&self, name: &str) -> Result<Option<TenantRecord>> {
        let row = query_as::<TenantRow>(
            "select tenant, name, display_name from tenants where name_key = $1",
        )
        .bind(name.to_lowercase())
        .fetch_optional(&mut *self.reader("find a tenant by name").await?)
        .await
        .map_err(failed("find a tenant by name"))?;
        row.map(TenantRow::into_record).transpose()
    }

    async fn tenants(&self) -> Result<Vec<TenantRecord>> {
        let rows = query_as::<TenantRow>(
            "select tenant, name, display_name from tenants order by name_key limit $1",
        )
        .bind(limit(TENANTS_MAX))
        .fetch_all(&mut *self.reader("list tenants").await?)
        .await
        .map_err(failed("list tenants"))?;
        rows.into_iter().map(TenantRow::into_record).collect()
    }

    async fn subscription_tenant(&self, subscription: SubscriptionId) -> Result<Option<TenantId>> {
        let cache = self.fresh_cache().await?;
        if let Some((cache, _)) = cache
            && let Some(known) = cache.subscription(subscription)
        {
            return Ok(known);
        }
        let tenant =
            query_scalar::<String>("select tenant from subscriptions where subscription = $1")
                .bind(subscription.to_string())
                .fetch_optional(&mut *self.reader("find a subscription's tenant").await?)
                .await
                .map_err(failed("find a subscription's tenant"))?;
        let tenant = tenant
            .map(|tenant| rows::parsed("subscriptions.tenant", &tenant))
            .transpose()?;
        if let Some((cache, since)) = cache {
            cache.keep_subscription(since, subscription, tenant);
        }
        Ok(tenant)
    }

    async fn application(&self, app: AppId) -> Result<Option<ApplicationRecord>> {
        let row = query_as::<(String, String, String, String, bool)>(
            "select home, display_name, audience, redirects, managed from applications where app = $1",
        )
        .bind(app.to_string())
        .fetch_optional(&mut *self.reader("find an application").await?)
        .await
        .map_err(failed("find an application"))?;
        row.map(|(home, display_name, audience, redirects, managed)| {
            Ok(ApplicationRecord {
                app,
                home: rows::parsed("applications.home", &home)?,
                display_name,
                audience: Audience::stored(&audience)
                    .ok_or_else(|| rows::corrupt("applications.audience", &audience))?,
                redirects: rows::from_json("applications.redirects", &redirects)?,
                managed,
            })
        })
        .transpose()
    }

    async fn service_principal(&self, tenant: TenantId, app: AppId) -> Result<Option<PrincipalId>> {
        let mut reader = self.reader("find a service principal").await?;
        records::principal_of(&mut reader, tenant, app).await
    }

    async fn secrets(&self, app: AppId) -> Result<Vec<StoredSecret>> {
        let mut reader = self.reader("read secrets").await?;
        let now = self.now();
        let mut secrets = secrets_of_app(&mut reader, app).await?;
        secrets.retain(|secret| secret.expires_at > now);
        Ok(secrets)
    }

    async fn credentials(&self, app: AppId) -> Result<Vec<Credential>> {
        let found = query_scalar::<String>(
            "select body from credentials where app = $1 order by resource limit $2",
        )
        .bind(app.to_string())
        .bind(limit(CREDENTIALS_MAX))
        .fetch_all(&mut *self.reader("read credentials").await?)
        .await
        .map_err(failed("read credentials"))?;
        let credential = |text: &String| rows::from_json("credentials.body", text);
        found.iter().map(credential).collect()
    }

    async fn use_assertion(&self, assertion: &str, until: Timestamp) -> Result<bool> {
        const OPERATION: &str = "use an assertion";
        let mut tx = self.write(OPERATION).await?;
        query("delete from assertions where until < $1")
            .bind(rows::micros(self.now()))
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        let new = query(
            "insert into assertions (assertion, until) values ($1, $2) on conflict do nothing",
        )
        .bind(assertion)
        .bind(rows::micros(until))
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await?;
        Ok(new == 1)
    }

    async fn principals(&self, tenant: TenantId) -> Result<Vec<PrincipalRecord>> {
        let found = query_as::<(String, String, String, String, String, bool)>(
            "select principal, applications.app, home, display_name, audience, managed
             from principals join applications on applications.app = principals.app
             where tenant = $1 order by display_name, applications.app limit $2",
        )
        .bind(tenant.to_string())
        .bind(limit(PRINCIPALS_MAX))
        .fetch_all(&mut *self.reader("list principals").await?)
        .await
        .map_err(failed("list principals"))?;
        let record = |(principal, app, home, display_name, audience, managed): (
            String,
            String,
            _,
            _,
            String,
            _,
        )| {
            let home: String = home;
            Ok(PrincipalRecord {
                principal: rows::parsed("principals.principal", &principal)?,
                application: ApplicationRecord {
                    app: rows::parsed("applications.app", &app)?,
                    home: rows::parsed("applications.home", &home)?,
                    display_name,
                    audience: Audience::stored(&audience)
                        .ok_or_else(|| rows::corrupt("applications.audience", &audience))?,
                    redirects: Vec::new(),
                    managed,
                },
            })
        };
        found.into_iter().map(record).collect()
    }

    async fn grants(&self, tenant: TenantId, principal: PrincipalId) -> Result<Grants> {
        self.grants_now(tenant, principal).await
    }

    async fn assigned(
        &self,
        tenant: TenantId,
        principals: &[PrincipalId],
    ) -> Result<Vec<ResourceId>> {
        self.assigned_to(tenant, principals).await
    }

    async fn object(&self, tenant: TenantId, principal: PrincipalId) -> Result<Option<Object>> {
        self.find_object(tenant, principal).await
    }

    async fn objects(&self, tenant: TenantId, of: ObjectKind) -> Result<Vec<Object>> {
        self.list_objects(tenant, of).await
    }

    async fn members(&self, tenant: TenantId, group: PrincipalId) -> Result<Vec<PrincipalId>> {
        self.list_members(tenant, group).await
    }

    async fn user_named(&self, tenant: TenantId, name: &str) -> Result<Option<UserRecord>> {
        self.find_user(tenant, UserKey::Name(name)).await
    }

    async fn user(&self, tenant: TenantId, principal: PrincipalId) -> Result<Option<UserRecord>> {
        self.find_user(tenant, UserKey::Principal(principal)).await
    }

    async fn managed_identity(
        &self,
        tenant: TenantId,
        resource: &ResourceId,
    ) -> Result<Option<(AppId, PrincipalId)>> {
        self.find_identity(tenant, resource).await
    }

    async fn keep_refresh(&self, token: StoredRefresh) -> Result<()> {
        self.store_refresh(&token).await
    }

    async fn use_refresh(&self, digest: &str) -> Result<RefreshUse> {
        self.take_refresh(digest).await
    }

    async fn signing_keys(&self) -> Result<Vec<StoredKey>> {
        let found = query_as::<(String, String, i64, i64)>(
            "select kid, private_pem, made_at, retires_at from signing_keys where retires_at > $1
             order by made_at desc, kid limit $2",
        )
        .bind(rows::micros(self.now()))
        .bind(limit(SIGNING_KEYS_MAX))
        .fetch_all(&mut *self.reader("read signing keys").await?)
        .await
        .map_err(failed("read signing keys"))?;
        let keys = found
            .into_iter()
            .map(|(kid, private_pem, made_at, retires_at)| StoredKey {
                kid,
                private_pem,
                made_at: rows::time(made_at),
                retires_at: rows::time(retires_at),
            });
        Ok(keys.collect())
    }

    async fn add_signing_key(&self, key: StoredKey) -> Result<()> {
        const OPERATION: &str = "add a signing key";
        let mut tx = self.write(OPERATION).await?;
        query("delete from signing_keys where retires_at <= $1")
            .bind(rows::micros(self.now()))
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        insert_key(&mut tx, key).await?;
        commit(tx, OPERATION).await
    }

    async fn reseal_signing_key(&self, kid: &str, old: &str, new: &str) -> Result<()> {
        const OPERATION: &str = "keep a signing key in another form";
        let mut tx = self.write(OPERATION).await?;
        query("update signing_keys set private_pem = $1 where kid = $2 and private_pem = $3")
            .bind(new)
            .bind(kid)
            .bind(old)
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        commit(tx, OPERATION).await
    }

    async fn rotate_signing_key(&self, key: StoredKey, others_until: Timestamp) -> Result<()> {
        const OPERATION: &str = "rotate signing keys";
        let mut tx = self.write(OPERATION).await?;
        query("update signing_keys set retires_at = $1 where retires_at > $1")
            .bind(rows::micros(others_until))
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        insert_key(&mut tx, key).await?;
        commit(tx, OPERATION).await
    }

    async fn add_secret(&self, permit: &Permit, secret: StoredSecret) -> Result<()> {
        const OPERATION: &str = "add a secret";
        check_write(permit)?;
        let mut tx = self.write(OPERATION).await?;
        self.take_turn(&mut tx, Turn::Directory).await?;
        let app = application_at(&mut tx, permit).await?;
        add_secret_in(&mut tx, app, &secret).await?;
        self.record(&mut tx, permit, ActivityStatus::Succeeded, true)
            .await?;
        commit(tx, OPERATION).await
    }

    async fn remove_secret(&self, permit: &Permit, secret: Uuid) -> Result<bool> {
        const OPERATION: &str = "remove a secret";
        check_write(permit)?;
        let mut tx = self.write(OPERATION).await?;
        let app = application_at(&mut tx, permit).await?;
        let removed = query("delete from secrets where secret = $1 and app = $2")
            .bind(secret.to_string())
            .bind(app.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed(OPERATION))?;
        self.record(&mut tx, permit, ActivityStatus::Succeeded, true)
            .await?;
        commit(tx, OPERATION).await?;
        Ok(removed == 1)
    }

    async fn secrets_of(&self, permit: &Permit) -> Result<Vec<StoredSecret>> {
        let mut reader = self.reader("read secrets").await?;
        let app = application_at(&mut reader, permit).await?;
        secrets_of_app(&mut reader, app).await
    }
}

impl<E: Engine> SqlCatalog<E> {
    /// The operator's application, its principal in the installation's tenant, and Owner there.
    async fn install_in(&self, tx: &mut impl Connection, new: &NewInstallation) -> Result<()> {
        let Installation {
            tenant,
            operator_app,
            operator_principal,
        } = new.installation;
        query(
            "insert into installation (one, tenant, operator_app, operator_principal) values (1, $1, $2, $3)",
        )
        .bind(tenant.to_string())
        .bind(operator_app.to_string())
        .bind(operator_principal.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("install"))?;

        let properties = ApplicationProperties {
            display_name: new.operator_name.clone(),
            multi_tenant: true,
            app_id: Some(operator_app),
            principal_id: Some(operator_principal),
            provisioning_state: None,
        };
        let draft = Draft::new(as_value(&properties)?).record(Record::Application {
            app: operator_app,
            principal: operator_principal,
            display_name: new.operator_name.clone(),
            audience: Audience::ManyTenants,
            redirects: Vec::new(),
        });
        let permit = install_permit(tenant, "applications", &new.operator_name)?;
        self.put_in(tx, &permit, &draft, &Precondition::Absent)
            .await?;
        add_secret_in(tx, operator_app, &new.secret).await?;

        let properties = TenantProperties {
            display_name: new.tenant_display_name.clone(),
            tenant_id: Some(tenant),
            provisioning_state: None,
        };
        let draft = Draft::new(as_value(&properties)?).record(Record::Tenant {
            tenant,
            display_name: new.tenant_display_name.clone(),
            operator_principal,
        });
        let permit = install_permit(tenant, "tenants", &new.tenant_name)?;
        self.put_in(tx, &permit, &draft, &Precondition::Absent)
            .await?;
        // The record above found the operator's principal in place and so gave it nothing.
        self.make_owner(tx, tenant, operator_principal).await
    }
}

#[derive(FromRow)]
struct TenantRow {
    tenant: String,
    name: String,
    display_name: String,
}

impl TenantRow {
    fn into_record(self) -> Result<TenantRecord> {
        let tenant = rows::parsed("tenants.tenant", &self.tenant)?;
        Ok(TenantRecord {
            tenant,
            name: self.name,
            display_name: self.display_name,
        })
    }
}

#[derive(FromRow)]
struct SecretRow {
    secret: String,
    name: String,
    hint: String,
    hash: String,
    made_at: i64,
    expires_at: i64,
}

impl SecretRow {
    fn into_secret(self) -> Result<StoredSecret> {
        Ok(StoredSecret {
            id: rows::parsed("secrets.secret", &self.secret)?,
            name: self.name,
            hint: self.hint,
            hash: SecretHash::from_stored(self.hash),
            made_at: rows::time(self.made_at),
            expires_at: rows::time(self.expires_at),
        })
    }
}

fn install_permit(tenant: TenantId, kind: &str, name: &str) -> Result<Permit> {
    let id = ResourceId::root().extension("Bullion.Factory", kind, name);
    let id = id.map_err(|error| CatalogError::Mismatch {
        why: error.to_string(),
    })?;
    let action = Action::new(format!("Bullion.Factory/{kind}/write"));
    Ok(Permit::system(SystemReason::Install, action, id, tenant))
}

fn as_value<T: serde::Serialize>(body: &T) -> Result<serde_json::Value> {
    let text = rows::to_json("properties", body, BODY_BYTES_MAX)?;
    rows::from_json("properties", &text)
}

async fn application_at(connection: &mut impl Connection, permit: &Permit) -> Result<AppId> {
    let app = records::application_at(connection, permit).await?;
    app.ok_or_else(|| CatalogError::NotFound {
        id: permit.scope().clone(),
    })
}

async fn secrets_of_app(connection: &mut impl Connection, app: AppId) -> Result<Vec<StoredSecret>> {
    let found = query_as::<SecretRow>(
        "select secret, name, hint, hash, made_at, expires_at from secrets where app = $1
         order by made_at desc, secret limit $2",
    )
    .bind(app.to_string())
    .bind(limit(SECRETS_MAX))
    .fetch_all(connection)
    .await
    .map_err(failed("read secrets"))?;
    found.into_iter().map(SecretRow::into_secret).collect()
}

async fn insert_key(tx: &mut impl Connection, key: StoredKey) -> Result<()> {
    query(
        "insert into signing_keys (kid, private_pem, made_at, retires_at) values ($1, $2, $3, $4)",
    )
    .bind(key.kid)
    .bind(key.private_pem)
    .bind(rows::micros(key.made_at))
    .bind(rows::micros(key.retires_at))
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed("add a signing key"))
}

async fn add_secret_in(tx: &mut impl Connection, app: AppId, secret: &StoredSecret) -> Result<()> {
    const OPERATION: &str = "add a secret";
    let kept = query_scalar::<i64>("select count(*) from secrets where app = $1")
        .bind(app.to_string())
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
    if kept >= limit(SECRETS_MAX) {
        return Err(CatalogError::TooLarge {
            what: "secrets of an application",
            limit: SECRETS_MAX,
        });
    }
    query(
        "insert into secrets (secret, app, name, hint, hash, made_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(secret.id.to_string())
    .bind(app.to_string())
    .bind(&secret.name)
    .bind(&secret.hint)
    .bind(secret.hash.as_str())
    .bind(rows::micros(secret.made_at))
    .bind(rows::micros(secret.expires_at))
    .execute(tx)
    .await
    .map(drop)
    .map_err(failed(OPERATION))
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}
