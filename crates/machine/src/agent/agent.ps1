# Bullion's way into a Windows guest, for Windows PowerShell 5.1. It lies on the machine's medium and is read from there at
# each start. What it leaves on the disk is a task that starts it and a folder for scripts; both go with the order `leave`.
# Each message is a line of JSON on the second serial port, marked on our side so that what firmware writes there is not
# taken for one.
param([switch]$Install)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$task = 'BullionAgent'
$work = Join-Path $env:SystemDrive 'bullion-agent'
$script = Join-Path $work 'script.ps1'
$runner = Join-Path $work 'runner.ps1'

# Whoever looks at the machine's console sees why there is no agent.
function Write-Console($text) {
    try {
        $console = New-Object System.IO.Ports.SerialPort 'COM1', 115200
        $console.Open()
        $console.WriteLine("bullion: $text")
        $console.Close()
    } catch { }
}

trap {
    Write-Console "the agent ended: $_"
    exit 1
}

if ($Install) {
    $find = 'for %d in (D E F G H I J K L M N O P Q R S T U V W X Y Z) do if exist %d:\bullion\agent.ps1 ' +
        'powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -File %d:\bullion\agent.ps1'
    $action = New-ScheduledTaskAction -Execute "$env:SystemRoot\System32\cmd.exe" -Argument "/d /c `"$find`""
    $trigger = New-ScheduledTaskTrigger -AtStartup
    $system = New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -LogonType ServiceAccount -RunLevel Highest
    $settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
        -ExecutionTimeLimit ([TimeSpan]::Zero) -Priority 4
    Register-ScheduledTask -TaskName $task -Action $action -Trigger $trigger -Principal $system `
        -Settings $settings -Force | Out-Null
    Start-ScheduledTask -TaskName $task
    exit 0
}

# Scripts are run by this one, so that the last program's exit code is theirs where they say nothing else.
$run = @'
$ProgressPreference = 'SilentlyContinue'
$global:LASTEXITCODE = 0
& (Join-Path $PSScriptRoot 'script.ps1')
exit $global:LASTEXITCODE
'@
New-Item -ItemType Directory -Force -Path $work | Out-Null
& "$env:SystemRoot\System32\icacls.exe" $work /inheritance:r /grant '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' | Out-Null
[System.IO.File]::WriteAllText($runner, $run)

$key = [System.IO.File]::ReadAllText((Join-Path $PSScriptRoot 'key')).Trim()
$boot = [Guid]::NewGuid().ToString()
$port = New-Object System.IO.Ports.SerialPort 'COM2', 115200
$port.NewLine = "`n"
$port.Encoding = [System.Text.Encoding]::ASCII
$port.ReadBufferSize = 1048576
$port.ReadTimeout = 3000
$port.Open()

function Send-Message($message) {
    $line = ConvertTo-Json -Compress -InputObject $message
    # On a line of its own, whatever stands there.
    $port.WriteLine('')
    $port.WriteLine('#bullion:' + $line)
}

function Add-Piece($order) {
    $bytes = [Convert]::FromBase64String($order.data)
    $mode = [System.IO.FileMode]::Append
    if ($order.first) { $mode = [System.IO.FileMode]::Create }
    $file = New-Object System.IO.FileStream $script, $mode
    try { $file.Write($bytes, 0, $bytes.Length) } finally { $file.Close() }
    Send-Message @{ say = 'ok'; id = $order.id }
}

function Invoke-Script($order) {
    $start = New-Object System.Diagnostics.ProcessStartInfo
    $start.FileName = "$env:SystemRoot\System32\WindowsPowerShell\v1.0\powershell.exe"
    $start.Arguments = "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$runner`""
    $start.WorkingDirectory = $work
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $start.EnvironmentVariables['BULLION_MEDIUM'] = Join-Path $PSScriptRoot 'files'
    foreach ($variable in $order.variables.PSObject.Properties) {
        $value = [System.Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($variable.Value))
        $start.EnvironmentVariables[$variable.Name] = $value
    }
    $process = [System.Diagnostics.Process]::Start($start)
    $process.StandardInput.Close()
    $open = New-Object System.Collections.ArrayList
    foreach ($say in 'out', 'err') {
        $stream = $process.StandardOutput.BaseStream
        if ($say -eq 'err') { $stream = $process.StandardError.BaseStream }
        $buffer = New-Object byte[] 8192
        [void]$open.Add(@{ say = $say; stream = $stream; buffer = $buffer; task = $stream.ReadAsync($buffer, 0, 8192) })
    }
    # What a script left running may hold its output open; it is not waited for.
    $quiet = 0
    while ($open.Count -gt 0 -and $quiet -lt 5) {
        $tasks = [System.Threading.Tasks.Task[]]@($open | ForEach-Object { $_.task })
        $index = [System.Threading.Tasks.Task]::WaitAny($tasks, 1000)
        if ($index -lt 0) {
            if ($process.HasExited) { $quiet += 1 }
            continue
        }
        $quiet = 0
        $one = $open[$index]
        $count = $one.task.Result
        if ($count -eq 0) {
            $open.RemoveAt($index)
            continue
        }
        Send-Message @{ say = $one.say; id = $order.id; data = [Convert]::ToBase64String($one.buffer, 0, $count) }
        $one.task = $one.stream.ReadAsync($one.buffer, 0, 8192)
    }
    $process.WaitForExit()
    Send-Message @{ say = 'exit'; id = $order.id; code = $process.ExitCode }
}

# First the way out, because the end of the task may be the end of this script.
function Exit-Machine($order) {
    & "$env:SystemRoot\System32\shutdown.exe" /s /f /t 20
    Remove-Item -LiteralPath $work -Recurse -Force -ErrorAction SilentlyContinue
    Send-Message @{ say = 'ok'; id = $order.id }
    Unregister-ScheduledTask -TaskName $task -Confirm:$false
    exit 0
}

$welcome = $false
while ($true) {
    # Said again until it is heard: nobody may have been at the other end.
    if (-not $welcome) { Send-Message @{ say = 'hello'; version = 1; key = $key; boot = $boot } }
    try { $line = $port.ReadLine() } catch [System.TimeoutException] { continue }
    $order = ConvertFrom-Json $line
    try {
        switch ($order.do) {
            'welcome' { $welcome = $true; $port.ReadTimeout = [System.IO.Ports.SerialPort]::InfiniteTimeout }
            'put' { Add-Piece $order }
            'run' { Invoke-Script $order }
            'leave' { Exit-Machine $order }
            default { throw "there is no order '$($order.do)'" }
        }
    } catch {
        Send-Message @{ say = 'fault'; id = $order.id; text = "$_" }
    }
}
