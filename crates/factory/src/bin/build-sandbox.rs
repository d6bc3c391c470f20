//! The inner side of the build sandbox as a program of its own, for tests and for builds outside
//! the server. The server's executable does the same when it is given the same argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(factory::build::sandbox::SANDBOX_ARGUMENT) => factory::build::sandbox::enter(),
        _ => ExitCode::FAILURE,
    }
}
