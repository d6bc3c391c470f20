//! Many resources at once, for benchmarks: what a million writes would leave, without making them.

use access::Permit;
use wire::ResourceId;

use crate::error::Result;
use crate::sqlite::SqliteCatalog;

/// Copies written by one statement.
const AT_ONCE: usize = 1000;

/// Copies of the resource at the permit's scope, under other ids of its type. Those that are there stay.
pub async fn copies(catalog: &SqliteCatalog, of: &Permit, ids: &[ResourceId]) -> Result<()> {
    for some in ids.chunks(AT_ONCE) {
        catalog.copy(of, some).await?;
    }
    Ok(())
}
