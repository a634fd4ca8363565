//! `strewn local status`.

use super::DataArg;
use crate::error::{Failure, Outcome};
use crate::output;
use strewn_peers::local::control::{Reply, Request};

/// Show a local network and its nodes
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    data: DataArg,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self) -> Outcome {
        let status = match super::ask(&self.data.directory()?, &Request::Status).await? {
            Reply::Status(status) => status,
            Reply::Failed { reason } => return Err(Failure::new(reason)),
            Reply::Done => {
                return Err(Failure::new("the network gave an unexpected answer; is it of another version?"));
            }
        };
        if self.json {
            return output::json(&status);
        }
        output::line(format_args!("satellite   {}", status.satellite))?;
        output::line(format_args!("redundancy  {}", status.redundancy))?;
        output::line(format_args!("segments    at most {}", output::bytes(status.segment_size)))?;
        output::line(format_args!("process     {}", status.pid))?;
        for node in &status.nodes {
            let (held, short) = (output::bytes(node.bytes), node.id.get(..8).unwrap_or(&node.id));
            output::line(format_args!(
                "node {:<4}   {short}  {:10} {} pieces, {held}",
                node.number, node.state, node.pieces
            ))?;
        }
        Ok(())
    }
}
