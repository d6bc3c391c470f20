//! Scanners look at a finished image's tree: programs of the build environment, in a sandbox without a network, on a layer
//! that is thrown away. What they found is told as it is; what of it counts is for whoever asks.
//!
//! Nothing of the environment gets into the image, and the image's own programs are asked nothing that is believed
//! without the scanner.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use process::Command;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde::{Deserialize, Serialize};
use wire::template::Severity;

use super::block::ParentDisk;
use super::customizer::Customizer;
use super::error::BuildError;
use super::executor::{BuildContext, STEP_PREFIX, Step, TreeExecutor, UPPER};
use super::sandbox::{Bind, Job, Network};

/// Raised whenever the same program would be asked something else.
pub const SCAN_FORMAT: u32 = 1;
const VERSION_DEADLINE: Duration = Duration::from_secs(60);
const RESULT_BYTES_MAX: u64 = 256 << 20;
const CONTENT_BYTES_MAX: u64 = 256 << 20;
/// Rules of one benchmark that are kept.
const RULES_MAX: usize = 10_000;
const TEXT_CHARS_MAX: usize = 300;
const LIBRARIES_MAX: usize = 500;
/// Where the packages `openscap-scanner` and `lynis` put things.
const OSCAP: &str = "oscap";
const OSCAP_DATA: &str = "/usr/share/openscap";
const LYNIS: &str = "lynis";
const LYNIS_DATA: &str = "/usr/share/lynis";
const LYNIS_PROFILE: &str = "/etc/lynis/default.prf";
const OUT: &str = "out";
const RESULT: &str = "result";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// A program and what it is to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanner {
    OpenScap {
        /// A data stream or benchmark, on this machine.
        content: PathBuf,
        profile: String,
    },
    Lynis,
}

/// A rule that the image does not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Broken {
    pub rule: String,
    pub severity: Severity,
    /// What the scanner says of it; may be empty.
    pub text: String,
}

/// All that a scanner found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scanned {
    /// Of 100; none where the scanner gives none.
    pub score: Option<f64>,
    pub passed: usize,
    /// Rules that do not concern this image, or could not be looked at.
    pub not_applicable: usize,
    /// In the order in which they were found, each once.
    pub broken: Vec<Broken>,
}

impl Scanner {
    fn program(&self) -> &'static str {
        match self {
            Scanner::OpenScap { .. } => OSCAP,
            Scanner::Lynis => LYNIS,
        }
    }

    /// The program's name and version, as it says.
    pub async fn version(&self) -> Result<String, BuildError> {
        let argument = match self {
            Scanner::OpenScap { .. } => "--version",
            Scanner::Lynis => "show",
        };
        let mut command = Command::new(self.program()).arg(argument);
        if *self == Scanner::Lynis {
            command = command.arg("version");
        }
        let said = command.deadline(VERSION_DEADLINE).run().await?;
        let text = said.stdout_text();
        let line = text.lines().next().unwrap_or_default().trim();
        Ok(match self {
            Scanner::OpenScap { .. } => line.to_owned(),
            Scanner::Lynis => format!("lynis {line}"),
        })
    }
}

impl TreeExecutor {
    /// Has `scanner` look at the tree of `disk`, which is not changed. Dropping the future kills what runs.
    pub async fn scan(
        &self,
        disk: Arc<ParentDisk>,
        scanner: &Scanner,
        name: &str,
        context: &BuildContext,
    ) -> Result<Scanned, BuildError> {
        self.check()?;
        let folder = tempfile::Builder::new()
            .prefix(STEP_PREFIX)
            .tempdir_in(self.work())
            .map_err(BuildError::file("make a folder in", self.work()))?;
        let place = folder.path();
        let customizer = Customizer::of_scan(name);
        let step = Step {
            executor: self,
            parent: &disk,
            customizer: &customizer,
            context,
            folder: place,
        };
        let script = match scanner {
            Scanner::OpenScap { content, profile } => {
                tool_of_oscap(&place.join("tool")).await?;
                let file = place.join("content/content.xml");
                copy(content, &file, CONTENT_BYTES_MAX)?;
                oscap_script(profile)
            }
            Scanner::Lynis => LYNIS_SCRIPT.to_owned(),
        };
        fs::create_dir_all(place.join(OUT)).map_err(BuildError::file("make", place))?;
        let bind = |source: PathBuf, name: &str| Bind {
            source,
            name: name.to_owned(),
        };
        let job = step.job(&["/bin/sh", "-u", "/run/bullion/script"], Network::None)?;
        let job = job.file("script", script).bind(bind(place.join(OUT), OUT));
        let job = match scanner {
            Scanner::OpenScap { .. } => job
                .bind(bind(place.join("tool"), "tool"))
                .bind(bind(place.join("content"), "content"))
                .bind(bind(OSCAP_DATA.into(), "openscap")),
            Scanner::Lynis => {
                let script = process::find(LYNIS)?;
                let text =
                    |path: &Path| fs::read_to_string(path).map_err(BuildError::file("read", path));
                job.file("lynis.sh", text(&script)?)
                    .file("lynis.prf", text(Path::new(LYNIS_PROFILE))?)
                    .bind(bind(LYNIS_DATA.into(), "lynis"))
            }
        };
        step.sandbox(job, UPPER).await?;
        let result = Job::written_to(place, UPPER, OUT).join(RESULT);
        let length = fs::metadata(&result).map_err(BuildError::file("look at", &result))?;
        if length.len() > RESULT_BYTES_MAX {
            return Err(unreadable(name, "it is too long".to_owned()));
        }
        let text = fs::read(&result).map_err(BuildError::file("read", &result))?;
        match scanner {
            Scanner::OpenScap { .. } => oscap_results(&String::from_utf8_lossy(&text))
                .map_err(|error| unreadable(name, error.to_string())),
            Scanner::Lynis => Ok(lynis_results(&String::from_utf8_lossy(&text))),
        }
    }
}

fn unreadable(name: &str, reason: String) -> BuildError {
    BuildError::BadScan {
        scan: name.to_owned(),
        reason,
    }
}

fn copy(from: &Path, to: &Path, limit: u64) -> Result<(), BuildError> {
    let length = fs::metadata(from).map_err(BuildError::file("look at", from))?;
    if length.len() > limit {
        return Err(unreadable(
            &from.display().to_string(),
            format!("it is larger than {limit} bytes"),
        ));
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(BuildError::file("make", folder))?;
    }
    fs::copy(from, to)
        .map(drop)
        .map_err(BuildError::file("copy", from))
}

/// The program with all that it is linked with, so that it runs where the image has another C library or none.
async fn tool_of_oscap(folder: &Path) -> Result<(), BuildError> {
    let program = process::find(OSCAP)?;
    let listed = Command::new("ldd")
        .arg(&program)
        .deadline(VERSION_DEADLINE)
        .run()
        .await?;
    copy(&program, &folder.join(OSCAP), CONTENT_BYTES_MAX)?;
    for path in libraries(&listed.stdout_text())
        .into_iter()
        .take(LIBRARIES_MAX)
    {
        let name = path.file_name().unwrap_or_default();
        copy(&path, &folder.join(name), CONTENT_BYTES_MAX)?;
    }
    Ok(())
}

/// Paths in what `ldd` says.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let words = listed.lines().filter_map(|line| {
        let line = line.trim();
        let (_, path) = line.split_once(" => ").unwrap_or(("", line));
        path.split_whitespace().next()
    });
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// It ends with 2 where a rule is broken. With a root to look below it takes the system for one that does not run; else it
/// asks for network cards, of which there are none here. That root must not be `/` alone, below which it finds nothing. Profiles are checked before: nothing in their names means something to a shell.
fn oscap_script(profile: &str) -> String {
    let profile = match profile {
        "" => String::new(),
        named => format!("--profile '{named}' "),
    };
    format!(
        "export OSCAP_SCHEMA_PATH=/run/bullion/openscap/schemas OSCAP_XSLT_PATH=/run/bullion/openscap/xsl\n\
         export OSCAP_CPE_PATH=/run/bullion/openscap/cpe\n\
         export OSCAP_PROBE_ROOT=/.\n\
         cd /run/bullion/tool\n\
         ./{LOADER} --library-path /run/bullion/tool ./{OSCAP} xccdf eval {profile}--results /run/bullion/{OUT}/{RESULT} \
         /run/bullion/content/content.xml\n\
         status=$?\n\
         [ $status -eq 2 ] || exit $status\n"
    )
}

/// It ends with 78 where it has warnings. `include` and `db` are found where it stands, and `plugins`, which it wants even
/// where it is to use none.
const LYNIS_SCRIPT: &str = "cd /run/bullion/lynis
mkdir -p plugins
/bin/sh ../lynis.sh audit system --quick --quiet --no-colors --no-plugins --profile /run/bullion/lynis.prf \
--logfile /run/bullion/log/lynis.log --report-file /run/bullion/out/result > /run/bullion/log/lynis.out 2>&1
status=$?
if [ $status -ne 0 ] && [ $status -ne 78 ]; then tail -n 20 /run/bullion/log/lynis.out; exit $status; fi
exit 0
";

fn lynis_results(report: &str) -> Scanned {
    let mut scanned = Scanned {
        score: None,
        passed: 0,
        not_applicable: 0,
        broken: Vec::new(),
    };
    let list = |value: &str| value.split('|').filter(|id| !id.is_empty()).count();
    let mut executed = 0;
    for line in report.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let severity = match key {
            "warning[]" => Severity::High,
            "suggestion[]" => Severity::Low,
            "hardening_index" => {
                scanned.score = value.parse().ok();
                continue;
            }
            "tests_executed" => {
                executed = list(value);
                continue;
            }
            "tests_skipped" => {
                scanned.not_applicable = list(value);
                continue;
            }
            _ => continue,
        };
        let mut fields = value.split('|');
        let rule = fields.next().unwrap_or_default().to_owned();
        let known = scanned.broken.iter().any(|one| one.rule == rule);
        if rule.is_empty() || known || scanned.broken.len() == RULES_MAX {
            continue;
        }
        scanned.broken.push(Broken {
            rule,
            severity,
            text: shortened(fields.next().unwrap_or_default()),
        });
    }
    scanned.passed = executed.saturating_sub(scanned.broken.len());
    scanned
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// The rules and the score in an XCCDF result.
fn oscap_results(xml: &str) -> Result<Scanned, quick_xml::Error> {
    let mut reader = Reader::from_str(xml);
    reader.config_mut().trim_text(true);
    let mut scanned = Scanned {
        score: None,
        passed: 0,
        not_applicable: 0,
        broken: Vec::new(),
    };
    let mut titles: BTreeMap<String, String> = BTreeMap::new();
    let (mut rule, mut result): (Option<String>, Option<(String, Severity)>) = (None, None);
    let mut inside = String::new();
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                inside = start.local_name().as_ref().to_owned();
                match inside.as_str() {
                    "Rule" => rule = attribute(&start, "id"),
                    "rule-result" => {
                        let severity = attribute(&start, "severity");
                        let id = attribute(&start, "idref").unwrap_or_default();
                        result = Some((id, severity_of(severity.as_deref())));
                    }
                    _ => {}
                }
            }
            Event::Text(text) => {
                let text = text.to_string();
                match (inside.as_str(), &rule, &result) {
                    ("title", Some(rule), _) if titles.len() < RULES_MAX => {
                        titles.entry(rule.clone()).or_insert(shortened(&text));
                    }
                    ("score", ..) => scanned.score = text.parse().ok(),
                    ("result", _, Some((id, severity))) => match text.as_str() {
                        "pass" | "fixed" => scanned.passed += 1,
                        "notselected" => {}
                        "fail" | "error" if scanned.broken.len() < RULES_MAX => {
                            scanned.broken.push(Broken {
                                rule: id.clone(),
                                severity: *severity,
                                text: titles.get(id).cloned().unwrap_or_default(),
                            });
                        }
                        _ => scanned.not_applicable += 1,
                    },
                    _ => {}
                }
            }
            Event::End(end) => {
                match end.local_name().as_ref() {
                    "Rule" => rule = None,
                    "rule-result" => result = None,
                    _ => {}
                }
                inside.clear();
            }
            Event::Eof => return Ok(scanned),
            _ => {}
        }
    }
}

fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = start.try_get_attribute(name).ok().flatten()?;
    Some(found.value.into_owned())
}

/// What a benchmark says nothing of is taken for serious enough.
fn severity_of(said: Option<&str>) -> Severity {
    match said {
        Some("info" | "low") => Severity::Low,
        Some("high") => Severity::High,
        _ => Severity::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xccdf_result_is_read() {
        let xml = r#"<?xml version="1.0"?><Benchmark xmlns="http://checklists.nist.gov/xccdf/1.2">
            <Rule id="r1" severity="high"><title>No root login</title></Rule>
            <Rule id="r2"><title>A <b>bold</b> one</title></Rule>
            <TestResult id="t"><rule-result idref="r1" severity="high"><result>fail</result></rule-result>
            <rule-result idref="r2"><result>pass</result></rule-result>
            <rule-result idref="r5"><result>notselected</result></rule-result>
            <rule-result idref="r3" severity="low"><result>notapplicable</result></rule-result>
            <rule-result idref="r4" severity="unknown"><result>error</result><message>x</message></rule-result>
            <score system="urn:xccdf:scoring:default" maximum="100.000000">50.500000</score></TestResult></Benchmark>"#;
        let found = oscap_results(xml).unwrap();
        let broken = |rule: &str, severity, text: &str| Broken {
            rule: rule.into(),
            severity,
            text: text.into(),
        };
        assert_eq!(
            found,
            Scanned {
                score: Some(50.5),
                passed: 1,
                not_applicable: 1,
                broken: vec![
                    broken("r1", Severity::High, "No root login"),
                    broken("r4", Severity::Medium, ""),
                ],
            }
        );
        assert!(oscap_results("<a><b></a>").is_err());
    }

    #[test]
    fn a_lynis_report_is_read() {
        let report = "# Lynis Report\nlynis_version=3.0.8\nwarning[]=PKGS-7392|Found vulnerable packages|-|-|\n\
            suggestion[]=AUTH-9286|Minimum age|-|-|\nsuggestion[]=AUTH-9286|Maximum age|-|-|\nhardening_index=61\n\
            tests_executed=A|B|PKGS-7392|AUTH-9286|\ntests_skipped=X|\n";
        let found = lynis_results(report);
        assert_eq!(
            (found.score, found.passed, found.not_applicable),
            (Some(61.0), 2, 1)
        );
        let rules: Vec<_> = found
            .broken
            .iter()
            .map(|one| (&*one.rule, one.severity))
            .collect();
        assert_eq!(
            rules,
            [("PKGS-7392", Severity::High), ("AUTH-9286", Severity::Low)]
        );
        assert_eq!(lynis_results("").broken, []);
    }

    #[test]
    fn what_a_program_is_linked_with_is_found() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n\
            \tlibx.so => not found\n";
        let found = libraries(listed);
        assert_eq!(
            found,
            [
                Path::new("/lib/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }
}
