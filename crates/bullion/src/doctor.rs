//! `doctor`: whether this host can build and run images, with a way out for what is missing.

use cli::io::{Format, Io, table};

use crate::offline::{Data, Failure};

pub async fn run(data: &Data, io: &mut Io) -> Result<(), Failure> {
    let folder = data.folder()?;
    let checks = server::doctor(&folder).await;
    let failed = checks.iter().filter(|check| !check.ok).count();
    match io.format {
        Format::Json => {
            let shown: Vec<serde_json::Value> = checks
                .iter()
                .map(|check| {
                    serde_json::json!({
                        "name": check.name, "ok": check.ok, "what": check.what, "fix": check.fix,
                    })
                })
                .collect();
            io.json(&shown)?;
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = checks
                .iter()
                .map(|check| {
                    let mark = if check.ok { "ok" } else { "missing" };
                    vec![mark.to_owned(), check.name.clone(), check.what.clone()]
                })
                .collect();
            io.line(table(&["STATE", "CHECK", "FOUND"], &rows))?;
            for check in &checks {
                if let Some(fix) = check.fix.as_ref().filter(|_| !check.ok) {
                    io.line(format!("fix {}: {fix}", check.name))?;
                }
            }
        }
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::plain("one check failed")),
        many => Err(Failure::plain(format!("{many} checks failed"))),
    }
}
