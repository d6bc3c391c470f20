//! Commands in a Windows guest, over its second serial port, at the far end of which a script of ours speaks: the agent,
//! which the guest finds on its medium. One line is one message, of JSON. What comes from there is the guest's and may be
//! anything: it is bounded, and whatever is no message is noise before the first and between two starts, because firmware
//! writes to every port that it finds, and an error elsewhere. It must not decide what is run.

pub(crate) mod fake;
mod lines;
pub(crate) mod medium;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use process::Tail;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, MutexGuard};

use self::lines::Lines;
use crate::{ExecOutput, MachineError};

/// The socket of QEMU's end of the port, in the machine's folder.
pub(crate) const SOCKET: &str = "agent.sock";
const VERSION: u32 = 1;
/// Of a script, so that a line has some 22 KiB; the guest keeps a megabyte that it has not read.
const PIECE_BYTES: usize = 16 << 10;
/// Windows has no longer variable.
const VARIABLE_BYTES_MAX: usize = 32_000;
const VARIABLES_BYTES_MAX: usize = 256 << 10;
const SCRIPT_BYTES_MAX: usize = 4 << 20;
/// How much of each stream of a command is kept, and how much of it goes into an error.
const OUTPUT_LIMIT: usize = 1 << 20;
const ERROR_TAIL: usize = 2048;
/// All that a command may say: more is no output, but a guest that does not end.
const OUTPUT_MAX: u64 = 32 << 20;
/// Windows reads a script without this mark as what the code page of its country says.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The far end of a port.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What is said to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Order {
    /// It need not say hello any more.
    Welcome,
    /// A piece of the next script.
    Put { id: u64, first: bool, data: String },
    /// Runs the script, with these variables, whose values are base64.
    Run {
        id: u64,
        variables: serde_json::Map<String, serde_json::Value>,
    },
    /// Takes its traces away and switches the machine off.
    Leave { id: u64 },
}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Said {
    /// It has started. `key` is what it read on the medium, `boot` is another one at each start.
    Hello {
        version: u32,
        key: String,
        boot: String,
    },
    Ok {
        id: u64,
    },
    Out {
        id: u64,
        data: String,
    },
    Err {
        id: u64,
        data: String,
    },
    Exit {
        id: u64,
        code: i64,
    },
    /// It could not do what it was told.
    Fault {
        id: u64,
        text: String,
    },
}

/// What counts of what was said.
enum Event {
    Started,
    Said(Said),
}

struct Port {
    stream: Box<dyn Stream>,
    lines: Lines,
    /// Which start of the guest this is; none before the first hello.
    boot: Option<String>,
    next: u64,
    /// Something was begun and not ended: what comes next belongs to nobody knows what.
    broken: bool,
}

/// The agent in one machine.
pub(crate) struct Agent {
    name: String,
    key: String,
    port: Mutex<Port>,
}

/// What a script says, bounded.
struct Streams {
    stdout: Tail,
    stderr: Tail,
    said: u64,
}

impl Streams {
    fn new() -> Self {
        Self {
            stdout: Tail::new(OUTPUT_LIMIT),
            stderr: Tail::new(OUTPUT_LIMIT),
            said: 0,
        }
    }

    fn ended(&self, code: i64) -> ExecOutput {
        ExecOutput {
            // Windows' exit codes have 32 bits, with or without a sign.
            status: code as u32,
            stdout: self.stdout.text(OUTPUT_LIMIT),
            stderr: self.stderr.text(OUTPUT_LIMIT),
        }
    }

    fn end(&self) -> String {
        self.stdout.text(ERROR_TAIL) + &self.stderr.text(ERROR_TAIL)
    }
}

/// What became of a script.
enum Ended {
    Exit(i64),
    /// The guest started anew meanwhile.
    Restarted,
}

impl Agent {
    /// `key` is what lies on the machine's medium.
    pub(crate) fn over(name: &str, stream: impl Stream + 'static, key: String) -> Self {
        Self {
            name: name.to_owned(),
            key,
            port: Mutex::new(Port {
                stream: Box::new(stream),
                lines: Lines::default(),
                boot: None,
                next: 1,
                broken: false,
            }),
        }
    }

    /// Waits for the first hello.
    pub(crate) async fn ready(&self) -> Result<(), MachineError> {
        let mut port = self.port.lock().await;
        if port.boot.is_some() {
            return Ok(());
        }
        match self.event(&mut port).await? {
            Event::Started => Ok(()),
            Event::Said(said) => Err(self.failed(format!("it said {} before hello", kind(&said)))),
        }
    }

    /// Runs a script of PowerShell with these variables in its environment.
    pub(crate) async fn exec(
        &self,
        script: &str,
        variables: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError> {
        let mut streams = Streams::new();
        let work = async {
            let mut port = self.taken().await?;
            let ended = self
                .script(&mut port, script, variables, &mut streams)
                .await?;
            port.broken = false;
            match ended {
                Ended::Exit(code) => Ok(code),
                Ended::Restarted => Err(self.failed("the guest restarted while a command ran")),
            }
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(code) => Ok(streams.ended(code?)),
            Err(_) => Err(self.cut(deadline, &streams)),
        }
    }

    /// Runs a script that restarts the guest, and waits until it has. Where the script fails, there is nothing to wait for.
    pub(crate) async fn restart(
        &self,
        script: &str,
        deadline: Duration,
    ) -> Result<ExecOutput, MachineError> {
        let mut streams = Streams::new();
        let work = async {
            let mut port = self.taken().await?;
            let code = match self.script(&mut port, script, &[], &mut streams).await? {
                Ended::Exit(0) => {
                    if let Event::Said(said) = self.event(&mut port).await? {
                        let said = kind(&said);
                        return Err(
                            self.failed(format!("it said {said} and should have restarted"))
                        );
                    }
                    0
                }
                Ended::Exit(code) => code,
                Ended::Restarted => 0,
            };
            port.broken = false;
            Ok(code)
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(code) => Ok(streams.ended(code?)),
            Err(_) => Err(self.failed(format!(
                "the guest did not come up again within {deadline:?}"
            ))),
        }
    }

    /// Has the agent go, and the guest switch itself off soon.
    pub(crate) async fn leave(&self, deadline: Duration) -> Result<(), MachineError> {
        let work = async {
            let mut port = self.taken().await?;
            let id = port.number();
            self.say(&mut port, &Order::Leave { id }).await?;
            self.acknowledged(&mut port, id).await
        };
        let left = tokio::time::timeout(deadline, work).await;
        left.unwrap_or_else(|_| Err(self.failed("it did not answer")))
    }

    /// The port, for one command.
    async fn taken(&self) -> Result<MutexGuard<'_, Port>, MachineError> {
        let mut port = self.port.lock().await;
        if port.broken {
            return Err(self.failed("an earlier command did not come to its end"));
        }
        if port.boot.is_none() {
            return Err(self.failed("it has not said hello"));
        }
        port.broken = true;
        Ok(port)
    }

    async fn script(
        &self,
        port: &mut Port,
        script: &str,
        variables: &[(&str, &str)],
        streams: &mut Streams,
    ) -> Result<Ended, MachineError> {
        if script.len() > SCRIPT_BYTES_MAX {
            return Err(self.failed(format!("a script has more than {SCRIPT_BYTES_MAX} bytes")));
        }
        let long = |(_, value): &(&str, &str)| value.len() > VARIABLE_BYTES_MAX;
        let all: usize = variables.iter().map(|(_, value)| value.len()).sum();
        if variables.iter().any(long) || all > VARIABLES_BYTES_MAX {
            return Err(self.failed(format!(
                "a variable has more than {VARIABLE_BYTES_MAX} bytes, or all have more than {VARIABLES_BYTES_MAX}"
            )));
        }
        let bytes = [MARK, script.as_bytes()].concat();
        for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let id = port.number();
            let (first, data) = (index == 0, BASE64.encode(piece));
            self.say(port, &Order::Put { id, first, data }).await?;
            self.acknowledged(port, id).await?;
        }
        let id = port.number();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), BASE64.encode(value).into()))
            .collect();
        self.say(port, &Order::Run { id, variables }).await?;
        self.followed(port, id, streams).await
    }

    async fn followed(
        &self,
        port: &mut Port,
        id: u64,
        streams: &mut Streams,
    ) -> Result<Ended, MachineError> {
        loop {
            let said = match self.event(port).await? {
                Event::Started => return Ok(Ended::Restarted),
                Event::Said(said) => said,
            };
            let (data, stream) = match said {
                Said::Out { id: of, data } if of == id => (data, &mut streams.stdout),
                Said::Err { id: of, data } if of == id => (data, &mut streams.stderr),
                Said::Exit { id: of, code } if of == id => return Ok(Ended::Exit(code)),
                said => return Err(self.unexpected(said, id)),
            };
            let bytes = BASE64.decode(data);
            let bytes = bytes.map_err(|_| self.failed("its output is not base64"))?;
            stream.push(&bytes);
            streams.said += bytes.len() as u64;
            if streams.said > OUTPUT_MAX {
                return Err(self.failed(format!("a command said more than {OUTPUT_MAX} bytes")));
            }
        }
    }

    async fn acknowledged(&self, port: &mut Port, id: u64) -> Result<(), MachineError> {
        match self.event(port).await? {
            Event::Said(Said::Ok { id: of }) if of == id => Ok(()),
            Event::Said(said) => Err(self.unexpected(said, id)),
            Event::Started => Err(self.failed("the guest restarted")),
        }
    }

    /// The next thing that counts. A hello that is said again, because the first welcome was not heard, does not.
    async fn event(&self, port: &mut Port) -> Result<Event, MachineError> {
        loop {
            let line = port.lines.next(&mut port.stream).await;
            let line = line.map_err(|why| self.failed(why))?;
            let said: Said = serde_json::from_slice(&line)
                .map_err(|error| self.failed(format!("it said what is no message: {error}")))?;
            let Said::Hello { version, key, boot } = said else {
                return Ok(Event::Said(said));
            };
            if key != self.key {
                return Err(self.failed("it has not read this machine's medium"));
            }
            if version != VERSION {
                return Err(self.failed(format!("it speaks version {version}, not {VERSION}")));
            }
            self.say(port, &Order::Welcome).await?;
            if port.boot.as_ref() != Some(&boot) {
                port.boot = Some(boot);
                return Ok(Event::Started);
            }
        }
    }

    async fn say(&self, port: &mut Port, order: &Order) -> Result<(), MachineError> {
        let mut line = serde_json::to_vec(order).map_err(|error| self.failed(error))?;
        line.push(b'\n');
        let written = port.stream.write_all(&line).await;
        written.map_err(|error| self.failed(error))
    }

    fn unexpected(&self, said: Said, id: u64) -> MachineError {
        match said {
            Said::Fault { id: of, text } if of == id => {
                let text: String = text.chars().filter(|char| !char.is_control()).collect();
                self.failed(format!("it could not do what it was told: {text}"))
            }
            said => self.failed(format!("it said {} and was not asked", kind(&said))),
        }
    }

    fn cut(&self, after: Duration, streams: &Streams) -> MachineError {
        MachineError::ExecDeadline {
            name: self.name.clone(),
            after,
            output: streams.end(),
        }
    }

    fn failed(&self, reason: impl ToString) -> MachineError {
        MachineError::Agent {
            name: self.name.clone(),
            reason: reason.to_string(),
        }
    }
}

impl Port {
    fn number(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }
}

fn kind(said: &Said) -> &'static str {
    match said {
        Said::Hello { .. } => "hello",
        Said::Ok { .. } => "ok",
        Said::Out { .. } | Said::Err { .. } => "output",
        Said::Exit { .. } => "exit",
        Said::Fault { .. } => "fault",
    }
}
