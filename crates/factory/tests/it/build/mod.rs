//! The tree executor with a kernel, a shell and a small image: needs root, loop devices and the
//! package `busybox-static`, and fails when one is missing.

mod delta;
mod faults;
mod fixture;
mod isolation;
mod kinds;
