//! Any sequence of changes against a model of the tree that is a plain map.

use std::collections::BTreeMap;

use ext4::{Change, Content, Links};
use proptest::prelude::*;

use crate::fixture::*;

/// What the model remembers of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory,
    File(u32),
    Symlink(Vec<u8>),
}

#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<String, Node>,
    files: BTreeMap<u32, Vec<u8>>,
    next: u32,
}

impl Model {
    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.names.get(path) == Some(&Node::Directory)
    }

    fn parent_exists(&self, path: &str) -> bool {
        self.is_directory(path.rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.names
            .retain(|name, _| name != path && !name.starts_with(&below));
    }

    fn names_of(&self, file: u32) -> usize {
        self.names
            .values()
            .filter(|node| **node == Node::File(file))
            .count()
    }

    /// Applies the change, or tells that it is not possible here.
    fn apply(&mut self, change: &Change) -> bool {
        let path = String::from_utf8(change.path().to_vec()).unwrap();
        if !self.parent_exists(&path) {
            return false;
        }
        match change {
            Change::Remove { .. } => self.remove(&path),
            Change::Dir { .. } => {
                if !self.is_directory(&path) {
                    self.remove(&path);
                    self.names.insert(path, Node::Directory);
                }
            }
            Change::File {
                content: Content::Bytes(bytes),
                links,
                ..
            } => {
                let old = match self.names.get(&path) {
                    Some(Node::File(file))
                        if *links == Links::Keep || self.names_of(*file) == 1 =>
                    {
                        Some(*file)
                    }
                    _ => None,
                };
                let file = old.unwrap_or_else(|| {
                    self.remove(&path);
                    self.next += 1;
                    self.next
                });
                self.names.insert(path, Node::File(file));
                self.files.insert(file, bytes.clone());
            }
            Change::Symlink { target, .. } => {
                self.remove(&path);
                self.names.insert(path, Node::Symlink(target.clone()));
            }
            Change::HardLink { target, .. } => {
                let target = String::from_utf8(target.clone()).unwrap();
                let inside = target.starts_with(&format!("{path}/"));
                match self.names.get(&target).cloned() {
                    Some(Node::File(file)) if !inside => {
                        self.remove(&path);
                        self.names.insert(path, Node::File(file));
                    }
                    _ => return false,
                }
            }
            _ => unreachable!(),
        }
        true
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (0..40_000_usize, prop::collection::vec(0..10_usize, 0..4)).prop_map(|(length, holes)| {
        let mut bytes = vec![b'x'; length];
        for hole in holes {
            let start = (hole * 4096).min(length);
            bytes[start..(start + 4096).min(length)].fill(0);
        }
        bytes
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => path().prop_map(|path| remove(&path)),
        4 => path().prop_map(|path| dir(&path)),
        3 => (path(), bytes(), any::<bool>()).prop_map(|(path, bytes, keep)| Change::File {
            path: path.into_bytes(),
            meta: meta(0o644),
            content: Content::Bytes(bytes),
            links: if keep { Links::Keep } else { Links::Break },
        }),
        1 => (path(), 1..200_usize).prop_map(|(path, length)| symlink(&path, vec![b't'; length])),
        2 => (path(), path()).prop_map(|(path, target)| hard_link(&path, &target)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_gives_the_modelled_tree(changes in prop::collection::vec(change(), 1..120)) {
        let mut model = Model::default();
        let possible: Vec<Change> = changes.into_iter().filter(|change| model.apply(change)).collect();
        let mut device = blank(16);
        let tree = tree_after(&mut device, possible);
        let mut names: Vec<&String> = tree.keys().filter(|path| !path.is_empty() && *path != "lost+found").collect();
        names.sort();
        prop_assert_eq!(names, model.names.keys().collect::<Vec<_>>());
        for (path, node) in &model.names {
            let entry = &tree[path];
            match (node, &entry.kind) {
                (Node::Directory, ext4::EntryKind::Directory) => {}
                (Node::Symlink(expected), ext4::EntryKind::Symlink { target }) => prop_assert_eq!(target, expected),
                (Node::File(file), ext4::EntryKind::File { hash, .. }) => {
                    let expected = blake3::hash(&model.files[file]);
                    prop_assert_eq!(hash.as_ref(), Some(expected.as_bytes()));
                    prop_assert_eq!(entry.links as usize, model.names_of(*file));
                }
                (expected, got) => prop_assert!(false, "{path}: {expected:?}, got {got:?}"),
            }
        }
    }
}
