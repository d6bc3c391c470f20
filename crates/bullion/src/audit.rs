//! `audit`: the activity log of a data folder, written out and proved, whether or not its server runs.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use cli::io::{Format, Io, table};
use serde_json::json;

use crate::offline::{Data, Failure};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Write the log as JSON lines: every linked line with its hash, every signed checkpoint, every server's key; or send
    /// it to a receiver of syslog or OTLP logs
    #[command(after_help = "Examples:
  bullion audit export --data /var/lib/bullion > activity.jsonl
  bullion audit export --data /var/lib/bullion --file activity.jsonl
  bullion audit export --data /var/lib/bullion --to syslog+tls://logs.example?ca=/etc/logs-ca.pem
  bullion audit export --data /var/lib/bullion --to otlp+http://127.0.0.1:4318")]
    Export(Export),

    /// Follow every chain from its first line to its last, and check every signature
    #[command(after_help = "Example:
  bullion audit verify --data /var/lib/bullion

Exit code: 1 if a line was changed, moved or removed, or a signature is wrong. Lines of the last second may not be linked
yet. Keep an export elsewhere: whoever can cut off the newest lines together with their checkpoints leaves a shorter
chain that is sound by itself")]
    Verify(Log),
}

#[derive(Debug, clap::Args)]
pub struct Log {
    #[command(flatten)]
    data: Data,

    /// PostgreSQL database of the server, as `bullion serve` was given it [default: SQLite in the data folder]
    #[arg(
        long,
        value_name = "URL",
        env = "BULLION_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Export {
    #[command(flatten)]
    log: Log,

    /// Where to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Send it there: syslog+udp://HOST, syslog+tcp://HOST, syslog+tls://HOST, syslog+unix:///dev/log, otlp+http://HOST
    /// or otlp+https://HOST, with ?ca=FILE, identity=FILE and headers=FILE where they apply
    #[arg(long, value_name = "ADDRESS", conflicts_with = "file")]
    to: Option<server::SinkAddress>,
}

pub async fn run(command: AuditCommand, io: &mut Io) -> Result<(), Failure> {
    match command {
        AuditCommand::Export(export) => write(export, io).await,
        AuditCommand::Verify(log) => verify(log, io).await,
    }
}

async fn write(export: Export, io: &mut Io) -> Result<(), Failure> {
    let (data, database) = (export.log.data.folder()?, export.log.database.as_deref());
    let failed = |error| Failure::new("cannot export the activity log", error);
    if let Some(to) = export.to {
        let lines = server::send_activity(&data, database, &to)
            .await
            .map_err(failed)?;
        io.say(format!("sent {lines} lines to {to}"));
        return Ok(());
    }
    if let Some(path) = export.file {
        let file = std::fs::File::create(&path)
            .map_err(|error| Failure::new(format!("cannot write {}", path.display()), error))?;
        let mut out = std::io::BufWriter::new(file);
        server::export_activity(&data, database, &mut out)
            .await
            .map_err(failed)?;
        return out
            .flush()
            .map_err(|error| Failure::new(format!("cannot write {}", path.display()), error));
    }
    let mut text = Vec::new();
    server::export_activity(&data, database, &mut text)
        .await
        .map_err(failed)?;
    Ok(io.text(&String::from_utf8_lossy(&text))?)
}

async fn verify(log: Log, io: &mut Io) -> Result<(), Failure> {
    let data = log.data.folder()?;
    let proofs = server::verify_activity(&data, log.database.as_deref())
        .await
        .map_err(|error| Failure::new("cannot verify the activity log", error))?;
    let faults: usize = proofs.iter().map(|proof| proof.faults.len()).sum();
    match io.format {
        Format::Json => {
            let shown = proofs.iter().map(|proof| {
                json!({ "server": proof.node, "lines": proof.lines, "first": proof.first, "last": proof.last,
                        "checkpoints": proof.checkpoints, "signedTo": proof.signed_to, "faults": proof.faults })
            });
            io.json(&shown.collect::<Vec<_>>())?;
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = proofs
                .iter()
                .map(|proof| {
                    let state = if proof.faults.is_empty() {
                        "sound"
                    } else {
                        "broken"
                    };
                    vec![
                        state.to_owned(),
                        proof.node.clone(),
                        proof.lines.to_string(),
                        format!("{} to {}", proof.first, proof.last),
                        proof.signed_to.to_string(),
                    ]
                })
                .collect();
            io.line(table(
                &["STATE", "SERVER", "LINES", "NUMBERS", "SIGNED TO"],
                &rows,
            ))?;
            for fault in proofs.iter().flat_map(|proof| &proof.faults) {
                io.line(fault)?;
            }
        }
    }
    match faults {
        0 => Ok(()),
        _ => Err(Failure::plain("the activity log is not as it was written")),
    }
}
