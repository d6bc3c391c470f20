Describe 'the web server' {
    It 'runs' {
        (Get-Service -Name w3svc).Status | Should -Be 'Running'
    }
    It 'answers' {
        (Invoke-WebRequest -UseBasicParsing -Uri http://localhost).StatusCode | Should -Be 200
    }
}
