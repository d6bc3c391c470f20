//! A machine's second network: a cable with the machine at one end and us at the other. It carries connections to one
//! address and nothing else, and it is the machine's alone, so who asks there needs no proof of who it is.
//!
//! The cable is a socket of QEMU's in the machine's folder, and its far end a TCP stack in this process. What is said in a
//! connection is not known here.

mod stack;
mod wire;

use std::io;
use std::path::Path;

use tokio::io::DuplexStream;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::qemu::connect;

/// In the machine's folder; QEMU listens on it.
pub(crate) const SOCKET: &str = "metadata.sock";
/// The network card's address, by which the machine finds it among its cards.
pub(crate) const GUEST_MAC: &str = "52:54:00:a9:fe:02";
/// What the machine has on this network; we are [`ADDRESS`].
pub(crate) const GUEST_NETWORK: &str = "169.254.169.2/24";
/// Where clients expect an instance metadata service.
pub const ADDRESS: [u8; 4] = [169, 254, 169, 254];
/// Where it listens.
pub const PORT: u16 = 80;

/// Our end of a machine's cable.
pub struct MetadataLink(UnixStream);

impl MetadataLink {
    /// Takes the end of the machine in this folder. One at a time has it; the next one waits.
    ///
    /// # Errors
    /// The machine does not run, or was started without such a network.
    pub async fn connect(dir: &Path) -> io::Result<MetadataLink> {
        connect(dir, SOCKET).await.map(MetadataLink)
    }

    /// Hands out what the machine connects to [`ADDRESS`], until the machine ends. Connections beyond what the channel
    /// takes are closed at once.
    ///
    /// # Errors
    /// The cable broke, or what came over it were no frames.
    pub async fn run(self, connections: mpsc::Sender<DuplexStream>) -> io::Result<()> {
        stack::Stack::new(self.0, connections).await
    }
}
