//! The kernel's command line in a configuration of GRUB that is written as it is read: no variables, no scripts in
//! the lines that start a kernel. Pure.

/// Where the boot loader of an image that was built here looks.
pub(super) const CONFIG: &str = "boot/grub/grub.cfg";
/// More than this is no configuration of ours.
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The configuration with every kernel's command line changed; `None` where it starts none.
pub(super) fn with_command_line(config: &str, add: &[String], remove: &[String]) -> Option<String> {
    let mut found = false;
    let mut lines = Vec::new();
    for line in config.lines() {
        let trimmed = line.trim_start();
        let starts = trimmed.starts_with("linux ") || trimmed.starts_with("linux\t");
        if !starts {
            lines.push(line.to_owned());
            continue;
        }
        found = true;
        let indent = &line[..line.len() - trimmed.len()];
        let mut words = trimmed.split_whitespace();
        let head: Vec<&str> = words.by_ref().take(2).collect();
        let gone = |word: &&str| {
            let named = |other: &String| {
                *word == other || word.split_once('=').is_some_and(|(name, _)| name == other)
            };
            !remove.iter().any(named) && !add.iter().any(|other| other == word)
        };
        let mut all: Vec<&str> = head;
        all.extend(words.filter(gone));
        all.extend(add.iter().map(String::as_str));
        lines.push(format!("{indent}{}", all.join(" ")));
    }
    found.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    #[track_caller]
    fn check(config: &str, add: &[&str], remove: &[&str], expected: Option<&str>) {
        let own = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let seen = super::with_command_line(config, &own(add), &own(remove));
        assert_eq!(seen.as_deref(), expected);
    }

    #[test]
    fn words_are_added_once_and_removed_by_name() {
        let config = "set timeout=0\nmenuentry \"x\" {\n  linux /vmlinuz root=UUID=1 ro console=tty0\n  initrd /i\n}\n";
        check(
            config,
            &["quiet", "ro"],
            &["console"],
            Some(
                "set timeout=0\nmenuentry \"x\" {\n  linux /vmlinuz root=UUID=1 quiet ro\n  initrd /i\n}\n",
            ),
        );
        check("set timeout=0\n", &["quiet"], &[], None);
    }
}
