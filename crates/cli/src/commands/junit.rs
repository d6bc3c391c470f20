//! The checks of a run as JUnit XML, for whatever shows the results of tests. It judges nothing: what passed is
//! what the server says has passed.

use camino::Utf8Path;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use serde_json::Value;
use wire::factory::{RunProperties, RunStep, StepState};

use crate::error::CliError;

/// Writes the file as a whole, or leaves what was there.
pub fn write(path: &Utf8Path, run: &str, properties: &RunProperties) -> Result<(), CliError> {
    let failed = |source| CliError::WriteFile {
        path: path.to_owned(),
        source,
    };
    let text = report(run, properties).map_err(failed)?;
    // Beside the file and under its name at once, so that nobody reads half of it.
    let beside = path.with_file_name(format!(
        ".{}.{}",
        path.file_name().unwrap_or("junit"),
        std::process::id()
    ));
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        drop(std::fs::remove_file(&beside));
        failed(error)
    })
}

/// One suite for each step that made checks, and one for a step that failed without getting to any.
fn report(run: &str, properties: &RunProperties) -> std::io::Result<Vec<u8>> {
    let steps = properties.steps.iter();
    let told: Vec<&RunStep> = steps
        .filter(|step| !checks(step).is_empty() || step.state == StepState::Failed)
        .collect();
    let count = |of: fn(&RunStep) -> usize| told.iter().map(|step| of(step)).sum::<usize>();
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("testsuites")
        .with_attribute(("name", run))
        .with_attribute(("tests", count(tests).to_string().as_str()))
        .with_attribute(("failures", count(failures).to_string().as_str()))
        .with_attribute(("errors", count(errors).to_string().as_str()))
        .write_inner_content(|writer| told.iter().try_for_each(|step| suite(writer, step)))?;
    let mut text = writer.into_inner();
    text.push(b'\n');
    Ok(text)
}

fn checks(step: &RunStep) -> &[Value] {
    step.detail["checks"].as_array().map_or(&[], Vec::as_slice)
}

fn tests(step: &RunStep) -> usize {
    checks(step).len() + errors(step)
}

fn failures(step: &RunStep) -> usize {
    let checks = checks(step).iter();
    checks.filter(|check| check["passed"] != true).count()
}

/// A step that failed, and no check of it did: it never got to them, or to the last of them.
fn errors(step: &RunStep) -> usize {
    usize::from(step.state == StepState::Failed && failures(step) == 0)
}

fn suite(writer: &mut Writer<Vec<u8>>, step: &RunStep) -> std::io::Result<()> {
    let name = format!("{}.{}", step.stage.as_str(), step.name);
    let suite = writer
        .create_element("testsuite")
        .with_attribute(("name", name.as_str()))
        .with_attribute(("tests", tests(step).to_string().as_str()))
        .with_attribute(("failures", failures(step).to_string().as_str()))
        .with_attribute(("errors", errors(step).to_string().as_str()));
    let suite = match (&step.start_time, step.seconds) {
        (Some(start), Some(seconds)) => suite
            .with_attribute(("timestamp", start.as_str()))
            .with_attribute(("time", format!("{seconds:.3}").as_str())),
        _ => suite,
    };
    suite.write_inner_content(|writer| {
        for check in checks(step) {
            case(writer, &name, check)?;
        }
        if errors(step) > 0 {
            broken(writer, &name, step)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn case(writer: &mut Writer<Vec<u8>>, class: &str, check: &Value) -> std::io::Result<()> {
    let output = shown(check["output"].as_str().unwrap_or_default());
    let name = shown(check["name"].as_str().unwrap_or("?"));
    let case = writer
        .create_element("testcase")
        .with_attribute(("classname", class))
        .with_attribute(("name", name.as_str()));
    let case = match check["seconds"].as_f64() {
        Some(seconds) => case.with_attribute(("time", format!("{seconds:.3}").as_str())),
        None => case,
    };
    case.write_inner_content(|writer| {
        let element = match check["passed"] == true {
            true => writer.create_element("system-out"),
            false => writer
                .create_element("failure")
                .with_attribute(("message", "the check did not pass")),
        };
        element
            .write_text_content(BytesText::new(&output))
            .map(drop)
    })?;
    Ok(())
}

fn broken(writer: &mut Writer<Vec<u8>>, class: &str, step: &RunStep) -> std::io::Result<()> {
    writer
        .create_element("testcase")
        .with_attribute(("classname", class))
        .with_attribute(("name", step.name.as_str()))
        .write_inner_content(|writer| {
            writer
                .create_element("error")
                .with_attribute(("message", "the step failed"))
                .write_text_content(BytesText::new(&shown(&step.message)))
                .map(drop)
        })?;
    Ok(())
}

/// Without what XML cannot hold, even escaped: a machine's output may be anything.
fn shown(text: &str) -> String {
    let allowed = |c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().filter(allowed).collect()
}
