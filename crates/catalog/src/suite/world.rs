//! What the cases stand on: an installed catalog with a subscription, and short names for permits and ids.

use access::{Action, Identity, Permit, SecretHash, SystemReason, authorize, authorize_list};
use serde_json::json;
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId};

use super::Backend;
use crate::auth::{Installation, NewInstallation, Record, StoredSecret};
use crate::clock::{Clock, ManualClock, later};
use crate::resource::{Draft, Precondition, Put};

pub(super) const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(super) struct World<B> {
    pub catalog: B,
    pub clock: ManualClock,
    pub tenant: TenantId,
    pub operator: Identity,
    pub subscription: SubscriptionId,
}

impl<B: Backend> World<B> {
    pub async fn new(fresh: &impl AsyncFn(ManualClock) -> B) -> World<B> {
        let clock = ManualClock::default();
        let catalog = fresh(clock.clone()).await;
        let new = new_installation(&clock);
        let Installation {
            tenant,
            operator_app,
            operator_principal,
        } = new.installation;
        catalog.install(new).await.expect("install");
        let operator = Identity {
            tenant,
            principal: operator_principal,
            app: operator_app,
        };
        let world = World {
            catalog,
            clock,
            tenant,
            operator,
            subscription: SubscriptionId::random(),
        };
        let id = world.id("");
        let permit = world.write(&id).await;
        let draft = Draft::new(json!({})).record(Record::Subscription);
        world
            .catalog
            .put(&permit, draft, Precondition::Absent)
            .await
            .expect("put the subscription");
        world.put("/resourceGroups/rg").await;
        world
    }

    /// An id in the world's subscription.
    pub fn id(&self, rest: &str) -> ResourceId {
        ResourceId::parse(&format!("/subscriptions/{}{rest}", self.subscription)).expect("an id")
    }

    /// The operator's permit to write there, as the server would get it.
    pub async fn write(&self, id: &ResourceId) -> Permit {
        self.permit(&self.operator, "write", id).await
    }

    pub async fn read(&self, id: &ResourceId) -> Permit {
        self.permit(&self.operator, "read", id).await
    }

    pub async fn permit(&self, identity: &Identity, verb: &str, id: &ResourceId) -> Permit {
        let grants = self
            .catalog
            .grants(identity.tenant, identity.principal)
            .await
            .expect("grants");
        let action = Action::new(format!("{}/{verb}", id.resource_type()));
        authorize(identity, &grants, &action, id, identity.tenant).expect("a permit")
    }

    pub async fn list_permit(&self, identity: &Identity, kind: &str, scope: &ResourceId) -> Permit {
        let grants = self
            .catalog
            .grants(identity.tenant, identity.principal)
            .await
            .expect("grants");
        let action = Action::new(format!("{kind}/read"));
        authorize_list(identity, &grants, &action, scope, identity.tenant).expect("a permit")
    }

    pub async fn put(&self, rest: &str) -> Put {
        let id = self.id(rest);
        let permit = self.write(&id).await;
        self.catalog
            .put(&permit, Draft::new(json!({})), Precondition::None)
            .await
            .expect("put")
    }
}

pub(super) fn new_installation(clock: &ManualClock) -> NewInstallation {
    let installation = Installation {
        tenant: TenantId::random(),
        operator_app: AppId::random(),
        operator_principal: PrincipalId::random(),
    };
    NewInstallation {
        installation,
        tenant_name: "installation".into(),
        tenant_display_name: "Installation".into(),
        operator_name: "operator".into(),
        secret: secret(clock, 30),
    }
}

pub(super) fn secret(clock: &ManualClock, days: u32) -> StoredSecret {
    StoredSecret {
        id: Uuid::new_v4(),
        name: "first".into(),
        hint: "abc".into(),
        hash: SecretHash::from_stored("$argon2id$test".into()),
        made_at: clock.now(),
        expires_at: later(clock.now(), DAY * days),
    }
}

pub(super) fn system(id: &ResourceId, tenant: TenantId) -> Permit {
    Permit::system(
        SystemReason::Reconcile,
        Action::new("test/write"),
        id.clone(),
        tenant,
    )
}
