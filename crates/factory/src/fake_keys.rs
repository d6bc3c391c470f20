//! OpenPGP keys for tests: of a vendor of images, or of a package archive. Must not know what is signed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use process::Command;

/// The keys of somebody.
#[derive(Debug)]
pub struct FakeKeys {
    home: PathBuf,
    name: &'static str,
}

impl FakeKeys {
    /// New ones, in a folder of their own below `folder`.
    pub async fn new(folder: &Path, name: &'static str) -> FakeKeys {
        let home = folder.join(name);
        std::fs::create_dir(&home).expect("a folder");
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&home, private).expect("a private folder");
        let keys = FakeKeys { home, name };
        let quick = ["--quick-generate-key", name, "ed25519", "sign", "never"];
        keys.gpg(&[&["--passphrase", ""], &quick[..]].concat())
            .await;
        keys
    }

    async fn gpg(&self, args: &[&str]) -> Vec<u8> {
        let command = Command::new("gpg")
            .args(["--batch", "--quiet", "--pinentry-mode", "loopback"])
            .arg("--homedir")
            .arg(&self.home);
        command.args(args).run().await.expect("gpg").stdout
    }

    async fn sign(&self, how: &[&str], bytes: &[u8]) -> Vec<u8> {
        let path = self.home.join("signed");
        std::fs::write(&path, bytes).expect("write a file");
        let path = path.to_string_lossy();
        let args = [&["--output", "-"], how, &[&*path]].concat();
        self.gpg(&args).await
    }

    /// A signature by itself.
    pub async fn detached(&self, bytes: &[u8]) -> Vec<u8> {
        self.sign(&["--armor", "--detach-sign"], bytes).await
    }

    /// The text with its signature, as `InRelease` files are.
    pub async fn clear_signed(&self, text: &str) -> Vec<u8> {
        self.sign(&["--clear-sign"], text.as_bytes()).await
    }

    /// The public keys.
    pub async fn ring(&self) -> Vec<u8> {
        self.gpg(&["--export", self.name]).await
    }
}
