//! Reports of test programs in JUnit's form. What is in them is the tenant's: it is only compared and shown.

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::CheckResult;

/// Test functions of one check.
const CASES_MAX: usize = 500;

/// One test function.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    pub name: String,
    pub passed: bool,
    pub output: String,
    pub seconds: f64,
}

impl Case {
    /// The result of a case of a check of this name.
    pub fn result(self, check: &str, kind: &str) -> CheckResult {
        CheckResult {
            name: format!("{check}: {}", self.name),
            kind: kind.to_owned(),
            passed: self.passed,
            output: super::tail(&self.output),
            seconds: self.seconds,
        }
    }
}

/// The cases of a report by `program`, whose end must be what they say.
pub(super) fn settled(xml: &str, failed: bool, program: &str) -> Result<Vec<Case>, String> {
    let cases =
        cases(xml).map_err(|error| format!("what {program} wrote cannot be read: {error}"))?;
    match cases.is_empty() || failed != cases.iter().any(|case| !case.passed) {
        true => Err(format!("what {program} wrote is not what it ended with")),
        false => Ok(cases),
    }
}

/// The cases of a JUnit report. One that was skipped has passed, and says why it was not run.
fn cases(xml: &str) -> Result<Vec<Case>, quick_xml::Error> {
    let mut reader = Reader::from_str(xml);
    let mut cases: Vec<Case> = Vec::new();
    let mut inside = false;
    loop {
        let event = reader.read_event()?;
        let (start, ends) = match &event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::Text(text) => {
                if let (true, Some(case)) = (inside, cases.last_mut()) {
                    case.output.push_str(text);
                }
                continue;
            }
            Event::GeneralRef(reference) => {
                if let (true, Some(case)) = (inside, cases.last_mut()) {
                    case.output.push(character(reference));
                }
                continue;
            }
            Event::End(end) => {
                inside &= !OUTCOMES.contains(&end.local_name().as_ref());
                continue;
            }
            Event::Eof => return Ok(cases),
            _ => continue,
        };
        match start.local_name().as_ref() {
            "testcase" if cases.len() < CASES_MAX => cases.push(Case {
                name: attribute(start, "name"),
                passed: true,
                output: String::new(),
                seconds: attribute(start, "time").parse().unwrap_or_default(),
            }),
            outcome if OUTCOMES.contains(&outcome) => {
                inside = !ends;
                if let Some(case) = cases.last_mut() {
                    case.passed &= outcome == "skipped";
                    case.output.push_str(&attribute(start, "message"));
                    case.output.push('\n');
                }
            }
            _ => {}
        }
    }
}

/// What stands in a case that did not just pass.
const OUTCOMES: [&str; 3] = ["failure", "error", "skipped"];

fn character(reference: &BytesRef<'_>) -> char {
    let known = match reference.resolve_char_ref() {
        Ok(Some(number)) => Some(number),
        _ => resolve_predefined_entity(reference).and_then(|text| text.chars().next()),
    };
    known.unwrap_or('\u{fffd}')
}

fn attribute(start: &BytesStart<'_>, name: &str) -> String {
    let found = start.try_get_attribute(name).ok().flatten();
    let value = found.and_then(|found| {
        Some(
            found
                .normalized_value(XmlVersion::Implicit1_0)
                .ok()?
                .into_owned(),
        )
    });
    value.unwrap_or_default()
}
