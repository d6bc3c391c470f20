//! How soon states follow: machines under the built-in initiative, on SQLite on disk.
//!
//! `cargo bench -p comply`; `BULLION_BENCH_MACHINES` sets how many there are. Times are on the clock, since that is what
//! somebody who looks at the states waits for; who else was busy belongs beside the figures.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::{Action, Permit, SecretHash, SystemReason};
use catalog::{
    AuthStore, Catalog, Clock, Draft, Installation, NewInstallation, Precondition, Record,
    SqliteCatalog, StoredSecret, SystemClock, later,
};
use comply::{Comply, Parts, Write, WriteKind};
use serde_json::{Value, json};
use wire::{AppId, PrincipalId, ProvisioningState, ResourceId, SubscriptionId, TenantId};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MACHINES: usize = 10_000;
const ONE_AT_A_TIME: usize = 100;
const VERSIONS: [&str; 2] = ["1.0.0", "1.0.1"];

struct Site {
    catalog: Arc<SqliteCatalog>,
    comply: Arc<Comply>,
    tenant: TenantId,
    group: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let machines = match std::env::var("BULLION_BENCH_MACHINES") {
        Ok(text) => text.parse()?,
        Err(_) => MACHINES,
    };
    let folder = tempfile::tempdir()?;
    let site = Site::new(&folder.path().join("catalog.db")).await?;
    site.version(VERSIONS[0]).await?;
    for number in 0..machines {
        site.machine(number, "one").await?;
    }
    let mut out = io::stdout().lock();
    let policies = comply::built_in_definitions().len();
    writeln!(out, "{machines} machines, {policies} policies")?;

    let begun = Instant::now();
    site.comply.settle().await?;
    show(&mut out, "first look at everything", begun.elapsed())?;

    let mut each = Vec::with_capacity(ONE_AT_A_TIME);
    for number in 0..ONE_AT_A_TIME.min(machines) {
        site.machine(number, "two").await?;
        let begun = Instant::now();
        site.comply.settle().await?;
        each.push(begun.elapsed());
    }
    each.sort_unstable();
    show(&mut out, "a changed machine, median", each[each.len() / 2])?;
    show(&mut out, "a changed machine, slowest", each[each.len() - 1])?;

    site.version(VERSIONS[1]).await?;
    let begun = Instant::now();
    site.comply.settle().await?;
    show(
        &mut out,
        "a new version, all machines behind",
        begun.elapsed(),
    )?;

    let mut each = Vec::with_capacity(ONE_AT_A_TIME);
    for number in 0..ONE_AT_A_TIME {
        let (id, resource) = site.proposed(number)?;
        let write = Write {
            tenant: site.tenant,
            kind: WriteKind::Create,
            resource: with_id(resource, &id),
            existing: None,
            api_version: "2025-04-01".into(),
        };
        let begun = Instant::now();
        site.comply.decide(write).await?;
        each.push(begun.elapsed());
    }
    each.sort_unstable();
    show(&mut out, "a proposed machine, median", each[each.len() / 2])
}

fn show(out: &mut impl io::Write, what: &str, took: Duration) -> Result<()> {
    writeln!(out, "{what:<40} {:>9.2} ms", took.as_secs_f64() * 1e3)?;
    Ok(())
}

fn with_id(mut resource: Value, id: &ResourceId) -> Value {
    resource["id"] = id.to_string().into();
    resource["name"] = id.name().into();
    resource["type"] = id.resource_type().to_string().into();
    resource["location"] = "north".into();
    resource
}

impl Site {
    /// A tenant with a subscription and a group, and the initiative assigned at the subscription.
    async fn new(file: &std::path::Path) -> Result<Site> {
        let clock = Arc::new(SystemClock);
        let catalog = Arc::new(SqliteCatalog::open(file).await?);
        let tenant = install(&catalog, clock.now()).await?;
        let comply = Comply::new(Parts {
            catalog: catalog.clone(),
            auth: catalog.clone(),
            feed: catalog.clone(),
            states: catalog.clone(),
            clock,
        });
        let subscription = format!("/subscriptions/{}", SubscriptionId::random());
        let site = Site {
            catalog,
            comply,
            tenant,
            group: format!("{subscription}/resourceGroups/machines"),
        };
        let place = || Draft::new(json!({})).location("north");
        let draft = Draft::new(json!({ "displayName": "bench" })).record(Record::Subscription);
        site.put(&subscription, draft).await?;
        site.put(&site.group, place()).await?;
        let initiative = &comply::built_in_initiatives()[0];
        let assignment =
            format!("{subscription}/providers/Microsoft.Authorization/policyAssignments/golden");
        let properties = json!({
            "policyDefinitionId": initiative["id"],
            "parameters": { "approvedGalleries": { "value": [site.gallery()] } },
        });
        site.put(&assignment, Draft::new(properties)).await?;
        site.put(&site.gallery(), place()).await?;
        site.put(&site.image(), place()).await?;
        Ok(site)
    }

    fn gallery(&self) -> String {
        format!("{}/providers/Microsoft.Compute/galleries/g", self.group)
    }

    fn image(&self) -> String {
        format!("{}/images/d", self.gallery())
    }

    async fn put(&self, id: &str, draft: Draft) -> Result<()> {
        let id = ResourceId::parse(id)?;
        let action = Action::new("bench/write");
        let permit = Permit::system(SystemReason::Reconcile, action, id, self.tenant);
        self.catalog.put(&permit, draft, Precondition::None).await?;
        Ok(())
    }

    async fn version(&self, number: &str) -> Result<()> {
        let published = json!({ "publishedDate": SystemClock.now().to_string() });
        let draft = Draft::new(json!({ "publishingProfile": published }))
            .location("north")
            .state(ProvisioningState::Succeeded);
        self.put(&format!("{}/versions/{number}", self.image()), draft)
            .await
    }

    fn proposed(&self, number: usize) -> Result<(ResourceId, Value)> {
        let id = format!(
            "{}/providers/Microsoft.Compute/virtualMachines/machine-{number}",
            self.group
        );
        let reference = json!({ "id": self.image(), "exactVersion": VERSIONS[0] });
        let properties = json!({
            "hardwareProfile": { "vmSize": "Standard_B1s" },
            "storageProfile": { "imageReference": reference },
            "bullion": { "exactVersion": VERSIONS[0], "tattooMatches": true },
        });
        Ok((ResourceId::parse(&id)?, json!({ "properties": properties })))
    }

    async fn machine(&self, number: usize, team: &str) -> Result<()> {
        let (id, resource) = self.proposed(number)?;
        let tags = [("lifecycle", "cattle"), ("team", team)];
        let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let draft = Draft::new(resource["properties"].clone())
            .location("north")
            .tags(tags.into())
            .state(ProvisioningState::Succeeded);
        self.put(&id.to_string(), draft).await
    }
}

async fn install(catalog: &SqliteCatalog, now: jiff::Timestamp) -> Result<TenantId> {
    let installation = Installation {
        tenant: TenantId::random(),
        operator_app: AppId::random(),
        operator_principal: PrincipalId::random(),
    };
    let secret = StoredSecret {
        id: uuid::Uuid::new_v4(),
        name: "first".into(),
        hint: "abc".into(),
        hash: SecretHash::from_stored("$argon2id$bench".into()),
        made_at: now,
        expires_at: later(now, Duration::from_secs(24 * 3600)),
    };
    let new = NewInstallation {
        installation,
        tenant_name: "installation".into(),
        tenant_display_name: "Installation".into(),
        operator_name: "operator".into(),
        secret,
    };
    catalog.install(new).await?;
    Ok(installation.tenant)
}
