//! What an old Python compiles, the same each time. Before 3.11 it writes a set into a compiled file in the order of its
//! hashes, which it draws anew at each start (<https://github.com/python/cpython/issues/81777>).
//!
//! Nothing else about a file is made equal here: times and owners are the tree's.

/// The variable that fixes the hashes, for all that installs packages.
pub(crate) const STEADY_HASHES: (&str, &str) = ("PYTHONHASHSEED", "0");

/// Compiles an old interpreter's own library once more in the tree `$1`: its package does that blind to variables.
pub(super) const COMPILE_AGAIN: &str = r#"for python in "$1"/usr/bin/python3.[0-9] "$1"/usr/bin/python3.10; do
test -x "$python" || continue
chroot "$1" sh -euc 'find "/usr/lib/$1" -path "*/__pycache__/*.pyc" | LC_ALL=C sort |
sed -n "s#/__pycache__/\(.*\)\.cpython-[0-9]*\.pyc\$#/\1.py#p" |
xargs -r -d "\n" "$1" -S -m py_compile' sh "${python##*/}" || exit 1
done"#;

#[cfg(test)]
mod tests {
    use process::Command;

    use super::*;

    /// This machine's programs in the tree `$1`, which nobody else sees, and two interpreters that only write down how they
    /// are called.
    const TREE: &str = r#"mount -t tmpfs none "$1"
cd "$1"
cp -P /bin /lib* .
mkdir usr upper work dev
touch dev/null
mount -t overlay none -o lowerdir=/usr,upperdir=upper,workdir=work usr
for version in 3.9 3.11; do
mkdir -p usr/lib/python$version/email/__pycache__
printf '#!/bin/sh\necho "$PYTHONHASHSEED" "$0" "$@" >> /called\n' > usr/bin/python$version
chmod 755 usr/bin/python$version
done
mkdir usr/lib/python3.9/__pycache__
touch usr/lib/python3.9/never.py
touch usr/lib/python3.9/__pycache__/os.cpython-39.pyc
touch usr/lib/python3.9/__pycache__/os.cpython-39.opt-1.pyc
touch usr/lib/python3.9/email/__pycache__/a_b.c.cpython-39.pyc
touch usr/lib/python3.11/email/__pycache__/a.cpython-311.pyc
"#;

    async fn run(last: &str) -> Result<String, process::ProcessError> {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "--", "sh", "-euc"])
            .arg(format!("{TREE}{last}\n{COMPILE_AGAIN}\ncat called"))
            .args(["sh".as_ref(), folder.path().as_os_str()])
            .env(STEADY_HASHES.0, STEADY_HASHES.1)
            .run()
            .await?;
        Ok(output.stdout_text().trim_end().to_owned())
    }

    #[tokio::test]
    async fn the_library_of_an_old_interpreter_is_compiled_again() {
        let called = run("").await.unwrap();
        let expected = "0 /usr/bin/python3.9 -S -m py_compile /usr/lib/python3.9/os.py \
                        /usr/lib/python3.9/email/a_b.c.py";
        assert_eq!(called, expected);
    }

    #[tokio::test]
    async fn what_cannot_be_compiled_ends_the_installation() {
        let failing =
            r#"printf '#!/bin/sh\necho no set of this >&2; exit 1\n' > usr/bin/python3.9"#;
        let error = run(failing).await.unwrap_err();
        assert!(error.to_string().contains("no set of this"), "{error}");
    }
}
