//! Scanners look at the finished disk before it is booted; what of their findings counts is the template's to say. What
//! was found is kept with the run and, signed, with the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jobs::{JobError, StepError, StepHandle, step_key};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;
use wire::compute::ScanFacts;
use wire::factory::Stage;
use wire::template::{RuleVerdict, ScanLimits, Validator};

use super::prove::Tattooed;
use super::recipe::Executor;
use super::run::{Named, Run};
use super::stages::{BoxFuture, Cx, Resolved, checkout_failed};
use super::steps::{Shown, failed, log_lines};
use crate::build::{Broken, BuildContext, ParentDisk, SCANNER_FORMAT, Scanned, Scanner};
use crate::factory::Factory;
use crate::fetch;
use crate::test::CheckResult;

/// Where content for OpenSCAP is looked for after the data folder's own: Debian's package has it there.
const CONTENT_FOLDER: &str = "/usr/share/xml/scap/ssg/content";
const OWN_CONTENT: &str = "scap";
/// Rules of one scan that are shown one by one.
const SHOWN_MAX: usize = 200;
const FAILED: &str = "ValidationFailed";

/// What one scanner said of the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScanReport {
    pub name: String,
    pub kind: String,
    /// The program, with its version.
    pub scanner: String,
    #[serde(flatten)]
    pub found: Scanned,
    /// One for the whole, and one for each broken rule that counts.
    pub checks: Vec<CheckResult>,
}

impl ScanReport {
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// As the version shows it.
    pub fn facts(&self) -> ScanFacts {
        ScanFacts {
            name: self.name.clone(),
            scanner: self.scanner.clone(),
            score: self.found.score,
            passed_rules: self.found.passed,
            broken_rules: self.found.broken.len(),
            not_applicable_rules: self.found.not_applicable,
        }
    }

    fn failures(&self) -> String {
        let failed = self.checks.iter().filter(|check| !check.passed);
        let texts = failed.map(|check| {
            let lines = check.output.lines();
            let output: String = lines.flat_map(|line| ["\n  | ", line]).collect();
            format!("`{}` ({}) failed{output}", check.name, check.kind)
        });
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// What a step of a scanner is called.
pub(super) fn scan_name(validator: &Validator) -> String {
    let name = match validator.name() {
        "" => validator.kind(),
        name => name,
    };
    format!("scan {name}")
}

fn limits(validator: &Validator) -> Option<&ScanLimits> {
    match validator {
        Validator::OpenScap { limits, .. } | Validator::Lynis { limits, .. } => Some(limits),
        _ => None,
    }
}

/// The program that a validator asks for, and the SHA-256 of what it goes by.
fn scanner(factory: &Factory, validator: &Validator) -> Result<(Scanner, String), StepError> {
    let Validator::OpenScap {
        content, profile, ..
    } = validator
    else {
        return Ok((Scanner::Lynis, String::new()));
    };
    let places = [
        factory.data.join(OWN_CONTENT),
        PathBuf::from(CONTENT_FOLDER),
    ];
    let found = places.iter().map(|place| place.join(content));
    let path = found.clone().find(|path| path.is_file()).ok_or_else(|| {
        let looked: Vec<String> = found.map(|path| path.display().to_string()).collect();
        let message = format!(
            "the server has no `{content}` for OpenSCAP; it looked for {}",
            looked.join(" and ")
        );
        StepError::failed("ScanFailed", message)
    })?;
    let sha256 = fetch::sha256_of(&path).map_err(|error| failed("ScanFailed", &error))?;
    let scanner = Scanner::OpenScap {
        content: path,
        profile: profile.clone(),
    };
    Ok((scanner, sha256))
}

impl Run {
    /// Has every scanner of the template look at the disk.
    pub(super) async fn scanners(
        &mut self,
        cx: &mut Cx,
        resolved: &Resolved,
        home: &Arc<Store>,
        tattooed: &Tattooed,
    ) -> Result<Vec<ScanReport>, JobError> {
        let mut reports = Vec::new();
        for validator in self.recipe.validators.clone() {
            let Some(limits) = limits(&validator).cloned() else {
                continue;
            };
            if !resolved.is_built() || resolved.source.executor != Executor::Tree {
                let message = format!(
                    "`{}` mounts the disk, and the host's kernel mounts no disk that was brought here or that a machine \
                     wrote; take it out of the template, or run the scanner in a Shell check",
                    scan_name(&validator)
                );
                return Err(StepError::failed("ScanFailed", message).into());
            }
            let (scanner, content) = scanner(&self.factory, &validator)?;
            let version = self.factory.builder.scanner_version(&scanner).await;
            let version = version.map_err(|error| failed("ScanFailed", &error))?;
            let digest = tattooed.disk.digest;
            let inputs = (digest, &validator, &content, &version);
            let key = step_key("scanner", SCANNER_FORMAT, &inputs);
            let name = scan_name(&validator);
            let work = Look {
                factory: Arc::clone(&self.factory),
                store: Arc::clone(home),
                digest,
                scanner,
                version,
                kind: validator.kind(),
                name: name.clone(),
                limits,
                epoch: resolved.source.epoch,
                deadline: self.time_left(cx.clock().now()),
            };
            let action = move |handle: StepHandle, shown: Shown| work.run(handle, shown);
            let named = Named::pure(Stage::Test, &name, key);
            reports.push(self.step(cx, named, ScanReport::passed, action).await?);
        }
        Ok(reports)
    }
}

/// One scanner on one disk.
struct Look {
    factory: Arc<Factory>,
    store: Arc<Store>,
    digest: disk::DiskDigest,
    scanner: Scanner,
    version: String,
    kind: &'static str,
    name: String,
    limits: ScanLimits,
    epoch: i64,
    deadline: std::time::Duration,
}

impl Look {
    fn run(self, handle: StepHandle, shown: Shown) -> BoxFuture<ScanReport> {
        Box::pin(async move {
            let began = Instant::now();
            handle.log(format!("{} looks at the disk", self.version));
            let disk = self.factory.disks.checkout(&self.store, self.digest).await;
            let disk = disk.map_err(|error| checkout_failed(&error))?;
            let opened = ParentDisk::open(disk.path());
            let opened = Arc::new(opened.map_err(|error| failed("ScanFailed", &error))?);
            let context = BuildContext {
                epoch: self.epoch,
                apt: None,
                secrets: Vec::new(),
                deadline: self.deadline,
                on_line: log_lines(&handle),
                keep: None,
            };
            let builder = &self.factory.builder;
            let found = builder.scan(opened, &self.scanner, &self.name, &context);
            let found = found.await.map_err(|error| failed("ScanFailed", &error))?;
            drop(disk);
            let report = self.judge(found, began.elapsed().as_secs_f64());
            handle.log(report.checks[0].output.lines().next().unwrap_or_default());
            shown.set(json!(report));
            if report.passed() {
                return Ok(report);
            }
            Err(StepError::failed(FAILED, report.failures()))
        })
    }

    fn counts(&self, broken: &Broken) -> bool {
        match self.limits.rules.get(&broken.rule) {
            Some(RuleVerdict::Fail) => true,
            Some(RuleVerdict::Warn) => false,
            None => broken.severity >= self.limits.fails_from,
        }
    }

    fn judge(&self, found: Scanned, seconds: f64) -> ScanReport {
        let counting = found.broken.iter().filter(|one| self.counts(one)).count();
        let enough = self
            .limits
            .min_score
            .is_none_or(|least| found.score.is_some_and(|score| score >= least));
        let score = found.score.map_or_else(
            || "no score".to_owned(),
            |score| format!("score {score:.1}"),
        );
        let mut lines = vec![format!(
            "{score}; {} rules kept, {} broken of which {counting} count, {} not applicable",
            found.passed,
            found.broken.len(),
            found.not_applicable
        )];
        if !enough {
            let least = self.limits.min_score.unwrap_or_default();
            lines.push(format!("the score is below {least:.1}"));
        }
        let told = |one: &Broken| format!("{:?} {} {}", one.severity, one.rule, one.text);
        let others = found.broken.iter().filter(|one| !self.counts(one));
        lines.extend(
            others
                .take(SHOWN_MAX)
                .map(|one| format!("told: {}", told(one))),
        );
        let check = |name: String, passed, output| CheckResult {
            name,
            kind: self.kind.to_owned(),
            passed,
            output,
            seconds: 0.0,
        };
        let mut checks = vec![CheckResult {
            seconds,
            ..check(self.name.clone(), counting == 0 && enough, lines.join("\n"))
        }];
        let counted = found.broken.iter().filter(|one| self.counts(one));
        let one_each = counted.take(SHOWN_MAX);
        checks.extend(
            one_each.map(|one| check(format!("{}: {}", self.name, one.rule), false, told(one))),
        );
        ScanReport {
            name: self.name.clone(),
            kind: self.kind.to_owned(),
            scanner: self.version.clone(),
            found,
            checks,
        }
    }
}
