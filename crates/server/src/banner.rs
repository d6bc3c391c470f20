//! What a person sees when the server starts. The only place in this crate that prints, and only to stderr.

use crate::start::{FirstStart, Running};

#[allow(clippy::print_stderr)]
pub fn show(running: &Running, first: Option<&FirstStart>) {
    let data = running.data.display();
    eprintln!("Bullion serves {}", running.url);
    eprintln!("  data folder   {data}");
    eprintln!("  certificate   {data}/tls/ca.pem");
    match first {
        Some(first) => {
            eprintln!(
                "  administrator {data}/admin.json was written; its client secret, shown this once:"
            );
            eprintln!("                {}", first.secret.expose());
        }
        None => eprintln!("  administrator {data}/admin.json"),
    }
}

/// Said once it is known: finding out runs a guest, and nobody should wait for that to sign in.
#[allow(clippy::print_stderr)]
pub fn show_acceleration(acceleration: &str) {
    eprintln!("  machines run  {acceleration}");
}
