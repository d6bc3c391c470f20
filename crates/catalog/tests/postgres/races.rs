//! Writes of two servers that meet: each ends as if they had come one after the other.

use std::sync::Arc;

use access::{ClientSecret, SecretHash};
use catalog::{
    AuthStore, Catalog, CatalogError, Draft, Installation, JobStore, NewInstallation, NewJob,
    PageRequest, PostgresCatalog, Precondition, Record, StoredSecret, UniqueKey,
};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use wire::{AppId, PrincipalId, TenantId};

use super::{GROUP, SUBSCRIPTION, permit, put, world};

/// Writers on each server.
const WRITERS: usize = 4;
const ROUNDS: usize = 25;
const ATTEMPTS_MAX: usize = 10_000;

fn gallery(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Compute/galleries/{name}")
}

/// Runs `write` by several writers on both servers at once, and gives what came of each.
async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    servers: &(PostgresCatalog, PostgresCatalog),
    write: impl Fn(PostgresCatalog, usize) -> F,
) -> Vec<T> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS * 2 {
        let server = if writer % 2 == 0 {
            &servers.0
        } else {
            &servers.1
        };
        writers.spawn(write(server.clone(), writer));
    }
    writers.join_all().await
}

/// Adds one to a number in a resource, as a client does it: read, change, write if nobody else has.
async fn add_one(catalog: &PostgresCatalog, id: &str) {
    for _ in 0..ATTEMPTS_MAX {
        let resource = catalog.get(&permit(id)).await.expect("get");
        let number = resource.properties["n"].as_u64().unwrap_or_default();
        let precondition = Precondition::Match(resource.etag.clone());
        let draft = Draft::new(json!({"n": number + 1}));
        match catalog.put(&permit(id), draft, precondition).await {
            Ok(_) => return,
            Err(CatalogError::Precondition { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("others were always faster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_under_an_etag_is_lost() {
    let servers = world().await;
    put(&servers.0, &gallery("g")).await;
    at_once(&servers, |catalog, _| async move {
        for _ in 0..ROUNDS {
            add_one(&catalog, &gallery("g")).await;
        }
    })
    .await;
    let found = servers.1.get(&permit(&gallery("g"))).await.expect("get");
    assert_eq!(found.properties["n"], WRITERS * 2 * ROUNDS);
}

/// In each round exactly one of all writers does what only one may; the others are told why not.
async fn check_one_wins<F: Future<Output = Result<(), CatalogError>> + Send + 'static>(
    write: impl Fn(PostgresCatalog, usize, usize) -> F,
    told: impl Fn(&CatalogError) -> bool,
) {
    let servers = world().await;
    for round in 0..ROUNDS {
        let ended = at_once(&servers, |catalog, writer| write(catalog, writer, round)).await;
        check_one_won(&ended, &told);
    }
}

#[track_caller]
fn check_one_won(ended: &[Result<(), CatalogError>], told: impl Fn(&CatalogError) -> bool) {
    let won = ended.iter().filter(|ended| ended.is_ok()).count();
    assert_eq!(won, 1, "{ended:?}");
    let mut lost = ended.iter().filter_map(|ended| ended.as_ref().err());
    assert!(lost.all(told), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_creates() {
    let write = |catalog: PostgresCatalog, writer: usize, round: usize| async move {
        let draft = Draft::new(json!({"writer": writer}));
        let permit = permit(&gallery(&format!("g{round}")));
        let put = catalog.put(&permit, draft, Precondition::Absent).await?;
        assert!(put.created);
        Ok(())
    };
    check_one_wins(write, |error| {
        matches!(error, CatalogError::Precondition { found: Some(_), .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holds_a_name() {
    let write = |catalog: PostgresCatalog, writer: usize, round: usize| async move {
        let key = UniqueKey::new("gallery", &[&format!("g{round}")]);
        let draft = Draft::new(json!({})).unique(key);
        let permit = permit(&gallery(&format!("g{round}-{writer}")));
        let put = catalog.put(&permit, draft, Precondition::None).await;
        put.map(drop)
    };
    check_one_wins(write, |error| matches!(error, CatalogError::Taken { .. })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_deletes() {
    let servers = world().await;
    for round in 0..ROUNDS {
        let id = gallery(&format!("g{round}"));
        put(&servers.0, &id).await;
        let ended = at_once(&servers, |catalog, _| {
            let permit = permit(&id);
            async move { catalog.delete(&permit, Precondition::None).await.map(drop) }
        })
        .await;
        let told = |error: &CatalogError| matches!(error, CatalogError::NotFound { .. });
        check_one_won(&ended, told);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_holds_what_excludes_others() {
    let write = |catalog: PostgresCatalog, _: usize, round: usize| async move {
        let job = NewJob {
            kind: "k".into(),
            input: Value::Null,
            exclusive: Some(format!("e{round}")),
            visible_at: Vec::new(),
        };
        catalog.submit(&permit(GROUP), job).await.map(drop)
    };
    check_one_wins(write, |error| {
        matches!(error, CatalogError::JobInTheWay { .. })
    })
    .await;
}

/// Whatever the order was, there is no child without its parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_put_below_what_goes() {
    let servers = world().await;
    for round in 0..ROUNDS {
        let root = gallery(&format!("g{round}"));
        put(&servers.0, &root).await;
        put(&servers.0, &format!("{root}/images/d")).await;
        let ended = at_once(&servers, |catalog, writer| {
            let root = root.clone();
            async move {
                let id = match writer {
                    0 => {
                        return catalog
                            .delete_tree(&permit(&root), Precondition::None)
                            .await
                            .map(drop);
                    }
                    1..4 => format!("{root}/images/i{writer}"),
                    _ => format!("{root}/images/d/versions/1.0.{writer}"),
                };
                let draft = Draft::new(json!({}));
                let put = catalog.put(&permit(&id), draft, Precondition::None).await;
                put.map(drop)
            }
        })
        .await;
        let known = |error: &CatalogError| matches!(error, CatalogError::ParentMissing { .. });
        let failed = ended.iter().filter_map(|ended| ended.as_ref().err());
        assert!(failed.clone().all(known), "{ended:?}");
        let below = servers
            .1
            .list_below(&permit(&root), PageRequest::largest())
            .await;
        assert!(below.expect("list").resources.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_installs() {
    let servers = world().await;
    let ended = at_once(&servers, |catalog, _| async move {
        catalog.install(new_installation()).await
    })
    .await;
    let won: Vec<&Installation> = ended
        .iter()
        .filter_map(|ended| ended.as_ref().ok())
        .collect();
    assert_eq!(won.len(), 1, "{ended:?}");
    let told = |error: &CatalogError| matches!(error, CatalogError::Installed);
    assert!(
        ended
            .iter()
            .filter_map(|ended| ended.as_ref().err())
            .all(told)
    );
    for server in [&servers.0, &servers.1] {
        let found = server.installation().await.expect("read");
        assert_eq!(found.as_ref(), Some(won[0]));
    }
}

/// A subscription is one tenant's, whoever of them comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_has_a_subscription() {
    let servers = Arc::new(world().await);
    let taken = servers.0.subscription_tenant(
        SUBSCRIPTION
            .rsplit('/')
            .next()
            .expect("an id")
            .parse()
            .expect("an id"),
    );
    assert_eq!(taken.await.expect("read"), Some(super::tenant()));
    let ended = at_once(&servers, |catalog, _| async move {
        let own = permit(SUBSCRIPTION);
        let other = access::Permit::system(
            access::SystemReason::Reconcile,
            own.action().clone(),
            own.scope().clone(),
            TenantId::random(),
        );
        let draft = Draft::new(json!({})).record(Record::Subscription);
        catalog.put(&other, draft, Precondition::None).await
    })
    .await;
    assert!(
        ended
            .iter()
            .all(|ended| matches!(ended, Err(CatalogError::Taken { .. }))),
        "{ended:?}"
    );
}

fn new_installation() -> NewInstallation {
    let secret = ClientSecret::random().expect("a secret");
    let now = Timestamp::now();
    NewInstallation {
        installation: Installation {
            tenant: TenantId::random(),
            operator_app: AppId::random(),
            operator_principal: PrincipalId::random(),
        },
        tenant_name: "installation".into(),
        tenant_display_name: "Installation".into(),
        operator_name: "operator".into(),
        secret: StoredSecret {
            id: uuid::Uuid::new_v4(),
            name: "first".into(),
            hint: secret.expose().chars().take(3).collect(),
            hash: SecretHash::from_stored("$argon2id$test".into()),
            made_at: now,
            expires_at: now + 24.hours(),
        },
    }
}
