//! Statements and packages of disks: kept by digest, replaced whole, found by package.

use access::Permit;
use serde_json::json;
use wire::{ResourceId, TenantId};

use super::Backend;
use super::world::{DAY, World, system};
use crate::clock::{Clock, ManualClock};
use crate::error::CatalogError;
use crate::resource::{Draft, Precondition};
use crate::statements::{STATEMENT_BYTES_MAX, StoredBill, StoredPackage, StoredStatement};

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    statements_are_kept_by_disk_and_name(&World::new(fresh).await).await;
    packages_are_found_by_name_and_source(&World::new(fresh).await).await;
    versions_are_found_by_their_packages(&World::new(fresh).await).await;
    the_index_follows_what_is_written(&World::new(fresh).await).await;
    two_writers_keep_the_same_packages(&World::new(fresh).await).await;
}

fn package(name: &str, source: &str, version: &str) -> StoredPackage {
    StoredPackage {
        name: name.into(),
        source: source.into(),
        body: format!("{name} {version}"),
    }
}

fn bill(packages: &[StoredPackage]) -> StoredBill {
    StoredBill {
        system: "debian".into(),
        packages: packages.to_vec(),
    }
}

fn anywhere<B: Backend>(world: &World<B>) -> Permit {
    system(&ResourceId::root(), world.tenant)
}

async fn statements_are_kept_by_disk_and_name<B: Backend>(world: &World<B>) {
    let (catalog, permit) = (&world.catalog, anywhere(world));
    let statement = |text: &str| StoredStatement {
        name: "provenance".into(),
        at: world.clock.now(),
        envelope: text.into(),
    };
    assert_eq!(catalog.statement_names(&permit, "bd1:a").await.unwrap(), []);
    let first = statement("one");
    catalog
        .keep_statement(&permit, "bd1:a", &first)
        .await
        .unwrap();
    world.clock.advance(DAY);
    let second = statement("two");
    catalog
        .keep_statement(&permit, "bd1:a", &second)
        .await
        .unwrap();
    let found = |disk: &'static str, name: &'static str| catalog.statement(&permit, disk, name);
    assert_eq!(found("bd1:a", "provenance").await.unwrap(), Some(second));
    assert_eq!(found("bd1:a", "spdx").await.unwrap(), None);
    assert_eq!(found("bd1:b", "provenance").await.unwrap(), None);
    let names = catalog.statement_names(&permit, "bd1:a").await.unwrap();
    assert_eq!(names, [("provenance".to_owned(), world.clock.now())]);

    let large = statement(&"x".repeat(STATEMENT_BYTES_MAX + 1));
    let refused = catalog.keep_statement(&permit, "bd1:a", &large).await;
    assert!(matches!(refused, Err(CatalogError::TooLarge { .. })));
    let reader = anywhere(world).to_read_own();
    let refused = catalog.keep_statement(&reader, "bd1:a", &first).await;
    assert!(refused.is_err(), "a permit to read writes nothing");
}

async fn packages_are_found_by_name_and_source<B: Backend>(world: &World<B>) {
    let (catalog, permit) = (&world.catalog, anywhere(world));
    assert_eq!(catalog.bill(&permit, "bd1:a").await.unwrap(), None);
    let libssl = package("libssl3", "openssl", "3.0.14");
    let newer = package("libssl3", "openssl", "3.0.15");
    let bash = package("bash", "bash", "5.2");
    let a = bill(&[bash.clone(), libssl.clone()]);
    let b = bill(&[bash.clone(), newer.clone(), bash.clone()]);
    catalog.keep_bill(&permit, "bd1:a", &a).await.unwrap();
    catalog.keep_bill(&permit, "bd1:b", &b).await.unwrap();
    assert_eq!(catalog.bill(&permit, "bd1:a").await.unwrap(), Some(a));

    let uses = async |name: &str| -> Vec<String> {
        let found = catalog.uses_of_package(&permit, name).await.unwrap();
        found.into_iter().map(|one| one.body).collect()
    };
    assert_eq!(uses("openssl").await, ["libssl3 3.0.14", "libssl3 3.0.15"]);
    assert_eq!(uses("libssl3").await, ["libssl3 3.0.14", "libssl3 3.0.15"]);
    assert_eq!(uses("bash").await, ["bash 5.2"], "once for two disks");
    assert_eq!(uses("ssl").await, [""; 0]);

    let without = bill(std::slice::from_ref(&newer));
    catalog.keep_bill(&permit, "bd1:a", &without).await.unwrap();
    assert_eq!(uses("openssl").await, ["libssl3 3.0.15"]);
    let elsewhere = StoredBill {
        system: "ubuntu".into(),
        ..bill(&[newer])
    };
    catalog
        .keep_bill(&permit, "bd1:c", &elsewhere)
        .await
        .unwrap();
    assert_eq!(uses("openssl").await, ["libssl3 3.0.15"; 2]);
}

const IMAGE: &str =
    "/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/debian/versions";

/// Puts a version with a disk, or with none.
async fn version<B: Backend>(world: &World<B>, rest: &str, disk: Option<&str>) {
    let permit = world.write(&world.id(rest)).await;
    let properties = json!({ "bullion": { "diskDigest": disk }, "text": "a\0b \\u0000" });
    let put = world
        .catalog
        .put(&permit, Draft::new(properties), Precondition::None);
    put.await.expect("put a version");
}

/// The versions at a scope in which something called so is, each with the packages.
async fn using<B: Backend>(world: &World<B>, scope: &str, name: &str, limit: usize) -> Vec<String> {
    let permit = world.read(&world.id(scope)).await;
    using_by(world, &permit, name, limit).await
}

async fn using_by<B: Backend>(
    world: &World<B>,
    permit: &Permit,
    name: &str,
    limit: usize,
) -> Vec<String> {
    let uses = world.catalog.uses_of_package(permit, name).await.unwrap();
    let (mut shown, mut after) = (Vec::new(), None);
    loop {
        let answer = world
            .catalog
            .versions_using(permit, &uses, after.as_ref(), limit);
        let answer = answer.await.expect("versions");
        assert!(answer.found.len() <= limit);
        shown.extend(answer.found.iter().map(|one| {
            let bodies: Vec<&str> = one.uses.iter().map(|at| &*uses[*at].body).collect();
            let id = one.version.to_string();
            let short = id.split("/galleries/").nth(1).unwrap_or_default();
            format!("{short}: {}", bodies.join(", "))
        }));
        after = answer.next;
        if after.is_none() {
            return shown;
        }
    }
}

/// Two disks with three packages of one source.
async fn with_bills<B: Backend>(world: &World<B>) {
    for gallery in ["g", "h"] {
        let gallery = format!("/resourceGroups/rg/providers/Microsoft.Compute/galleries/{gallery}");
        world.put(&gallery).await;
        world.put(&format!("{gallery}/images/debian")).await;
    }
    let permit = anywhere(world);
    let (old, new) = (
        package("libssl3", "openssl", "3.0.14"),
        package("libssl3", "openssl", "3.0.15"),
    );
    let tool = package("openssl", "openssl", "3.0.14");
    for (disk, packages) in [
        ("bd1:a", vec![old, tool, package("bash", "bash", "5.2")]),
        ("bd1:b", vec![new]),
    ] {
        let bill = bill(&packages);
        let kept = world.catalog.keep_bill(&permit, disk, &bill).await;
        kept.expect("a bill");
    }
}

async fn versions_are_found_by_their_packages<B: Backend>(world: &World<B>) {
    with_bills(world).await;
    let other = IMAGE.replace("/galleries/g/", "/galleries/h/");
    assert_eq!(using(world, "", "openssl", 10).await, [""; 0]);
    for (number, disk) in [
        ("1.0.10", Some("bd1:a")),
        ("1.0.9", Some("bd1:b")),
        ("1.0.8", None),
        ("1.0.7", Some("bd1:unknown")),
    ] {
        version(world, &format!("{IMAGE}/{number}"), disk).await;
    }
    // As a promotion leaves it: the same disk in another gallery.
    version(world, &format!("{other}/1.0.10"), Some("bd1:a")).await;
    let all = [
        "g/images/debian/versions/1.0.9: libssl3 3.0.15",
        "g/images/debian/versions/1.0.10: libssl3 3.0.14, openssl 3.0.14",
        "h/images/debian/versions/1.0.10: libssl3 3.0.14, openssl 3.0.14",
    ];
    for limit in 1..=4 {
        assert_eq!(using(world, "", "openssl", limit).await, all, "by {limit}");
    }
    let of = |scope: &'static str, name: &'static str| using(world, scope, name, 10);
    assert_eq!(of("", "bash").await.len(), 2);
    assert_eq!(of("", "none").await, [""; 0]);
    let group = "/resourceGroups/rg/providers/Microsoft.Compute/galleries/h";
    assert_eq!(of(group, "openssl").await, all[2..]);
    let one =
        "/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/debian/versions/1.0.9";
    assert_eq!(of(one, "openssl").await, all[..1]);
    let stranger = system(&world.id(""), TenantId::random());
    assert_eq!(using_by(world, &stranger, "openssl", 10).await, [""; 0]);
    assert_eq!(
        world
            .catalog
            .versions_using(&anywhere(world), &[], None, 10)
            .await
            .expect("nothing was asked for")
            .found,
        []
    );
}

async fn the_index_follows_what_is_written<B: Backend>(world: &World<B>) {
    with_bills(world).await;
    let path = format!("{IMAGE}/1.0.0");
    let seen = async |name: &'static str| using(world, "", name, 10).await.len();
    version(world, &path, None).await;
    assert_eq!(seen("bash").await, 0, "no disk yet");
    version(world, &path, Some("bd1:a")).await;
    assert_eq!((seen("bash").await, seen("openssl").await), (1, 1));
    version(world, &path, Some("bd1:b")).await;
    assert_eq!((seen("bash").await, seen("openssl").await), (0, 1));
    let permit = world.write(&world.id(&path)).await;
    let deleted = world.catalog.delete(&permit, Precondition::None);
    deleted.await.expect("delete");
    assert_eq!(seen("openssl").await, 0);
    version(world, &path, Some("bd1:a")).await;
    let gallery = world.id("/resourceGroups/rg/providers/Microsoft.Compute/galleries/g");
    let permit = world.write(&gallery).await;
    let deleted = world.catalog.delete_tree(&permit, Precondition::None);
    deleted.await.expect("delete the gallery");
    assert_eq!(seen("openssl").await, 0);
    // What is no version has no disk, whatever it says.
    version(
        world,
        "/resourceGroups/rg/providers/Microsoft.Compute/images/i",
        Some("bd1:a"),
    )
    .await;
    assert_eq!(seen("openssl").await, 0);
}

async fn two_writers_keep_the_same_packages<B: Backend>(world: &World<B>) {
    let (catalog, permit) = (&world.catalog, anywhere(world));
    let packages: Vec<StoredPackage> = (0..50)
        .map(|n| package(&format!("p{n}"), "s", "1"))
        .collect();
    let mut backwards = packages.clone();
    backwards.reverse();
    let (forth, back) = (bill(&packages), bill(&backwards));
    let (one, two) = tokio::join!(
        catalog.keep_bill(&permit, "bd1:a", &forth),
        catalog.keep_bill(&permit, "bd1:b", &back)
    );
    one.unwrap();
    two.unwrap();
    for disk in ["bd1:a", "bd1:b"] {
        let kept = catalog.bill(&permit, disk).await.unwrap().unwrap();
        assert_eq!(kept.packages.len(), 50, "{disk}");
    }
    let uses = catalog.uses_of_package(&permit, "s").await.unwrap();
    assert_eq!(uses.len(), 50);
}
