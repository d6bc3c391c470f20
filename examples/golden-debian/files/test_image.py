# Checks for pytest with testinfra. `host` is a machine that was booted from the finished image.


def test_time_service(host):
    assert host.package("chrony").is_installed
    assert host.service("chrony").is_enabled


def test_banner(host):
    assert host.file("/etc/issue.net").mode == 0o644


def test_passwords_are_private(host):
    with host.sudo():
        shadow = host.file("/etc/shadow")
        assert (shadow.mode, shadow.group) == (0o640, "shadow")
        assert not shadow.contains("^root:[$]")
