//! The record in a Windows image: texts of one key of its registry. The volume is read by `windisk`, which trusts nothing;
//! the hive is written by hivex, confined, and put back into the very blocks that it had, so that only blocks of the
//! record change and the same inputs give the same disk. Nothing on the volume is moved, made longer or dated.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use disk::{Changes, CowDisk, ReadAt};
use windisk::{HIVE_BYTES_MAX, System};

use super::{ApplyError, Tattoo, pairs};
use crate::confined::Confined;

/// Where the record is, as people write it.
pub const TATTOO_KEY: &str = r"HKEY_LOCAL_MACHINE\SOFTWARE\Bullion\Image";
const SOFTWARE: &str = "SOFTWARE";
const PREFIX: &str = r"HKEY_LOCAL_MACHINE\SOFTWARE";
const KEY: [&str; 2] = ["Bullion", "Image"];
const DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Writes the record into the registry of the Windows on `parent` and answers the blocks that changed. `work` is a folder
/// of ours for as long as it takes.
pub async fn apply(
    parent: Arc<dyn ReadAt>,
    record: &Tattoo,
    work: &Path,
) -> Result<Changes, ApplyError> {
    let text = record.render()?;
    let wanted = pairs(text.as_bytes())?;
    let from = Arc::clone(&parent);
    let hive = blocking(move || {
        let system = System::find(&*from)?;
        system.check_clean()?;
        let hive = system.software()?;
        hive.check_clean()?;
        Ok(hive)
    })
    .await?;
    let place = Confined::new(work)?;
    place.put(SOFTWARE, &hive.bytes)?;
    place.put("record.reg", registration(&wanted).as_bytes())?;
    let arguments = ["--merge", "--prefix", PREFIX, SOFTWARE, "record.reg"];
    place.run("hivexregedit", &arguments, DEADLINE).await?;
    let written = place.take(SOFTWARE, HIVE_BYTES_MAX)?;
    blocking(move || {
        let changes = hive.changes(&*parent, &written)?;
        let changed = CowDisk::with_changes(&*parent, &changes);
        match read(&System::find(&changed)?)? {
            Some(kept) if pairs(&kept)? == pairs(text.as_bytes())? => Ok(changes),
            _ => Err(ApplyError::NotKept),
        }
    })
    .await
}

/// The record in the registry of a Windows, as the text that it is elsewhere; `None` when it has none.
pub(super) fn read(system: &System<'_>) -> Result<Option<Vec<u8>>, ApplyError> {
    let texts = system.software()?.texts(&KEY)?;
    Ok(texts.map(|texts| lines(&texts).into_bytes()))
}

/// What regedit reads. Texts are given by the byte, so that none of their characters means anything to it.
fn registration(values: &BTreeMap<&str, &str>) -> String {
    // What an earlier build of the image left must not stay. A key is made only below one that is there.
    let [parent, _] = KEY;
    let mut text = format!(
        "Windows Registry Editor Version 5.00\n\n[-{TATTOO_KEY}]\n\n[{PREFIX}\\{parent}]\n\n[{TATTOO_KEY}]\n"
    );
    for (key, value) in values {
        let units = value.encode_utf16().chain([0]);
        let bytes: Vec<String> = units
            .flat_map(u16::to_le_bytes)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let _ = writeln!(text, "\"{key}\"=hex(1):{}", bytes.join(","));
    }
    text
}

/// One line for each value. A name or a text that would make two lines, or another key, does not.
fn lines(values: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in values {
        let key = key.replace(|c: char| c.is_control() || c == '=', "\u{fffd}");
        let value = value.replace(char::is_control, "\u{fffd}");
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApplyError> + Send + 'static,
) -> Result<T, ApplyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(ApplyError::Worker)?
}
