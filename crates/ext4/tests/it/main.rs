//! The writer against the real tools: `mke2fs` makes the blank file system, `e2fsck` judges the
//! result, and the tree is read back and compared.

mod apply;
mod fixture;
mod hostile;
mod kernel;
mod model;
mod stress;
mod tarball;
