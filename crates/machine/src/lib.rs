//! One virtual machine: start it, know when it is ready, run commands in it, end it.
//!
//! The rest of the program sees two traits, [`Hypervisor`] and [`Guest`]. [`Qemu`] is the real
//! implementation, [`fake`] the scripted one for tests. This crate must not know what an image
//! means: it gets a disk file and hands back what the machine said.

mod acceleration;
mod agent;
mod error;
pub mod fake;
#[doc(hidden)]
pub mod fuzzing;
mod hypervisor;
mod login;
pub mod metadata;
mod qemu;
mod record;
mod seed;
mod serial;
mod spec;

pub use acceleration::{Accel, Acceleration, PROBE_DEADLINE, probe};
pub use error::MachineError;
pub use hypervisor::{Guest, Hypervisor};
pub use qemu::{Qemu, missing_programs};
pub use spec::{
    Boot, DataDisk, ExecOutput, Firmware, Lifetime, MachineDisk, MachineInfo, MachineSpec,
    MediaFile, Metadata, Network, ServedDisk, Stopped, System, SystemState,
};
