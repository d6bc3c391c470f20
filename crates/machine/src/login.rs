//! Commands in a machine over SSH, with a client that knows the machine's host key. One
//! connection is kept and used again: a new one costs a second in an emulated machine. It must
//! not decide when a machine is ready.

use crate::{ExecOutput, MachineError};
use process::Tail;
use russh::client::{self, Handle};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect, Preferred, Sig};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

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

    /// Runs `command` in the user's shell. Cut at the deadline, it is signalled and left.
    pub(crate) async fn exec(
        &self,
        command: &str,
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError> {
        let mut stdout = Tail::new(OUTPUT_LIMIT);
        let mut stderr = Tail::new(OUTPUT_LIMIT);
        let run = self.run(command, &mut stdout, &mut stderr);
        match tokio::time::timeout(deadline, run).await {
            Ok(Ok(status)) => Ok(ExecOutput {
                status,
                stdout: stdout.text(OUTPUT_LIMIT),
                stderr: stderr.text(OUTPUT_LIMIT),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                // Closing the connection hangs up whatever still runs on it.
                self.close().await;
                let said = format!("{}{}", stdout.text(ERROR_TAIL), stderr.text(ERROR_TAIL));
                Err(MachineError::ExecDeadline {
                    name: self.name.clone(),
                    after: deadline,
                    output: said,
                })
            }
        }
    }

    /// Ends the connection, if there is one.
    pub(crate) async fn close(&self) {
        if let Some(session) = self.session.lock().await.take() {
            let said = session.disconnect(Disconnect::ByApplication, "", "").await;
            if let Err(error) = said {
                tracing::debug!(machine = self.name, %error, "connection was closed already");
            }
        }
    }

    async fn run(
        &self,
        command: &str,
        stdout: &mut Tail,
        stderr: &mut Tail,
    ) -> Result<u32, MachineError> {
        let mut channel = self.channel().await?;
        let asked = channel.exec(true, command).await;
        asked.map_err(|error| self.failed(&error))?;
        let mut status = None;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => stdout.push(&data),
                ChannelMsg::ExtendedData { data, .. } => stderr.push(&data),
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

    /// A channel on the kept connection, or on a new one when that has died meanwhile.
    async fn channel(&self) -> Result<russh::Channel<client::Msg>, MachineError> {
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
