//! A file per command: its arguments, whose comments are the help, and one function that does the work.

pub(crate) mod access;
pub(crate) mod cache;
pub(crate) mod cat;
pub(crate) mod cp;
pub(crate) mod du;
pub(crate) mod local;
pub(crate) mod ls;
pub(crate) mod mb;
pub(crate) mod mount;
pub(crate) mod mv;
pub(crate) mod node;
pub(crate) mod rb;
pub(crate) mod rm;
pub(crate) mod satellite;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod umount;

/// A `--listen` that cannot be.
fn not_to_listen_on(error: &strewn_peers::transport::TransportError) -> crate::error::Failure {
    crate::error::Failure::usage(format!("--listen: {error}"))
        .hint("write an address such as /ip4/0.0.0.0/tcp/7777 or /ip4/0.0.0.0/udp/7777/quic-v1")
}

/// Which grant to use.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AccessArg {
    /// Access grant: a file, or the name of a saved one
    #[arg(long, env = "STREWN_ACCESS", value_name = "NAME|FILE")]
    pub(crate) access: Option<String>,
}
