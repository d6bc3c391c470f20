//! The end of a machine's serial console, which is a file that QEMU writes. It must not read the
//! whole file: a guest may print without end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// In the machine's folder.
pub(crate) const FILE: &str = "serial.log";
/// The most that is read at once.
const MAX_TAIL: usize = 1024 * 1024;

/// The last `limit` bytes, without terminal control sequences; empty when there is no file yet.
pub(crate) fn tail(file: &Path, limit: usize) -> io::Result<String> {
    let mut file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let limit = limit.min(MAX_TAIL) as u64;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(plain(&String::from_utf8_lossy(&bytes)))
}

/// A console's text goes into error messages and logs, so nothing in it may steer a terminal.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_some() {
                    // Parameters up to the final byte, which is a letter or one of a few signs.
                    for next in chars.by_ref() {
                        if ('@'..='~').contains(&next) {
                            break;
                        }
                    }
                } else {
                    chars.next();
                }
            }
            '\n' | '\t' => out.push(char),
            other if other.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_dropped() {
        let check = |text: &str, expected: &str| assert_eq!(plain(text), expected);
        check("a\r\nb\tc", "a\nb\tc");
        check("\u{1b}[0;1;32m  OK  \u{1b}[0m done", "  OK   done");
        check("\u{1b}c\u{1b}[2J\u{1b}[01;01Hx", "x");
        check("cut \u{1b}[", "cut ");
        check("bell\u{7}\u{9b}", "bell");
    }

    #[test]
    fn only_the_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("serial.log");
        assert_eq!(tail(&file, 10).unwrap(), "");
        std::fs::write(&file, "0123456789abcdef").unwrap();
        assert_eq!(tail(&file, 4).unwrap(), "cdef");
        assert_eq!(tail(&file, 400).unwrap(), "0123456789abcdef");
    }
}
