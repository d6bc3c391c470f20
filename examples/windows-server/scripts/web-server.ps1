# Runs as SYSTEM, without a network: roles and features come from the image itself.
$ErrorActionPreference = 'Stop'
$done = Install-WindowsFeature -Name Web-Server
if (-not $done.Success) { throw 'the web server was not installed' }
if ($done.RestartNeeded -eq 'Yes') { exit 3010 }
