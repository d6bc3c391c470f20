//! Statements and packages of disks: kept by digest, replaced whole, found by package.

use access::Permit;
use wire::ResourceId;

use super::Backend;
use super::world::{DAY, World, system};
use crate::clock::{Clock, ManualClock};
use crate::error::CatalogError;
use crate::statements::{STATEMENT_BYTES_MAX, StoredBill, StoredPackage, StoredStatement};

pub(super) async fn run<B: Backend>(fresh: &impl AsyncFn(ManualClock) -> B) {
    statements_are_kept_by_disk_and_name(&World::new(fresh).await).await;
    packages_are_found_by_name_and_source(&World::new(fresh).await).await;
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
        let shown = |one: crate::statements::PackageUse| {
            format!(
                "{} {}",
                one.disk.trim_start_matches("bd1:"),
                one.package.body
            )
        };
        found.into_iter().map(shown).collect()
    };
    assert_eq!(
        uses("openssl").await,
        ["a libssl3 3.0.14", "b libssl3 3.0.15"]
    );
    assert_eq!(
        uses("libssl3").await,
        ["a libssl3 3.0.14", "b libssl3 3.0.15"]
    );
    assert_eq!(uses("bash").await, ["a bash 5.2", "b bash 5.2"]);
    assert_eq!(uses("ssl").await, [""; 0]);

    let without = bill(&[newer]);
    catalog.keep_bill(&permit, "bd1:a", &without).await.unwrap();
    assert_eq!(uses("bash").await, ["b bash 5.2"]);
    assert_eq!(
        uses("openssl").await,
        ["a libssl3 3.0.15", "b libssl3 3.0.15"]
    );
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
    let uses = catalog.uses_of_package(&permit, "s").await.unwrap();
    assert_eq!(uses.len(), 100);
}
