//! Customizers inside a running Windows: scripts of PowerShell that its agent runs as SYSTEM. What the scripts do is here;
//! how they get in is `machine`'s. Whatever a template says is given to a script as base64, so that no character of it means
//! anything on the way.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use machine::{Accel, ExecOutput, Guest, MachineError, MediaFile};
use sha2::{Digest, Sha256};

use super::customizer::{Action, Customizer, FileContent};
use super::error::BuildError;
use super::executor::BuildContext;
use super::secrets::Redacted;
use super::windows_action::WindowsAction;

const TAIL_LINES_MAX: usize = 40;
/// Of searches and installations by one customizer, each with a restart: some updates show up behind others.
const UPDATE_ROUNDS_MAX: usize = 20;
/// Windows works on updates while it goes down and comes up.
const UPDATE_RESTART: Duration = Duration::from_secs(60 * 60);
const RESTART: &str = "& \"$env:SystemRoot\\System32\\shutdown.exe\" /r /f /t 0";
const SYSPREP: Duration = Duration::from_secs(2 * 60 * 60);
/// Between two checks whether a restart is over.
const CHECK_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 5000 });
/// What an emulated processor takes for what a template gives a real one time for.
const EMULATED_FACTOR: u32 = 6;
/// What the script of updates ends with when it wants to run again.
const AGAIN: u32 = 101;

const FILE: &str = r#"$ErrorActionPreference = 'Stop'
$to = Text '@TO@'
[void][System.IO.Directory]::CreateDirectory((Split-Path -Parent $to))
Copy-Item -LiteralPath (Join-Path $env:BULLION_MEDIUM '@NAME@') -Destination $to -Force
Set-ItemProperty -LiteralPath $to -Name IsReadOnly -Value $false
$hash = (Get-FileHash -LiteralPath $to -Algorithm SHA256).Hash
if ($hash -ne '@SHA256@') { throw "$to has SHA-256 $hash" }
"#;

const UPDATE: &str = r#"$ErrorActionPreference = 'Stop'
$rules = foreach ($filter in @(@FILTERS@)) {
    $action, $expression = $filter.Split(':', 2)
    [pscustomobject]@{ Include = ($action -eq 'include'); Test = [scriptblock]::Create($expression) }
}
function Test-Wanted($update) {
    foreach ($rule in $rules) {
        if ($update | Where-Object -FilterScript $rule.Test) { return $rule.Include }
    }
    return $false
}
if ((New-Object -ComObject Microsoft.Update.SystemInfo).RebootRequired) {
    'Windows waits for a restart'
    exit 101
}
$session = New-Object -ComObject Microsoft.Update.Session
$session.ClientApplicationID = 'Bullion'
$found = $session.CreateUpdateSearcher().Search((Text '@CRITERIA@')).Updates
$chosen = New-Object -ComObject Microsoft.Update.UpdateColl
foreach ($update in $found) {
    if (-not (Test-Wanted $update)) { continue }
    if ($update.InstallationBehavior.CanRequestUserInput) {
        "left out, because it asks questions: $($update.Title)"
        continue
    }
    if ($chosen.Count -ge @LIMIT@) { break }
    if (-not $update.EulaAccepted) { $update.AcceptEula() }
    [void]$chosen.Add($update)
}
if ($chosen.Count -eq 0) {
    'there is nothing to install'
    exit 0
}
$loader = $session.CreateUpdateDownloader()
$loader.Updates = $chosen
$loaded = $loader.Download()
if (2, 3 -notcontains $loaded.ResultCode) { throw "the download ended with result $($loaded.ResultCode)" }
$installer = $session.CreateUpdateInstaller()
$installer.Updates = $chosen
$done = $installer.Install()
$good = 0
for ($index = 0; $index -lt $chosen.Count; $index += 1) {
    $result = $done.GetUpdateResult($index)
    if (2, 3 -contains $result.ResultCode) { $good += 1 }
    'result {0} (0x{1:x8}): {2}' -f $result.ResultCode, $result.HResult, $chosen.Item($index).Title
}
if ($good -eq 0) { throw 'no update could be installed' }
exit 101
"#;

/// Like Azure's builder, it leaves sysprep to a script of the image's own where there is one, but for what we brought in:
/// answers that Setup has kept would be those of the next start, too. Without `/mode:vm`, which binds an image to the
/// hypervisor that it was made on.
const GENERALISE: &str = r#"$ErrorActionPreference = 'Stop'
foreach ($kept in 'Panther\unattend.xml', 'Panther\Unattend\unattend.xml', 'System32\Sysprep\unattend.xml') {
    $file = Join-Path $env:SystemRoot $kept
    if (Test-Path -LiteralPath $file) { Remove-Item -LiteralPath $file -Force }
}
$logon = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon'
foreach ($name in 'AutoAdminLogon', 'AutoLogonCount', 'DefaultPassword') {
    Remove-ItemProperty -LiteralPath $logon -Name $name -ErrorAction SilentlyContinue
}
$own = "$env:SystemDrive\DeprovisioningScript.ps1"
if (Test-Path -LiteralPath $own) {
    $ErrorActionPreference = 'Continue'
    & $own
    $code = $global:LASTEXITCODE
    if ($code -eq 0) { Remove-Item -LiteralPath $own -Force }
    exit $code
}
$sysprep = "$env:SystemRoot\System32\Sysprep"
Start-Process -FilePath "$sysprep\Sysprep.exe" -ArgumentList '/generalize', '/oobe', '/quiet', '/quit' -Wait
$state = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State'
$tries = 0
while (($now = (Get-ItemProperty -LiteralPath $state).ImageState) -ne 'IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE') {
    $tries += 1
    if ($tries -gt 60) {
        $log = "$sysprep\Panther\setuperr.log"
        if (Test-Path -LiteralPath $log) { Get-Content -LiteralPath $log -Tail 20 }
        throw "sysprep left Windows in the state $now"
    }
    Start-Sleep -Seconds 5
}
exit 0
"#;

/// Before a script that takes texts.
const TEXT: &str = "function Text($data) { [System.Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($data)) }\n";

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A text of a template in a script.
fn given(text: &str) -> String {
    format!("(Text '{}')", encoded(text))
}

/// A command as cmd takes it, with the exit code that it ends with. cmd takes away the outer quotes and no others;
/// PowerShell's own way to call it would put them where it likes.
fn by_cmd(command: &str) -> String {
    let command = given(command);
    format!(
        "{TEXT}$line = '/d /s /c \"' + {command} + '\"'\n\
         $start = New-Object System.Diagnostics.ProcessStartInfo \"$env:SystemRoot\\System32\\cmd.exe\", $line\n\
         $start.UseShellExecute = $false\n\
         $process = [System.Diagnostics.Process]::Start($start)\n\
         $process.WaitForExit()\n\
         exit $process.ExitCode\n"
    )
}

/// The files that the guest shall find, by the number of their customizer. What is in memory is laid into a folder of ours.
pub(super) fn media(
    customizers: &[Customizer],
    folder: &Path,
) -> Result<Vec<MediaFile>, BuildError> {
    let mut media = Vec::new();
    for (index, customizer) in customizers.iter().enumerate() {
        let Action::Windows(WindowsAction::File { content, .. }) = customizer.action() else {
            continue;
        };
        let path = match content {
            FileContent::Kept { path, .. } => path.clone(),
            FileContent::Bytes(bytes) => laid(folder, index, bytes)?,
        };
        let name = index.to_string();
        media.push(MediaFile { name, path });
    }
    Ok(media)
}

fn laid(folder: &Path, index: usize, bytes: &[u8]) -> Result<PathBuf, BuildError> {
    std::fs::create_dir_all(folder).map_err(BuildError::file("make", folder))?;
    let path = folder.join(index.to_string());
    std::fs::write(&path, bytes).map_err(BuildError::file("write", &path))?;
    Ok(path)
}

fn hash(content: &FileContent) -> Result<String, BuildError> {
    match content {
        FileContent::Bytes(bytes) => Ok(crate::source::hex(&Sha256::digest(bytes))),
        FileContent::Kept { path, .. } => {
            crate::fetch::sha256_of(path).map_err(BuildError::file("read", path))
        }
    }
}

/// Whether it needs a network.
pub(super) fn fetches(customizer: &Customizer) -> bool {
    matches!(
        customizer.action(),
        Action::Windows(WindowsAction::Update { .. })
    )
}

/// A Windows that is up.
pub(super) struct Session<'a> {
    pub guest: &'a dyn Guest,
    pub context: &'a BuildContext,
    redacted: Redacted,
}

impl<'a> Session<'a> {
    pub fn new(guest: &'a dyn Guest, context: &'a BuildContext) -> Session<'a> {
        Session {
            guest,
            context,
            redacted: Redacted::new(&context.secrets),
        }
    }

    /// Carries one customizer out, which is the `index`th, and answers the end of what it said.
    pub async fn one(
        &self,
        index: usize,
        customizer: &Customizer,
    ) -> Result<Vec<String>, BuildError> {
        let name = customizer.name();
        let Action::Windows(action) = customizer.action() else {
            return Err(BuildError::NotForWindows {
                customizer: name.to_owned(),
                kind: customizer.action().kind(),
            });
        };
        match action {
            WindowsAction::File {
                content,
                destination,
            } => {
                let script = FILE
                    .replace("@TO@", &encoded(destination.as_str()))
                    .replace("@NAME@", &index.to_string())
                    .replace("@SHA256@", &hash(content)?);
                self.run(name, &format!("{TEXT}{script}"), &[0]).await
            }
            WindowsAction::PowerShell {
                lines, exit_codes, ..
            } => {
                let codes = match &exit_codes[..] {
                    [] => &[0],
                    codes => codes,
                };
                self.run(name, &(lines.join("\r\n") + "\r\n"), codes).await
            }
            WindowsAction::Restart {
                command,
                check,
                timeout,
            } => self.restart(name, command, check, *timeout).await,
            WindowsAction::Update {
                criteria,
                filters,
                limit,
            } => {
                let filters: Vec<String> = filters.iter().map(|filter| given(filter)).collect();
                let script = UPDATE
                    .replace("@FILTERS@", &filters.join(", "))
                    .replace("@CRITERIA@", &encoded(criteria))
                    .replace("@LIMIT@", &limit.to_string());
                self.update(name, &format!("{TEXT}{script}")).await
            }
        }
    }

    /// Takes away what belongs to one machine. A script of the image's own may switch the machine off: what it made of it
    /// is looked at from outside.
    pub async fn generalise(&self) -> Result<(), BuildError> {
        (self.context.on_line)("sysprep generalizes the image");
        match self.guest.script(GENERALISE, &[], SYSPREP).await {
            Ok(output) => self.judged("generalise", &output, &[0]).map(drop),
            Err(MachineError::Ended { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn run(
        &self,
        customizer: &str,
        script: &str,
        codes: &[i32],
    ) -> Result<Vec<String>, BuildError> {
        let secrets = self.context.secrets.iter();
        let variables: Vec<(&str, &str)> = secrets
            .map(|secret| (secret.name(), secret.reveal()))
            .collect();
        let deadline = self.context.deadline;
        let output = self.guest.script(script, &variables, deadline).await?;
        self.judged(customizer, &output, codes)
    }

    async fn restart(
        &self,
        customizer: &str,
        command: &str,
        check: &str,
        timeout: Duration,
    ) -> Result<Vec<String>, BuildError> {
        let timeout = match self.guest.info().accel {
            Accel::Kvm => timeout,
            Accel::Tcg => timeout * EMULATED_FACTOR,
        };
        let begun = Instant::now();
        let output = self.guest.restart(&by_cmd(command), timeout).await?;
        let mut tail = self.judged(customizer, &output, &[0])?;
        let seconds = begun.elapsed().as_secs_f64();
        (self.context.on_line)(&format!("Windows has restarted in {seconds:.1} s"));
        while !check.is_empty() {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(BuildError::Deadline {
                    customizer: customizer.to_owned(),
                    after: timeout,
                    tail,
                });
            }
            let output = self.guest.script(&by_cmd(check), &[], left).await?;
            tail = self.told(&output);
            if output.success() {
                break;
            }
            tokio::time::sleep(CHECK_PAUSE.min(left)).await;
        }
        Ok(tail)
    }

    async fn update(&self, customizer: &str, script: &str) -> Result<Vec<String>, BuildError> {
        let mut tail = Vec::new();
        for _ in 0..UPDATE_ROUNDS_MAX {
            let deadline = self.context.deadline;
            let output = self.guest.script(script, &[], deadline).await?;
            tail = self.judged(customizer, &output, &[0, AGAIN as i32])?;
            if output.status != AGAIN {
                return Ok(tail);
            }
            (self.context.on_line)("Windows restarts for its updates");
            let output = self.guest.restart(RESTART, UPDATE_RESTART).await?;
            self.judged(customizer, &output, &[0])?;
        }
        Err(BuildError::UpdatesWithoutEnd {
            customizer: customizer.to_owned(),
            rounds: UPDATE_ROUNDS_MAX,
            tail,
        })
    }

    /// Logs what was said and keeps its end.
    fn told(&self, output: &ExecOutput) -> Vec<String> {
        let said = output.stdout.lines().chain(output.stderr.lines());
        let mut tail = std::collections::VecDeque::new();
        for line in said {
            let line = self.redacted.line(line.trim_end()).into_owned();
            (self.context.on_line)(&line);
            tail.push_back(line);
            if tail.len() > TAIL_LINES_MAX {
                tail.pop_front();
            }
        }
        tail.into()
    }

    fn judged(
        &self,
        customizer: &str,
        output: &ExecOutput,
        codes: &[i32],
    ) -> Result<Vec<String>, BuildError> {
        let tail = self.told(output);
        let code = output.status as i32;
        if codes.contains(&code) {
            return Ok(tail);
        }
        Err(BuildError::Failed {
            customizer: customizer.to_owned(),
            status: format!("exit code {code}"),
            tail,
        })
    }
}
