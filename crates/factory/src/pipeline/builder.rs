//! What carries out a customizer: a trait, so that the pipeline can be tested without root.

use std::sync::Arc;

use crate::build::{
    BuildContext, BuildError, Customizer, ParentDisk, Scanned, Scanner, StepOutcome, TreeExecutor,
};

/// Turns a parent disk and a customizer into changed blocks.
#[async_trait::async_trait]
pub trait Builder: Send + Sync {
    async fn customize(
        &self,
        parent: Arc<ParentDisk>,
        customizer: &Customizer,
        context: &BuildContext,
    ) -> Result<StepOutcome, BuildError>;

    /// The name and version of what would look at a disk.
    async fn scanner_version(&self, scanner: &Scanner) -> Result<String, BuildError>;

    /// Has a scanner look at a disk.
    async fn scan(
        &self,
        disk: Arc<ParentDisk>,
        scanner: &Scanner,
        name: &str,
        context: &BuildContext,
    ) -> Result<Scanned, BuildError>;
}

#[async_trait::async_trait]
impl Builder for TreeExecutor {
    async fn customize(
        &self,
        parent: Arc<ParentDisk>,
        customizer: &Customizer,
        context: &BuildContext,
    ) -> Result<StepOutcome, BuildError> {
        self.run(parent, customizer, context).await
    }

    async fn scanner_version(&self, scanner: &Scanner) -> Result<String, BuildError> {
        scanner.version().await
    }

    async fn scan(
        &self,
        disk: Arc<ParentDisk>,
        scanner: &Scanner,
        name: &str,
        context: &BuildContext,
    ) -> Result<Scanned, BuildError> {
        TreeExecutor::scan(self, disk, scanner, name, context).await
    }
}

/// A builder for tests: every customizer becomes a file with its inputs in it, written by the real
/// writer, so that disks differ where recipes do.
#[cfg(any(test, feature = "testing"))]
pub struct FakeBuilder {
    executor: TreeExecutor,
    pub built: std::sync::Mutex<Vec<String>>,
    /// Name of a customizer that fails.
    pub failing: std::sync::Mutex<Option<String>>,
    /// What every scanner finds, and how often one was asked.
    pub scanned: std::sync::Mutex<(Scanned, usize)>,
}

#[cfg(any(test, feature = "testing"))]
impl FakeBuilder {
    pub fn new(work: &std::path::Path) -> Result<FakeBuilder, BuildError> {
        let program = crate::build::SandboxProgram::this_executable();
        Ok(FakeBuilder {
            executor: TreeExecutor::new(work, program)?,
            built: std::sync::Mutex::default(),
            failing: std::sync::Mutex::default(),
            scanned: std::sync::Mutex::default(),
        })
    }
}

#[cfg(any(test, feature = "testing"))]
#[async_trait::async_trait]
impl Builder for FakeBuilder {
    async fn customize(
        &self,
        parent: Arc<ParentDisk>,
        customizer: &Customizer,
        context: &BuildContext,
    ) -> Result<StepOutcome, BuildError> {
        let name = customizer.name().to_owned();
        let fails = |failing: &Option<String>| failing.as_deref() == Some(customizer.name());
        if self.failing.lock().is_ok_and(|failing| fails(&failing)) {
            let tail = vec!["the fake said no".to_owned()];
            return Err(BuildError::Failed {
                customizer: name,
                status: "exit status 1".to_owned(),
                tail,
            });
        }
        (context.on_line)(&format!("building {name}"));
        if let Ok(mut built) = self.built.lock() {
            built.push(name.clone());
        }
        let path = format!("/etc/built-{name}");
        let text = format!("{:?}\n", customizer.key_material());
        let action = crate::build::Action::File {
            content: crate::build::FileContent::Bytes(text.into_bytes()),
            destination: crate::build::ImagePath::parse(&path).ok_or_else(|| {
                BuildError::BadEntry {
                    path,
                    reason: "not a path",
                }
            })?,
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        let stand_in = Customizer::new(name, action)?;
        self.executor.run(parent, &stand_in, context).await
    }

    async fn scanner_version(&self, _: &Scanner) -> Result<String, BuildError> {
        Ok("a fake scanner 1".to_owned())
    }

    async fn scan(
        &self,
        _: Arc<ParentDisk>,
        _: &Scanner,
        _: &str,
        _: &BuildContext,
    ) -> Result<Scanned, BuildError> {
        let mut scanned = self
            .scanned
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        scanned.1 += 1;
        Ok(scanned.0.clone())
    }
}
