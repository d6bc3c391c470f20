//! The agent's side of the port, played by a task: what tests of it and of whole builds have for a Windows. It speaks the
//! same lines as the script on the medium, and can be told to do what no good guest does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::{Order, Said};
use crate::ExecOutput;

/// What is wrong with a guest, or with whoever speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentFault {
    /// Nothing.
    #[default]
    None,
    /// It never says hello.
    Silent,
    /// It has another key than the one on the medium.
    WrongKey,
    /// It says a marked line that is no message.
    Garbage,
    /// It writes noise without an end.
    Noise,
    /// It writes one marked line without an end.
    LongLine,
    /// The first script says a word and does not end.
    Hangs,
    /// The first script says the same for ever.
    Endless,
    /// The first script is not ended, and the machine goes.
    DiesInRun,
    /// The guest restarts while the first script runs.
    RestartsInRun,
    /// A restart does not come to its end.
    NoRestart,
    /// It answers with another number than it was asked with.
    WrongNumber,
    /// It cannot do what it is told.
    Refuses,
}

/// What a script answers, by its text and the variables that it finds.
pub(crate) type Script<'a> =
    dyn Fn(&str, &[(String, String)]) -> Option<ExecOutput> + Send + Sync + 'a;

/// What firmware writes to a port that it finds.
const NOISE: &[u8] = b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading Boot0001\r\n\x1b[0m#bull";
/// What a script has in it that restarts a Windows: `shutdown /r`, by its path and as base64 too.
const RESTARTS: [&str; 3] = ["shutdown /r", "shutdown.exe\" /r", "c2h1dGRvd24gL3I"];

/// Plays until the port is closed or the machine is to go: then the answer is true.
pub(crate) async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    key: &str,
    fault: AgentFault,
    answer: &Script<'_>,
) -> bool {
    let (reader, writer) = tokio::io::split(stream);
    let mut guest = Guest {
        orders: BufReader::new(reader),
        writer,
        key: key.to_owned(),
        boots: 0,
        script: Vec::new(),
        fault,
    };
    guest.run(answer).await.unwrap_or(false)
}

struct Guest<R, W> {
    orders: BufReader<R>,
    writer: W,
    key: String,
    boots: u32,
    script: Vec<u8>,
    fault: AgentFault,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Guest<R, W> {
    async fn run(&mut self, answer: &Script<'_>) -> std::io::Result<bool> {
        self.start().await?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.orders.read_line(&mut line).await? == 0 {
                return Ok(false);
            }
            let order: Order = serde_json::from_str(&line)?;
            let (Order::Put { id, .. } | Order::Run { id, .. } | Order::Leave { id }) = order
            else {
                continue;
            };
            let id = match self.fault {
                AgentFault::WrongNumber => id + 7,
                _ => id,
            };
            match order {
                _ if self.fault == AgentFault::Refuses => {
                    let text = "there is no room\u{1b}[2J".to_owned();
                    self.say(&Said::Fault { id, text }).await?;
                }
                Order::Put { first, data, .. } => {
                    if first {
                        self.script.clear();
                    }
                    let piece = BASE64.decode(data).map_err(std::io::Error::other)?;
                    self.script.extend(piece);
                    self.say(&Said::Ok { id }).await?;
                }
                Order::Run { variables, .. } => {
                    if self.ran(id, &variables, answer).await? {
                        return Ok(true);
                    }
                }
                Order::Leave { .. } => {
                    self.say(&Said::Ok { id }).await?;
                    return Ok(true);
                }
                Order::Welcome => {}
            }
        }
    }

    /// A start of the guest, with what its firmware writes.
    async fn start(&mut self) -> std::io::Result<()> {
        self.writer.write_all(NOISE).await?;
        match self.fault {
            AgentFault::Silent => return Ok(()),
            AgentFault::Garbage => return self.line(b"{\"say\":\"hello\",\"boot\":[]}").await,
            AgentFault::Noise => loop {
                self.writer.write_all(&[b'x'; 4096]).await?;
            },
            AgentFault::LongLine => {
                self.writer.write_all(b"\n#bullion:").await?;
                loop {
                    self.writer.write_all(&[b'x'; 4096]).await?;
                }
            }
            _ => {}
        }
        self.boots += 1;
        let key = match self.fault {
            AgentFault::WrongKey => "another key".to_owned(),
            _ => self.key.clone(),
        };
        let boot = format!("start {}", self.boots);
        // Twice, as an agent that has not heard the welcome yet.
        for _ in 0..2 {
            let hello = Said::Hello {
                version: super::VERSION,
                key: key.clone(),
                boot: boot.clone(),
            };
            self.say(&hello).await?;
        }
        Ok(())
    }

    /// Whether the machine goes.
    async fn ran(
        &mut self,
        id: u64,
        variables: &serde_json::Map<String, serde_json::Value>,
        answer: &Script<'_>,
    ) -> std::io::Result<bool> {
        let text = String::from_utf8_lossy(&self.script).into_owned();
        let text = text.trim_start_matches('\u{feff}').to_owned();
        let decoded = |value: &serde_json::Value| {
            let bytes = BASE64.decode(value.as_str().unwrap_or_default());
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| (name.clone(), decoded(value)))
            .collect();
        let out = |text: &str| Said::Out {
            id,
            data: BASE64.encode(text),
        };
        match self.fault {
            AgentFault::DiesInRun => return Ok(true),
            AgentFault::RestartsInRun => {
                self.start().await?;
                return Ok(false);
            }
            AgentFault::Hangs => {
                self.say(&out("begun")).await?;
                std::future::pending::<()>().await;
            }
            AgentFault::Endless => loop {
                self.say(&out(&"x".repeat(8192))).await?;
            },
            _ => {}
        }
        let answer = answer(&text, &variables).unwrap_or(ExecOutput {
            status: 0,
            stdout: String::new(),
            stderr: String::new(),
        });
        for piece in answer.stdout.as_bytes().chunks(8192) {
            let data = BASE64.encode(piece);
            self.say(&Said::Out { id, data }).await?;
        }
        if !answer.stderr.is_empty() {
            let data = BASE64.encode(&answer.stderr);
            self.say(&Said::Err { id, data }).await?;
        }
        let code = i64::from(answer.status as i32);
        self.say(&Said::Exit { id, code }).await?;
        let restarts = RESTARTS.iter().any(|word| text.contains(word));
        if restarts && code == 0 && self.fault != AgentFault::NoRestart {
            self.start().await?;
        }
        Ok(false)
    }

    async fn say(&mut self, said: &Said) -> std::io::Result<()> {
        let text = serde_json::to_vec(said)?;
        self.line(&text).await
    }

    async fn line(&mut self, text: &[u8]) -> std::io::Result<()> {
        let line = [b"\n", super::lines::MARK, text, b"\n"].concat();
        self.writer.write_all(&line).await
    }
}
