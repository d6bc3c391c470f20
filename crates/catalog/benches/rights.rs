//! What a request pays for its rights, on SQLite on disk, in a tenant with 10,000 role assignments: the read of the epoch
//! while nothing has changed, and reading anew after something has.
//!
//! `cargo bench -p catalog`.

use std::error::Error;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use access::{Action, Assignment, Permit, RoleId, SecretHash, SystemReason};
use catalog::{
    AuthStore, Catalog, Clock, Draft, Installation, NewInstallation, Precondition, Record,
    SqliteCatalog, StoredSecret, SystemClock, later,
};
use serde_json::json;
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId, roles};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ASSIGNMENTS: usize = 10_000;
/// Held by the principal that is asked about; the others are others'.
const OWN: usize = 100;
const ROUNDS: u32 = 20_000;
const CHANGES: u32 = 50;
const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let catalog = SqliteCatalog::open(&folder.path().join("catalog.db")).await?;
    let tenant = install(&catalog).await?;
    let subscription = SubscriptionId::random();
    let scope = ResourceId::subscription_scope(subscription);
    let draft = Draft::new(json!({})).record(Record::Subscription);
    put(&catalog, tenant, &scope, draft).await?;
    let principal = PrincipalId::random();
    for number in 0..ASSIGNMENTS {
        let to = match number < OWN {
            true => principal,
            false => PrincipalId::random(),
        };
        assign(&catalog, tenant, &scope, to).await?;
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{ASSIGNMENTS} assignments in the tenant, {OWN} of the principal"
    )?;
    catalog.grants(tenant, principal).await?;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        catalog.grants(tenant, principal).await?;
    }
    show(
        &mut out,
        "rights, nothing changed",
        begun.elapsed() / ROUNDS,
    )?;
    let mut anew = Duration::ZERO;
    for _ in 0..CHANGES {
        assign(&catalog, tenant, &scope, PrincipalId::random()).await?;
        let begun = Instant::now();
        catalog.grants(tenant, principal).await?;
        anew += begun.elapsed();
    }
    show(&mut out, "rights, after a change", anew / CHANGES)?;
    Ok(())
}

fn show(out: &mut impl io::Write, what: &str, each: Duration) -> io::Result<()> {
    writeln!(out, "{what:<40} {:>9.1} µs", each.as_secs_f64() * 1e6)
}

async fn put(
    catalog: &SqliteCatalog,
    tenant: TenantId,
    id: &ResourceId,
    draft: Draft,
) -> Result<()> {
    let action = Action::new("bench/write");
    let permit = Permit::system(SystemReason::Reconcile, action, id.clone(), tenant);
    catalog.put(&permit, draft, Precondition::None).await?;
    Ok(())
}

async fn assign(
    catalog: &SqliteCatalog,
    tenant: TenantId,
    scope: &ResourceId,
    principal: PrincipalId,
) -> Result<()> {
    let name = Uuid::new_v4().to_string();
    let id = scope.extension("Microsoft.Authorization", "roleAssignments", &name)?;
    let draft = Draft::new(json!({})).record(Record::RoleAssignment(Assignment {
        tenant,
        principal,
        role: RoleId::new(roles::READER.guid),
        scope: scope.clone(),
    }));
    put(catalog, tenant, &id, draft).await
}

async fn install(catalog: &SqliteCatalog) -> Result<TenantId> {
    let now = SystemClock.now();
    let installation = Installation {
        tenant: TenantId::random(),
        operator_app: AppId::random(),
        operator_principal: PrincipalId::random(),
    };
    catalog
        .install(NewInstallation {
            installation,
            tenant_name: "bench".into(),
            tenant_display_name: "bench".into(),
            operator_name: "operator".into(),
            secret: StoredSecret {
                id: Uuid::new_v4(),
                name: "first".into(),
                hint: "abc".into(),
                hash: SecretHash::from_stored("$argon2id$bench".into()),
                made_at: now,
                expires_at: later(now, DAY),
            },
        })
        .await?;
    Ok(installation.tenant)
}
