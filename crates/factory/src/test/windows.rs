//! Checks in a Windows: scripts of PowerShell that its agent runs as SYSTEM, and tests for Pester. Pure; what the guest
//! answers is only read and compared.

use base64::Engine;
use machine::ExecOutput;
use wire::template::Validator;

use super::CheckResult;
use super::junit::{self, Case};
use crate::tattoo::{TATTOO_KEY, Tattoo};

/// What Pester's script ends with where nothing was tested.
const NO_PESTER: u32 = 3;
const NOTHING_RUN: u32 = 4;
const REPORT_TOO_LONG: u32 = 5;
/// What is left of an answer's megabyte once it is base64.
const REPORT_BYTES_MAX: usize = 700 << 10;

const TATTOO: &str = r#"$ErrorActionPreference = 'Stop'
$key = Get-Item -LiteralPath 'Registry::@KEY@'
$lines = foreach ($name in $key.GetValueNames()) { '{0}={1}' -f $name, $key.GetValue($name) }
$text = $lines -join "`n"
[Console]::Out.Write([Convert]::ToBase64String([System.Text.Encoding]::UTF8.GetBytes($text)))
"#;

/// The module is asked for by its number, because Windows itself brings Pester 3, which knows none of this.
const PESTER: &str = r#"$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$found = Get-Module -ListAvailable -Name Pester | Where-Object { $_.Version.Major -ge 5 } |
    Sort-Object -Property Version -Descending | Select-Object -First 1
if (-not $found) { exit 3 }
Import-Module -Name $found.Path -Force
$folder = Join-Path $env:SystemDrive 'bullion-agent\pester'
Remove-Item -LiteralPath $folder -Recurse -Force -ErrorAction SilentlyContinue
[void][System.IO.Directory]::CreateDirectory($folder)
$tests = Join-Path $folder 'Image.Tests.ps1'
$report = Join-Path $folder 'report.xml'
[System.IO.File]::WriteAllBytes($tests, [Convert]::FromBase64String('@TESTS@'))
$settings = [PesterConfiguration]::Default
$settings.Run.Path = $tests
$settings.Run.PassThru = $true
$settings.Run.Exit = $false
$settings.Output.Verbosity = 'None'
$settings.TestResult.Enabled = $true
$settings.TestResult.OutputFormat = 'JUnitXml'
$settings.TestResult.OutputPath = $report
$result = Invoke-Pester -Configuration $settings 3>$null 4>$null 5>$null 6>$null | Select-Object -Last 1
$broken = @($result.Containers | Where-Object { $_.ErrorRecord } | ForEach-Object { $_.ErrorRecord })
if ($broken.Count -gt 0 -or -not (Test-Path -LiteralPath $report)) {
    $broken | ForEach-Object { [Console]::Error.WriteLine("$_") }
    exit 4
}
$bytes = [System.IO.File]::ReadAllBytes($report)
if ($bytes.Length -gt @MAX@) { exit 5 }
[Console]::Out.Write([Convert]::ToBase64String($bytes))
if ($result.FailedCount -gt 0) { exit 1 }
exit 0
"#;

fn encoded(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decoded(text: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim());
    String::from_utf8(bytes.ok()?).ok()
}

/// What is run; nothing for a check that is not for a Windows.
pub(super) fn script(validator: &Validator) -> Option<String> {
    match validator {
        Validator::PowerShell { inline, .. } => Some(inline.join("\r\n") + "\r\n"),
        Validator::Tattoo { .. } => Some(TATTOO.replace("@KEY@", TATTOO_KEY)),
        Validator::Pester { inline, .. } => {
            let tests = ["\u{feff}", &inline.join("\r\n"), "\r\n"].concat();
            let script = PESTER.replace("@TESTS@", &encoded(tests.as_bytes()));
            Some(script.replace("@MAX@", &REPORT_BYTES_MAX.to_string()))
        }
        _ => None,
    }
}

/// The results of a check that took this long: one, or of tests one for each.
pub(super) fn results(
    validator: &Validator,
    output: &ExecOutput,
    tattoo: &Tattoo,
    seconds: f64,
) -> Vec<CheckResult> {
    let (name, kind) = (super::name(validator), validator.kind());
    let (passed, text) = match validator {
        Validator::Pester { .. } => match cases(output) {
            Ok(cases) => {
                let cases = cases.into_iter();
                return cases.map(|case| case.result(name, kind)).collect();
            }
            Err(why) => (false, why),
        },
        Validator::Tattoo { .. } if output.success() => match decoded(&output.stdout) {
            Some(text) => compare(&text, tattoo),
            None => (false, "the guest answered what is no record".to_owned()),
        },
        Validator::PowerShell {
            valid_exit_codes, ..
        } => {
            let code = output.status as i32;
            let passed = match &valid_exit_codes[..] {
                [] => code == 0,
                codes => codes.contains(&code),
            };
            (passed, said(output))
        }
        _ => (output.success(), said(output)),
    };
    vec![CheckResult {
        name: name.to_owned(),
        kind: kind.to_owned(),
        passed,
        output: super::tail(&text),
        seconds,
    }]
}

fn said(output: &ExecOutput) -> String {
    let text = format!("{}{}", output.stdout, output.stderr).replace('\r', "");
    match output.status as i32 {
        0 => text,
        code => format!("{}\nexit code {code}", text.trim_end()),
    }
}

/// The values of the key have no order; each line must be one of the record, and none may be missing.
fn compare(found: &str, tattoo: &Tattoo) -> (bool, String) {
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines
            .iter()
            .flat_map(|line| [*line, "\n"])
            .collect::<String>()
    };
    match tattoo.render() {
        Ok(expected) => {
            super::checks::compare_texts(TATTOO_KEY, &sorted(found), &sorted(&expected))
        }
        Err(error) => (false, error.to_string()),
    }
}

fn cases(output: &ExecOutput) -> Result<Vec<Case>, String> {
    match output.status {
        0 | 1 => {}
        NO_PESTER => {
            return Err(
                "the image has no Pester 5 or later: Windows brings version 3 alone. Put the module into \
                 C:\\Program Files\\WindowsPowerShell\\Modules by customizers"
                    .to_owned(),
            );
        }
        NOTHING_RUN => return Err(format!("Pester ran no test\n{}", output.stderr.trim())),
        REPORT_TOO_LONG => {
            return Err(format!(
                "Pester's report has more than {REPORT_BYTES_MAX} bytes; make several checks of it"
            ));
        }
        _ => return Err(format!("Pester ran no test\n{}", said(output))),
    }
    let report = decoded(&output.stdout).ok_or("what Pester wrote cannot be read")?;
    junit::settled(
        report.trim_start_matches('\u{feff}'),
        output.status == 1,
        "Pester",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: i32, stdout: &str, stderr: &str) -> ExecOutput {
        ExecOutput {
            status: status as u32,
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    fn pester(output: &ExecOutput) -> Vec<CheckResult> {
        let validator = Validator::Pester {
            name: "image".to_owned(),
            inline: vec!["Describe 'x' { }".to_owned()],
            script_uri: None,
            sha256_checksum: String::new(),
        };
        results(&validator, output, &Tattoo::default(), 1.0)
    }

    /// As Pester 5 writes one.
    const REPORT: &str = r#"<?xml version="1.0" encoding="utf-8" standalone="no"?>
<testsuites xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" name="Pester" tests="3" errors="0" failures="1" disabled="1" time="0.5">
  <testsuite name="C:\bullion-agent\pester\Image.Tests.ps1" tests="3" errors="0" failures="1" skipped="1" id="0" package="x" time="0.5">
    <properties><property name="os-version" value="10.0.20348" /></properties>
    <testcase name="IIS.is installed" status="Passed" classname="x" assertions="0" time="0.2" />
    <testcase name="IIS.answers" status="Failed" classname="x" assertions="0" time="0.1">
      <failure message="Expected 200, but got 503.">at &lt;ScriptBlock&gt;</failure>
    </testcase>
    <testcase name="IIS.later" status="Skipped" classname="x" assertions="0" time="0"><skipped message="" /></testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn every_test_of_pester_is_a_result() {
        let report = encoded(REPORT.as_bytes());
        let found = pester(&answer(1, &report, ""));
        let seen: Vec<(&str, bool)> = found
            .iter()
            .map(|check| (&*check.name, check.passed))
            .collect();
        assert_eq!(
            seen,
            [
                ("image: IIS.is installed", true),
                ("image: IIS.answers", false),
                ("image: IIS.later", true)
            ]
        );
        let output = &found[1].output;
        assert!(output.contains("got 503.\nat <ScriptBlock>"), "{output}");
    }

    #[test]
    fn a_report_that_is_missing_forged_or_huge_is_a_failure() {
        let check = |output: &ExecOutput, expected: &str| {
            let found = pester(output);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert!(
                !found[0].passed && found[0].output.contains(expected),
                "{found:#?}"
            );
        };
        check(&answer(0, "", ""), "is not what it ended with");
        check(&answer(0, "not base64 at all!", ""), "cannot be read");
        check(&answer(0, &encoded(b"<a>"), ""), "what Pester wrote");
        // It says that it passed, and holds a failure; and the other way round.
        check(
            &answer(0, &encoded(REPORT.as_bytes()), ""),
            "not what it ended with",
        );
        let good = "<testsuites><testcase name='a'/></testsuites>";
        check(
            &answer(1, &encoded(good.as_bytes()), ""),
            "not what it ended with",
        );
        check(&answer(3, "", ""), "no Pester 5 or later");
        check(
            &answer(4, "", "Unexpected token\r\n"),
            "ran no test\nUnexpected token",
        );
        check(&answer(5, "", ""), "more than 716800 bytes");
        check(
            &answer(-1, "", "stack overflow"),
            "stack overflow\nexit code -1",
        );
    }

    #[test]
    fn exit_codes_are_the_template_s_to_allow() {
        let check = |codes: &[i32], code: i32, passed: bool| {
            let validator = Validator::PowerShell {
                name: "p".to_owned(),
                inline: vec!["dir".to_owned()],
                script_uri: None,
                sha256_checksum: String::new(),
                run_elevated: false,
                run_as_system: false,
                valid_exit_codes: codes.to_vec(),
            };
            let output = answer(code, "said\r\n", "");
            let found = results(&validator, &output, &Tattoo::default(), 1.0);
            assert_eq!(found[0].passed, passed, "{found:#?}");
            assert!(found[0].output.starts_with("said\n"), "{found:#?}");
        };
        check(&[], 0, true);
        check(&[], 3010, false);
        check(&[0, 3010], 3010, true);
        check(&[3010], 0, false);
        check(&[-1], -1, true);
    }

    #[test]
    fn the_record_is_compared_whatever_its_order() {
        let tattoo = Tattoo {
            image_version: "1.0.0".to_owned(),
            os_version: "Windows Server – 2022".to_owned(),
            ..Tattoo::default()
        };
        let validator = Validator::Tattoo {
            name: String::new(),
        };
        let check = |text: String, passed: bool, told: &str| {
            let output = answer(0, &encoded(text.as_bytes()), "");
            let found = results(&validator, &output, &tattoo, 1.0);
            assert_eq!(found[0].passed, passed, "{found:#?}");
            assert!(found[0].output.contains(told), "{found:#?}");
        };
        let text = tattoo.render().unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.reverse();
        check(lines.join("\n"), true, "image.version=1.0.0");
        check(lines[1..].join("\n"), false, "- parent.digest=");
        check(
            format!("{text}extra=1"),
            false,
            "HKEY_LOCAL_MACHINE\\SOFTWARE\\Bullion\\Image differs from the record:\n+ extra=1",
        );
    }
}
