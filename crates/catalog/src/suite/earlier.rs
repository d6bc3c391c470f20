//! What a release before left in its database: rows as its own statements wrote them, since none of ours do any more.

use access::{Action, Permit, SystemReason};
use wire::{ResourceId, TenantId};

use super::Backend;
use crate::statements::{StoredBill, StoredPackage};

/// The last migration before there was an index of versions by their disks.
pub const BEFORE_VERSIONS_BY_DISK: i64 = 13;

/// One version with a disk, and nothing above it.
pub const OLD_VERSION: &str = r#"
    insert into resources (tenant, id_key, id, type_key, sort_key, attached, location, tags, properties,
                           extra, state, etag, created_at, created_by, changed_at, changed_by)
    values ('8e3af657-a8ff-443c-a75c-2fe8c4bcb635',
            '/subscriptions/2f1a0d3c-5f0e-4a53-9d53-1d7c6a0a52f1/resourcegroups/rg/providers/microsoft.compute/galleries/g/images/i/versions/1.0.0',
            '/subscriptions/2f1a0d3c-5f0e-4a53-9d53-1d7c6a0a52f1/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0',
            'microsoft.compute/galleries/images/versions',
            '/subscriptions/2f1a0d3c-5f0e-4a53-9d53-1d7c6a0a52f1/resourcegroups/rg/providers/microsoft.compute/galleries/g/images/i/versions/1.0.0',
            0, 'north', '{}', '{"bullion":{"diskDigest":"bd1:a"}}', '{}', 'Succeeded', 'e', 0, 'p', 0, 'p')"#;

/// After its database was opened by this release.
///
/// # Panics
/// Where it is not.
pub async fn the_old_version_is_found<B: Backend>(catalog: &B) {
    let tenant: TenantId = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
        .parse()
        .expect("a tenant");
    let permit = Permit::system(
        SystemReason::Reconcile,
        Action::new("test/write"),
        ResourceId::root(),
        tenant,
    );
    let package = StoredPackage {
        name: "bash".into(),
        source: "bash".into(),
        body: "bash 5.2".into(),
    };
    let bill = StoredBill {
        system: "debian".into(),
        packages: vec![package],
    };
    let kept = catalog.keep_bill(&permit, "bd1:a", &bill).await;
    kept.expect("a bill");
    let uses = catalog.uses_of_package(&permit, "bash").await;
    let uses = uses.expect("its use");
    let found = catalog.versions_using(&permit, &uses, None, 10).await;
    let found = found.expect("the version").found;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].version.name(), "1.0.0");
}
