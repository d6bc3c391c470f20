//! What sign-in reads: installation, tenants, applications, secrets, keys, grants.

use access::{Assignment, Identity, RoleId};
use serde_json::json;
use uuid::Uuid;
use wire::{AppId, PrincipalId, ResourceId, SubscriptionId, TenantId};

use super::Backend;
use super::world::{DAY, World, new_installation, secret, system};
use crate::auth::{Audience, CREDENTIALS_MAX, Credential, Record, StoredKey};
use crate::clock::{Clock, ManualClock, later};
use crate::error::CatalogError;
use crate::resource::{Draft, Precondition};

const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    an_installation_is_made_once(&World::new(fresh).await).await;
    a_tenant_comes_with_its_operator(&World::new(fresh).await).await;
    a_subscription_has_one_tenant(&World::new(fresh).await).await;
    secrets_expire(&World::new(fresh).await).await;
    credentials_go_with_their_application(&World::new(fresh).await).await;
    an_assertion_is_used_once(&World::new(fresh).await).await;
    assignments_count_where_they_are(&World::new(fresh).await).await;
    signing_keys_retire(&World::new(fresh).await).await;
}

async fn an_installation_is_made_once<B: Backend>(world: &World<B>) {
    let again = world.catalog.install(new_installation(&world.clock)).await;
    assert!(matches!(again, Err(CatalogError::Installed)), "{again:?}");
    let installation = world
        .catalog
        .installation()
        .await
        .expect("read")
        .expect("is installed");
    assert_eq!(installation.tenant, world.tenant);
    let tenants = world.catalog.tenants().await.expect("list");
    assert_eq!(tenants.len(), 1, "the second attempt left nothing");
    let application = world
        .catalog
        .application(installation.operator_app)
        .await
        .expect("read")
        .expect("is there");
    assert_eq!(
        (application.home, application.audience),
        (world.tenant, Audience::ManyTenants)
    );
    let operator = bullion("applications", "operator");
    let refused = world
        .catalog
        .delete(&world.write(&operator).await, Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
    let tenant = bullion("tenants", "installation");
    let refused = world
        .catalog
        .delete(&world.write(&tenant).await, Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
}

async fn a_tenant_comes_with_its_operator<B: Backend>(world: &World<B>) {
    let (tenant, principal) = (TenantId::random(), PrincipalId::random());
    let id = bullion("tenants", "Prod");
    let draft = |tenant, display_name: &str| {
        let record = Record::Tenant {
            tenant,
            display_name: display_name.into(),
            operator_principal: principal,
        };
        Draft::new(json!({})).record(record)
    };
    let permit = world.write(&id).await;
    let bare = world
        .catalog
        .put(&permit, Draft::new(json!({})), Precondition::None)
        .await;
    assert!(
        matches!(bare, Err(CatalogError::Mismatch { .. })),
        "{bare:?}"
    );
    world
        .catalog
        .put(&permit, draft(tenant, "Production"), Precondition::None)
        .await
        .expect("put");
    world
        .catalog
        .put(&permit, draft(tenant, "Production 2"), Precondition::None)
        .await
        .expect("put again");
    let moved = world
        .catalog
        .put(&permit, draft(TenantId::random(), "x"), Precondition::None)
        .await;
    assert!(
        matches!(moved, Err(CatalogError::Mismatch { .. })),
        "{moved:?}"
    );
    let record = world
        .catalog
        .tenant_named("pROD")
        .await
        .expect("read")
        .expect("is there");
    assert_eq!(
        (record.tenant, record.display_name.as_str()),
        (tenant, "Production 2")
    );

    let found = world
        .catalog
        .service_principal(tenant, world.operator.app)
        .await
        .expect("read");
    assert_eq!(found, Some(principal));
    let operator = Identity {
        tenant,
        principal,
        app: world.operator.app,
    };
    let group = ResourceId::parse("/subscriptions/x/resourceGroups/y").expect("an id");
    world.permit(&operator, "write", &group).await;
    let own = world
        .catalog
        .grants(world.tenant, principal)
        .await
        .expect("grants");
    assert!(own.is_empty(), "no rights elsewhere");

    let elsewhere = system(&bullion("tenants", "third"), tenant);
    let refused = world
        .catalog
        .put(
            &elsewhere,
            draft(TenantId::random(), "x"),
            Precondition::None,
        )
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
    world
        .catalog
        .delete(&permit, Precondition::None)
        .await
        .expect("delete");
    assert_eq!(
        world
            .catalog
            .service_principal(tenant, world.operator.app)
            .await
            .expect("read"),
        None
    );
    assert!(world.catalog.tenant(tenant).await.expect("read").is_none());
}

async fn a_subscription_has_one_tenant<B: Backend>(world: &World<B>) {
    let tenant = world
        .catalog
        .subscription_tenant(world.subscription)
        .await
        .expect("read");
    assert_eq!(tenant, Some(world.tenant));
    let unknown = world
        .catalog
        .subscription_tenant(SubscriptionId::random())
        .await
        .expect("read");
    assert_eq!(unknown, None);
    let draft = Draft::new(json!({})).record(Record::Subscription);
    let other = system(&world.id(""), TenantId::random());
    let taken = world.catalog.put(&other, draft, Precondition::None).await;
    assert!(
        matches!(taken, Err(CatalogError::Taken { .. })),
        "{taken:?}"
    );
    let none = world.catalog.get(&other).await;
    assert!(
        matches!(none, Err(CatalogError::NotFound { .. })),
        "{none:?}"
    );
}

async fn secrets_expire<B: Backend>(world: &World<B>) {
    let (app, principal) = (AppId::random(), PrincipalId::random());
    let id = bullion("applications", "ci");
    let permit = world.write(&id).await;
    let none = world
        .catalog
        .add_secret(&permit, secret(&world.clock, 1))
        .await;
    assert!(
        matches!(none, Err(CatalogError::NotFound { .. })),
        "{none:?}"
    );
    let record = Record::Application {
        app,
        principal,
        display_name: "CI".into(),
        audience: Audience::Home,
        redirects: vec!["https://a.example/".into()],
    };
    world
        .catalog
        .put(
            &permit,
            Draft::new(json!({})).record(record),
            Precondition::None,
        )
        .await
        .expect("put");
    let (short, long) = (secret(&world.clock, 1), secret(&world.clock, 9));
    world
        .catalog
        .add_secret(&permit, short.clone())
        .await
        .expect("add");
    world
        .catalog
        .add_secret(&permit, long.clone())
        .await
        .expect("add");
    assert_eq!(world.catalog.secrets(app).await.expect("read").len(), 2);
    let found = world.catalog.application(app).await.expect("read");
    assert_eq!(found.expect("is there").redirects, ["https://a.example/"]);
    world.clock.advance(DAY * 2);
    let left = world.catalog.secrets(app).await.expect("read");
    assert_eq!(
        left.iter().map(|secret| secret.id).collect::<Vec<_>>(),
        [long.id]
    );
    assert_eq!(
        world.catalog.secrets_of(&permit).await.expect("read").len(),
        2,
        "expired ones are shown to the owner"
    );
    assert!(
        world
            .catalog
            .remove_secret(&permit, long.id)
            .await
            .expect("remove")
    );
    assert!(
        !world
            .catalog
            .remove_secret(&permit, Uuid::new_v4())
            .await
            .expect("remove")
    );
    world
        .catalog
        .delete(&permit, Precondition::None)
        .await
        .expect("delete");
    assert_eq!(
        world
            .catalog
            .service_principal(world.tenant, app)
            .await
            .expect("read"),
        None
    );
    assert!(world.catalog.secrets(app).await.expect("read").is_empty());
}

async fn credentials_go_with_their_application<B: Backend>(world: &World<B>) {
    let (app, principal) = (AppId::random(), PrincipalId::random());
    let id = bullion("applications", "ci");
    let record = |app| Record::Application {
        app,
        principal,
        display_name: "CI".into(),
        audience: Audience::Home,
        redirects: vec!["https://a.example/".into()],
    };
    let catalog = &world.catalog;
    let credential = Credential::Federated {
        issuer: "https://issuer.example".into(),
        subject: "s".into(),
        audiences: vec!["a".into()],
        keys: None,
    };
    let draft = |credential: &Credential| {
        Draft::new(json!({})).record(Record::Credential(credential.clone()))
    };
    let child = |kind: &str, name: &str| id.child(kind, name).expect("an id");
    let first = world.write(&child("federatedCredentials", "x")).await;
    let refused = catalog
        .put(&first, draft(&credential), Precondition::None)
        .await;
    assert!(refused.is_err(), "there is no application yet");
    let permit = world.write(&id).await;
    let body = Draft::new(json!({})).record(record(app));
    catalog
        .put(&permit, body, Precondition::None)
        .await
        .expect("put");
    catalog
        .put(&first, draft(&credential), Precondition::None)
        .await
        .expect("put");
    let other = world.write(&child("certificates", "x")).await;
    let refused = catalog
        .put(&other, draft(&credential), Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::Mismatch { .. })),
        "{refused:?}"
    );
    let certificate = Credential::Certificate {
        certificate: "AAAA".into(),
    };
    catalog
        .put(&other, draft(&certificate), Precondition::None)
        .await
        .expect("put");
    let kept = catalog.credentials(app).await.expect("read");
    assert_eq!(kept, [credential, certificate.clone()]);
    for number in kept.len()..CREDENTIALS_MAX {
        let permit = world
            .write(&child("certificates", &format!("c{number}")))
            .await;
        catalog
            .put(&permit, draft(&certificate), Precondition::None)
            .await
            .expect("put");
    }
    let last = world.write(&child("certificates", "last")).await;
    let refused = catalog
        .put(&last, draft(&certificate), Precondition::None)
        .await;
    assert!(
        matches!(refused, Err(CatalogError::TooLarge { .. })),
        "{refused:?}"
    );
    catalog
        .delete(&first, Precondition::None)
        .await
        .expect("delete");
    assert_eq!(
        catalog.credentials(app).await.expect("read").len(),
        CREDENTIALS_MAX - 1
    );
    catalog
        .delete_tree(&permit, Precondition::None)
        .await
        .expect("delete");
    assert_eq!(catalog.credentials(app).await.expect("read"), []);
    let principals = catalog.principals(world.tenant).await.expect("list");
    assert_eq!(principals.len(), 1, "only the operator is left");
    assert_eq!(principals[0].application.app, world.operator.app);
}

async fn an_assertion_is_used_once<B: Backend>(world: &World<B>) {
    let used = async |name: &str| {
        let until = later(world.clock.now(), DAY);
        world.catalog.use_assertion(name, until).await.expect("use")
    };
    assert!(used("a").await);
    assert!(!used("a").await);
    assert!(used("b").await);
    world.clock.advance(DAY * 2);
    assert!(used("c").await, "the others are forgotten");
    assert!(used("a").await);
}

async fn assignments_count_where_they_are<B: Backend>(world: &World<B>) {
    let scope = world.id("/resourceGroups/rg");
    let reader = reader_at(world, &scope).await;
    world.permit(&reader, "read", &scope).await;
    let id = scope
        .extension(
            "Microsoft.Authorization",
            "roleAssignments",
            &Uuid::new_v4().to_string(),
        )
        .expect("an id");
    let assignment = |tenant, scope: ResourceId| {
        let principal = reader.principal;
        Record::RoleAssignment(Assignment {
            tenant,
            principal,
            role: RoleId::new(READER),
            scope,
        })
    };
    for wrong in [
        assignment(world.tenant, ResourceId::root()),
        assignment(TenantId::random(), scope.clone()),
    ] {
        let draft = Draft::new(json!({})).record(wrong);
        let refused = world
            .catalog
            .put(&world.write(&id).await, draft, Precondition::None)
            .await;
        assert!(
            matches!(refused, Err(CatalogError::Mismatch { .. })),
            "{refused:?}"
        );
    }
    world
        .catalog
        .delete(&world.write(&scope).await, Precondition::None)
        .await
        .expect("assignments are no children");
    let grants = world
        .catalog
        .grants(reader.tenant, reader.principal)
        .await
        .expect("grants");
    assert!(grants.is_empty(), "rights go with their scope");
}

async fn signing_keys_retire<B: Backend>(world: &World<B>) {
    for (kid, days) in [("old", 1), ("new", 9)] {
        world.clock.advance(std::time::Duration::from_secs(1));
        let now = world.clock.now();
        let key = StoredKey {
            kid: kid.into(),
            private_pem: format!("pem of {kid}"),
            made_at: now,
            retires_at: later(now, DAY * days),
        };
        assert!(
            !format!("{key:?}").contains("pem of"),
            "a key is not printed"
        );
        world.catalog.add_signing_key(key).await.expect("add");
    }
    let kids = async || -> Vec<String> {
        world
            .catalog
            .signing_keys()
            .await
            .expect("read")
            .into_iter()
            .map(|key| key.kid)
            .collect()
    };
    assert_eq!(kids().await, ["new", "old"]);
    for (old, new, expected) in [
        ("pem of new", "sealed", "sealed"),
        ("pem of new", "again", "sealed"),
    ] {
        let done = world.catalog.reseal_signing_key("new", old, new).await;
        done.expect("reseal");
        let kept = world.catalog.signing_keys().await.expect("read");
        let kept: Vec<&str> = kept.iter().map(|key| key.private_pem.as_str()).collect();
        assert_eq!(kept, [expected, "pem of old"]);
    }
    world.clock.advance(DAY * 2);
    assert_eq!(kids().await, ["new"]);
}

/// A principal with Reader at a scope.
pub(super) async fn reader_at<B: Backend>(world: &World<B>, scope: &ResourceId) -> Identity {
    let reader = Identity {
        tenant: world.tenant,
        principal: PrincipalId::random(),
        app: AppId::random(),
    };
    let id = scope
        .extension(
            "Microsoft.Authorization",
            "roleAssignments",
            &Uuid::new_v4().to_string(),
        )
        .expect("an id");
    let assignment = Assignment {
        tenant: reader.tenant,
        principal: reader.principal,
        role: RoleId::new(READER),
        scope: scope.clone(),
    };
    let draft = Draft::new(json!({})).record(Record::RoleAssignment(assignment));
    world
        .catalog
        .put(&world.write(&id).await, draft, Precondition::Absent)
        .await
        .expect("assign");
    reader
}

fn bullion(kind: &str, name: &str) -> ResourceId {
    ResourceId::root()
        .extension("Bullion.Factory", kind, name)
        .expect("an id")
}
