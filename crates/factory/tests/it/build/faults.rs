//! Scripts that fail, hang, fork away or fill the disk. Each is named with what it did, and
//! nothing of it is left.

use std::sync::Arc;
use std::time::Duration;

use factory::build::{BuildError, SandboxProgram, SecretValue, TreeExecutor};

use crate::build::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_shows_status_and_output() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let error = bench
        .shell(&parent, "echo before\necho broken >&2\nexit 3\necho after")
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("customizer `step` failed (exit status 3)"),
        "{text}"
    );
    assert!(
        text.contains("\n  | before") && text.contains("\n  | broken") && !text.contains("after"),
        "{text}"
    );
    let killed = bench
        .shell(&parent, "kill -9 $$")
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(killed, "customizer `step` failed (killed by signal 9)");
    let unset = bench
        .shell(&parent, "echo $nothing")
        .await
        .unwrap_err()
        .to_string();
    assert!(unset.contains("nothing"), "{unset}");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_script_is_killed_at_its_deadline() {
    let mut bench = Bench::marked();
    bench.context.deadline = Duration::from_secs(2);
    let parent = bench.parent(vec![]);
    let error = bench
        .shell(&parent, "trap '' TERM INT HUP\necho started\nsleep 1000")
        .await
        .unwrap_err();
    assert!(
        matches!(&error, BuildError::Deadline { tail, .. } if tail == &["started"]),
        "{error}"
    );
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_does_not_outlive_its_script() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let script = "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1000; done' > /dev/null 2>&1 &\n\
                  (setsid sleep 1000 &)\necho done";
    let outcome = bench.shell(&parent, script).await.unwrap();
    assert_eq!(outcome.tail, ["done"]);
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_build_ends_it() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let run = bench.shell(&parent, "echo started\nsleep 1000");
    let started = async {
        while bench.lines.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = run => panic!("it sleeps"),
        () = started => {}
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_limited() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let tmp = bench
        .shell(
            &parent,
            "for n in 1 2 3; do dd if=/dev/zero of=/run/full$n bs=1M count=100; done",
        )
        .await
        .unwrap_err();
    assert!(tmp.to_string().contains("No space left"), "{tmp}");
    let file = bench
        .shell(&parent, "dd if=/dev/zero of=/large bs=1M count=300")
        .await
        .unwrap_err();
    // The limit of one file, or the watch over all that is written, whichever comes first.
    let refused = matches!(
        file,
        BuildError::Failed { .. } | BuildError::TooMuchWritten { .. }
    );
    assert!(refused, "{file}");
    let script = "for n in 1 2 3; do tr '\\0' x < /dev/zero | head -c 70000000 > /large$n; done";
    let image = bench.shell(&parent, script).await.unwrap_err();
    // Before or after the script has ended, whichever comes first.
    let text = image.to_string();
    assert!(
        text.contains("the image has room for") && text.contains("make the disk larger"),
        "{text}"
    );
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_never_stops_writing_is_killed() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let script =
        "n=0; while :; do tr '\\0' x < /dev/zero | head -c 9000000 > /f$n; n=$((n+1)); done";
    let error = bench.shell(&parent, script).await.unwrap_err();
    assert!(
        matches!(error, BuildError::TooMuchWritten { .. }),
        "{error}"
    );
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_script_left_is_kept_where_that_is_asked_for() {
    let mut bench = Bench::marked();
    let parent = bench.parent(vec![]);
    bench.context.keep = Some(bench.path("kept"));
    let error = bench
        .shell(&parent, "echo half > /etc/half; exit 1")
        .await
        .unwrap_err();
    assert!(matches!(error, BuildError::Failed { .. }), "{error}");
    let left = std::fs::read_to_string(bench.path("kept/layer/upper/etc/half")).unwrap();
    assert_eq!(left, "half\n");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_used_and_left_nowhere() {
    let mut bench = Bench::marked();
    let parent = bench.parent(vec![]);
    bench.context.secrets = vec![SecretValue::new("TOKEN", "hunter22-and-more").unwrap()];
    let used = "test \"$TOKEN\" = hunter22-and-more; echo the token is $TOKEN; echo x > /etc/used";
    let outcome = bench.shell(&parent, used).await.unwrap();
    let child = bench.child(&parent, &outcome.changes);
    assert_eq!(read(&child, "etc/used"), Some(b"x\n".to_vec()));
    assert!(
        bench.output().contains(&"the token is ***".to_owned()),
        "{:?}",
        bench.output()
    );
    let left = bench
        .shell(&parent, "echo $TOKEN > /etc/left")
        .await
        .unwrap_err();
    assert!(matches!(left, BuildError::SecretLeft { .. }), "{left}");
    assert!(!left.to_string().contains("hunter22"), "{left}");
    let failed = bench
        .shell(&parent, "echo $TOKEN; exit 1")
        .await
        .unwrap_err();
    assert!(!failed.to_string().contains("hunter22"), "{failed}");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_run_is_named() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![
        ext4::Change::Remove {
            path: "proc".into(),
        },
        ext4::Change::Symlink {
            path: "proc".into(),
            meta: meta(0o777),
            target: "/etc".into(),
        },
    ]);
    let error = bench.shell(&parent, "true").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the build environment could not be set up: mounting /proc failed: the image has no such directory"
    );
    let bench = Bench::marked();
    let parent = bench.parent(vec![ext4::Change::Remove {
        path: "bin/sh".into(),
    }]);
    let error = bench.shell(&parent, "true").await.unwrap_err().to_string();
    assert!(
        error.contains("starting `/bin/sh` in the image failed"),
        "{error}"
    );
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executable_that_does_not_answer_is_named() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let executor =
        TreeExecutor::new(&bench.path("work"), SandboxProgram::new("/bin/true")).unwrap();
    let customizer = factory::build::Customizer::new("step", shell("true")).unwrap();
    let error = executor
        .run(Arc::clone(&parent), &customizer, &bench.context)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("starting `/bin/true` failed"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_executor_clears_what_a_killed_one_left() {
    let bench = Bench::marked();
    let left = bench.path("work/step-dead/upper/etc");
    std::fs::create_dir_all(&left).unwrap();
    bench.executor();
    assert!(!bench.path("work/step-dead").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_on_one_parent_do_not_disturb_each_other() {
    let bench = Bench::marked();
    let parent = bench.parent(vec![]);
    let executor = bench.executor();
    let customizers: Vec<_> = (0..6)
        .map(|index| {
            factory::build::Customizer::new("step", shell(&format!("echo {index} > /etc/number")))
                .unwrap()
        })
        .collect();
    let mut builds = tokio::task::JoinSet::new();
    let executor = Arc::new(executor);
    for customizer in customizers {
        let (executor, parent, context) = (
            Arc::clone(&executor),
            Arc::clone(&parent),
            bench.context.clone(),
        );
        builds.spawn(async move { executor.run(parent, &customizer, &context).await });
    }
    let mut different = Vec::new();
    while let Some(outcome) = builds.join_next().await {
        let changes = outcome.unwrap().unwrap().changes;
        assert!(!different.contains(&changes));
        different.push(changes);
    }
    bench.assert_nothing_left().await;
}
