//! How each kind of thing is looked at in a machine, and what its answer means. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machine::ExecOutput;
use serde_json::{Map, Value, json};

use super::Kind;
use crate::test::quoted;

/// Of a file or of what a command says, in bytes: it travels as base64, and answers are bounded.
const CONTENT_BYTES_MAX: u32 = 256 << 10;
/// How long a command of a fact may take, in seconds; the check as a whole has a limit of its own.
const COMMAND_SECONDS: u32 = 60;

/// The line for the machine's shell. `asks` tells which attributes are asked for.
pub(super) fn command(kind: Kind, subject: &str, asks: impl Fn(&str) -> bool) -> String {
    let name = quoted(subject);
    match kind {
        Kind::File => file(&name, asks),
        Kind::Package => {
            format!(
                "dpkg-query -W -f '${{db:Status-Status}} ${{Version}}\\n' -- {name} 2>/dev/null || true"
            )
        }
        Kind::Service => format!(
            "systemctl is-enabled -- {name} 2>/dev/null | head -n 1; systemctl is-active -- {name} 2>/dev/null | head -n 1; true"
        ),
        Kind::User => format!("getent passwd -- {name} && id -Gn -- {name}; true"),
        Kind::Group => format!("getent group -- {name} || true"),
        Kind::Port => match port(subject) {
            Some((protocol, _, _)) => format!("sudo ss -H -l -n --{protocol}"),
            None => "false".to_owned(),
        },
        Kind::Process => {
            format!(
                "cat /proc/[0-9]*/comm 2>/dev/null | grep -Fxq -- {name} && echo running || true"
            )
        }
        Kind::KernelParam => {
            // A dot separates, and a slash is a dot in a name, as sysctl has it.
            let path: String = subject
                .chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    other => other,
                })
                .collect();
            format!(
                "sudo cat -- {} || true",
                quoted(&format!("/proc/sys/{path}"))
            )
        }
        Kind::Command => format!(
            "out=$(mktemp) err=$(mktemp); sudo timeout {COMMAND_SECONDS} /bin/sh -c {name} >\"$out\" 2>\"$err\" </dev/null; \
             echo $?; for part in \"$out\" \"$err\"; do head -c {CONTENT_BYTES_MAX} \"$part\" | base64 -w0; echo; done; \
             rm -f \"$out\" \"$err\""
        ),
    }
}

fn file(path: &str, asks: impl Fn(&str) -> bool) -> String {
    const STAT: &str = r"mode %04a\nowner %U\ngroup %G\nuid %u\ngid %g\nsize %s\nfiletype %F\n";
    let mut script = format!(
        "p={path}; if [ -e \"$p\" ] || [ -L \"$p\" ]; then echo exists true; stat --printf '{STAT}' -- \"$p\""
    );
    if asks("linked-to") {
        script.push_str("; printf 'linked-to '; readlink -- \"$p\" || echo");
    }
    if asks("sha256") {
        script.push_str("; printf 'sha256 '; sha256sum < \"$p\" | cut -c 1-64");
    }
    if asks("contents") {
        script.push_str(&format!(
            "; printf 'contents '; head -c {CONTENT_BYTES_MAX} -- \"$p\" | base64 -w0; echo"
        ));
    }
    script.push_str("; else echo exists false; fi");
    format!("sudo /bin/sh -c {}", quoted(&script))
}

/// `tcp:22` as protocol, whether it is of IPv6, and number.
pub(super) fn port(text: &str) -> Option<(&'static str, bool, u16)> {
    let (protocol, number) = text.split_once(':').unwrap_or(("tcp", text));
    let number = number.parse().ok()?;
    match protocol {
        "tcp" => Some(("tcp", false, number)),
        "tcp6" => Some(("tcp", true, number)),
        "udp" => Some(("udp", false, number)),
        "udp6" => Some(("udp", true, number)),
        _ => None,
    }
}

/// What the machine said, by attribute.
pub(super) fn read(
    kind: Kind,
    subject: &str,
    output: &ExecOutput,
) -> Result<Map<String, Value>, String> {
    if !output.success() {
        return Err(format!(
            "it could not be looked at: {}",
            output.stderr.trim()
        ));
    }
    let mut lines = output.stdout.lines();
    let found = match kind {
        Kind::File => read_file(&output.stdout)?,
        Kind::Package => {
            let installed = lines
                .next()
                .and_then(|line| line.strip_prefix("installed "));
            let versions: Vec<&str> = installed.into_iter().collect();
            json!({ "installed": installed.is_some(), "versions": versions })
        }
        Kind::Service => {
            let enabled = lines
                .next()
                .is_some_and(|state| state.starts_with("enabled"));
            json!({ "enabled": enabled, "running": lines.next() == Some("active") })
        }
        Kind::User => {
            let fields: Vec<&str> = lines.next().unwrap_or_default().split(':').collect();
            match fields[..] {
                [_, _, uid, gid, _, home, shell] => {
                    let groups: Vec<&str> = lines
                        .next()
                        .unwrap_or_default()
                        .split_whitespace()
                        .collect();
                    json!({ "exists": true, "uid": integer(uid), "gid": integer(gid), "home": home, "shell": shell,
                            "groups": groups })
                }
                _ => json!({ "exists": false }),
            }
        }
        Kind::Group => match lines.next().unwrap_or_default().split(':').nth(2) {
            Some(gid) => json!({ "exists": true, "gid": integer(gid) }),
            None => json!({ "exists": false }),
        },
        Kind::Port => listening(subject, &output.stdout),
        Kind::Process => json!({ "running": lines.next() == Some("running") }),
        Kind::KernelParam => json!({ "value": output.stdout.trim() }),
        Kind::Command => {
            let status = lines.next().and_then(|line| line.parse::<i64>().ok());
            let status = status.ok_or("the machine did not say how the command ended")?;
            let stdout = decoded(lines.next().unwrap_or_default())?;
            json!({ "exit-status": status, "stdout": stdout, "stderr": decoded(lines.next().unwrap_or_default())? })
        }
    };
    match found {
        Value::Object(found) => Ok(found),
        _ => Err("nothing was found".to_owned()),
    }
}

fn read_file(said: &str) -> Result<Value, String> {
    let mut found = Map::new();
    for (name, value) in said.lines().filter_map(|line| line.split_once(' ')) {
        let value = match name {
            "exists" => Value::Bool(value == "true"),
            "uid" | "gid" | "size" => integer(value),
            "filetype" => Value::from(match value {
                "regular file" | "regular empty file" => "file",
                "symbolic link" => "symlink",
                other => other,
            }),
            "contents" => Value::from(decoded(value)?),
            _ => Value::from(value),
        };
        found.insert(name.to_owned(), value);
    }
    match found.contains_key("exists") {
        true => Ok(Value::Object(found)),
        false => Err("the machine did not say whether it is there".to_owned()),
    }
}

fn listening(subject: &str, said: &str) -> Value {
    let Some((_, is_six, number)) = port(subject) else {
        return Value::Null;
    };
    let addresses = said.lines().filter_map(|line| {
        let (address, port) = line.split_whitespace().nth(3)?.rsplit_once(':')?;
        // `%lo` names the interface of an address.
        let address = address.split('%').next()?.trim_matches(['[', ']']);
        (port.parse() == Ok(number)).then_some(address)
    });
    // `*` is what listens on both.
    let ours = addresses.filter(|address| *address == "*" || address.contains(':') == is_six);
    let ours: Vec<String> = ours
        .map(|address| match (address, is_six) {
            ("*", true) => "::".to_owned(),
            ("*", false) => "0.0.0.0".to_owned(),
            (address, _) => address.to_owned(),
        })
        .collect();
    json!({ "listening": !ours.is_empty(), "ip": ours })
}

fn integer(text: &str) -> Value {
    text.parse::<i64>().map_or(Value::Null, Value::from)
}

fn decoded(text: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(text.trim());
    let bytes = bytes.map_err(|_| "the machine answered what is no base64".to_owned())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
