//! Facts: what a machine shall be like, written as goss writes it: kinds of things, each by its name, each with what shall
//! be true of it. One look for each thing, one result for each.
//!
//! What a machine answers is not trusted: it is only compared and shown. Nothing here runs anything.

mod look;
mod matcher;

use std::collections::BTreeMap;

use machine::ExecOutput;
use serde_json::{Map, Value};

use matcher::Matcher;

/// Things that one check asks about.
const FACTS_MAX: usize = 500;
const NAME_BYTES_MAX: usize = 4096;
/// Keys that say nothing of the machine.
const ABOUT: [&str; 2] = ["title", "meta"];

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Package,
    Service,
    User,
    Group,
    Port,
    Process,
    KernelParam,
    Command,
}

const KINDS: [(&str, Kind); 9] = [
    ("file", Kind::File),
    ("package", Kind::Package),
    ("service", Kind::Service),
    ("user", Kind::User),
    ("group", Kind::Group),
    ("port", Kind::Port),
    ("process", Kind::Process),
    ("kernel-param", Kind::KernelParam),
    ("command", Kind::Command),
];

impl Kind {
    /// What can be said of such a thing.
    const fn attributes(self) -> &'static [&'static str] {
        match self {
            Kind::File => &[
                "exists",
                "mode",
                "owner",
                "group",
                "uid",
                "gid",
                "size",
                "filetype",
                "linked-to",
                "sha256",
                "contents",
            ],
            Kind::Package => &["installed", "versions"],
            Kind::Service => &["enabled", "running"],
            Kind::User => &["exists", "uid", "gid", "groups", "home", "shell"],
            Kind::Group => &["exists", "gid"],
            Kind::Port => &["listening", "ip"],
            Kind::Process => &["running"],
            Kind::KernelParam => &["value"],
            Kind::Command => &["exit-status", "stdout", "stderr"],
        }
    }

    /// Whether a list says what lines or texts are to be found, and not what the whole is.
    fn is_searched(self, attribute: &str) -> bool {
        match self {
            Kind::File => attribute == "contents",
            Kind::Command => matches!(attribute, "stdout" | "stderr"),
            _ => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Package => "package",
            Kind::Service => "service",
            Kind::User => "user",
            Kind::Group => "group",
            Kind::Port => "port",
            Kind::Process => "process",
            Kind::KernelParam => "kernel-param",
            Kind::Command => "command",
        }
    }
}

/// One thing and what shall be true of it.
#[derive(Debug, Clone)]
pub struct Fact {
    kind: Kind,
    /// How it is told to people.
    label: String,
    /// What is looked for: a path, a name, a line for a shell.
    subject: String,
    shall: BTreeMap<String, Matcher>,
}

/// Why facts cannot be asked as they are written, and what would be right.
pub type Wrong = (String, &'static str);

/// Reads facts; those with `skip: true` are left out.
///
/// # Errors
/// What is wrong with the first one that is.
pub fn parse(facts: &Value) -> Result<Vec<Fact>, Wrong> {
    const SHAPE: &str = "facts are kinds of things, each with names, each with what shall be true";
    let kinds = facts
        .as_object()
        .ok_or_else(|| ("the facts are no object".to_owned(), SHAPE))?;
    let mut all = Vec::new();
    for (name, things) in kinds {
        let known = KINDS.iter().find(|(known, _)| known == name);
        let Some((_, kind)) = known else {
            return Err((
                format!("facts about `{name}` cannot be asked"),
                "the kinds are file, package, service, user, group, port, process, kernel-param and command",
            ));
        };
        let things = things
            .as_object()
            .ok_or_else(|| (format!("`{name}` is no object"), SHAPE))?;
        for (label, attributes) in things {
            let attributes = attributes.as_object();
            let attributes =
                attributes.ok_or_else(|| (format!("{name} `{label}` is no object"), SHAPE))?;
            if attributes.get("skip") == Some(&Value::Bool(true)) {
                continue;
            }
            all.push(fact(*kind, label, attributes)?);
        }
    }
    if all.is_empty() || all.len() > FACTS_MAX {
        return Err((
            format!("there are {} facts", all.len()),
            "ask about 1 to 500 things in one check",
        ));
    }
    Ok(all)
}

fn fact(kind: Kind, label: &str, attributes: &Map<String, Value>) -> Result<Fact, Wrong> {
    let name = kind.name();
    // goss lets a label stand for the thing, and the thing itself in a key of its own.
    let key = match kind {
        Kind::File => "path",
        Kind::Command => "exec",
        _ => "name",
    };
    let subject = attributes.get(key).and_then(Value::as_str).unwrap_or(label);
    if subject.is_empty() || subject.len() > NAME_BYTES_MAX || subject.contains('\0') {
        return Err((
            format!("{name} `{label}` has no name that can be looked for"),
            "name the thing",
        ));
    }
    if kind == Kind::File && !subject.starts_with('/') {
        return Err((
            format!("file `{subject}` is not an absolute path"),
            "begin it with `/`",
        ));
    }
    if kind == Kind::Port && look::port(subject).is_none() {
        return Err((
            format!("`{subject}` is not a port"),
            "write it like `tcp:22` or `udp6:123`",
        ));
    }
    let mut shall = BTreeMap::new();
    for (attribute, value) in attributes {
        if attribute == key
            || attribute == "skip"
            || attribute == "timeout"
            || ABOUT.contains(&attribute.as_str())
        {
            continue;
        }
        if !kind.attributes().contains(&attribute.as_str()) {
            return Err((
                format!("{name} `{label}`: `{attribute}` cannot be asked"),
                "see the kinds and what can be asked of each in docs/FACTORY.md",
            ));
        }
        let parsed = match kind.is_searched(attribute) {
            true => Matcher::searched(value),
            false => Matcher::parse(value),
        };
        let matcher = parsed
            .map_err(|(what, right)| (format!("{name} `{label}`, {attribute}: {what}"), right))?;
        shall.insert(attribute.clone(), matcher);
    }
    if shall.is_empty() {
        return Err((
            format!("nothing is said of {name} `{label}`"),
            "say what shall be true of it",
        ));
    }
    Ok(Fact {
        kind,
        label: label.to_owned(),
        subject: subject.to_owned(),
        shall,
    })
}

impl Fact {
    /// How it is called in results.
    pub fn name(&self) -> String {
        format!("{} {}", self.kind.name(), self.label)
    }

    /// The line for the machine's shell.
    pub fn command(&self) -> String {
        look::command(self.kind, &self.subject, |attribute| {
            self.shall.contains_key(attribute)
        })
    }

    /// Whether all is as it shall be, and what was found, of all that is wrong or of everything.
    pub fn judge(&self, output: &ExecOutput) -> (bool, String) {
        let found = match look::read(self.kind, &self.subject, output) {
            Ok(found) => found,
            Err(why) => return (false, why),
        };
        let mut wrong = Vec::new();
        let mut right = Vec::new();
        for (attribute, matcher) in &self.shall {
            let value = found.get(attribute).unwrap_or(&Value::Null);
            match matcher.against(value) {
                Ok(()) => right.push(format!("{attribute} is as it shall be")),
                Err(why) => wrong.push(format!("{attribute}: {why}")),
            }
        }
        match wrong.is_empty() {
            true => (true, right.join("\n")),
            false => (false, wrong.join("\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(stdout: &str) -> ExecOutput {
        ExecOutput {
            status: 0,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        }
    }

    #[track_caller]
    fn check(facts: Value, stdout: &str, expected: Result<(), &str>) {
        let facts = parse(&facts).unwrap();
        let (passed, text) = facts[0].judge(&said(stdout));
        match expected {
            Ok(()) => assert!(passed, "{text}"),
            Err(expected) => assert_eq!((passed, text.as_str()), (false, expected)),
        }
    }

    #[track_caller]
    fn check_wrong(facts: Value, expected: &str) {
        assert_eq!(parse(&facts).unwrap_err().0, expected);
    }

    #[test]
    fn things_are_compared_with_what_shall_be_true() {
        let motd = "exists true\nmode 0644\nowner root\nfiletype file\ncontents V2VsY29tZQo=\n";
        let file = |attributes: Value| json!({ "file": { "/etc/motd": attributes } });
        check(
            file(json!({ "exists": true, "mode": "0644", "owner": "root", "filetype": "file" })),
            motd,
            Ok(()),
        );
        check(
            file(json!({ "mode": "0600" })),
            motd,
            Err("mode: it is \"0644\", not \"0600\""),
        );
        check(
            file(json!({ "contents": ["Wel", "/^W.*e$/", "!secret"] })),
            motd,
            Ok(()),
        );
        check(
            file(json!({ "contents": ["nothing"] })),
            motd,
            Err("contents: `nothing` is not found"),
        );
        check(
            file(json!({ "contents": ["!Wel"] })),
            motd,
            Err("contents: `Wel` is found"),
        );
        check(file(json!({ "exists": false })), "exists false\n", Ok(()));
        check(
            json!({ "package": { "chrony": { "installed": true, "versions": ["4.3-2"] } } }),
            "installed 4.3-2\n",
            Ok(()),
        );
        check(
            json!({ "package": { "telnet": { "installed": false } } }),
            "",
            Ok(()),
        );
        check(
            json!({ "service": { "ssh": { "enabled": true, "running": true } } }),
            "enabled\nactive\n",
            Ok(()),
        );
        check(
            json!({ "service": { "ssh": { "running": true } } }),
            "disabled\ninactive\n",
            Err("running: it is false, not true"),
        );
        let user = "bullion:x:1000:1000::/home/bullion:/bin/bash\nbullion sudo\n";
        check(
            json!({ "user": { "bullion": { "uid": { "ge": 1000 }, "shell": "/bin/bash", "groups": { "contain-element": "sudo" } } } }),
            user,
            Ok(()),
        );
        check(
            json!({ "user": { "games": { "exists": false } } }),
            "",
            Ok(()),
        );
        check(
            json!({ "group": { "sudo": { "gid": 27 } } }),
            "sudo:x:27:bullion\n",
            Ok(()),
        );
        check(
            json!({ "command": { "listens": { "exec": "sshd -T", "exit-status": 0, "stdout": ["permitrootlogin no"] } } }),
            "0\ncGVybWl0cm9vdGxvZ2luIG5vCg==\n\n",
            Ok(()),
        );
        check(
            json!({ "kernel-param": { "kernel.kptr_restrict": { "value": "2" } } }),
            "2\n",
            Ok(()),
        );
        check(
            json!({ "process": { "sshd": { "running": true } } }),
            "running\n",
            Ok(()),
        );
    }

    #[test]
    fn ports_are_found_in_what_listens() {
        let listening = "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 128 [::]:22 [::]:*\nLISTEN 0 4 127.0.0.53%lo:53 0.0.0.0:*\n";
        let port = |name: &str, attributes: Value| json!({ "port": { name: attributes } });
        check(
            port("tcp:22", json!({ "listening": true, "ip": ["0.0.0.0"] })),
            listening,
            Ok(()),
        );
        check(
            port("tcp6:22", json!({ "listening": true, "ip": ["::"] })),
            listening,
            Ok(()),
        );
        check(
            port("tcp:53", json!({ "ip": ["127.0.0.53"] })),
            listening,
            Ok(()),
        );
        check(
            port("tcp:80", json!({ "listening": false })),
            listening,
            Ok(()),
        );
    }

    #[test]
    fn a_machine_that_answers_nonsense_fails_the_fact() {
        let facts = parse(&json!({ "file": { "/x": { "exists": true } } })).unwrap();
        assert!(!facts[0].judge(&said("\u{0}")).0);
        let facts = parse(&json!({ "command": { "true": { "exit-status": 0 } } })).unwrap();
        assert!(!facts[0].judge(&said("")).0);
    }

    #[test]
    fn facts_are_checked_before_a_machine_starts() {
        check_wrong(json!([]), "the facts are no object");
        check_wrong(json!({}), "there are 0 facts");
        check_wrong(json!({ "dns": {} }), "facts about `dns` cannot be asked");
        check_wrong(
            json!({ "file": { "etc/x": { "exists": true } } }),
            "file `etc/x` is not an absolute path",
        );
        check_wrong(
            json!({ "port": { "ssh": { "listening": true } } }),
            "`ssh` is not a port",
        );
        check_wrong(
            json!({ "file": { "/x": { "color": 1 } } }),
            "file `/x`: `color` cannot be asked",
        );
        check_wrong(
            json!({ "file": { "/x": {} } }),
            "nothing is said of file `/x`",
        );
        check_wrong(
            json!({ "user": { "x": { "uid": { "near": 1 } } } }),
            "user `x`, uid: `near` is not a way to compare",
        );
        check_wrong(
            json!({ "file": { "/x": { "contents": ["/(/"] } } }),
            "file `/x`, contents: `(` is not a regular expression",
        );
        assert!(
            parse(&json!({ "file": { "/x": { "skip": true }, "/y": { "exists": true } } }))
                .unwrap()
                .len()
                == 1
        );
    }

    #[test]
    fn names_cannot_become_commands() {
        let facts =
            parse(&json!({ "package": { "x'; reboot; '": { "installed": true } } })).unwrap();
        assert!(
            facts[0].command().contains("'x'\\''; reboot; '\\'''"),
            "{}",
            facts[0].command()
        );
    }
}
