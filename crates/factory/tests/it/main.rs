//! Stages against the real tools of the machine.

mod build;
