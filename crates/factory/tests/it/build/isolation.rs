//! What a script can see and do.

use crate::build::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_closed() {
    let bench = Bench::new();
    let parent = bench.parent(vec![]);
    bench
        .shell(&parent, "env | sort; umask; hostname; id -u; pwd; cat")
        .await
        .unwrap();
    let mut expected = vec![
        "DEBIAN_FRONTEND=noninteractive",
        "HOME=/root",
        "LC_ALL=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/",
        "PYTHONHASHSEED=0",
        "SOURCE_DATE_EPOCH=1763000000",
        "TZ=UTC0",
        "0022",
        "bullion",
        "0",
        "/",
    ];
    let output = bench.output();
    // Whether a shell counts its level is its own matter.
    expected.retain(|line| !line.starts_with("SHLVL"));
    let seen: Vec<&str> = output
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("SHLVL"))
        .collect();
    assert_eq!(seen, expected);
}

/// Each line must fail.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_out() {
    let bench = Bench::new();
    let parent = bench.parent(vec![]);
    let attempts = [
        "mount -t tmpfs none /root",
        "mount -o remount,rw /proc",
        "umount /proc",
        "echo x > /proc/sys/kernel/hostname",
        "echo '|/x' > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "touch /dev/new",
        "mknod /dev/disk b 7 0",
        "mknod /root/zero c 1 5 && head -c 1 /root/zero",
        "mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero",
        "hostname other",
        "date -s 2001-01-01; [ $(date +%Y) = 2001 ]",
        "ls /sys/class/net | grep -v '^lo$'",
        "ping -c 1 -W 1 127.0.0.1",
        "nc -w 1 192.0.2.1 80 < /dev/null",
        "ls / | grep -E '^(home|mnt|srv|lib64)$'",
        "ls /proc | grep -E '^[0-9]+$' | grep -vE '^.{1,2}$'",
        "nsenter -t 1 -m true && ls /home",
    ];
    for attempt in attempts {
        let script = format!(
            "if ( {attempt} ) > /tmp/out 2> /dev/null; then echo \"escaped: $(cat /tmp/out)\"; fi"
        );
        bench.shell(&parent, &script).await.unwrap();
        assert_eq!(bench.output(), Vec::<String>::new(), "{attempt}");
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_those_of_a_package() {
    let bench = Bench::new();
    let parent = bench.parent(vec![]);
    bench
        .shell(
            &parent,
            "grep -E '^Cap(Bnd|Eff)' /proc/self/status | cut -f2",
        )
        .await
        .unwrap();
    // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot mknod
    // audit_write setfcap
    assert_eq!(bench.output(), ["00000000a80405fb", "00000000a80405fb"]);
}
