//! The files of a factory folder: which are read, how large they may be, and that none is outside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::rc::Rc;

use camino::{Utf8Path, Utf8PathBuf};

use super::problem::nearest;

/// Folders whose files are payload; YAML in them is not read as documents.
pub const PAYLOAD_FOLDERS: &[&str] = &["files", "scripts", "certificates"];
/// One file that goes into an image. It travels in its template as base64, and a template may have 4 MiB.
pub const FILE_BYTES_MAX: u64 = 3_000_000;
/// All files of a folder together, since each travels in a request.
pub const TOTAL_BYTES_MAX: u64 = 200 * 1024 * 1024;
/// One YAML file.
const YAML_BYTES_MAX: u64 = 1024 * 1024;
/// YAML files in a folder.
const YAML_FILES_MAX: usize = 1000;
/// Sub-folders in sub-folders.
const DEPTH_MAX: usize = 8;

#[derive(Debug)]
pub struct Folder {
    /// As the user named it.
    root: Utf8PathBuf,
    real: Utf8PathBuf,
    read: RefCell<BTreeMap<String, Rc<[u8]>>>,
}

/// What is wrong with a path, and what would be right.
#[derive(Debug)]
pub struct FileFault {
    pub what: String,
    pub right: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot read the factory folder `{path}`")]
    Read {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error("`{path}` is not a folder")]
    NotAFolder { path: Utf8PathBuf },
    #[error("no `*.yaml` file in `{path}`")]
    Empty { path: Utf8PathBuf },
    #[error("more than {YAML_FILES_MAX} YAML files in `{path}`")]
    TooMany { path: Utf8PathBuf },
    #[error("`{path}` is larger than {YAML_BYTES_MAX} bytes, too large for a YAML document")]
    TooLarge { path: Utf8PathBuf },
}

impl Folder {
    pub fn open(root: &Utf8Path) -> Result<Folder, FolderError> {
        let read = |source| FolderError::Read {
            path: root.into(),
            source,
        };
        let real = root.canonicalize_utf8().map_err(read)?;
        if !real.is_dir() {
            return Err(FolderError::NotAFolder { path: root.into() });
        }
        Ok(Folder {
            root: root.into(),
            real,
            read: RefCell::default(),
        })
    }

    /// Every YAML file with its text, in a fixed order, named as the user would name it.
    pub fn yaml_files(&self) -> Result<Vec<(Utf8PathBuf, Vec<u8>)>, FolderError> {
        let mut paths = Vec::new();
        self.walk(&self.root, 0, &mut paths)?;
        paths.sort();
        if paths.is_empty() {
            return Err(FolderError::Empty {
                path: self.root.clone(),
            });
        }
        let mut files = Vec::new();
        for path in paths {
            let read = |source| FolderError::Read {
                path: path.clone(),
                source,
            };
            if fs::metadata(&path).map_err(read)?.len() > YAML_BYTES_MAX {
                return Err(FolderError::TooLarge { path });
            }
            let bytes = fs::read(&path).map_err(read)?;
            files.push((path, bytes));
        }
        Ok(files)
    }

    fn walk(
        &self,
        folder: &Utf8Path,
        depth: usize,
        found: &mut Vec<Utf8PathBuf>,
    ) -> Result<(), FolderError> {
        if depth > DEPTH_MAX {
            return Ok(());
        }
        let read = |source| FolderError::Read {
            path: folder.into(),
            source,
        };
        for entry in folder.read_dir_utf8().map_err(read)? {
            let entry = entry.map_err(read)?;
            let (name, path) = (entry.file_name(), entry.path());
            if name.starts_with('.') {
                continue;
            }
            // The entry's own type: a link is neither followed nor read.
            let kind = entry.file_type().map_err(read)?;
            if kind.is_dir() && !PAYLOAD_FOLDERS.contains(&name) {
                self.walk(path, depth + 1, found)?;
            } else if kind.is_file() && matches!(path.extension(), Some("yaml" | "yml")) {
                if found.len() == YAML_FILES_MAX {
                    return Err(FolderError::TooMany {
                        path: self.root.clone(),
                    });
                }
                found.push(path.to_owned());
            }
        }
        Ok(())
    }

    /// The bytes of a file that a document names. A file is read once.
    pub fn file(&self, written: &str) -> Result<Rc<[u8]>, FileFault> {
        if let Some(bytes) = self.read.borrow().get(written) {
            return Ok(bytes.clone());
        }
        let bytes: Rc<[u8]> = self.read_file(written)?.into();
        let mut read = self.read.borrow_mut();
        let total: u64 = read.values().map(|bytes| bytes.len() as u64).sum();
        if total + bytes.len() as u64 > TOTAL_BYTES_MAX {
            return Err(FileFault {
                what: format!(
                    "the folder's files together are larger than {} MB",
                    TOTAL_BYTES_MAX >> 20
                ),
                right: Some("make it a package, or several smaller files".into()),
            });
        }
        read.insert(written.to_owned(), bytes.clone());
        Ok(bytes)
    }

    fn read_file(&self, written: &str) -> Result<Vec<u8>, FileFault> {
        let outside = || FileFault {
            what: format!("`{written}` is outside the factory folder"),
            right: Some(format!(
                "copy the file into `{}` and name it from there, so that the folder is complete",
                self.root
            )),
        };
        let path = Utf8Path::new(written);
        if path.is_absolute() {
            return Err(outside());
        }
        let real = match self.real.join(path).canonicalize_utf8() {
            Ok(real) => real,
            Err(_) if leaves(path) => return Err(outside()),
            Err(error) => return Err(self.missing(path, &error)),
        };
        if !real.starts_with(&self.real) {
            return Err(outside());
        }
        let failed = |error: io::Error| FileFault {
            what: format!("cannot read `{written}`: {error}"),
            right: None,
        };
        let metadata = fs::metadata(&real).map_err(failed)?;
        if !metadata.is_file() {
            return Err(FileFault {
                what: format!("`{written}` is not a file"),
                right: Some("name one file; list several as several steps".into()),
            });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(FileFault {
                what: format!(
                    "`{written}` has {} bytes; a file may have {FILE_BYTES_MAX} (3 MB)",
                    metadata.len()
                ),
                right: Some("make it a package, or several smaller files".into()),
            });
        }
        fs::read(&real).map_err(failed)
    }

    fn missing(&self, path: &Utf8Path, error: &io::Error) -> FileFault {
        if error.kind() != io::ErrorKind::NotFound {
            return FileFault {
                what: format!("cannot read `{path}`: {error}"),
                right: None,
            };
        }
        let parent = path.parent().unwrap_or(Utf8Path::new(""));
        let siblings: Vec<String> = self
            .real
            .join(parent)
            .read_dir_utf8()
            .map(|entries| {
                entries
                    .flatten()
                    .map(|entry| entry.file_name().to_owned())
                    .collect()
            })
            .unwrap_or_default();
        let near = nearest(
            path.file_name().unwrap_or(""),
            siblings.iter().map(String::as_str),
        );
        FileFault {
            what: format!("there is no file `{path}` in `{}`", self.root),
            right: Some(match near {
                Some(near) => format!("did you mean `{}`?", parent.join(near)),
                None => "paths start at the factory folder, wherever the YAML file lies".into(),
            }),
        }
    }
}

/// Whether the path as written climbs above where it starts.
fn leaves(path: &Utf8Path) -> bool {
    let mut depth = 0i32;
    path.components().any(|part| {
        depth += match part.as_str() {
            ".." => -1,
            "." => 0,
            _ => 1,
        };
        depth < 0
    })
}
