//! Commands in a machine over SSH, with a client that knows the machine's host key. One
//! connection is kept and used again: a new one costs a second in an emulated machine. It must
//! not decide when a machine is ready.

use crate::{ExecOutput, MachineError};
use process::Tail;
use russh::client::{self, Handle, Msg};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, Preferred, Sig};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// How long one login may take; an emulated machine needs two seconds when it is idle.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How much of each stream of a command is kept.
const OUTPUT_LIMIT: usize = 1024 * 1024;
/// How much of it goes into an error.
const ERROR_TAIL: usize = 2048;

pub(crate) struct Login {
    name: String,
    port: u16,
    user: String,
    key: Arc<PrivateKey>,
    host: KeyData,
    session: Mutex<Option<Arc<Handle<Verify>>>>,
}

/// What a command says, bounded.
struct Streams {
    stdout: Tail,
    stderr: Tail,
}

impl Streams {
    fn new() -> Self {
        Self {
            stdout: Tail::new(OUTPUT_LIMIT),
            stderr: Tail::new(OUTPUT_LIMIT),
        }
    }
}

/// Accepts exactly one host key.
struct Verify {
    host: KeyData,
}

impl client::Handler for Verify {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => *key.key_data() == self.host,
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }
}

impl Login {
    pub(crate) fn new(name: &str, port: u16, user: &str, keys: crate::seed::Keys) -> Self {
        Self {
            name: name.to_owned(),
            port,
            user: user.to_owned(),
            key: Arc::new(keys.login),
            host: keys.host.public_key().key_data().clone(),
            session: Mutex::new(None),
        }
    }

    /// Runs `command` in the user's shell. At the deadline its process group is killed, as the
    /// SSH server lets commands run on when their connection ends.
    pub(crate) async fn exec(
        &self,
        command: &str,
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError> {
        let until = Instant::now() + deadline;
        let mut streams = Streams::new();
        let Ok(channel) = timeout_at(until, self.start(command)).await else {
            return Err(self.cut(deadline, &streams));
        };
        let mut channel = channel?;
        match timeout_at(until, self.follow(&mut channel, &mut streams)).await {
            Ok(status) => Ok(ExecOutput {
                status: status?,
                stdout: streams.stdout.text(OUTPUT_LIMIT),
                stderr: streams.stderr.text(OUTPUT_LIMIT),
            }),
            Err(_) => {
                let killed = channel.signal(Sig::KILL).await;
                if let Err(error) = killed.and(channel.close().await) {
                    tracing::debug!(machine = self.name, %error, "cannot kill a late command");
                }
                Err(self.cut(deadline, &streams))
            }
        }
    }

    async fn start(&self, command: &str) -> Result<Channel<Msg>, MachineError> {
        let channel = self.channel().await?;
        let asked = channel.exec(true, command).await;
        asked.map_err(|error| self.failed(&error))?;
        Ok(channel)
    }

    async fn follow(
        &self,
        channel: &mut Channel<Msg>,
        streams: &mut Streams,
    ) -> Result<u32, MachineError> {
        let mut status = None;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => streams.stdout.push(&data),
                ChannelMsg::ExtendedData { data, .. } => streams.stderr.push(&data),
                ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    status = Some(128 + signal_number(&signal_name));
                }
                ChannelMsg::Failure => {
                    return Err(self.refused("the machine refused to run a command"));
                }
                _ => {}
            }
        }
        status.ok_or_else(|| self.refused("the connection ended before the command did"))
    }

    fn cut(&self, after: Duration, streams: &Streams) -> MachineError {
        MachineError::ExecDeadline {
            name: self.name.clone(),
            after,
            output: streams.stdout.text(ERROR_TAIL) + &streams.stderr.text(ERROR_TAIL),
        }
    }

    /// A channel on the kept connection, or on a new one when that has died meanwhile.
    async fn channel(&self) -> Result<Channel<Msg>, MachineError> {
        let kept = self.session.lock().await.clone();
        if let Some(session) = kept.filter(|session| !session.is_closed()) {
            match session.channel_open_session().await {
                Ok(channel) => return Ok(channel),
                Err(error) => {
                    tracing::debug!(machine = self.name, %error, "kept connection is dead");
                }
            }
        }
        let connecting = tokio::time::timeout(CONNECT_DEADLINE, self.connect()).await;
        let session = match connecting {
            Ok(session) => Arc::new(session?),
            Err(_) => return Err(self.refused("no answer from the SSH server")),
        };
        *self.session.lock().await = Some(Arc::clone(&session));
        let opened = session.channel_open_session().await;
        opened.map_err(|error| self.failed(&error))
    }

    async fn connect(&self) -> Result<Handle<Verify>, MachineError> {
        let config = client::Config {
            keepalive_interval: Some(KEEPALIVE),
            nodelay: true,
            preferred: Preferred {
                key: Cow::Borrowed(&[Algorithm::Ed25519]),
                ..Preferred::DEFAULT
            },
            ..client::Config::default()
        };
        let verify = Verify {
            host: self.host.clone(),
        };
        let address = ("127.0.0.1", self.port);
        let connected = client::connect(Arc::new(config), address, verify).await;
        let mut session = connected.map_err(|error| self.failed(&error))?;
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        let answer = session.authenticate_publickey(&self.user, key).await;
        if answer.map_err(|error| self.failed(&error))?.success() {
            Ok(session)
        } else {
            Err(self.refused("the machine does not accept the key (yet)"))
        }
    }

    fn failed(&self, error: &russh::Error) -> MachineError {
        match error {
            russh::Error::UnknownKey => MachineError::HostKey {
                name: self.name.clone(),
            },
            error => self.refused(&error.to_string()),
        }
    }

    fn refused(&self, reason: &str) -> MachineError {
        MachineError::Login {
            name: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Linux's numbers for the signals that SSH knows by name.
fn signal_number(signal: &Sig) -> u32 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(_) => 0,
    }
}

#[cfg(test)]
mod tests;
