//! The medium of a Windows guest: a CD with the answers that Windows Setup asks for at the first start of a generalized
//! image, the agent, and files that the guest shall find. Nothing is written into the disk to get in: Setup looks for
//! answers at the root of removable media by itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use process::Command;

use crate::{MachineError, MachineSpec, MediaFile};

/// In the machine's folder.
pub(crate) const FILE: &str = "medium.iso";
pub(crate) const PROGRAM: &str = "xorriso";
const FOLDER: &str = "medium";
const TOOL_DEADLINE: Duration = Duration::from_secs(30 * 60);
const AGENT: &str = include_str!("agent.ps1");
const ANSWERS: &str = include_str!("answers.xml");
/// Windows reads the one name for some passes and the other for others.
const ANSWER_FILES: [&str; 2] = ["Autounattend.xml", "Unattend.xml"];

/// Writes the medium and answers the key that whoever has read it knows.
pub(crate) async fn write(spec: &MachineSpec) -> Result<String, MachineError> {
    let folder = spec.dir.join(FOLDER);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(MachineError::file("remove", &folder))?;
    }
    let inner = folder.join("bullion");
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&inner);
    made.map_err(MachineError::file("make", &inner))?;
    let key = BASE64.encode(rand::random::<[u8; 24]>());
    let answers = ANSWERS.replace("@PASSWORD@", &password());
    for name in ANSWER_FILES {
        put(&folder.join(name), &answers)?;
    }
    put(&inner.join("agent.ps1"), AGENT)?;
    put(&inner.join("key"), &key)?;
    // Names of the medium are what Windows sees by Joliet; a file may be of any size that ISO 9660 has.
    let files = spec.media.iter().map(graft);
    let command = Command::new(PROGRAM)
        .args(["-as", "mkisofs", "-quiet", "-J", "-iso-level", "3"])
        .args(["-V", "BULLION", "-o", FILE, "-graft-points"])
        .arg(format!("/={FOLDER}"))
        .args(files)
        .cwd(&spec.dir)
        .deadline(TOOL_DEADLINE);
    let ran = command.run().await;
    ran.map_err(|source| MachineError::Program {
        name: spec.name.clone(),
        source,
    })?;
    std::fs::remove_dir_all(&folder).map_err(MachineError::file("remove", &folder))?;
    Ok(key)
}

/// A password that Windows takes, and nobody needs to know: 24 random bytes, and one of each kind of character.
fn password() -> String {
    let random = BASE64.encode(rand::random::<[u8; 24]>());
    format!("Aa1-{}", random.replace(['+', '/', '='], "-"))
}

fn put(file: &Path, text: &str) -> Result<(), MachineError> {
    let mut options = File::options();
    let options = options.write(true).create_new(true).mode(0o600);
    // As Windows writes lines.
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    let written = options
        .open(file)
        .and_then(|mut out| out.write_all(text.as_bytes()));
    written.map_err(MachineError::file("write", file))
}

/// `name=path`, with what means something in a path marked as what it is.
fn graft(file: &MediaFile) -> OsString {
    let mut line = format!("/bullion/files/{}=", file.name).into_bytes();
    for byte in file.path.as_os_str().as_bytes() {
        if b"\\=".contains(byte) {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    OsString::from_vec(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_medium_holds_answers_the_agent_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let installer = folder.path().join(r"an=installer\, 1");
        std::fs::write(&installer, vec![7; 100_000]).unwrap();
        let machine = folder.path().join("machine");
        std::fs::create_dir(&machine).unwrap();
        let mut spec = MachineSpec::new("w", &machine, "/disk").windows();
        spec.media.push(MediaFile {
            name: "0".to_owned(),
            path: installer,
        });
        let first = write(&spec).await.unwrap();
        let key = write(&spec).await.unwrap();
        assert_ne!(first, key);
        let read = async |name: &str| {
            let out = folder.path().join("out");
            let tool = Command::new(PROGRAM).args(["-osirrox", "on", "-indev", FILE, "-extract"]);
            let tool = tool.arg(name).arg(&out).cwd(&machine);
            tool.run().await.unwrap();
            let bytes = std::fs::read(&out).unwrap();
            std::fs::remove_file(out).unwrap();
            bytes
        };
        assert_eq!(read("/bullion/key").await, key.as_bytes());
        assert_eq!(read("/bullion/files/0").await, [7; 100_000]);
        let agent = String::from_utf8(read("/bullion/agent.ps1").await).unwrap();
        assert_eq!(agent.replace("\r\n", "\n"), AGENT);
        assert!(
            agent.is_ascii(),
            "Windows reads it by the code page of its country"
        );
        let answers = String::from_utf8(read("/Autounattend.xml").await).unwrap();
        assert!(answers.contains("<Value>Aa1-") && !answers.contains('@'));
        assert_eq!(read("/Unattend.xml").await, answers.as_bytes());
    }

    #[test]
    fn windows_setup_takes_commands_of_this_length() {
        let begin = ANSWERS.find("<CommandLine>").unwrap() + "<CommandLine>".len();
        let length = ANSWERS[begin..].find("</CommandLine>").unwrap();
        assert!(length <= 1024, "{length}");
    }
}
