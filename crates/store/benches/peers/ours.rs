//! Our own store, through its library, as the server and `bullion store` use it.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;

use store::keys::FakeKeys;
use store::{Domain, FileDisk, Keys, Store, StoreOptions};

use crate::meter::{Meter, bytes_in, same};
use crate::{Disks, Next, Result, Row};

/// As a server has its regions: encrypted, in one domain.
pub fn options() -> StoreOptions {
    StoreOptions {
        keys: Keys::Service(Arc::new(FakeKeys::default())),
        domain: Some(Domain::random()),
        ..StoreOptions::default()
    }
}

/// What goes into another store, and what goes in a file to who has the first.
pub fn rows(disks: &Disks, next: Next, work: &Path) -> Result<[Row; 2]> {
    let options = options();
    let open = |name: &str| Store::open(&work.join(name), options.clone());
    let (one, two) = (open("one")?, open("two")?);
    let empty = bytes_in(&work.join("one"))?;
    let meter = Meter::start()?;
    let first = one.ingest(&FileDisk::open(&disks.first())?)?;
    let mut row = Row {
        first: Some(meter.read()?),
        ..Row::default()
    };
    let with_first = bytes_in(&work.join("one"))?;
    row.first_bytes = Some(with_first - empty);
    Store::replicate(&one, &two, &first.digest, &|_| ())?;

    let meter = Meter::start()?;
    let second = one.ingest(&FileDisk::open(&disks.next(next))?)?;
    row.next = Some(meter.read()?);
    row.added_bytes = Some(bytes_in(&work.join("one"))? - with_first);

    let meter = Meter::start()?;
    let moved = Store::replicate(&one, &two, &second.digest, &|_| ())?;
    row.moved = Some(meter.read()?);
    row.moved_bytes = Some(moved.frame_bytes + moved.manifest_bytes);

    let mut bundled = Row::default();
    let (key, bundle) = (Domain::random(), work.join("bundle"));
    let meter = Meter::start()?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(&bundle)?);
    one.bundle(&second.digest, Some(&first.digest), &key, &mut file)?;
    file.into_inner()?.sync_all()?;
    bundled.moved = Some(meter.read()?);
    bundled.moved_bytes = Some(bytes_in(&bundle)?);
    two.delete(&second.digest)?;
    let mut file = BufReader::with_capacity(1 << 20, File::open(&bundle)?);
    let meter = Meter::start()?;
    two.unbundle(&mut file, Some(&key))?;
    bundled.restore = Some(meter.read()?);

    let file = work.join("restored.raw");
    let meter = Meter::start()?;
    two.checkout(&second.digest, &file)?;
    row.restore = Some(meter.read()?);
    row.restored_right = Some(same(&file, &disks.next(next))?);
    Ok([row, bundled])
}
