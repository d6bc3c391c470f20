//! What the cases stand on: a tenant with a subscription and a group, a clock that stands still, and short names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Identity, Permit, SecretHash, SystemReason};
use catalog::{
    AuthStore, Catalog, Clock, Draft, Installation, ManualClock, NewInstallation, Precondition,
    Record, SqliteCatalog, StoredSecret, later,
};
use serde_json::{Value, json};
use wire::{AppId, PrincipalId, ProvisioningState, ResourceId, SubscriptionId, TenantId};

use crate::{Comply, Decision, Parts, StateQuery, Write, WriteKind};

pub const DAY: Duration = Duration::from_secs(24 * 3600);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const VM: &str = "Microsoft.Compute/virtualMachines";
pub const GALLERY: &str = "Microsoft.Compute/galleries/g";

pub struct World {
    pub catalog: Arc<SqliteCatalog>,
    pub clock: ManualClock,
    pub tenant: TenantId,
    pub subscription: SubscriptionId,
    pub comply: Arc<Comply>,
}

pub fn parts(catalog: &Arc<SqliteCatalog>, clock: &ManualClock) -> Parts {
    Parts {
        catalog: catalog.clone(),
        auth: catalog.clone(),
        feed: catalog.clone(),
        states: catalog.clone(),
        clock: Arc::new(clock.clone()),
    }
}

impl World {
    pub async fn new() -> World {
        let clock = ManualClock::default();
        let catalog = SqliteCatalog::in_memory(Arc::new(clock.clone()));
        World::on(Arc::new(catalog.await.unwrap()), clock).await
    }

    pub async fn on(catalog: Arc<SqliteCatalog>, clock: ManualClock) -> World {
        let tenant = install(&catalog, &clock).await;
        let world = World {
            comply: Comply::new(parts(&catalog, &clock)),
            catalog,
            clock,
            tenant,
            subscription: SubscriptionId::random(),
        };
        let draft = Draft::new(json!({ "displayName": "test" })).record(Record::Subscription);
        world.put_draft(&world.id(""), draft).await;
        world.group("rg", &[]).await;
        world
    }

    /// The same catalog under a server that was started anew.
    pub fn restart(&mut self) {
        self.comply = Comply::new(parts(&self.catalog, &self.clock));
    }

    pub fn id(&self, rest: &str) -> ResourceId {
        ResourceId::parse(&format!("/subscriptions/{}{rest}", self.subscription)).unwrap()
    }

    /// In the group `rg`: `Microsoft.Compute/virtualMachines/one`.
    pub fn in_group(&self, rest: &str) -> ResourceId {
        self.id(&format!("/resourceGroups/rg/providers/{rest}"))
    }

    pub fn machine_id(&self, name: &str) -> ResourceId {
        self.in_group(&format!("{VM}/{name}"))
    }

    pub fn permit(&self, id: &ResourceId) -> Permit {
        let action = Action::new("test/write");
        Permit::system(SystemReason::Reconcile, action, id.clone(), self.tenant)
    }

    pub async fn put_draft(&self, id: &ResourceId, draft: Draft) {
        let permit = self.permit(id);
        let put = self.catalog.put(&permit, draft, Precondition::None).await;
        put.unwrap();
    }

    pub async fn put(&self, id: &ResourceId, properties: Value) {
        self.put_draft(id, Draft::new(properties)).await;
    }

    pub async fn remove(&self, id: &ResourceId) {
        let permit = self.permit(id);
        let removed = self.catalog.delete_tree(&permit, Precondition::None).await;
        removed.unwrap();
    }

    pub async fn group(&self, name: &str, tags: &[(&str, &str)]) {
        let id = self.id(&format!("/resourceGroups/{name}"));
        let draft = Draft::new(json!({})).location("south").tags(map(tags));
        self.put_draft(&id, draft).await;
    }

    pub async fn tagged(&self, id: &ResourceId, tags: &[(&str, &str)], properties: Value) {
        let draft = Draft::new(properties).location("south").tags(map(tags));
        self.put_draft(id, draft).await;
    }

    /// A definition at the subscription with this rule, mode All.
    pub async fn definition(&self, name: &str, condition: Value, then: Value) -> String {
        let kind = crate::kinds::DEFINITIONS;
        let id = self.id(&format!("/providers/{kind}/{name}"));
        let rule = json!({ "if": condition, "then": then });
        let properties =
            json!({ "displayName": format!("The {name}"), "mode": "All", "policyRule": rule });
        self.put(&id, properties).await;
        id.to_string()
    }

    pub fn assignment_id(&self, scope: &str, name: &str) -> ResourceId {
        let kind = crate::kinds::ASSIGNMENTS;
        self.id(&format!("{scope}/providers/{kind}/{name}"))
    }

    /// Assigns at a place in the subscription; `more` goes into the properties.
    pub async fn assign(&self, scope: &str, name: &str, definition: &str, more: Value) {
        let mut properties =
            json!({ "policyDefinitionId": definition, "displayName": format!("Assigned {name}") });
        if let (Value::Object(own), Value::Object(more)) = (&mut properties, more) {
            own.extend(more);
        }
        self.put(&self.assignment_id(scope, name), properties).await;
    }

    /// A definition and its assignment at the subscription, of one name.
    pub async fn policy(&self, name: &str, condition: Value, then: Value) {
        let id = self.definition(name, condition, then).await;
        self.assign("", name, &id, json!({})).await;
    }

    /// An image definition `d` in gallery `g` with these versions, published now.
    pub async fn versions(&self, numbers: &[&str]) {
        self.put(&self.in_group(GALLERY), json!({})).await;
        self.put(&self.in_group(&format!("{GALLERY}/images/d")), json!({}))
            .await;
        for number in numbers {
            self.version(number, &[], json!({})).await;
        }
    }

    pub fn version_id(&self, number: &str) -> ResourceId {
        self.in_group(&format!("{GALLERY}/images/d/versions/{number}"))
    }

    pub async fn version(&self, number: &str, tags: &[(&str, &str)], profile: Value) {
        let mut own = json!({ "publishedDate": self.clock.now().to_string() });
        if let (Value::Object(own), Value::Object(more)) = (&mut own, profile) {
            own.extend(more);
        }
        let properties = json!({ "publishingProfile": own });
        self.tagged(&self.version_id(number), tags, properties)
            .await;
    }

    /// A machine that was made from a version.
    pub async fn machine(&self, name: &str, number: &str) {
        let image = self.in_group(&format!("{GALLERY}/images/d"));
        let reference = json!({ "id": image.to_string(), "exactVersion": number });
        let properties = json!({
            "storageProfile": { "imageReference": reference },
            "bullion": { "exactVersion": number, "tattooMatches": true },
        });
        let draft = Draft::new(properties)
            .location("south")
            .tags(map(&[("lifecycle", "cattle")]))
            .state(ProvisioningState::Succeeded);
        self.put_draft(&self.machine_id(name), draft).await;
    }

    /// What policies say of creating this, in the group `rg`.
    pub async fn decide(&self, rest: &str, body: Value) -> Decision {
        self.decide_as(WriteKind::Create, &self.in_group(rest), body)
            .await
    }

    pub async fn decide_as(&self, kind: WriteKind, id: &ResourceId, body: Value) -> Decision {
        let mut resource = body;
        resource["id"] = id.to_string().into();
        resource["name"] = id.name().into();
        resource["type"] = id.resource_type().to_string().into();
        let write = Write {
            tenant: self.tenant,
            kind,
            resource,
            existing: None,
            api_version: "2024-03-01".into(),
        };
        self.comply.decide(write).await.unwrap()
    }

    /// All states as `resource assignment[/reference] State`, the resource by its name, settled first.
    pub async fn states(&self) -> Vec<String> {
        self.comply.settle().await.unwrap();
        self.shown(&ResourceId::root(), &StateQuery::default())
            .await
    }

    pub async fn shown(&self, scope: &ResourceId, query: &StateQuery) -> Vec<String> {
        let mut query = query.clone();
        let mut found = Vec::new();
        loop {
            let page = self
                .comply
                .states(&self.permit(scope), &query)
                .await
                .unwrap();
            for record in page.records {
                let name = record.resource_id.rsplit('/').next().unwrap_or_default();
                let reference = match record.policy_definition_reference_id.as_str() {
                    "" => String::new(),
                    reference => format!("/{reference}"),
                };
                let assignment = &record.policy_assignment_name;
                let state = record.compliance_state.name();
                found.push(format!("{name} {assignment}{reference} {state}"));
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return found,
            }
        }
    }

    /// The reason that is told of a machine's state by an assignment.
    pub async fn reason(&self, machine: &str, assignment: &str) -> Option<String> {
        self.comply.settle().await.unwrap();
        let permit = self.permit(&self.machine_id(machine));
        let page = self
            .comply
            .states(&permit, &StateQuery::default())
            .await
            .unwrap();
        let mut records = page.records.into_iter();
        records
            .find(|record| record.policy_assignment_name == assignment)
            .and_then(|record| record.reason)
    }

    /// How many pairs of resource and policy are judged by a settling after `change`.
    pub async fn judged(&self, change: impl Future<Output = ()>) -> u64 {
        self.comply.settle().await.unwrap();
        let before = self.comply.judged();
        change.await;
        self.comply.settle().await.unwrap();
        self.comply.judged() - before
    }
}

fn map(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn install(catalog: &SqliteCatalog, clock: &ManualClock) -> TenantId {
    let installation = Installation {
        tenant: TenantId::random(),
        operator_app: AppId::random(),
        operator_principal: PrincipalId::random(),
    };
    let new = NewInstallation {
        installation,
        tenant_name: "installation".into(),
        tenant_display_name: "Installation".into(),
        operator_name: "operator".into(),
        secret: StoredSecret {
            id: uuid::Uuid::new_v4(),
            name: "first".into(),
            hint: "abc".into(),
            hash: SecretHash::from_stored("$argon2id$test".into()),
            made_at: clock.now(),
            expires_at: later(clock.now(), DAY),
        },
    };
    catalog.install(new).await.unwrap();
    installation.tenant
}

/// `{"field": name, test: value}`.
pub fn field(name: &str, test: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({ "field": name, test: value })
}

pub fn is_machine() -> Value {
    field("type", "equals", VM)
}

pub fn effect(name: &str) -> Value {
    json!({ "effect": name })
}

impl World {
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Since when a machine has its state by its first policy.
    pub async fn since(&self, machine: &str) -> jiff::Timestamp {
        self.comply.settle().await.unwrap();
        let permit = self.permit(&self.machine_id(machine));
        let page = self.comply.states(&permit, &StateQuery::default()).await;
        page.unwrap().records[0].since
    }
}

impl World {
    /// One more tenant of the installation.
    pub async fn tenant_named(&self, tenant: TenantId, name: &str) -> TenantId {
        let id = ResourceId::root().extension("Bullion.Factory", "tenants", name);
        let record = Record::Tenant {
            tenant,
            display_name: name.to_owned(),
            operator_principal: PrincipalId::random(),
        };
        self.put_draft(&id.unwrap(), Draft::new(json!({})).record(record))
            .await;
        tenant
    }
}

impl World {
    /// The permit of somebody who lists at the subscription, and is a reader of that one resource.
    pub fn reader_of(&self, id: &ResourceId) -> Permit {
        let identity = Identity {
            tenant: self.tenant,
            principal: PrincipalId::random(),
            app: AppId::random(),
        };
        let mut roles = access::built_in_roles().iter();
        let reader = roles.find(|role| role.name == "Reader").unwrap();
        let assignment = access::Assignment {
            tenant: self.tenant,
            principal: identity.principal,
            role: reader.id(),
            scope: id.clone(),
        };
        let grants = access::Grants::new(self.tenant, identity.principal, vec![assignment]);
        let action = Action::new("Microsoft.PolicyInsights/policyStates/read");
        let permit = access::authorize_list(&identity, &grants, &action, &self.id(""), self.tenant);
        permit.unwrap()
    }
}
