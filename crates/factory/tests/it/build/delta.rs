//! The child is what the customizer saw: the merged tree in the sandbox against the tree of the
//! finished disk, and the same bytes every time.

use crate::build::fixture::*;

/// Every name of the running tree with all that an image keeps.
const MANIFEST: &str = r#"
list() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /lost+found -o -name policy-rc.d \) -prune -o -print0 |
    sort -z | while IFS= read -r -d '' name; do
        what=$(stat -c '%F %a %u:%g %y %t,%T' "$name")
        if [ -L "$name" ]; then
            echo "$name|$what|$(stat -c %h "$name")|$(readlink "$name")"
        elif [ -f "$name" ]; then
            echo "$name|$what|$(stat -c '%h %s' "$name")|$(md5sum < "$name")"
        else
            echo "$name|$what"
        fi
    done
}
"#;

/// Later than the clock of this machine, so that no time is clamped and all can be compared.
const FAR_FUTURE: i64 = 4_000_000_000;

const BASE: &str = r#"
mkdir -p /d/opaque/kept /d/opaque/gone /d/gone/deep /d/moved/sub /d/tofile
echo 1 > /d/opaque/kept/one; echo 2 > /d/opaque/kept/two; echo 3 > /d/opaque/gone/three; echo 4 > /d/opaque/file
echo x > /d/gone/deep/x; echo y > /d/moved/sub/y; echo z > /d/tofile/z
head -c 300000 /dev/urandom > /d/big
echo link > /d/la; ln /d/la /d/lb; ln /d/la /d/lc
echo pair > /d/pa; ln /d/pa /d/pb
echo same > /d/sa; ln /d/sa /d/sb
echo cut > /d/ca; ln /d/ca /d/cb
ln -s target /d/sym; ln -s target /d/symtodir; mkfifo /d/fifo; mknod /d/node c 5 1
echo file > /d/todir; echo meta > /d/meta; echo touch > /d/touch; echo same > /d/rewritten
printf new > "/d/new
line"
"#;

const CHANGE: &str = r#"
rm -r /d/opaque; mkdir -p /d/opaque/kept /d/opaque/fresh; echo 1 > /d/opaque/kept/one; echo n > /d/opaque/fresh/n
rm -r /d/gone; cp -a /d/moved /d/elsewhere; rm -r /d/moved
rm -r /d/tofile; echo now > /d/tofile
rm /d/todir; mkdir /d/todir; echo in > /d/todir/in
echo more >> /d/big
echo changed >> /d/lb
rm /d/pa /d/pb; echo pair > /d/pa; ln /d/pa /d/pb
cp /d/sa /d/sc; mv /d/sc /d/sa
rm /d/cb
ln -sfn other /d/sym; rm /d/symtodir; mkdir /d/symtodir
rm /d/fifo; mkfifo -m 600 /d/fifo; rm /d/node; mknod /d/node b 8 300
chmod 4711 /d/meta; chown 123:456 /d/meta; touch -d '2001-02-03 04:05:06' /d/touch
content=$(cat /d/rewritten); echo "$content" > /d/rewritten
ln /d/touch /d/touch2; ln -s x /d/s1; ln /d/s1 /d/s2
rm "/d/new
line"; printf odd > "/d/odd
name"; dd if=/dev/zero of=/d/holes bs=4096 seek=100 count=1 2>/dev/null
chmod 700 /root; mkdir -m 1777 /d/sticky
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_child_is_what_the_script_saw() {
    let mut bench = Bench::new();
    bench.context.epoch = FAR_FUTURE;
    let parent = bench.parent(vec![]);
    let made = bench.shell(&parent, BASE).await.unwrap();
    let base = bench.child(&parent, &made.changes);
    std::fs::rename(base.path(), bench.path("base.raw")).unwrap();
    let base =
        std::sync::Arc::new(factory::build::ParentDisk::open(&bench.path("base.raw")).unwrap());
    bench.output();

    let changed = bench
        .shell(&base, &format!("{MANIFEST}{CHANGE}list"))
        .await
        .unwrap();
    let seen = bench.output();
    let child = bench.child(&base, &changed.changes);
    let nothing = bench
        .shell(&child, &format!("{MANIFEST}list"))
        .await
        .unwrap();
    let kept = bench.output();

    assert!(seen.len() > 200, "{}: {seen:?}", seen.len());
    let different: Vec<_> = seen.iter().filter(|line| !kept.contains(line)).collect();
    let extra: Vec<_> = kept.iter().filter(|line| !seen.contains(line)).collect();
    assert_eq!((different, extra), (vec![], vec![]));
    assert_eq!((nothing.records, nothing.changes.len()), (0, 0));
    // Content that was written again without a change costs no data.
    assert!(changed.changes.len() < 60, "{}", changed.changes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_step_gives_the_same_blocks() {
    const SCRIPT: &str = "mkdir -p /opt/a /var/log/app\n\
        for n in 1 2 3 4 5 6 7 8 9; do echo $n > /opt/a/$n; done\n\
        echo \"$(date +%s) $$\" > /var/log/dpkg.log\n\
        head -c 16 /dev/urandom | md5sum > /etc/machine-id\n\
        rm -r /var/log/app; touch /usr/sbin/tool";
    let one = Bench::new();
    let two = Bench::in_folder(tempfile::tempdir_in("/dev/shm").unwrap());
    let (first_parent, second_parent) = (one.parent(vec![]), two.parent(vec![]));
    let first = one.shell(&first_parent, SCRIPT).await.unwrap();
    let second = two.shell(&second_parent, SCRIPT).await.unwrap();
    assert_eq!(first.changes, second.changes);
    let child = one.child(&first_parent, &first.changes);
    assert_eq!(read(&child, "etc/machine-id"), Some(vec![]));
    assert_eq!(entry(&child, "var/log/dpkg.log"), None);
    assert_eq!(entry(&child, "opt/a/1").unwrap().meta.mtime.seconds, EPOCH);
    assert_eq!(entry(&child, "usr/sbin/policy-rc.d"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_two_blocks() {
    let bench = Bench::new();
    let parent = bench.parent(vec![file("etc/motd", 0o644, vec![b'm'; 3000])]);
    let edited = bench
        .shell(&parent, "echo one more line >> /etc/motd")
        .await
        .unwrap();
    assert_eq!((edited.records, edited.changes.len()), (1, 2));
    bench.assert_nothing_left().await;
}
