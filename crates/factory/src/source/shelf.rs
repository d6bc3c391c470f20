//! The folder in which an operator puts platform images: `{publisher}/{offer}/{sku}/`. It knows nothing of what lies in
//! the folder of a product.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{Product, SourceError};

const ENTRIES_MAX: usize = 10_000;
const DESCRIPTION_BYTES_MAX: u64 = 64 << 10;

/// Each product below `shelf`, without its versions, and its folder.
pub(super) fn products(shelf: &Path) -> Vec<(Product, PathBuf)> {
    let mut products = Vec::new();
    for (publisher, path) in folders(shelf) {
        for (offer, path) in folders(&path) {
            for (sku, path) in folders(&path) {
                let product = Product {
                    publisher: publisher.clone(),
                    offer: offer.clone(),
                    sku,
                    versions: Vec::new(),
                };
                products.push((product, path));
            }
        }
    }
    products
}

/// Names in the folder of a product, in no order.
pub(super) fn files(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .take(ENTRIES_MAX)
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// Reads what an operator wrote about a product.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, SourceError> {
    let bad = |reason: String| SourceError::BadDescription {
        file: file.to_owned(),
        reason,
    };
    let length = fs::metadata(file).map_err(SourceError::file("look at", file))?;
    if length.len() > DESCRIPTION_BYTES_MAX {
        return Err(bad("it is too long".to_owned()));
    }
    let bytes = fs::read(file).map_err(SourceError::file("read", file))?;
    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
}

/// Whether it can only be the name of a file that lies in the product's folder.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['.', '-']) && !name.contains('/')
}

fn folders(path: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = files(path).filter(|(_, path)| path.is_dir()).collect();
    found.sort();
    found
}
