//! The folder of a quickstart, and who may read what is in it: the server may run as root, the user need not.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::deps;
use crate::program::Program;
use crate::progress::Step;

/// A folder without this file is not ours to delete.
const MARKER: &str = "made-by-bullion-quickstart";

pub struct Place {
    root: PathBuf,
    /// What runs a privileged program: nothing as root, `sudo` otherwise.
    runner: &'static [&'static str],
}

impl Place {
    pub fn choose(given: Option<PathBuf>) -> Result<Self> {
        let root = match given {
            Some(folder) => folder,
            None => default_folder()?,
        };
        let root = std::path::absolute(&root)
            .with_context(|| format!("cannot resolve {}", root.display()))?;
        let Some(runner) = deps::privileges()? else {
            bail!(
                "the server assembles disks with loop devices and overlay mounts, which needs root, and there is no \
                 sudo; run this as root"
            );
        };
        Ok(Self { root, runner })
    }

    pub fn create(&self) -> Result<()> {
        let step = Step::begin("folder");
        std::fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot create {}", self.root.display()))?;
        let marker = self.root.join(MARKER);
        let is_new =
            std::fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_none());
        if !is_new && !marker.exists() {
            step.failed("");
            bail!(
                "{} has other things in it; choose an empty folder with --data",
                self.root.display()
            );
        }
        std::fs::write(&marker, "")
            .with_context(|| format!("cannot write {}", marker.display()))?;
        step.done(&format!(
            "{}{}",
            self.root.display(),
            if is_new { "" } else { "  (used before)" }
        ));
        Ok(())
    }

    /// Deletes everything, after the server was stopped.
    pub fn delete(&self) -> Result<()> {
        if !self.root.exists() {
            eprintln!("{} is not there", self.root.display());
            return Ok(());
        }
        if !self.root.join(MARKER).exists() {
            bail!(
                "{} was not made by quickstart; delete it yourself if you mean it",
                self.root.display()
            );
        }
        let step = Step::begin("delete");
        self.privileged(
            Program::new("rm")
                .args(["-rf", "--one-file-system", "--"])
                .arg(&self.root),
        )
        .stdout()?;
        step.done(&self.root.display().to_string());
        Ok(())
    }

    /// The server's own folder.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// Where the client is told about the server.
    pub fn profile(&self) -> PathBuf {
        self.root.join("profile.json")
    }

    /// The example with one file changed.
    pub fn changed_factory(&self) -> PathBuf {
        self.root.join("factory")
    }

    /// The example with a check that fails.
    pub fn stricter_factory(&self) -> PathBuf {
        self.root.join("stricter-factory")
    }

    /// The profile of whoever releases to production.
    pub fn approver(&self) -> PathBuf {
        self.root.join("approver.json")
    }

    pub fn needs_sudo(&self) -> bool {
        !self.runner.is_empty()
    }

    pub fn privileged(&self, program: Program) -> Program {
        program.through(self.runner)
    }

    /// A file of the server's folder, which only the server's user may read.
    pub fn read_private(&self, path: &Path) -> Option<String> {
        if !self.needs_sudo() {
            return std::fs::read_to_string(path).ok();
        }
        self.privileged(Program::new("cat").arg(path)).stdout().ok()
    }

    /// Hands a file that the privileged side wrote to the user.
    pub fn take_over(&self, path: &Path) -> Result<()> {
        if !self.needs_sudo() {
            return Ok(());
        }
        let id = |option: &str| {
            Program::new("id")
                .arg(option)
                .stdout()
                .map(|id| id.trim().to_owned())
        };
        let owner = format!("{}:{}", id("-u")?, id("-g")?);
        self.privileged(Program::new("chown").arg(owner).arg(path))
            .stdout()?;
        Ok(())
    }
}

fn default_folder() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME")) {
        (Some(data), _) if !data.is_empty() => PathBuf::from(data),
        (_, Some(home)) => Path::new(&home).join(".local/share"),
        _ => bail!("neither XDG_DATA_HOME nor HOME is set; name a folder with --data"),
    };
    Ok(base.join("bullion-quickstart"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_things_in_it_is_neither_used_nor_deleted() {
        let root = std::env::temp_dir().join(format!("bullion-xtask-place-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let place = Place {
            root: root.clone(),
            runner: &[],
        };
        std::fs::write(root.join("letter"), "dear").unwrap();
        assert!(place.create().is_err());
        assert!(place.delete().is_err());
        std::fs::remove_file(root.join("letter")).unwrap();
        place.create().unwrap();
        place.create().unwrap();
        place.delete().unwrap();
        assert!(!root.exists());
    }
}
