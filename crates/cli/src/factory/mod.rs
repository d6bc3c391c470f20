//! Factory as code: a folder of YAML documents, read and checked as a whole.
//!
//! `load` either gives a folder in which every reference resolves and every file is there, or all
//! that is wrong with it. It speaks to no server; what the documents become there is `body`'s part.

pub mod body;
mod check;
#[cfg(test)]
mod check_tests;
mod content;
pub mod document;
mod folder;
mod meaning;
mod names;
mod policy_file;
pub mod problem;
pub mod rules;
mod schema;
mod tree;

use camino::Utf8Path;
use serde::Deserialize;

pub use document::Document;
pub use folder::FolderError;
pub use names::{Entry, Names};
pub use problem::{Place, Problems};
pub use schema::{schema, schema_text};

use folder::Folder;
use tree::{Node, Position};

/// A folder without a fault.
#[derive(Debug)]
pub struct Factory {
    pub name: String,
    pub documents: Vec<Document>,
    pub names: Names,
    folder: Folder,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the factory folder has {} problem{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Problems(Problems),
}

impl Factory {
    /// The bytes of a file that a document names; `load` has read and checked it.
    pub fn file(&self, path: &str) -> std::rc::Rc<[u8]> {
        self.folder.file(path).unwrap_or_default()
    }
}

/// The kinds of documents in the order in which they are created.
pub fn kinds_in_order() -> impl Iterator<Item = &'static str> {
    names::KINDS.iter().map(|row| row.kind)
}

pub fn load(root: &Utf8Path) -> Result<Factory, LoadError> {
    let folder = Folder::open(root)?;
    let mut problems = Problems::default();
    let trees = read_trees(&folder, &mut problems)?;
    let names = Names::collect(&trees);
    let schema = schema();
    for (place, node) in &trees {
        check::Checker {
            schema: &schema,
            names: &names,
            folder: &folder,
            problems: &mut problems,
        }
        .document(place, node);
    }
    meaning::check(&trees, &names, &folder, &mut problems);
    let mut documents = Vec::new();
    if problems.is_empty() {
        for (place, node) in &trees {
            match Document::deserialize(node.to_json()) {
                Ok(document) => documents.push(document),
                // The checker and the types disagree: better a plain message than a wrong value.
                Err(error) => problems.push(place.clone(), error.to_string(), None),
            }
        }
    }
    if !problems.is_empty() {
        problems.sort();
        return Err(LoadError::Problems(problems));
    }
    let name = names
        .of_kind("Factory")
        .first()
        .map_or("", Entry::name)
        .to_owned();
    Ok(Factory {
        name,
        documents,
        names,
        folder,
    })
}

fn read_trees(folder: &Folder, problems: &mut Problems) -> Result<Vec<(Place, Node)>, FolderError> {
    let mut trees = Vec::new();
    for (file, bytes) in folder.yaml_files()? {
        let place = |at| Place {
            file: file.clone(),
            at,
        };
        let Ok(text) = String::from_utf8(bytes) else {
            problems.push(
                place(Position::START),
                "the file is not UTF-8 text",
                Some("save it as UTF-8".into()),
            );
            continue;
        };
        match tree::parse(&text) {
            Ok(nodes) => trees.extend(nodes.into_iter().map(|node| (place(node.at), node))),
            Err(fault) => problems.push(place(fault.at), fault.why, fault.right),
        }
    }
    Ok(trees)
}
