//! Copies of resources in bulk, for the benchmarks of crates above. Nothing of a server uses this.

use access::Permit;
use wire::ResourceId;

use super::{Engine, SqlCatalog, failed, query, rows};
use crate::error::Result;
use crate::resource::BODY_BYTES_MAX;

impl<E: Engine> SqlCatalog<E> {
    /// In one transaction, on SQLite.
    pub(crate) async fn copy(&self, of: &Permit, ids: &[ResourceId]) -> Result<()> {
        const OPERATION: &str = "copy a resource";
        let keys: Vec<[String; 3]> = ids
            .iter()
            .map(|id| [id.to_string(), id.folded().to_owned(), rows::sort_key(id)])
            .collect();
        let mut tx = self.write(OPERATION).await?;
        query(
            "insert into resources (tenant, id_key, id, type_key, sort_key, attached, location, tags, properties,
                                    extra, state, etag, created_at, created_by, changed_at, changed_by)
             select tenant, value ->> 1, value ->> 0, type_key, value ->> 2, attached, location, tags, properties,
                    extra, state, etag, created_at, created_by, changed_at, changed_by
             from resources, json_each($3) where tenant = $1 and id_key = $2 on conflict do nothing",
        )
        .bind(of.tenant().to_string())
        .bind(of.scope().folded())
        .bind(rows::to_json("copies", &keys, BODY_BYTES_MAX)?)
        .execute(&mut *tx)
        .await
        .map_err(failed(OPERATION))?;
        self.commit_resources(tx, OPERATION).await
    }
}
