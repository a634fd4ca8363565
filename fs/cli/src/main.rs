//! `strewn`: the one binary. Reads arguments, environment and configuration, wires the parts together, and alone exits
//! the process.

mod cli;
mod commands;
mod config;
mod control;
mod detach;
mod error;
mod heap;
mod helpers;
mod location;
mod log;
#[cfg(test)]
mod man;
mod mounted;
mod output;
mod passphrase;
mod places;
mod register;
mod remote;
mod session;
mod signals;
mod waiting;

use clap::Parser;
use error::{Context, Outcome};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => match detach::tell(&failure) {
            true => failure.exit_code(),
            false => failure.report(),
        },
    }
}

fn run() -> Outcome {
    if detach::is_detached() {
        detach::enter()?;
    }
    let cli = cli::Cli::parse_from(helpers::arguments(std::env::args_os())?);
    log::start(&cli.log)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(yields) = cli.yields() {
        // Threads of their own (for the kernel's requests, a mount's process) start from this one, which stays as it is.
        runtime.on_thread_start(move || {
            // Whoever may not be nicer is as nice as before.
            let _ = rustix::process::nice(yields);
        });
    }
    let runtime = runtime.enable_all().build().context("starting the runtime")?;
    let outcome = runtime.block_on(cli.run());
    // What is still running in the background has been told to stop or may be dropped: nothing acknowledged depends on it.
    runtime.shutdown_background();
    outcome
}
