//! Each kind of customizer, and the tattoo.

use std::fs;

use ext4::{Change, EntryKind};
use factory::build::{Action, AptState, BuildError, FileContent, ImagePath, PackageName};
use factory::tattoo::{self, Tattoo};

use crate::build::fixture::*;

fn write(destination: &str, mode: u32) -> Action {
    Action::File {
        content: FileContent::Bytes(b"content".to_vec()),
        destination: ImagePath::parse(destination).unwrap(),
        mode,
        uid: 7,
        gid: 8,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_without_a_mount() {
    let bench = Bench::new();
    let link = |path: &str, target: &str| Change::Symlink {
        path: path.into(),
        meta: meta(0o777),
        target: target.into(),
    };
    let parent = bench.parent(vec![
        link("opt", "usr/../etc/here"),
        Change::Dir {
            path: "etc/here".into(),
            meta: meta(0o755),
        },
        link("etc/here/link", "/etc/passwd"),
        link("loop", "loop"),
        link("nowhere", "missing/../x"),
    ]);
    let outcome = bench
        .run(&parent, write("/opt/deep/er/file", 0o640))
        .await
        .unwrap();
    let child = bench.child(&parent, &outcome.changes);
    let found = entry(&child, "etc/here/deep/er/file").unwrap();
    assert_eq!(
        (found.meta.mode, found.meta.uid, found.meta.gid),
        (0o640, 7, 8)
    );
    assert_eq!(found.meta.mtime.seconds, EPOCH);
    assert_eq!(
        read(&child, "etc/here/deep/er/file"),
        Some(b"content".to_vec())
    );

    // A link at the destination itself gives way.
    let outcome = bench
        .run(&parent, write("/etc/here/link", 0o644))
        .await
        .unwrap();
    let child = bench.child(&parent, &outcome.changes);
    assert!(matches!(
        entry(&child, "etc/here/link").unwrap().kind,
        EntryKind::File { size: 7, .. }
    ));

    for (destination, expected) in [
        ("/loop/x", "too many symbolic links"),
        ("/nowhere/y", "leads nowhere"),
        ("/bin/busybox/x", "no directory lies on the path"),
        ("/etc/here", "a directory stands at the destination"),
    ] {
        let error = bench
            .run(&parent, write(destination, 0o644))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains(destination),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_process_is_written_at_once() {
    let bench = Bench::new();
    let grub = "menuentry \"x\" {\n  linux /vmlinuz ro console=tty0\n}\n";
    let folder = |path: &str| Change::Dir {
        path: path.into(),
        meta: meta(0o755),
    };
    let parent = bench.parent(vec![
        folder("boot"),
        folder("boot/grub"),
        file("boot/grub/grub.cfg", 0o644, grub),
    ]);
    let words = Action::KernelCommandLine {
        add: vec!["quiet".to_owned()],
        remove: vec!["console".to_owned()],
    };
    let outcome = bench.run(&parent, words).await.unwrap();
    let child = bench.child(&parent, &outcome.changes);
    let changed = read(&child, "boot/grub/grub.cfg").unwrap();
    assert_eq!(
        changed,
        b"menuentry \"x\" {\n  linux /vmlinuz ro quiet\n}\n"
    );
    let user_data = "#cloud-config\npackages: [nginx]\n".to_owned();
    let outcome = bench
        .run(&parent, Action::CloudInit { user_data })
        .await
        .unwrap();
    let child = bench.child(&parent, &outcome.changes);
    assert!(
        read(&child, "etc/cloud/cloud.cfg.d/50_step.cfg")
            .unwrap()
            .starts_with(b"#cloud-config")
    );
    let outcome = bench
        .run(&parent, Action::PartitionGrowth { enabled: false })
        .await
        .unwrap();
    let child = bench.child(&parent, &outcome.changes);
    let growth = read(&child, "etc/cloud/cloud.cfg.d/91_growth.cfg").unwrap();
    assert!(String::from_utf8(growth).unwrap().contains("mode: \"off\""));
    let playbook = Action::Ansible {
        playbook: "[]".to_owned(),
        variables: "{}".to_owned(),
    };
    let error = bench.run(&parent, playbook).await.unwrap_err().to_string();
    assert!(
        error.contains("install the package `ansible-core` before it"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_needs_its_tool_and_is_handed_to_it() {
    let pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----";
    let action = || Action::CaCertificate {
        pem: pem.to_owned(),
    };
    let bench = Bench::new();
    let parent = bench.parent(vec![]);
    let error = bench.run(&parent, action()).await.unwrap_err().to_string();
    assert!(
        error.contains("install the package `ca-certificates` before it"),
        "{error}"
    );

    let bench = Bench::new();
    let program =
        "#!/bin/sh\ncat /usr/local/share/ca-certificates/*.crt > /etc/bundle\necho 1 added\n";
    let parent = bench.parent(vec![file(
        "usr/sbin/update-ca-certificates",
        0o755,
        program,
    )]);
    let outcome = bench.run(&parent, action()).await.unwrap();
    assert_eq!(outcome.tail, ["1 added"]);
    let child = bench.child(&parent, &outcome.changes);
    assert_eq!(
        read(&child, "etc/bundle"),
        Some(format!("{pem}\n").into_bytes())
    );
    let stored = entry(&child, "usr/local/share/ca-certificates/step.crt").unwrap();
    assert_eq!(stored.meta.mode, 0o644);
    bench.assert_nothing_left().await;
}

const LIST_LINES: [&str; 2] = [
    "Package: tool",
    "SHA256: d4e4877bac978b7952f0d544fc52ebff5411d351d129f1f056fa43f11da9af2b",
];

/// Stands in for apt: fetches into the archive folder, installs from it, and tells what it sees.
const APT: &str = r#"#!/bin/sh
set -eu
echo "args $*"
grep -q 'Dir::Cache "/run/bullion/cache"' "$APT_CONFIG"
cat /run/bullion/sources.list /run/bullion/lists/a_Packages
case "$*" in
*--download-only*)
    [ "$http_proxy" = http://proxy.example:3128 ]
    [ -n "$(ls /sys/class/net | grep -v '^lo$')" ] || echo "no network"
    [ -s /etc/resolv.conf ] && echo resolves
    mkdir -p /run/bullion/archives/partial
    if [ -e /run/bullion/lists/silent ]; then
        echo "Err:1 http://archive.example/ x/main amd64 tool amd64 1"
        echo "  Connection timed out [IP: 192.0.2.1 80]"
        exec sleep 1000000
    fi
    [ -e /run/bullion/archives/tool_1.deb ] && echo "found" || echo payload > /run/bullion/archives/tool_1.deb
    ;;
*--no-download*)
    [ -z "$(ls /sys/class/net | grep -v '^lo$')" ] && echo "no network"
    [ -z "${http_proxy:-}" ]
    [ -x /usr/sbin/policy-rc.d ] && ! /usr/sbin/policy-rc.d && echo "services may not start"
    [ ! -e /etc/resolv.conf ] && echo "does not resolve"
    [ ! -e /run/bullion/lists/broken ]
    cp /run/bullion/archives/tool_1.deb /usr/tool
    mkdir -p /var/log/apt; date > /var/log/apt/history.log
    touch /run/bullion/lists/lock /run/bullion/archives/lock
    ;;
esac
"#;

/// How apt was called, by the option that tells.
fn calls(output: &[String]) -> Vec<&str> {
    let calls = output.iter().filter(|line| line.starts_with("args "));
    let options = calls.filter_map(|line| {
        line.split(' ')
            .find(|word| word.starts_with("--") && word.contains("download"))
    });
    options.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_fetched_with_and_installed_without_a_network() {
    let mut bench = Bench::new();
    let parent = bench.parent(vec![file("usr/sbin/apt-get", 0o755, APT)]);
    let (lists, debs) = (bench.path("lists"), bench.path("debs"));
    fs::create_dir(&lists).unwrap();
    fs::write(lists.join("a_Packages"), LIST_LINES.join("\n") + "\n").unwrap();
    let packages = || Action::Packages {
        packages: vec![PackageName::parse("tool").unwrap()],
    };

    let error = bench.run(&parent, packages()).await.unwrap_err();
    assert!(matches!(error, BuildError::NoArchive { .. }), "{error}");

    bench.context.apt = Some(AptState {
        lists: lists.clone(),
        sources_list: "deb http://archive.example/ x main\n".to_owned(),
        debs: debs.clone(),
        acquire: "Acquire::Retries \"3\";\n".to_owned(),
        environment: vec![(
            "http_proxy".to_owned(),
            "http://proxy.example:3128".to_owned(),
        )],
    });
    let outcome = bench.run(&parent, packages()).await.unwrap();
    let output = bench.output();
    let common = [
        "deb http://archive.example/ x main",
        LIST_LINES[0],
        LIST_LINES[1],
    ];
    let expected = [
        &["args -c /run/bullion/apt.conf -y -q --download-only install -- tool"][..],
        &common,
        &["resolves"],
        &["args -c /run/bullion/apt.conf -y -q --no-download install -- tool"],
        &common,
        &["no network", "services may not start", "does not resolve"],
    ]
    .concat();
    assert_eq!(output, expected);

    // The package is kept, nothing of apt's own state is, neither here nor in the image.
    assert_eq!(fs::read(debs.join("tool_1.deb")).unwrap(), b"payload\n");
    assert!(!lists.join("lock").exists() && !debs.join("lock").exists());
    let child = bench.child(&parent, &outcome.changes);
    assert_eq!(read(&child, "usr/tool"), Some(b"payload\n".to_vec()));
    assert_eq!(entry(&child, "var/log/apt/history.log"), None);
    assert_eq!(entry(&child, "etc/resolv.conf"), None);
    // What is kept is installed at once.
    let again = bench.run(&parent, packages()).await.unwrap();
    assert_eq!(calls(&bench.output()), ["--no-download"]);
    assert_eq!(again.changes, outcome.changes);

    // Only another version is kept, so it is fetched after all.
    fs::rename(debs.join("tool_1.deb"), debs.join("tool_0.deb")).unwrap();
    let again = bench.run(&parent, packages()).await.unwrap();
    let all = ["--no-download", "--download-only", "--no-download"];
    assert_eq!(calls(&bench.output()), all);
    assert_eq!(again.changes, outcome.changes);

    // What fails although everything is there is not tried twice.
    fs::write(lists.join("broken"), "").unwrap();
    let error = bench.run(&parent, packages()).await.unwrap_err();
    fs::remove_file(lists.join("broken")).unwrap();
    assert!(matches!(error, BuildError::Failed { .. }), "{error}");
    assert_eq!(calls(&bench.output()), &all[..2]);

    // An archive that has gone silent is not waited for once more for each package.
    fs::remove_dir_all(&debs).unwrap();
    fs::write(lists.join("silent"), "").unwrap();
    let error = bench.run(&parent, packages()).await.unwrap_err();
    fs::remove_file(lists.join("silent")).unwrap();
    let BuildError::NotFetched { customizer, source } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(customizer, "step");
    let source = source.to_string();
    assert!(
        source.contains("http://archive.example/ x/main amd64 tool"),
        "{source}"
    );
    assert!(source.contains("Connection timed out"), "{source}");
    assert_eq!(fs::read_dir(&debs).unwrap().count(), 0);

    // What the image's apt says it fetched is not taken on its word.
    fs::remove_dir_all(&debs).unwrap();
    fs::write(lists.join("a_Packages"), "Package: tool\nSHA256: 00\n").unwrap();
    let error = bench
        .run(&parent, packages())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("customizer `step` fetched `tool_1.deb`, which is not what"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&debs).unwrap().count(), 0);
    bench.assert_nothing_left().await;
}

#[test]
fn a_tattoo_is_written_and_read_without_a_mount() {
    let bench = Bench::new();
    let parent = bench.parent(vec![]);
    let record = Tattoo {
        source_publisher: "Debian".into(),
        image_version: "1.0.0".into(),
        ..Tattoo::default()
    };
    assert_eq!(tattoo::read(parent.disk()).unwrap(), None);
    let changes = tattoo::apply(parent.disk(), &record, EPOCH).unwrap();
    assert_eq!(
        changes,
        tattoo::apply(parent.disk(), &record, EPOCH).unwrap()
    );
    let child = bench.child(&parent, &changes);
    let bytes = tattoo::read(child.disk()).unwrap().unwrap();
    assert_eq!(Tattoo::parse(&bytes).unwrap(), record);
    let found = entry(&child, "etc/bullion-image").unwrap();
    assert_eq!((found.meta.mode, found.meta.uid), (0o444, 0));
    // The next version of the same image replaces it.
    let next = Tattoo {
        image_version: "1.0.1".into(),
        ..record
    };
    let changes = tattoo::apply(child.disk(), &next, EPOCH + 1).unwrap();
    assert!(changes.len() <= 2, "{}", changes.len());
}
