//! What a machine is told about itself: the cloud-init seed (a small vfat disk labelled CIDATA)
//! and the two key pairs, one for the login, one that the machine shows as its host key so that
//! the client can tell it from whatever else may answer on its port.
//! It must not mount anything.

use crate::{MachineError, MachineSpec, Metadata, metadata};
use process::{Command, Stdin};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A whole number of what `mkfs.vfat` makes without being asked for more.
const SEED_BYTES: u64 = 1024 * 1024;
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const KEY_FILE: &str = "id_ed25519";
const HOST_KEY_FILE: &str = "host_ed25519";
pub(crate) const SEED_FILE: &str = "seed.img";

/// The two key pairs of a machine. They stay the same when it is started again from its folder.
pub(crate) struct Keys {
    pub login: PrivateKey,
    pub host: PrivateKey,
}

impl Keys {
    /// Reads those of the folder, or makes them.
    pub(crate) fn of(dir: &Path, name: &str) -> Result<Self, MachineError> {
        Ok(Self {
            login: read_or_make(&dir.join(KEY_FILE), name)?,
            host: read_or_make(&dir.join(HOST_KEY_FILE), name)?,
        })
    }

    /// Type and key, without a comment.
    pub(crate) fn host_line(&self, name: &str) -> Result<String, MachineError> {
        public_line(self.host.public_key(), name)
    }
}

fn keys_error(name: &str, reason: impl ToString) -> MachineError {
    MachineError::Keys {
        name: name.to_owned(),
        reason: reason.to_string(),
    }
}

fn public_line(key: &PublicKey, name: &str) -> Result<String, MachineError> {
    let line = key.to_openssh().map_err(|error| keys_error(name, error))?;
    Ok(line.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

fn read_or_make(file: &Path, name: &str) -> Result<PrivateKey, MachineError> {
    match std::fs::read(file) {
        Ok(bytes) => PrivateKey::from_openssh(bytes).map_err(|error| keys_error(name, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
            let text = key.to_openssh(LineEnding::LF);
            let text = text.map_err(|error| keys_error(name, error))?;
            let mut out = File::options();
            let out = out.write(true).create_new(true).mode(0o600).open(file);
            let written = out.and_then(|mut out| out.write_all(text.as_bytes()));
            written.map_err(MachineError::file("write", file))?;
            Ok(key)
        }
        Err(error) => Err(MachineError::file("read", file)(error)),
    }
}

/// The seed's two files. JSON is YAML, so nothing needs quoting by hand.
fn files(spec: &MachineSpec, keys: &Keys) -> Result<[(&'static str, String); 2], MachineError> {
    let host_private = keys.host.to_openssh(LineEnding::LF);
    let host_private = host_private.map_err(|error| keys_error(&spec.name, error))?;
    let host_public = keys.host_line(&spec.name)?;
    let mut user_data = json!({
        "hostname": spec.hostname,
        // One line in /etc/hosts, so that the name resolves without a name server.
        "manage_etc_hosts": "localhost",
        "users": [{
            "name": spec.user,
            "groups": ["sudo"],
            "shell": "/bin/bash",
            "lock_passwd": true,
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "ssh_authorized_keys": [public_line(keys.login.public_key(), &spec.name)?],
        }],
        "ssh_deletekeys": true,
        "ssh_genkeytypes": [],
        "ssh_keys": { "ed25519_private": *host_private, "ed25519_public": host_public },
        // The rest only saves time under emulation: a test boot's disk does not grow, and nobody
        // reads keys from its console.
        "growpart": { "mode": "off" },
        "resize_rootfs": false,
        "ssh": { "emit_keys_to_console": false },
        "no_ssh_fingerprints": true,
    });
    if spec.metadata == Metadata::Cable {
        user_data["bootcmd"] = json!([["sh", "-c", metadata_card()]]);
    }
    // A new key is a new machine to cloud-init, the same key is the same one started again.
    let instance = host_public.chars().rev().take(16);
    let instance: String = instance.filter(char::is_ascii_alphanumeric).collect();
    let meta_data = json!({
        "instance-id": format!("{}-{instance}", spec.hostname),
        "local-hostname": spec.hostname,
    });
    Ok([
        ("user-data", format!("#cloud-config\n{user_data:#}\n")),
        ("meta-data", format!("{meta_data:#}\n")),
    ])
}

/// Gives the metadata's card its address at each boot. Not as network configuration, which would have to name all cards
/// of an image that we know nothing of.
fn metadata_card() -> String {
    let (mac, network) = (metadata::GUEST_MAC, metadata::GUEST_NETWORK);
    format!(
        "for card in /sys/class/net/*; do [ \"$(cat $card/address)\" = {mac} ] || continue; \
         ip link set \"${{card##*/}}\" up; ip address replace {network} dev \"${{card##*/}}\" scope link; done"
    )
}

/// Writes the seed disk into the machine's folder.
pub(crate) async fn write(spec: &MachineSpec, keys: &Keys) -> Result<(), MachineError> {
    let file = spec.dir.join(SEED_FILE);
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let made = options.open(&file).and_then(|out| out.set_len(SEED_BYTES));
    made.map_err(MachineError::file("write", &file))?;
    run(
        spec,
        Command::new("mkfs.vfat").args(["-n", "CIDATA", SEED_FILE]),
    )
    .await?;
    for (name, text) in files(spec, keys)? {
        // Through standard input: the host's private key is in it and needs no file.
        let copy = Command::new("mcopy").args(["-i", SEED_FILE, "-", &format!("::/{name}")]);
        run(spec, copy.stdin(Stdin::Bytes(text.into_bytes()))).await?;
    }
    Ok(())
}

async fn run(spec: &MachineSpec, command: Command) -> Result<(), MachineError> {
    let command = command.cwd(&spec.dir).deadline(TOOL_DEADLINE);
    let ran = command.run().await;
    ran.map(drop).map_err(|source| MachineError::Program {
        name: spec.name.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn seed_holds_what_cloud_init_looks_for() {
        let folder = tempfile::tempdir().unwrap();
        let spec = MachineSpec::new("vm1", folder.path(), "/disk");
        let keys = Keys::of(folder.path(), "vm1").unwrap();
        write(&spec, &keys).await.unwrap();
        let read = async |name: &str| {
            let from = folder.path().join(SEED_FILE);
            let read = Command::new("mtype")
                .arg("-i")
                .arg(from)
                .arg(format!("::/{name}"));
            read.run().await.unwrap().stdout_text()
        };
        let user_data = read("user-data").await;
        let body = user_data.strip_prefix("#cloud-config\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["users"][0]["name"], "bullion");
        assert!(body["bootcmd"].is_null());
        let private = body["ssh_keys"]["ed25519_private"].as_str().unwrap();
        let private = PrivateKey::from_openssh(private).unwrap();
        assert_eq!(
            private.public_key().key_data(),
            keys.host.public_key().key_data()
        );
        let first = read("meta-data").await;
        assert!(first.contains("\"local-hostname\": \"vm1\""));

        // Started again from its folder, it is the same machine.
        let again = Keys::of(folder.path(), "vm1").unwrap();
        write(&spec, &again).await.unwrap();
        assert_eq!(read("meta-data").await, first);
        assert_eq!(read("user-data").await, user_data);
        let label = std::fs::read(folder.path().join(SEED_FILE)).unwrap();
        assert!(label.windows(11).any(|window| window == b"CIDATA     "));
    }
}
